"""The chains with blackjax, compiled as its users do: a scan of its kernels."""

from collections.abc import Callable
from dataclasses import dataclass

import blackjax
import jax
import jax.numpy as jnp

from benchmarks.peers import clock
from benchmarks.peers.chains import HMC, Langevin, jax_program


@dataclass(frozen=True)
class Chain:
    """How the proof replays a chain, and the program that is timed."""

    replay: Callable
    program: Callable[[int], clock.Program]


def langevin(contest: Langevin) -> Chain:
    """Stochastic gradient Langevin dynamics with the whole gradient, all chains one position."""
    energy = contest.target.energy

    def log_density_gradient(x, _):
        return -jax.vmap(jax.grad(energy))(x)

    kernel = blackjax.sgld(log_density_gradient)

    @jax.jit
    def run(keys, x):
        def step(x, key):
            return kernel.step(key, x, None, 0.5 * contest.step_size**2), None

        return jax.lax.scan(step, x, keys)[0]

    def program(num_steps):
        return jax_program(
            lambda key, x: run(jax.random.split(key, num_steps), x), contest.target.start, num_steps
        )

    return Chain(lambda x, keys: run(jnp.stack(keys), x), program)


def hmc(contest: HMC) -> Chain:
    """Hamiltonian Monte Carlo with a unit metric, its kernel mapped over the chains."""
    target, energy = contest.target, contest.target.energy

    def log_density(x):
        return -energy(x)

    kernel = blackjax.hmc.build_kernel()
    metric = jnp.ones(target.dim)

    def transition(key, state, step_size):
        return kernel(key, state, log_density, step_size, metric, contest.num_leapfrog_steps)

    init = jax.vmap(lambda x: blackjax.hmc.init(x, log_density))

    @jax.jit
    def replay(x, keys, step_sizes):
        _, info = jax.vmap(transition)(keys, init(x), step_sizes)
        return info.proposal.position, info.acceptance_rate

    def program(num_steps):
        @jax.jit
        def run(key, state):
            def step(state, key):
                keys = jax.random.split(key, target.num_chains)
                moved, _ = jax.vmap(lambda key, state: transition(key, state, contest.step_size))(
                    keys, state
                )
                return moved, None

            return jax.lax.scan(step, state, jax.random.split(key, num_steps))[0]

        return jax_program(run, init(target.start), num_steps)

    return Chain(replay, program)
