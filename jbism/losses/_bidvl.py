"""Bi-level doubly variational learning of a decoupled energy-based latent variable model."""

from typing import Any, NamedTuple

import jax

from jbism import _checks
from jbism.hypergradients import LowerLevel
from jbism.losses._bidvl_forms import BidvlCompact, BidvlFull, BidvlLowerAux, BidvlUpperAux
from jbism.losses._bidvl_parts import BidvlParams, Generator, Parts
from jbism.typing import Array, FreeEnergy, Hypergradient, Key, Params, Posterior

_FORMS = {"compact": BidvlCompact, "full": BidvlFull}


class BidvlAux(NamedTuple):
    """What `bidvl_loss` saw on the way."""

    upper: BidvlUpperAux  # energies of data and of what was generated
    lower: LowerLevel | None  # φ_N and how it came about; None of the compact form


def bidvl_lower_loss(
    theta: Params,
    phi: BidvlParams,
    key: Key,
    v: Array,
    *,
    energy: FreeEnergy,
    generator: Generator,
    posterior: Posterior,
    form: str | BidvlCompact | BidvlFull,
) -> tuple[Array, BidvlLowerAux]:
    """The lower level of BiDVL: how far p_φ(v, h) is from the model p_θ(v) q_ψ(h | v).

    The model is decoupled, with p_θ(v) ∝ exp(-E(v; θ)) and the encoder q_ψ as its posterior;
    p_φ(v, h) = N(h; 0, I) N(v; G(h; φ), σ² I) stands for it where samples are needed. The symmetric
    KL divergence of the two, in the form of `BidvlFull` or of `BidvlCompact` (Kan et al., 2022).

    Args:
      theta: parameters of the energy.
      phi: a `BidvlParams`, φ of the generator and ψ of the encoder.
      key: for what is generated, and the samples of q_ψ.
      v: data, [batch, *event].
      energy: ``(theta, v) -> scalar`` of one example.
      generator: ``(phi.generator, h) -> G(h)`` of one latent h, shaped as one v.
      posterior: ``(phi.posterior, v) -> Distribution`` of one example, reparameterised; h, an
        array, is shaped as its mean.
      form: ``"compact"`` or ``"full"`` with their defaults, or a `BidvlCompact` or `BidvlFull`.

    Returns:
      The scalar lower loss, with the constants of the full form in nats, and a `BidvlLowerAux`.

    Raises:
      ValueError: if v is not [batch, *event], the form is unknown, shapes of the parts do not fit,
        the latents are discrete, or a batch of one is to be weighted.
      TypeError: if v is not floating, or an argument is not of its kind.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> energy = lambda theta, v: 0.5 * jnp.sum((v - theta) ** 2)
      >>> q = jbism.posteriors.Gaussian(num_latents=2)
      >>> phi = jbism.losses.BidvlParams(jnp.eye(2), q.init(jax.random.key(0), jnp.zeros(2)))
      >>> loss, aux = bidvl_lower_loss(
      ...     jnp.zeros(2), phi, jax.random.key(1), jnp.ones((10, 2)), energy=energy,
      ...     generator=lambda phi, h: phi @ h, posterior=q.apply, form="compact")
      >>> loss.shape, aux.elbos.shape
      ((), (10,))
    """
    parts = Parts(energy, generator, posterior)
    v = parts.check(phi, v)
    return _form(form).lower(parts, theta, phi, key, v)


def bidvl_upper_loss(
    theta: Params,
    phi: BidvlParams,
    key: Key,
    v: Array,
    *,
    energy: FreeEnergy,
    generator: Generator,
    posterior: Posterior,
    form: str | BidvlCompact | BidvlFull,
) -> tuple[Array, BidvlUpperAux]:
    """The upper level of BiDVL at a given φ: KL(p_d ‖ p_θ) - KL(p_φ ‖ p_θ q_ψ), without log Z.

    Its θ-gradient is E_data[∇E(v)] - E_{p_φ}[∇E(v̂)] in both forms, but for the hinge; at
    p_φ = p_θ that of maximum likelihood (Kan et al., 2022). It is differentiable in φ too, and the
    full form depends on φ as the divergence does; `bidvl_loss` puts the levels together.

    Args:
      theta: see `bidvl_lower_loss`.
      phi: see `bidvl_lower_loss`.
      key: for what is generated; it is that of `bidvl_lower_loss` at the same key.
      v: data, [batch, *event].
      energy: see `bidvl_lower_loss`.
      generator: see `bidvl_lower_loss`.
      posterior: see `bidvl_lower_loss`.
      form: see `bidvl_lower_loss`.

    Returns:
      The scalar loss, of the full form in nats and short of the data's entropy, and a
      `BidvlUpperAux`.

    Raises:
      ValueError: as `bidvl_lower_loss`.
      TypeError: as `bidvl_lower_loss`.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> energy = lambda theta, v: 0.5 * jnp.sum((v - theta) ** 2)
      >>> q = jbism.posteriors.Gaussian(num_latents=2)
      >>> phi = jbism.losses.BidvlParams(
      ...     jnp.zeros((2, 2)), q.init(jax.random.key(0), jnp.zeros(2)))
      >>> gradient, _ = jax.grad(bidvl_upper_loss, has_aux=True)(
      ...     jnp.zeros(2), phi, jax.random.key(1), jnp.ones((8, 2)), energy=energy,
      ...     generator=lambda phi, h: phi @ h, posterior=q.apply, form="compact")
      >>> gradient.tolist()  # E_data[θ - v] - (θ - G)
      [-1.0, -1.0]
    """
    parts = Parts(energy, generator, posterior)
    v = parts.check(phi, v)
    return _form(form).upper(parts, theta, phi, key, v)


def bidvl_loss(
    theta: Params,
    phi: BidvlParams,
    key: Key,
    v: Array,
    *,
    energy: FreeEnergy,
    generator: Generator,
    posterior: Posterior,
    form: str | BidvlCompact | BidvlFull,
    hypergradient: Hypergradient | None = None,
    opt_state: Any = None,
) -> tuple[Array, BidvlAux]:
    """Bi-level doubly variational learning (Kan et al., 2022), differentiable in θ.

    The compact form is `bidvl_upper_loss` with φ held constant, as published. The full form is
    F(θ) = `bidvl_upper_loss` (θ, φ_N(θ)) with φ_N from φ by the strategy's virtual steps on
    `bidvl_lower_loss`. The gradient with respect to ``phi`` is zero: φ is trained by
    `jbism.hypergradients.descend`.

    Learned, G(h) with h ~ N(0, I) generates, G(μ_ψ(v)) reconstructs, and E(v; θ) tells what is out
    of distribution; none needs a Markov chain.

    Args:
      theta: see `bidvl_lower_loss`.
      phi: φ⁰, a `BidvlParams` after the committed lower steps.
      key: for the virtual steps, and for what is generated.
      v: data, [batch, *event].
      energy: see `bidvl_lower_loss`.
      generator: see `bidvl_lower_loss`.
      posterior: see `bidvl_lower_loss`.
      form: see `bidvl_lower_loss`.
      hypergradient: one of `jbism.hypergradients` for the full form, such as ``FirstOrder()``; None
        for the compact one, whose lower level is not the gradient of a loss.
      opt_state: state in which the virtual steps' optimizer starts; None starts a fresh one.

    Returns:
      The scalar loss and a `BidvlAux`.

    Raises:
      ValueError: as `bidvl_lower_loss`, and if hypergradient or opt_state are given to the compact
        form, or no hypergradient to the full one.
      TypeError: as `bidvl_lower_loss`, and if hypergradient is no instance.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbism
      >>> energy = lambda theta, v: 0.5 * jnp.sum((v - theta) ** 2)
      >>> q = jbism.posteriors.Gaussian(num_latents=2)
      >>> phi = jbism.losses.BidvlParams(jnp.eye(2), q.init(jax.random.key(0), jnp.zeros(2)))
      >>> (loss, aux), gradient = jax.value_and_grad(bidvl_loss, has_aux=True)(
      ...     jnp.zeros(2), phi, jax.random.key(1), jnp.ones((10, 2)), energy=energy,
      ...     generator=lambda phi, h: phi @ h, posterior=q.apply, form="full",
      ...     hypergradient=jbism.hypergradients.Unroll(2, optax.sgd(0.1)))
      >>> loss.shape, gradient.shape, aux.lower.descent.losses.shape
      ((), (2,), (2,))
    """
    form = _form(form)
    phi = jax.lax.stop_gradient(phi)
    parts: dict[str, Any] = {"energy": energy, "generator": generator, "posterior": posterior}
    parts["form"] = form
    if isinstance(form, BidvlCompact):
        for name, value in (("hypergradient", hypergradient), ("opt_state", opt_state)):
            if value is not None:
                raise ValueError(f"{name} must be None for the compact form, got {value!r}")
        loss, upper = bidvl_upper_loss(theta, phi, key, v, **parts)
        return loss, BidvlAux(upper, None)
    if hypergradient is None:
        raise ValueError("hypergradient must be given to the full form, such as FirstOrder()")
    _checks.option("hypergradient", hypergradient, "FirstOrder()")
    assert hypergradient is not None

    def lower_loss(theta, phi, key):
        return bidvl_lower_loss(theta, phi, key, v, **parts)[0]

    def upper_loss(theta, phi, key):
        return bidvl_upper_loss(theta, phi, key, v, **parts)

    (loss, upper), lower = hypergradient(
        upper_loss, lower_loss, theta, phi, key, opt_state=opt_state
    )
    return loss, BidvlAux(upper, lower)


def _form(form):
    if isinstance(form, str):
        return _FORMS[_checks.one_of("form", form, tuple(_FORMS))]()
    return _checks.instance("form", form, (BidvlCompact, BidvlFull))
