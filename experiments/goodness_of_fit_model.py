"""The null model of the goodness-of-fit experiment, its draws, its posterior, and its tests."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbism import (
    divergences,
    energies,
    estimators,
    hypergradients,
    losses,
    metrics,
    posteriors,
    samplers,
    stein,
)

KERNELS: dict[str, stein.Kernel] = {"RBF": stein.RBF("median"), "IMQ": stein.IMQ()}
TESTS = tuple(f"{score}, {kernel}" for score in ("exact", "VaES") for kernel in KERNELS)
_FIT_POINTS, _FIT_BATCH = 10_000, 500  # of the posterior; as many more points are held out


def check_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings with the numbers in ``deltas``, sorted.

    Raises:
      ValueError: if a δ is no finite number above 0 or is there twice, or no p-value can be as low
        as alpha.
    """
    texts = config["deltas"]
    try:
        deltas = sorted(map(float, texts))
    except ValueError as error:
        raise ValueError(f"--deltas must be numbers: {error}") from None
    if not deltas or not all(0 < delta < math.inf for delta in deltas):
        raise ValueError(f"--deltas must be finite numbers > 0, got {','.join(texts)!r}")
    if len(set(deltas)) != len(deltas):
        raise ValueError(f"--deltas must differ, got {','.join(texts)!r}")
    if not math.isfinite(config["coupling"]):
        raise ValueError(f"--coupling must be a number >= 0, got {config['coupling']}")
    least = 1 / (1 + config["num_bootstrap"])
    if not least <= config["alpha"] < 1:
        raise ValueError(
            f"--alpha must be below 1 and at least 1 / (1 + num_bootstrap) = {least:.3g}, "
            f"got {config['alpha']}"
        )
    return config | {"deltas": deltas}


def null_model(key: jax.Array, config: dict[str, Any]) -> tuple[energies.GaussianRBM, Any]:
    """Returns the null model in units h = (g + 1) / 2: W = B, b = b₀ - ½ B 1, c = 2 c₀."""
    key_couplings, key_visible, key_hidden = jax.random.split(key, 3)
    dim_v, num_hidden = config["dim_v"], config["num_hidden"]
    couplings = jax.random.rademacher(key_couplings, (dim_v, num_hidden), jnp.float32)
    theta = {
        "weights": jnp.zeros((dim_v, num_hidden)),
        "visible_bias": jax.random.normal(key_visible, (dim_v,)),
        "hidden_bias": 2.0 * jax.random.normal(key_hidden, (num_hidden,)),
    }
    rbm = energies.GaussianRBM(num_hidden=num_hidden, learn_sigma=False)
    return rbm, add_couplings({"params": theta}, config["coupling"] * couplings)


def add_couplings(theta: Any, couplings: jax.Array) -> Any:
    """Adds to B, which in units of h moves the visible bias too."""
    p = theta["params"]
    bias = p["visible_bias"] - 0.5 * jnp.sum(couplings, axis=1)
    return {"params": p | {"weights": p["weights"] + couplings, "visible_bias": bias}}


def sample(key: jax.Array, rbm: Any, theta: Any, num_points: int, num_steps: int) -> jax.Array:
    """Draws points of independent chains, each started at a random h."""
    key_h, key_v, key_gibbs = jax.random.split(key, 3)
    given = energies.conditionals(rbm, theta)
    h = jax.random.bernoulli(key_h, 0.5, (num_points, rbm.num_hidden)).astype(jnp.float32)
    visible = given["visible_given_hidden"]
    v = jax.vmap(lambda k, h: visible(h).sample(k))(jax.random.split(key_v, num_points), h)
    return samplers.block_gibbs(key_gibbs, v, num_steps=num_steps, **given)[0]


def fit_posterior(
    key: jax.Array, rbm: Any, theta: Any, config: dict[str, Any]
) -> tuple[Any, float]:
    """Fits q(h | v) with linear logits to draws of the null model.

    Returns:
      φ and the mean of KL(q‖p(h|v)) over held-out draws, in nats.
    """
    key_init, key_points, key_steps = jax.random.split(key, 3)
    draw_points = jax.jit(partial(sample, rbm=rbm), static_argnames=("num_points", "num_steps"))
    points = draw_points(
        key_points, theta=theta, num_points=2 * _FIT_POINTS, num_steps=config["gibbs_steps"]
    )
    train, held_out = points[:_FIT_POINTS], points[_FIT_POINTS:]
    q: Any = posteriors.Bernoulli(num_latents=rbm.num_hidden)

    def lower_loss(theta, phi, key):
        key_batch, key_loss = jax.random.split(key)
        batch = train[jax.random.randint(key_batch, (_FIT_BATCH,), 0, _FIT_POINTS)]
        return losses.bism_lower_loss(
            theta,
            phi,
            key_loss,
            batch,
            energy=rbm.apply,
            posterior=q.apply,
            objective=losses.SM(),
            divergence=divergences.MeanFieldKL(),
        )

    num_steps = config["posterior_steps"]
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, max(num_steps, 1)))
    descend = partial(hypergradients.descend, lower_loss, num_steps=num_steps, optimizer=optimizer)
    phi, _, _ = jax.jit(descend)(theta, q.init(key_init, train[0]), key_steps)

    @jax.jit
    def divergence(phi):
        fitted = jax.vmap(partial(q.apply, phi))(held_out)
        true = jax.vmap(partial(rbm.apply, theta, method="hidden_given_visible"))(held_out)
        return jnp.mean(metrics.bernoulli_kl(fitted.logits, true.logits))

    return phi, float(divergence(phi))


def run_tests(
    rbm: Any, theta: Any, phi: Any, config: dict[str, Any], delta: jax.Array, keys: jax.Array
) -> jax.Array:
    """The p-values of all tests, one repetition a key: [repetitions, len(TESTS)]."""
    posterior = posteriors.Bernoulli(num_latents=rbm.num_hidden).apply

    def repetition(key):
        key_noise, key_points, key_particles, key_signs = jax.random.split(key, 4)
        noise = jax.random.normal(key_noise, theta["params"]["weights"].shape)
        source = add_couplings(theta, delta * noise)
        v = sample(key_points, rbm, source, config["num_points"], config["gibbs_steps"])
        exact = -jax.vmap(jax.grad(partial(rbm.apply, theta, method="free_energy")))(v)
        estimated = estimators.vaes(
            theta,
            phi,
            key_particles,
            v,
            energy=rbm.apply,
            posterior=posterior,
            num_particles=config["num_particles"],
        )
        test = partial(stein.goodness_of_fit, key_signs, v, num_bootstrap=config["num_bootstrap"])
        results = [
            test(scores, kernel=kernel)
            for scores in (exact, estimated)
            for kernel in KERNELS.values()
        ]
        return jnp.stack([result.p_value for result in results])

    return jax.lax.map(repetition, keys)
