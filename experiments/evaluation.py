"""Test-set figures of a trained model."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import generative
from experiments.builders import Experiment
from experiments.devices import chain_sharding
from experiments.resumable import ChainStore
from jbism import divergences, estimators, likelihood, losses, metrics

_MAX_BIAS_LATENTS = 8  # each example enumerates 2^8 latents
_BIAS_EXAMPLES = 1_000
_AIS_CHUNK = 10  # temperatures a dispatch, each of several gradients


def evaluate(
    experiment: Experiment,
    theta,
    phi,
    key,
    *,
    store: ChainStore | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Returns the model's figures on (at most ``evaluation.num_examples`` of) the test set.

    ``log_likelihood``, unless the config wants none, is exact or estimated, as
    ``log_likelihood_method`` says; ``ssm`` is the sliced score-matching value; the posterior is
    judged by ``posterior_kl`` where the true one is known, by ``posterior_fisher_divergence`` where
    the latents are continuous. Of BiDVL there are the mean energies of data and of what is
    generated, and the bound of log p_φ(v), ``elbo``, in nats. The chains of AIS are kept in
    ``store``, and shown by a bar if ``progress``.
    """
    most = experiment.config.evaluation.num_examples
    v = jnp.asarray(experiment.dataset.examples("test", slice(most)))
    key_likelihood, key_ssm, key_posterior = jax.random.split(key, 3)
    tractable = hasattr(experiment.energy, "free_energy")
    figures: dict[str, Any] = {"num_test_examples": len(v)}
    if experiment.config.evaluation.log_likelihood:
        anneal = partial(_anneal, store or ChainStore(), progress)
        figures |= _log_likelihood(experiment, theta, phi, v, key_likelihood, anneal)
    if experiment.generator is not None:
        figures |= _bidvl(experiment, theta, phi, v, key_posterior)
    elif tractable:
        if experiment.posterior is not None:
            figures |= _rbm_posterior(experiment, theta, phi, v)
    else:
        figures |= _posterior_fisher(experiment, theta, phi, v, key_posterior)
    figures["ssm"] = _ssm(experiment, theta, phi, v, key_ssm, tractable)
    return {name: x if isinstance(x, (str, int)) else float(x) for name, x in figures.items()}


def _log_likelihood(experiment, theta, phi, v, key, anneal):
    if hasattr(experiment.energy, "log_hidden_marginal"):
        return _rbm_log_likelihood(experiment, theta, v, key, anneal)
    if not hasattr(experiment.energy, "decoder"):
        return _deep_log_likelihood(experiment, theta, phi, v, key, anneal)
    num = experiment.config.evaluation.importance_samples
    return {
        "log_likelihood": jnp.mean(log_density_by_samples(experiment, theta, phi, v, key)),
        "log_likelihood_method": f"by {num} samples of q, log Z = 0",
    }


def _bidvl(experiment, theta, phi, v, key):
    form = generative.bidvl_form(experiment.config.method.bidvl)
    if isinstance(form, losses.BidvlFull):  # bounds and energies are those of any weights
        form = replace(form, weights="uniform", clip=None)
    one = partial(
        losses.bidvl_lower_loss,
        energy=experiment.energy.apply,
        generator=experiment.generator.apply,
        posterior=experiment.posterior.apply,
        form=form,
    )
    _, aux = jax.jit(one)(theta, phi, key, v)
    return {
        "data_energy": jnp.mean(jax.jit(jax.vmap(partial(experiment.energy.apply, theta)))(v)),
        "generated_energy": jnp.mean(aux.generated_energies),
        "elbo": jnp.mean(aux.elbos),
    }


def _rbm_log_likelihood(experiment, theta, v, key, anneal):
    apply, settings = experiment.energy.apply, experiment.config.evaluation
    free_energy = partial(apply, theta, method="free_energy")
    mean_free_energy = jnp.mean(jax.vmap(free_energy)(v))
    if experiment.num_latents <= settings.exact_max_latents:
        log_partition = jax.jit(
            lambda: likelihood.exact_log_partition(
                partial(apply, theta, method="log_hidden_marginal"),
                num_latents=experiment.num_latents,
            )
        )()
        return {
            "log_likelihood": -mean_free_energy - log_partition,
            "log_likelihood_method": "exact, log Z by enumeration",
            "log_partition": log_partition,
        }
    pieces = likelihood.ais_gaussian_rbm_pieces(
        **apply(theta, method="arrays"),
        num_chains=settings.ais_chains,
        num_temperatures=settings.ais_temperatures,
        sharding=chain_sharding(experiment.config, settings.ais_chains),
    )
    result = anneal(pieces, key, of=(experiment.config.energy.to_json(), theta))
    return {
        "log_likelihood": -mean_free_energy - result.log_partition,
        "log_likelihood_method": _ais_name(settings),
        **_ais_quality(result),
    }


def _deep_log_likelihood(experiment, theta, phi, v, key, anneal):
    settings = experiment.config.evaluation
    key_ais, key_bound = jax.random.split(key)
    train = experiment.train_sample()
    mean, scale = [train.mean(0)], [train.std(0) + 0.1]
    if experiment.num_latents:
        latents = jax.vmap(lambda v: experiment.posterior.apply(phi, v).mean)(train[:1000])
        mean.append(latents.mean(0))
        scale.append(latents.std(0) + 1.0)
    pieces = likelihood.ais_hmc_pieces(
        energy=lambda x: experiment.energy.apply(theta, *x),
        base_mean=mean,
        base_scale=scale,
        num_chains=settings.ais_chains,
        num_temperatures=settings.ais_temperatures,
        sharding=chain_sharding(experiment.config, settings.ais_chains),
    )
    of = experiment.config.energy.to_json(), theta, mean, scale
    result, acceptance = anneal(pieces, key_ais, of=of)
    quality = _ais_quality(result) | {"ais_acceptance": acceptance}
    if not experiment.num_latents:
        values = jax.jit(jax.vmap(partial(experiment.energy.apply, theta)))(v)
        return {
            "log_likelihood": -jnp.mean(values) - result.log_partition,
            "log_likelihood_method": _ais_name(settings),
            **quality,
        }
    log_density = log_density_by_samples(experiment, theta, phi, v, key_bound)
    return {
        "log_likelihood": jnp.mean(log_density) - result.log_partition,
        "log_likelihood_method": (
            f"{_ais_name(settings)}; log p̃(v) by {settings.importance_samples} samples of q"
        ),
        **quality,
    }


def _anneal(store, progress, pieces, key, *, of):
    """Returns the result of annealed importance sampling in pieces."""
    advance = jax.jit(pieces.advance)
    state = store.run(
        lambda state, _, length: advance(state, length),
        jax.jit(pieces.init)(key),
        pieces.num_steps,
        "annealed importance sampling",
        of=of,
        num_pieces=-(-pieces.num_steps // _AIS_CHUNK),
        progress=progress,
    )
    return jax.jit(pieces.finish)(state)


def log_density_by_samples(experiment: Experiment, theta, phi, v, key) -> jax.Array:
    """Returns importance estimates of log p̃(v) of each v, by samples of the learned q."""
    energy, posterior = experiment.energy.apply, experiment.posterior.apply
    num = experiment.config.evaluation.importance_samples

    bound = partial(divergences.IWAE(num), theta, phi, energy=energy, posterior=posterior)
    return -jax.jit(jax.vmap(bound))(jax.random.split(key, len(v)), v)


def _ais_name(settings):
    return f"AIS, {settings.ais_chains} chains, {settings.ais_temperatures} temperatures"


def _ais_quality(result):
    low, high = result.interval
    return {
        "log_partition": result.log_partition,
        "log_partition_low": low,
        "log_partition_high": high,
        "ais_effective_sample_size": result.effective_sample_size,
    }


def _rbm_posterior(experiment, theta, phi, v):
    true = jax.vmap(partial(experiment.energy.apply, theta, method="hidden_given_visible"))(v)
    q = jax.vmap(partial(experiment.posterior.apply, phi))(v)
    kl = metrics.bernoulli_kl(q.logits, true.logits)
    figures = {"posterior_kl": jnp.mean(kl)}
    if experiment.num_latents <= _MAX_BIAS_LATENTS:
        figures |= _vaes_bias(experiment, theta, phi, v[:_BIAS_EXAMPLES], kl[:_BIAS_EXAMPLES])
    return figures


def _vaes_bias(experiment, theta, phi, v, kl):
    """The bias of q's estimate of the score, and the bound on it that KL(q‖p(h|v)) gives."""
    energy, latents = experiment.energy.apply, likelihood.enumerate_binary(experiment.num_latents)
    estimate = partial(
        estimators.vaes, energy=energy, posterior=experiment.posterior.apply, num_particles=None
    )

    @jax.jit
    def norms(v, kl):
        unused = jax.random.key(0)  # nothing is drawn
        score = -jax.vmap(jax.grad(partial(energy, theta, method="free_energy")))(v)
        bias = estimate(theta, phi, unused, v) - score
        bounds = jax.vmap(
            lambda v, kl: estimators.vaes_bias_bound(theta, v, kl, latents, energy=energy)
        )(v, kl)
        return [jnp.mean(jnp.linalg.norm(x, axis=1)) for x in (bias, bounds)]

    bias, largest = norms(v, kl)
    return {"vaes_bias": bias, "vaes_bias_bound": largest}


def _posterior_fisher(experiment, theta, phi, v, key):
    fisher = divergences.Fisher(num_samples=10)
    one = partial(
        fisher, theta, phi, energy=experiment.energy.apply, posterior=experiment.posterior.apply
    )
    values = jax.jit(jax.vmap(one))(jax.random.split(key, len(v)), v)
    return {"posterior_fisher_divergence": jnp.mean(values)}


def _ssm(experiment, theta, phi, v, key, tractable):
    key_latent, key_projection = jax.random.split(key)
    energy, infer = experiment.energy.apply, experiment.infer(theta, phi)

    def exact(v):
        free_energy = partial(experiment.energy.apply, theta, method="free_energy")
        return -jax.vmap(jax.grad(free_energy))(v)

    def variational(v):
        one = partial(estimators.variational_score, energy=energy, posterior=lambda _, v: infer(v))
        return jax.vmap(partial(one, theta, phi))(v, h)

    h = None
    if not tractable:
        h = jax.vmap(lambda k, v: infer(v).sample(k))(jax.random.split(key_latent, len(v)), v)
    objective = losses.SSM()
    score = exact if tractable else variational
    evaluate_batch = jax.jit(
        lambda v: objective(score, key_projection, objective.corrupt(key_latent, v))[0]
    )
    return jnp.mean(evaluate_batch(v))


def reconstruction(
    originals: np.ndarray | None, reconstructed: np.ndarray | None
) -> dict[str, float]:
    """Returns the errors of reconstructions, if there are any, under their own names."""
    if originals is None or reconstructed is None:
        return {}
    error = metrics.reconstruction_error(originals, reconstructed)
    return {f"reconstruction_{name}": float(x) for name, x in error._asdict().items()}
