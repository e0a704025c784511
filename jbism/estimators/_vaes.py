"""The variational estimate of the score."""

from functools import partial

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.estimators._particles import ParticleSource, log_joint
from jbism.typing import Array, Energy, Key, Latent, Params, Posterior, Refinement


def vaes(
    theta: Params,
    phi: Params,
    key: Key,
    v: Array,
    *,
    energy: Energy,
    posterior: Posterior,
    num_particles: int | None,
    control_variate: bool = False,
    refinement: Refinement | None = None,
) -> Array:
    """Variational estimate of the score, VaES.

    ŝ(v) = Σ_i w_i ∇_v[-E(v, h_i; θ)] with h_i ~ q(h | v; φ) and w_i = 1/L (Bao et al., 2021,
    Eqn. 8). With the control variate the summand is ∇_v[-E(v, h_i; θ) - log q(h_i | v; φ)]: the
    same expectation, and no variance where q is the true posterior. The bias vanishes with the
    divergence of q from the posterior (`vaes_bias_bound`).

    A value, not a differentiable function: the derivative of ŝ would lack how p(h | v) moves, so
    asking for one raises. `vages` estimates the derivative in θ. Within a function that is being
    differentiated, pass its arguments through `jax.lax.stop_gradient`.

    Args:
      theta: parameters of the energy.
      phi: parameters of the posterior.
      key: for the particles, independent for each example.
      v: [batch, *event].
      energy: ``(theta, v, h) -> scalar`` of one example.
      posterior: ``(phi, v) -> Distribution`` of one example. Samples need no derivatives; a relaxed
        distribution is sampled hard. Where the energy knows its posterior, that may stand here,
        with theta for phi: ``functools.partial(rbm.apply, method="hidden_given_visible")``.
      num_particles: L >= 1; None for the exact expectation under q, over the ``support()`` of its
        distribution.
      control_variate: subtract ∇_v log q(h_i | v).
      refinement: moves the particles closer to the posterior, such as
        `jbism.posteriors.LangevinRefinement`; not with the control variate, whose expectation is
        zero under q alone.

    Returns:
      The estimates, [batch, *event], in 1 / units of v.

    Raises:
      ValueError: if v is not [batch, *event], num_particles < 1, options exclude one another, or
        the latents are discrete and are to be refined; if the result is differentiated.
      TypeError: if v is not floating, or the posterior's result cannot be sampled.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> posterior = lambda phi, v: jbism.distributions.Normal(v, jnp.zeros(2))
      >>> energy = lambda theta, v, h: 0.5 * jnp.sum(v**2) + 0.5 * jnp.sum((h - v) ** 2)
      >>> vaes(None, None, jax.random.key(0), jnp.array([[1.0, 2.0]]), energy=energy,
      ...      posterior=posterior, num_particles=2, control_variate=True).tolist()
      [[-1.0, -2.0]]
    """
    v = _checks.examples("v", v)
    source = ParticleSource(
        energy=energy,
        posterior=posterior,
        num_particles=num_particles,
        num_sets=1,
        refinement=refinement,
        minimum=1,
    )
    check_control_variate(control_variate, refinement)

    def one(example_key, v):
        (h,), weights, _ = source.draw(theta, phi, example_key, v)
        infer = partial(source.distribution, phi) if control_variate else None
        return score_of_particles(theta, v, h, weights, energy=energy, control_variate=infer)

    keys = _random.split(key, v.shape[0])
    return _refuse_derivative(jax.vmap(one)(keys, v))


def check_control_variate(control_variate: bool, refinement: Refinement | None) -> None:
    """Raises if particles that q did not draw are to have q's control variate."""
    _checks.instance("control_variate", control_variate, bool)
    if control_variate and refinement is not None:
        raise ValueError(
            "control_variate must be False with refinement: ∇_v log q(h|v) has expectation zero "
            "under q alone"
        )


def score_of_particles(
    theta: Params,
    v: Array,
    h: Latent,
    weights: Array,
    *,
    energy: Energy,
    control_variate=None,
) -> Array:
    """Returns Σ_i w_i ∇_v[-E(v, h_i) - log q(h_i | v)] of one v by one reverse pass.

    ``control_variate`` maps v to q(h | v); None leaves the second term out.
    """

    def mean(v):
        values = log_joint(theta, v, h, energy=energy)
        if control_variate is not None:
            values -= jax.vmap(control_variate(v).log_prob)(h)
        return jnp.dot(weights, values)

    return jax.grad(mean)(v)


@jax.custom_jvp
def _refuse_derivative(scores):
    return scores


@_refuse_derivative.defjvp
def _refuse_derivative_jvp(primals, tangents):  # noqa: ARG001
    raise ValueError(
        "vaes must not be differentiated: the derivative of the estimate is none of the score; "
        "use vages for θ, or stop_gradient on its arguments"
    )
