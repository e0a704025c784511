"""The decoupled model of BiDVL and its variational joint: what both forms of the losses share."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jbism import _checks, _random, distributions
from jbism.typing import Array, Distribution, FreeEnergy, Key, Params, Posterior


class BidvlParams(NamedTuple):
    """φ of BiDVL, the lower level's parameters, which one optimizer or two may train.

    For two, `optax.multi_transform` takes the labels ``BidvlParams("generator", "posterior")``.

    Example:
      >>> import jax.numpy as jnp
      >>> phi = BidvlParams(generator={"w": jnp.ones(2)}, posterior={"w": jnp.ones(3)})
      >>> phi.generator["w"].shape
      (2,)
    """

    generator: Params  # of p_φ(v | h), which together with N(h; 0, I) is the variational joint
    posterior: Params  # of q_ψ(h | v), the encoder, which is the model's own posterior


class Generator(Protocol):
    """G(h; φ), the mean of p_φ(v | h), for one latent h."""

    def __call__(self, phi: Params, h: Array, /) -> Any:
        """Returns the mean, shaped as one v."""
        ...


class Parts(NamedTuple):
    """p_θ(v) q_ψ(h | v) and p_φ(v, h) = N(h; 0, I) p_φ(v | h), checked as they are used."""

    energy: FreeEnergy
    generator: Generator
    posterior: Posterior

    def check(self, phi: Any, v: Any) -> Array:
        """Returns v if it, φ and the functions are of their kind."""
        for name, part in self._asdict().items():
            _checks.function(name, part)
        _checks.instance("phi", phi, BidvlParams)
        return _checks.examples("v", v)

    def energies(self, theta: Params, v: Array) -> Array:
        """Returns E(v_i; θ), [batch]."""
        return jax.vmap(lambda v: _checks.scalar("energy(theta, v)", self.energy(theta, v)))(v)

    def encode(self, psi: Params, v: Array) -> Distribution:
        """Returns q_ψ(h | v) of one v."""
        q: Distribution = self.posterior(psi, v)
        if getattr(q, "discrete", False):
            raise ValueError(
                "posterior must return a distribution of continuous latents, as the generator's "
                f"N(0, I) is, got {type(q).__name__}"
            )
        _checks.reparameterized(q, "BiDVL")
        return q

    def decode(self, phi: Params, h: Array, shape: tuple[int, ...]) -> Array:
        """Returns G(h; φ) of one h, of the shape of one v."""
        return _checks.shape("generator(phi.generator, h)", self.generator(phi, h), shape)

    def generate(self, phi: BidvlParams, key: Key, v: Array) -> tuple[Array, Array, Array]:
        """Draws h ~ N(0, I), G(h) and the noise of p_φ(v | h) over its scale, as many as v."""
        key_latent, key_noise = _random.split(key)
        latent = jax.eval_shape(lambda v: jnp.asarray(self.encode(phi.posterior, v).mean), v[0])
        h = _random.normal(key_latent, (v.shape[0], *latent.shape), latent.dtype)
        means = jax.vmap(lambda h: self.decode(phi.generator, h, v.shape[1:]))(h)
        return h, means, _random.normal(key_noise, v.shape, v.dtype)

    def log_posteriors(self, psi: Params, v: Array, h: Array) -> Array:
        """Returns log q_ψ(h_i | v_i), [batch]."""
        return jax.vmap(lambda v, h: self.encode(psi, v).log_prob(h))(v, h)


class Evidence(NamedTuple):
    """What p_φ says of each example of data."""

    elbos: Array  # [batch], the lower bound of log p_φ(v_i), in nats
    log_densities: Array  # [batch], the importance-weighted estimate of log p_φ(v_i), in nats
    squared_errors: Array  # [batch], ‖v_i - G(h)‖², h ~ q_ψ(h | v_i), mean over the particles


def evidence(
    parts: Parts, phi: BidvlParams, key: Key, v: Array, *, scale: Any, num_particles: int
) -> Evidence:
    """Estimates log p_φ(v_i) by h_1..h_L ~ q_ψ(h | v_i), the KL to N(0, I) exact where it can be.

    ELBO = E_q[log p_φ(v | h)] - KL(q_ψ(h | v) ‖ N(0, I)), p_φ(v | h) = N(v; G(h), σ² I).
    """

    def one(example_key, v):
        q = parts.encode(phi.posterior, v)
        p = distributions.Normal(jnp.zeros_like(v), jnp.full_like(v, jnp.log(scale)))

        def particle(particle_key):
            h, log_q = q.sample_and_log_prob(particle_key)
            residual = v - parts.decode(phi.generator, h, v.shape)
            prior = distributions.Normal(jnp.zeros_like(h), jnp.zeros_like(h)).log_prob(h)
            return p.log_prob(residual), prior - log_q, jnp.sum(residual**2)

        keys = _random.split(example_key, num_particles)
        log_likelihoods, negative_kls, squared_errors = jax.vmap(particle)(keys)
        kl = _kl_to_standard_normal(q)
        kl = -jnp.mean(negative_kls) if kl is None else kl
        log_density = jax.nn.logsumexp(log_likelihoods + negative_kls) - jnp.log(num_particles)
        return Evidence(jnp.mean(log_likelihoods) - kl, log_density, jnp.mean(squared_errors))

    return jax.vmap(one)(_random.split(key, v.shape[0]), v)


def _kl_to_standard_normal(q):
    """KL(q ‖ N(0, I)) of a Gaussian, else None."""
    if isinstance(q, distributions.Normal):
        squares = jnp.sum(q.mean**2 + jnp.exp(2.0 * q.log_scale))
        return 0.5 * (squares - q.mean.size) - jnp.sum(q.log_scale)
    if isinstance(q, distributions.MultivariateNormal):
        squares = jnp.sum(q.mean**2) + jnp.sum(q.scale_tril**2)
        return 0.5 * (squares - q.mean.size) - jnp.sum(jnp.log(jnp.diagonal(q.scale_tril)))
    return None
