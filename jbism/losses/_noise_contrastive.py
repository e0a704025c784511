"""Noise-contrastive estimation, by a free energy or by a variational posterior."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from jbism import _checks, _random
from jbism.estimators._particles import ParticleSource, log_joint
from jbism.typing import Array, Distribution, Energy, FreeEnergy, Key, Params, Posterior


class NoiseContrastiveAux(NamedTuple):
    """What `nce_loss` and `vnce_loss` saw on the way."""

    data_losses: Array  # [batch], -log P(data | v_i), of VNCE a bound on it
    noise_losses: Array  # [num_noise], -log P(noise | y_j), of VNCE an estimate of it


def nce_loss(
    theta: Params,
    log_partition: Array,
    key: Key,
    v: Array,
    *,
    free_energy: FreeEnergy,
    noise: Distribution,
    noise_ratio: float = 1.0,
) -> tuple[Array, NoiseContrastiveAux]:
    """Noise-contrastive estimation (Gutmann & Hyvärinen, 2012): tells data from noise.

    L(θ, c) = mean_i -log σ(G(v_i)) + ν mean_j -log σ(-G(y_j)), y_j ~ p_n, where
    G(v) = -F(v; θ) - c - log ν - log p_n(v) are the log-odds of data against ν times as much
    noise. Both θ and c descend it; least at the data's density, where c = log Z(θ).

    Args:
      theta: parameters of the free energy.
      log_partition: c, the learned log-partition, a scalar beside θ.
      key: for the noise.
      v: data, [batch, *event].
      free_energy: ``(theta, v) -> scalar`` of one example, -log p(v) up to log Z.
      noise: p_n, a normalised distribution of one v, positive wherever the data are.
      noise_ratio: ν > 0; max(1, round(ν · batch)) noise examples are drawn.

    Returns:
      The scalar loss in nats and a `NoiseContrastiveAux`.

    Raises:
      ValueError: if v is not [batch, *event], noise_ratio is not positive, noise is not shaped as
        v, or c or the free energy is not a scalar.
      TypeError: if v or c is not floating, or an argument is not of its kind.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> noise = jbism.distributions.Normal(jnp.zeros(2), jnp.zeros(2))
      >>> log_z = jnp.log(2.0 * jnp.pi)  # the model is the noise: nothing can be told
      >>> loss, aux = nce_loss(
      ...     None, log_z, jax.random.key(0), jnp.ones((10, 2)), noise=noise,
      ...     free_energy=lambda theta, v: 0.5 * jnp.sum(v**2))
      >>> round(float(loss), 4)  # 2 log 2
      1.3863
    """
    _checks.function("free_energy", free_energy)
    v, log_partition, log_noise = _check(v, log_partition, noise, noise_ratio)

    y = _draw(noise, key, v, noise_ratio)

    def log_odds(v):
        energy = _checks.scalar("free_energy(theta, v)", free_energy(theta, v))
        return -energy - log_partition - log_noise(v)

    data = jax.nn.softplus(-jax.vmap(log_odds)(v))
    contrast = jax.nn.softplus(jax.vmap(log_odds)(y))
    return jnp.mean(data) + noise_ratio * jnp.mean(contrast), NoiseContrastiveAux(data, contrast)


def vnce_loss(
    theta: Params,
    phi: Params,
    log_partition: Array,
    key: Key,
    v: Array,
    *,
    energy: Energy,
    posterior: Posterior,
    noise: Distribution,
    num_particles: int | None,
    noise_ratio: float = 1.0,
) -> tuple[Array, NoiseContrastiveAux]:
    """Variational noise-contrastive estimation (Rhodes & Gutmann, 2019), for E(v, h).

    `nce_loss` with exp(-F(v)) replaced by importance weights w(v, h) = exp(-E(v, h)) / q(h | v):
    of the data by E_{h~q}[-log σ(log w - ...)], an upper bound of -log σ(G), from one sample; of
    the noise by G with the average of L weights. θ, c and φ descend it together, and where q is
    p(h | v) it is the loss of NCE.

    The noise term carries no derivative to φ: its limit of many particles does not depend on q,
    and of few, the worse q is the less it gets.

    Args:
      theta: parameters of the energy.
      phi: parameters of the posterior.
      log_partition: c, the learned log-partition, a scalar beside θ.
      key: for the noise and the latents.
      v: data, [batch, *event].
      energy: ``(theta, v, h) -> scalar`` of one example.
      posterior: ``(phi, v) -> Distribution`` of one example, reparameterised.
      noise: p_n, a normalised distribution of one v, positive wherever the data are.
      num_particles: L >= 1 of a noise example, drawn hard where samples are relaxed; None for exact
        expectations under q in both terms, over the ``support()`` of its distribution.
      noise_ratio: ν > 0; max(1, round(ν · batch)) noise examples are drawn.

    Returns:
      The scalar loss in nats and a `NoiseContrastiveAux`.

    Raises:
      ValueError: as `nce_loss`, and if num_particles < 1 or samples of q carry no derivatives.
      TypeError: as `nce_loss`.

    Example:
      >>> import jax, jax.numpy as jnp, jbism
      >>> rbm, q = jbism.energies.GaussianRBM(num_hidden=4), jbism.posteriors.Bernoulli(4)
      >>> v = jax.random.normal(jax.random.key(0), (10, 2))
      >>> theta = rbm.init(jax.random.key(1), v[0], jnp.zeros(4))
      >>> phi = q.init(jax.random.key(2), v[0])
      >>> loss, aux = vnce_loss(
      ...     theta, phi, jnp.zeros(()), jax.random.key(3), v, energy=rbm.apply,
      ...     posterior=q.apply, num_particles=5,
      ...     noise=jbism.distributions.Normal(jnp.zeros(2), jnp.zeros(2)))
      >>> loss.shape, aux.noise_losses.shape
      ((), (10,))
    """
    source = ParticleSource(
        energy, posterior, num_particles, num_sets=1, refinement=None, minimum=1
    )
    v, log_partition, log_noise = _check(v, log_partition, noise, noise_ratio)
    key_noise, key_data, key_particles = _random.split(key, 3)
    y = _draw(noise, key_noise, v, noise_ratio)

    def data_loss(example_key, v):
        q = source.distribution(phi, v)

        def of(h, log_q):
            log_weight = -_checks.scalar_energy(energy, theta, v, h) - log_q
            return jax.nn.softplus(log_partition + log_noise(v) - log_weight)

        if num_particles is None:
            h, probabilities = q.support()  # type: ignore[attr-defined]
            return jnp.dot(probabilities, jax.vmap(lambda h: of(h, q.log_prob(h)))(h))
        _checks.reparameterized(q, "vnce_loss")
        return of(*q.sample_and_log_prob(example_key))

    def noise_loss(example_key, y):
        (h,), probabilities, q = source.draw(theta, phi, example_key, y)
        log_weights = log_joint(theta, y, h, energy=energy) - jax.vmap(q.log_prob)(h)
        log_average = logsumexp(log_weights + jnp.log(probabilities))
        return jax.nn.softplus(log_average - log_partition - log_noise(y))

    data = jax.vmap(data_loss)(_random.split(key_data, v.shape[0]), v)
    contrast = jax.vmap(noise_loss)(_random.split(key_particles, y.shape[0]), y)
    return jnp.mean(data) + noise_ratio * jnp.mean(contrast), NoiseContrastiveAux(data, contrast)


def _check(v, log_partition, noise, noise_ratio):
    """Returns v, c, and the function v -> log ν + log p_n(v)."""
    v = _checks.examples("v", v)
    log_partition = _checks.scalar(
        "log_partition", _checks.floating("log_partition", log_partition)
    )
    _checks.instance("noise", noise, Distribution)
    log_ratio = math.log(_checks.positive("noise_ratio", noise_ratio))

    def log_noise(v):
        return log_ratio + _checks.scalar("noise.log_prob(v)", noise.log_prob(v))

    return v, log_partition, log_noise


def _draw(noise, key, v, noise_ratio):
    """Draws the noise examples, without derivatives."""
    count = max(1, round(noise_ratio * v.shape[0]))
    y = jax.vmap(noise.sample)(_random.split(key, count))
    _checks.shape("noise.sample(key) of each example", y, (count, *v.shape[1:]))
    return jax.lax.stop_gradient(y)
