"""Builds the program of a cell of `benchmarks.suites`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import all_cases, build_rbm
from benchmarks.suites import Cell
from jbism import divergences, energies, hypergradients, likelihood, losses, networks, posteriors
from jbism import samplers as chains
from jbism.estimators import vaes
from jbism.training import DataParallel, make_mesh, train_steps


@dataclass(frozen=True)
class Built:
    """A program, not compiled, and what it runs on."""

    function: Callable[..., tuple[Any, Any]]  # (carry, *constants) -> (carry, anything)
    carry: Any
    constants: tuple[Any, ...]
    step: Callable[..., Any]  # what one step does, and its arguments or their shapes
    step_args: tuple[Any, ...]
    num_steps: int = 1  # of the suite's unit, in one call
    unknown_turns: int | None = None  # of loops whose length the program does not tell
    published: dict[str, float | None] | None = None  # figures to compare with


def build(suite: str, cell: Cell) -> Built:
    """Returns the program of a cell.

    Args:
      suite: name of its suite.
      cell: one of `benchmarks.suites.cells_of`.
    """
    builders: dict[str, Callable[[Cell], Built]] = {
        "steps": _steps,
        "estimators": _estimators,
        "hypergradients": _hypergradients,
        "samplers": _samplers,
        "ais": _ais,
        "scaling": _scaling,
    }
    return builders[suite](cell)


def _steps(cell):
    case = all_cases()[cell["case"]]
    step, state, data = case.build()
    shape: tuple[int, ...] = (case.steps_per_call, cell["batch"])
    if cell["seeds"] > 1:
        keys = jax.random.split(state.key, cell["seeds"])
        state = jax.vmap(lambda key: replace(state, key=key))(keys)
        step, shape = jax.vmap(step), (shape[0], cell["seeds"], shape[1])
    published = None
    if (cell["seeds"], cell["batch"]) == (1, case.batch_size):
        published = {
            "published_ms": case.published_ms,
            "target_ms": case.target_ms,
            "target_gflops": case.target_gflops,
        }
    built = _training(step, state, data, shape, unknown_turns=case.solve_steps)
    return replace(built, published=published)


def _training(step, state, data, shape, *, layout=None, unknown_turns=None):
    indices = np.random.default_rng(0).integers(len(data), size=shape).astype(np.int32)
    batch = jax.ShapeDtypeStruct((*shape[1:], *data.shape[1:]), data.dtype)
    run = train_steps(step, data, layout=layout)
    start = state if layout is None else layout.place(state)
    return Built(run, start, (indices,), step, (state, batch), shape[0], unknown_turns)


def _hypergradients(cell):
    n = cell["N"]
    sgd = optax.sgd(1.0)
    strategy: Any = {
        "first_order": lambda: hypergradients.FirstOrder(n, sgd),
        "unroll": lambda: hypergradients.Unroll(n, sgd),
        "unroll_remat": lambda: hypergradients.Unroll(n, sgd, remat=True),
        "neumann": lambda: hypergradients.Neumann(n, 1.0),
        "implicit_cg": lambda: hypergradients.ImplicitCG(n, tolerance=0.0),
    }[cell["case"]]()
    step, state, data = build_rbm(
        dim=cell["visibles"],
        num_hidden=cell["latents"],
        objective=losses.DSM(sigma=0.3),
        divergence=divergences.MeanFieldKL(),
        hypergradient=strategy,
        num_lower_steps=cell["K"],
    )
    return _training(step, state, data, (10, cell["batch"]), unknown_turns=n)


def _scaling(cell):
    case = all_cases()[cell["case"]]
    step, state, data = case.build()
    layout = DataParallel(make_mesh(cell["devices"]), cell["shard_parameters_from"] or None)
    shape = (case.steps_per_call, cell["batch"])
    return _training(step, state, data, shape, layout=layout, unknown_turns=case.solve_steps)


def _keyed(function, *constants):
    """A program whose every call takes the next key: ``function(key, *constants)``."""

    def run(count, *constants):
        return count + 1, function(jax.random.fold_in(jax.random.key(0), count), *constants)

    count = jnp.zeros((), jnp.uint32)
    return Built(run, count, constants, run, (count, *constants))


def _estimators(cell):
    model, estimate = cell["case"].split("_")
    if model == "rbm":
        energy, posterior, v, h = _rbm(cell)
        objective: Any = losses.DSM(sigma=0.3)
    else:
        energy, posterior, v, h = _deep(cell)
        objective = losses.MDSM(0.1, 3.0, 0.1, spacing="geometric")
    theta, phi = _init(energy, 1, v[0], h), _init(posterior, 2, v[0])
    parts = {
        "energy": energy.apply,
        "posterior": posterior.apply,
        "num_particles": cell["L"],
    }
    v = jax.random.uniform(jax.random.key(3), (cell["batch"], *v.shape[1:]))
    if estimate == "vaes":
        return _keyed(lambda key, theta, phi, v: vaes(theta, phi, key, v, **parts), theta, phi, v)

    def gradient(key, theta, phi, v):
        loss = partial(losses.vages_loss, **parts, objective=objective)
        return jax.grad(loss, has_aux=True)(theta, phi, key, v)[0]

    return _keyed(gradient, theta, phi, v)


def _samplers(cell):
    model, _, kind = cell["case"].partition("_")
    temperatures = jnp.ones(cell["steps"])
    if model == "rbm":
        energy, _, v, h = _rbm(cell)
    else:
        energy, _, v, h = _deep(cell)
    theta = _init(energy, 1, v[0], h)
    v = jax.random.uniform(jax.random.key(3), (cell["chains"], *v.shape[1:]))
    h = jnp.zeros((cell["chains"], *h.shape))
    if kind == "gibbs":

        def gibbs(key, theta, v):
            conditionals = energies.conditionals(energy, theta)
            return chains.block_gibbs(key, v, **conditionals, num_steps=cell["steps"])

        return _keyed(gibbs, theta, v)
    if model == "rbm":

        def langevin(key, theta, v):
            free_energy = partial(energy.apply, theta, method="free_energy")
            return chains.langevin(key, v, temperatures, energy=free_energy, step_size=0.02)

        return _keyed(langevin, theta, v)
    sampler: Any = {
        "langevin_visible": chains.langevin_visible,
        "langevin_hidden": chains.langevin_hidden,
        "langevin_joint": chains.langevin_joint,
    }[kind]

    def conditional(key, theta, v, h):
        return sampler(key, theta, v, h, temperatures, energy=energy.apply, step_size=0.02)

    return _keyed(conditional, theta, v, h)


def _ais(cell):
    energy, _, v, h = _rbm(cell)
    theta = _init(energy, 1, v[0], h)
    sizes = {"num_chains": cell["chains"], "num_temperatures": cell["temperatures"]}
    if cell["case"] == "gaussian_rbm":

        def gibbs(key, theta):
            arrays = energy.apply(theta, method="arrays")
            return likelihood.ais_gaussian_rbm(key, **arrays, **sizes)

        return _keyed(gibbs, theta)

    def hmc(key, theta):
        free_energy = partial(energy.apply, theta, method="free_energy")
        zeros, scale = jnp.zeros_like(v[0]), jnp.full_like(v[0], 2.0)
        return likelihood.ais_hmc(
            key, energy=free_energy, base_mean=zeros, base_scale=scale, **sizes
        )

    return _keyed(hmc, theta)


def _init(module, seed, *example):
    """Parameters of a module, by one program instead of one for each operation."""
    return jax.jit(module.init)(jax.random.key(seed), *example)


def _rbm(cell):
    """Energy, posterior, a batch of one v, and one h."""
    h = jnp.zeros(cell["latents"])
    energy = energies.GaussianRBM(cell["latents"])
    return energy, posteriors.Bernoulli(cell["latents"]), jnp.zeros((1, cell["visibles"])), h


def _deep(cell):
    """The deep model of images of 32 × 32, as `_rbm`; trunk and encoder of so many channels."""
    channels, latents = cell["width"], cell["latents"]
    trunk = networks.ResidualConvNet(channels, blocks_per_level=1)
    widths = (channels, 2 * channels, 4 * channels)
    encoder = networks.ConvEncoder(widths, activation=nn.leaky_relu, strides=(2, 2, 2))
    energy = energies.DeepEBLVM(latents, trunk, num_features=64 * channels)
    posterior = posteriors.Gaussian(latents, trunk=encoder)
    return energy, posterior, jnp.zeros((1, 32, 32, 1)), jnp.zeros(latents)
