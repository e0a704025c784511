"""Contrastive divergence: energies of data against those of short Markov chains."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.typing import Array, Key, Params


class ContrastiveAux(NamedTuple):
    """What `contrastive_loss` saw on the way."""

    data_energies: Array  # [batch], E(x_i)
    chain_energies: Array  # [chains], E(x⁻_j)
    chains: Any  # x⁻ where the chains ended: the next step's ``chains`` if they persist


def contrastive_loss(
    theta: Params,
    key: Key,
    x: Any,
    *,
    energy: Callable[[Params, Any], Any],
    transition: Callable[[Params, Key, Any], Any],
    num_steps: int,
    chains: Any = None,
) -> tuple[Array, ContrastiveAux]:
    """The surrogate of contrastive divergence, CD-k or persistent (PCD-k).

    L(θ) = mean_i E(x_i; θ) - mean_j E(x⁻_j; θ), with x⁻ held fixed: k transitions that leave
    exp(-E)/Z invariant, from the data (CD-k; Hinton, 2002) or from where the chains ended at the
    step before (PCD-k; Tieleman, 2008). Its gradient stands for that of the negative
    log-likelihood, E_data[∇E] - E_model[∇E], and is that gradient in expectation once the chains
    have forgotten where they began. Its value is a difference of mean energies, no objective.

    A configuration x is whatever the energy is one of: v alone for a free energy, as that of a
    Gaussian RBM; the pair (v, h) for E(v, h) without one, where the data's h has to come from
    p(h | v), such as by `jbism.samplers.langevin_hidden`.

    Args:
      theta: parameters of the energy.
      key: for the transitions.
      x: configurations of the data, a pytree of leaves [batch, ...].
      energy: ``(theta, x) -> scalar`` of ONE configuration.
      transition: ``(theta, key, x) -> x`` of all chains together, such as one step of
        `jbism.samplers.block_gibbs` or `jbism.samplers.langevin`; given a constant θ.
      num_steps: k >= 1.
      chains: where the chains start, as x but any number of them; None for the data.

    Returns:
      The scalar surrogate and a `ContrastiveAux`.

    Raises:
      ValueError: if num_steps < 1, leaves of x are no batch, chains are not shaped as x, a
        transition does not keep shapes, or the energy is not a scalar.
      TypeError: if a leaf is not floating, or energy or transition are no functions.

    Example:
      >>> import functools, jax, jax.numpy as jnp, jbism
      >>> rbm = jbism.energies.GaussianRBM(num_hidden=4)
      >>> v = jax.random.normal(jax.random.key(0), (10, 2))
      >>> theta = rbm.init(jax.random.key(1), v[0], jnp.zeros(4))
      >>> free_energy = functools.partial(rbm.apply, method="free_energy")
      >>> def gibbs(theta, key, v):
      ...     given = jbism.energies.conditionals(rbm, theta)
      ...     return jbism.samplers.block_gibbs(key, v, num_steps=1, **given)[0]
      >>> (loss, aux), grads = jax.value_and_grad(contrastive_loss, has_aux=True)(
      ...     theta, jax.random.key(2), v, energy=free_energy, transition=gibbs, num_steps=1)
      >>> loss.shape, grads["params"]["weights"].shape, aux.chains.shape
      ((), (2, 4), (10, 2))
    """
    _checks.function("energy", energy)
    _checks.function("transition", transition)
    _checks.integer("num_steps", num_steps, minimum=1)
    x = _batch("x", x)
    start = x if chains is None else _check_chains(_batch("chains", chains), x)
    fixed, start = jax.lax.stop_gradient((theta, start))

    def step(x, step_key):
        moved = jax.tree.map(jnp.asarray, transition(fixed, step_key, x))
        if not _same(_shapes(moved), _shapes(x)):
            raise ValueError(
                f"transition(theta, key, x) must be shaped as x, {_shapes(x)}, got {_shapes(moved)}"
            )
        return moved, None

    ended = jax.lax.scan(step, start, _random.split(key, num_steps))[0]
    # A reparameterised sampler would carry derivatives of θ, were θ not constant above.
    ended = jax.lax.stop_gradient(ended)

    def energies(x):
        return jax.vmap(lambda x: _checks.scalar("energy(theta, x)", energy(theta, x)))(x)

    data, model = energies(x), energies(ended)
    return jnp.mean(data) - jnp.mean(model), ContrastiveAux(data, model, ended)


def _batch(name, tree):
    """Returns the tree with its leaves checked to be [n, ...] of one n."""
    tree = jax.tree.map(lambda leaf: _checks.batched(name, leaf), tree)
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1:
        raise ValueError(f"{name} must have leaves [n, ...] of one n, got n in {sorted(sizes)}")
    return tree


def _check_chains(chains, x):
    """Returns the chains if they are configurations as those of x are."""
    given, expected = _shapes(chains, first_axis=1), _shapes(x, first_axis=1)
    if not _same(given, expected):
        raise ValueError(
            f"chains must be configurations shaped as those of x, {expected}, got {given}"
        )
    return chains


def _same(shapes, others):
    # Classes of pytrees need not compare.
    return jax.tree.flatten(shapes) == jax.tree.flatten(others)


def _shapes(tree, first_axis=0):
    return jax.tree.map(lambda leaf: f"{leaf.dtype.name}{list(leaf.shape[first_axis:])}", tree)
