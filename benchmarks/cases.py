"""The training steps that are timed, with the figures they are measured against."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jbism import divergences, energies, hypergradients, losses, networks, posteriors
from jbism.hypergradients import Unroll
from jbism.training import TrainState, bism_step, create_state, vages_step
from jbism.typing import Hypergradient

ADAM = optax.adam(1e-3, b2=0.95, eps_root=1e-8)


@dataclass(frozen=True)
class Case:
    """One training step to time."""

    name: str
    build: Callable[[], tuple[Callable, TrainState, jax.Array]]  # step, state, data
    batch_size: int
    steps_per_call: int  # enough for a call to last long against its dispatch
    published_ms: float | None = None  # the published PyTorch code, one thread on one core
    target_ms: float | None = None
    target_gflops: float | None = None  # product rate of the target's core; None holds for any
    solve_steps: int | None = None  # of a solve that would end by its residual, were that enough


def all_cases() -> dict[str, Case]:
    """Every case by name."""
    toy = {"dim": 2, "num_hidden": 4, "batch_size": 100, "steps_per_call": 500}
    frey = {"dim": 560, "num_hidden": 400, "batch_size": 100, "steps_per_call": 10}
    toy_dsm, frey_dsm = losses.DSM(sigma=0.05), losses.DSM(sigma=0.3)
    kl, exact_kl = divergences.KL(), divergences.MeanFieldKL()
    cases = [
        _rbm(
            "toy_dsm_kl_n0",
            **toy,
            objective=toy_dsm,
            divergence=kl,
            hypergradient=Unroll(0, ADAM),
            published_ms=3.2,
        ),
        _rbm(
            "toy_dsm_kl_n5",
            **toy,
            objective=toy_dsm,
            divergence=kl,
            hypergradient=Unroll(5, ADAM),
            published_ms=7.5,
            target_ms=0.3,
        ),
        _rbm(
            "toy_dsm_kl_n10",
            **toy,
            objective=toy_dsm,
            divergence=kl,
            hypergradient=Unroll(10, ADAM),
            published_ms=11.1,
        ),
        _rbm(
            "toy_ssm_kl_n5",
            **toy,
            objective=losses.SSM(),
            divergence=kl,
            hypergradient=Unroll(5, ADAM),
            published_ms=7.4,
        ),
    ]
    published = {0: 45.0, 2: 69.0, 5: 108.0}
    targets = {0: 9.0, 5: 28.0}  # on a core that multiplies at 210 GFLOP/s
    for n, milliseconds in published.items():
        for label, divergence in (("kl", kl), ("mean_field_kl", exact_kl)):
            cases.append(
                _rbm(
                    f"rbm560_dsm_{label}_n{n}",
                    **frey,
                    objective=frey_dsm,
                    divergence=divergence,
                    hypergradient=Unroll(n, ADAM),
                    published_ms=milliseconds,
                    target_ms=targets.get(n),
                    target_gflops=210.0 if n in targets else None,
                )
            )
    strategies = {
        "unroll5_sgd": Unroll(5, optax.sgd(1.0)),
        "neumann15": hypergradients.Neumann(15, 1.0),
        "cg5": hypergradients.ImplicitCG(5, tolerance=0.0),
        "cg15": hypergradients.ImplicitCG(15, tolerance=0.0),
    }
    for label, model, objective in (("toy", toy, toy_dsm), ("rbm560", frey, frey_dsm)):
        exact = {"objective": objective, "divergence": exact_kl}
        for strategy, hypergradient in strategies.items():
            name = f"{label}_dsm_mean_field_kl_{strategy}"
            steps = {"cg5": 5, "cg15": 15}.get(strategy)
            case = _rbm(name, **model, **exact, hypergradient=hypergradient, solve_steps=steps)
            cases.append(case)
    vages_published = {2: 62.0, 10: 132.0}
    vages_targets = {2: 10.0, 10: 16.0}  # on the same core
    for num_particles, milliseconds in vages_published.items():
        for label, divergence in (("kl", kl), ("mean_field_kl", exact_kl)):
            cases.append(
                _rbm(
                    f"rbm560_vages_dsm_{label}_l{num_particles}",
                    **frey,
                    objective=frey_dsm,
                    divergence=divergence,
                    num_particles=num_particles,
                    published_ms=milliseconds,
                    target_ms=vages_targets[num_particles],
                    target_gflops=210.0,
                )
            )
    ten = {"objective": frey_dsm, "divergence": kl, "published_ms": 190.0}
    cases += [
        _rbm(
            "rbm560_ssm_kl_n5",
            **frey,
            objective=losses.SSM(),
            divergence=kl,
            hypergradient=Unroll(5, ADAM),
            published_ms=120.0,
        ),
        _rbm(
            "rbm560_ssm_kl_n2",
            **frey,
            objective=losses.SSM(),
            divergence=kl,
            hypergradient=Unroll(2, ADAM),
        ),
        _rbm(
            "rbm560_dsm_kl_n2_remat",
            **frey,
            objective=frey_dsm,
            divergence=kl,
            hypergradient=Unroll(2, ADAM, remat=True),
        ),
        _rbm("rbm560_dsm_kl_n10", **frey, **ten, hypergradient=Unroll(10, ADAM)),
        _rbm("rbm560_dsm_kl_n10_remat", **frey, **ten, hypergradient=Unroll(10, ADAM, remat=True)),
        _rbm(
            "toy_vages_dsm_kl_l2",
            **toy,
            objective=toy_dsm,
            divergence=kl,
            num_particles=2,
            published_ms=3.4,
        ),
        _deep("deep32_mdsm_fisher_n0", published_ms=1_600.0),
        _deep("deep32_vages_mdsm_fisher_l2", num_particles=2, published_ms=2_900.0),
        _deep("deep32_small_mdsm_fisher_n0", channels=16, blocks=1, features=(16, 32, 64)),
        _deep(
            "deep32_cifar10_mdsm_fisher_n0",  # too slow for a CPU
            implementation="lax",  # what GPUs run, for counts of their collectives
            image_channels=3,
            channels=128,
            blocks=3,
            objective=losses.MDSM(0.05, 1.2, 0.1, spacing="linear"),
            batch_size=100,
            unroll_lower=False,
        ),
    ]
    return {case.name: case for case in cases}


def _rbm(
    name,
    *,
    batch_size,
    steps_per_call,
    published_ms=None,
    target_ms=None,
    target_gflops=None,
    solve_steps=None,
    **model,
):
    return Case(
        name,
        partial(build_rbm, **model),
        batch_size,
        steps_per_call,
        published_ms=published_ms,
        target_ms=target_ms,
        target_gflops=target_gflops,
        solve_steps=solve_steps,
    )


def build_rbm(
    *,
    dim: int,
    num_hidden: int,
    objective: losses.Objective,
    divergence: Any,
    hypergradient: Hypergradient | None = None,
    num_particles: int | None = None,
    num_lower_steps: int = 5,
    num_examples: int = 1_400,
) -> tuple[Callable, TrainState, jax.Array]:
    """Builds a step of a Gaussian RBM, its state, and uniform data.

    The step is one of VaGES if num_particles is given, else one of BiSM, by `FirstOrder` if no
    hypergradient is.
    """
    energy, posterior = energies.GaussianRBM(num_hidden), posteriors.Bernoulli(num_hidden)
    data = jax.random.uniform(jax.random.key(0), (num_examples, dim))
    step = _step(
        energy,
        posterior,
        num_particles=num_particles,
        hypergradient=hypergradient,
        objective=objective,
        divergence=divergence,
        num_lower_steps=num_lower_steps,
    )
    return step, _state(energy, posterior, data[0], num_hidden), data


def _deep(
    name,
    *,
    published_ms=None,
    num_particles=None,
    image_channels=1,
    channels=64,
    blocks=2,
    features=(64, 128, 256),
    objective=None,
    batch_size=16,
    unroll_lower=True,
    implementation="auto",
):
    def build():
        # The published networks.
        energy = energies.DeepEBLVM(
            num_latents=50,
            trunk=networks.ResidualConvNet(
                channels=channels,
                blocks_per_level=blocks,
                variant="published",
                implementation=implementation,
            ),
            num_features=64 * channels,
            coupling_bias=True,
        )
        encoder = networks.ConvEncoder(
            features,
            activation=nn.leaky_relu,
            strides=(2, 2, 2),
            implementation=implementation,
        )
        posterior = posteriors.Gaussian(num_latents=50, trunk=encoder)
        step = _step(
            energy,
            posterior,
            num_particles=num_particles,
            hypergradient=None,
            objective=objective or losses.MDSM(0.1, 3.0, 0.1, spacing="geometric"),
            divergence=divergences.Fisher(),
            num_lower_steps=5,
            unroll_lower=unroll_lower,
        )
        data = jax.random.uniform(jax.random.key(0), (64, 32, 32, image_channels))
        return step, _state(energy, posterior, data[0], 50), data

    return Case(name, build, batch_size, steps_per_call=1, published_ms=published_ms)


def _step(energy, posterior, *, num_particles, hypergradient, **options):
    options |= {
        "energy": energy.apply,
        "posterior": posterior.apply,
        "theta_optimizer": ADAM,
        "phi_optimizer": ADAM,
    }
    if num_particles is None:
        return bism_step(**options, hypergradient=hypergradient or hypergradients.FirstOrder())
    return vages_step(**options, num_particles=num_particles)


# One program, not one for each operation, and the same for all cases of a model.
@partial(jax.jit, static_argnums=(0, 1, 3))
def _state(energy, posterior, v, num_latents):
    key_theta, key_phi, key_train = jax.random.split(jax.random.key(1), 3)
    theta = energy.init(key_theta, v, jnp.zeros(num_latents))
    phi = posterior.init(key_phi, v)
    return create_state(key_train, theta, phi, theta_optimizer=ADAM, phi_optimizer=ADAM)
