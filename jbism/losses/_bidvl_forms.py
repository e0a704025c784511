"""The compact and the full form of BiDVL's two levels."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jbism import _checks, _random
from jbism.losses._bidvl_parts import BidvlParams, Parts, evidence
from jbism.losses._bidvl_weights import WEIGHTS, importance_weights
from jbism.typing import Array, Key, Params


class BidvlUpperAux(NamedTuple):
    """What `bidvl_upper_loss` saw on the way."""

    data_energies: Array  # [batch], E(v_i)
    generated_energies: Array  # [batch], E(v̂_j) of what the generator drew


class BidvlLowerAux(NamedTuple):
    """What `bidvl_lower_loss` saw on the way."""

    generated_energies: Array  # [batch], E(v̂_j)
    latent_losses: Array  # [batch], ‖μ_ψ(v̂_j) - h_j‖², of the full form -log q_ψ(h_j | v̂_j)
    elbos: Array  # [batch], the lower bound of log p_φ(v_i), in nats
    squared_errors: Array  # [batch], ‖v_i - G(h)‖², h ~ q_ψ(h | v_i)
    effective_sample_size: Array  # scalar, of the importance weights, between 1 and batch


@dataclass(frozen=True)
class BidvlCompact:
    """The form that the published code of BiDVL trains (Kan et al., 2022).

    Upper level: mean E(v) - mean E(G(h)), h ~ N(0, I); with ``hinge``, as their residual networks
    have it, mean relu(1 + E(v)) + mean relu(1 - E(G(h))), for an energy of either sign.
    Lower level: mean E(G(h)) + c mean ‖μ_ψ(G(h)) - h‖² + λ mean -ELBO(v), by means G(h) and without
    the noise of p_φ(v | h); the second term trains the generator alone, -ELBO both. λ stands for
    the weights p_θ / p_d of the full form, taken to be constant.

    Args:
      scale: σ > 0 of p_φ(v | h) = N(G(h), σ² I), in units of v; the published squared error without
        a factor is σ = √½, whatever the size of v.
      elbo_coefficient: λ >= 0, published 0.05.
      latent_coefficient: c >= 0; None for 1 / (size of h), as published with plain convolutions;
        1e-4 with residual networks.
      hinge: see above.

    Raises:
      ValueError: if a number is out of range.
      TypeError: if hinge is not a bool.

    Example:
      >>> BidvlCompact(hinge=True).elbo_coefficient
      0.05
    """

    scale: float = math.sqrt(0.5)
    elbo_coefficient: float = 0.05
    latent_coefficient: float | None = None
    hinge: bool = False

    def __post_init__(self):
        _checks.positive("scale", self.scale)
        _checks.non_negative("elbo_coefficient", self.elbo_coefficient)
        if self.latent_coefficient is not None:
            _checks.non_negative("latent_coefficient", self.latent_coefficient)
        _checks.instance("hinge", self.hinge, bool)

    def upper(
        self, parts: Parts, theta: Params, phi: BidvlParams, key: Key, v: Array
    ) -> tuple[Array, BidvlUpperAux]:
        """Returns the upper loss of checked arguments."""
        key_generated, _ = _random.split(key)
        _, generated, _ = parts.generate(phi, key_generated, v)
        aux = BidvlUpperAux(parts.energies(theta, v), parts.energies(theta, generated))
        if not self.hinge:
            return jnp.mean(aux.data_energies) - jnp.mean(aux.generated_energies), aux
        margins = jax.nn.relu(1.0 + aux.data_energies), jax.nn.relu(1.0 - aux.generated_energies)
        return jnp.mean(margins[0]) + jnp.mean(margins[1]), aux

    def lower(
        self, parts: Parts, theta: Params, phi: BidvlParams, key: Key, v: Array
    ) -> tuple[Array, BidvlLowerAux]:
        """Returns the lower loss of checked arguments."""
        key_generated, key_posterior = _random.split(key)
        h, generated, _ = parts.generate(phi, key_generated, v)
        energies = parts.energies(theta, generated)
        psi = jax.lax.stop_gradient(phi.posterior)
        means = jax.vmap(lambda v: parts.encode(psi, v).mean)(generated)
        latent_losses = jnp.sum((means - h) ** 2, axis=tuple(range(1, h.ndim)))
        data = evidence(parts, phi, key_posterior, v, scale=self.scale, num_particles=1)
        c = 1.0 / h[0].size if self.latent_coefficient is None else self.latent_coefficient
        loss = jnp.mean(energies) + c * jnp.mean(latent_losses)
        loss -= self.elbo_coefficient * jnp.mean(data.elbos)
        size = jnp.asarray(v.shape[0], loss.dtype)
        return loss, BidvlLowerAux(energies, latent_losses, data.elbos, data.squared_errors, size)


@dataclass(frozen=True)
class BidvlFull:
    """The two levels that BiDVL is derived from, as estimates without bias but for the weights.

    Upper level: KL(p_d q_ψ ‖ p_θ q_ψ) - KL(p_φ ‖ p_θ q_ψ) + H(p_d), in which log Z cancels:
    mean E(v) - mean [log p_φ(v̂, h) + E(v̂) - log q_ψ(h | v̂)], (v̂, h) ~ p_φ.
    Lower level: KL(p_φ ‖ p_θ q_ψ) + λ KL(p_θ q_ψ ‖ p_φ) - log Z + λ H(p_θ):
    mean [log p_φ(v̂, h) + E(v̂) - log q_ψ(h | v̂)] + λ mean w(v) (-ELBO(v)), w = p_θ / p_d, which
    both φ and ψ descend. λ = 1 is the symmetric divergence. Where q_ψ is the posterior of p_φ, its
    noise in ∇_v̂ log q_ψ(h | v̂) is that of ∇_v̂ log p_φ(v̂ | h), whose mean is zero: a control variate
    takes it out of the generator's gradient, of which it is most where σ is small.

    An energy and a batch alone do not determine w: its density p_d has to come from elsewhere.
    ``weights`` says from where. w_i = B r_i / Σ r_j with r_i = exp(-E(v_i)) / p̂_d(v_i), which needs
    no log Z and is differentiable in θ; p̂_d is a constant, with a bias of order 1 / B where it
    is p_d:

    - ``"uniform"``: w = 1, p̂_d = p_θ; right where θ has been learned;
    - ``"generator"``: p̂_d(v_i) is the importance-weighted estimate of p_φ(v_i), L particles; right
      where φ has been learned, and w = 1 where both have;
    - ``"flat"``: p̂_d constant over the batch, w ∝ exp(-E), as the published code computes, clips
      to [0.8, 1.2] and does not use; not 1 where p_θ = p_d, unless the data are uniform;
    - a function ``v -> log p_d(v)`` of one example, up to a constant, where it is known.

    Energies of images differ by tens of nats within a batch, and with them the weights: watch the
    effective sample size, and clip or take ``"uniform"`` where it is near 1.

    Args:
      scale: σ > 0 of p_φ(v | h) = N(G(h), σ² I), in units of v.
      elbo_coefficient: λ >= 0.
      weights: see above; all but ``"uniform"`` need a batch of two at least.
      clip: bounds of w, 0 <= low <= high, applied last; None for none, as for ``"uniform"``.
      num_particles: L >= 1, of q_ψ for each example of data.

    Raises:
      ValueError: if a number is out of range, or weights are unknown.
      TypeError: if weights are neither a name nor a function, or clip is no pair.

    Example:
      >>> BidvlFull(scale=0.1, weights="flat", clip=(0.8, 1.2)).num_particles
      1
    """

    scale: float = math.sqrt(0.5)
    elbo_coefficient: float = 1.0
    weights: str | Callable[[Array], Any] = "uniform"
    clip: tuple[float, float] | None = None
    num_particles: int = 1

    def __post_init__(self):
        _checks.positive("scale", self.scale)
        _checks.non_negative("elbo_coefficient", self.elbo_coefficient)
        if isinstance(self.weights, str):
            _checks.one_of("weights", self.weights, WEIGHTS)
        else:
            _checks.function("weights", self.weights)
        _check_clip(self.clip, self.weights)
        _checks.integer("num_particles", self.num_particles, minimum=1)

    def upper(
        self, parts: Parts, theta: Params, phi: BidvlParams, key: Key, v: Array
    ) -> tuple[Array, BidvlUpperAux]:
        """Returns the upper loss of checked arguments."""
        key_generated, _ = _random.split(key)
        divergence, generated_energies, _ = self._reverse(parts, theta, phi, key_generated, v)
        aux = BidvlUpperAux(parts.energies(theta, v), generated_energies)
        return jnp.mean(aux.data_energies) - divergence, aux

    def lower(
        self, parts: Parts, theta: Params, phi: BidvlParams, key: Key, v: Array
    ) -> tuple[Array, BidvlLowerAux]:
        """Returns the lower loss of checked arguments."""
        # Both levels see the same draws at one key, as implicit strategies take them to.
        key_generated, key_posterior = _random.split(key)
        divergence, energies, latent_losses = self._reverse(parts, theta, phi, key_generated, v)
        data = evidence(
            parts, phi, key_posterior, v, scale=self.scale, num_particles=self.num_particles
        )
        weights, size = importance_weights(
            self.weights,
            v,
            energies=lambda: parts.energies(theta, v),
            log_densities=data.log_densities,
            clip=self.clip,
        )
        loss = divergence - self.elbo_coefficient * jnp.mean(weights * data.elbos)
        return loss, BidvlLowerAux(energies, latent_losses, data.elbos, data.squared_errors, size)

    def _reverse(self, parts, theta, phi, key, v):
        """KL(p_φ ‖ p_θ q_ψ) - log Z, the energies, and -log q_ψ(h | v̂)."""
        h, means, noise = parts.generate(phi, key, v)
        generated = means + self.scale * noise
        energies = parts.energies(theta, generated)
        latent_losses = -parts.log_posteriors(phi.posterior, generated, h)
        squares = (jnp.sum(noise**2) + jnp.sum(h**2)) / v.shape[0]
        size = v[0].size
        log_joint = -0.5 * squares - 0.5 * (h[0].size + size) * math.log(2.0 * math.pi)
        log_joint -= size * jnp.log(self.scale)
        # ∇_v̂ of log p_φ(v̂ | h): zero on average, and what is noise in that of log q_ψ.
        score = jnp.sum(-noise / self.scale * (means - jax.lax.stop_gradient(means)))
        loss = jnp.mean(energies + latent_losses) + log_joint + score / v.shape[0]
        return loss, energies, latent_losses


def _check_clip(clip, weights):
    if clip is None:
        return
    if not (isinstance(clip, tuple) and len(clip) == 2):
        raise TypeError(f"clip must be a pair (low, high) or None, got {clip!r}")
    low, high = _checks.non_negative("clip", clip[0]), _checks.positive("clip", clip[1])
    if not low <= high:
        raise ValueError(f"clip must have low <= high, got {clip}")
    if weights == "uniform":
        raise ValueError(f"clip must be None for weights='uniform', got {clip}")
