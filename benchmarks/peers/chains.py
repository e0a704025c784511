"""Markov chains on the free energy of a Gaussian RBM 560/400, to be proved equal and timed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import clock, proof
from benchmarks.peers.peer import Peer
from jbism import energies, samplers
from jbism.likelihood import _ais_hmc  # the library's transition, public only inside AIS
from jbism.typing import Params

_ROOM = "benchmarks.peers."
_CALL = 50  # steps of one compiled program


@dataclass(frozen=True)
class Target:
    """What the chains sample: a Gaussian RBM with weights of some size, and where they start."""

    dim: int = 560
    num_hidden: int = 400
    num_chains: int = 100

    @cached_property
    def theta(self) -> Params:
        """The energy's parameters."""
        model = energies.GaussianRBM(self.num_hidden, weights_init_scale=0.1)
        return model.init(jax.random.key(0), jnp.zeros(self.dim), jnp.zeros(self.num_hidden))

    @cached_property
    def start(self) -> jax.Array:
        """[chains, dim]."""
        return jax.random.normal(jax.random.key(1), (self.num_chains, self.dim))

    @cached_property
    def energy(self) -> Callable[[jax.Array], Any]:
        """The free energy of one v."""
        rbm = energies.GaussianRBM(self.num_hidden)
        return partial(rbm.apply, self.theta, method="free_energy")


@dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin dynamics: with the same noise, the same chain."""

    target: Target = field(default_factory=Target)
    step_size: float = 0.02  # η: x ← x - ½η² ∇E + η ξ
    num_proven: int = 20
    name = "rbm560_langevin"
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def peers(self) -> dict[str, Peer]:
        """blackjax, whose steps are compiled together as ours are, and TorchEBM."""
        return _peers(
            Peer("blackjax", ("blackjax",), _ROOM + "blackjax_chains:langevin"),
            Peer("torchebm", ("torch", "torchebm"), _ROOM + "torchebm_chains:langevin"),
        )

    def ours(self) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
        """Returns ``(key, x, num_steps) -> x``."""

        chain = partial(samplers.langevin, energy=self.target.energy, step_size=self.step_size)

        @partial(jax.jit, static_argnums=2)
        def run(key, x, num_steps):
            return chain(key, x, jnp.ones(num_steps))

        return run

    def prove(self, peer: str, ours: Callable) -> tuple[Any, float]:
        """Runs a few steps of both with the library's noise."""
        chain = self.peers[peer].build(self)
        key, start = jax.random.key(2), self.target.start
        keys = [jax.random.split(jax.random.fold_in(key, i), 1)[0] for i in range(self.num_proven)]
        moved = np.asarray(ours(key, start, self.num_proven) - start)
        theirs = np.asarray(chain.replay(start, keys)) - np.asarray(start)
        differences = {"displacement": proof.relative(moved, theirs)}
        return chain, proof.check(differences, f"{peer} on {self.name}")

    def program(self, ours: Callable, proven: Any | None) -> clock.Program:
        """Steps of all chains."""
        if proven is not None:
            return proven.program(_CALL)
        return jax_program(lambda key, x: ours(key, x, _CALL), self.target.start, _CALL)


@dataclass(frozen=True)
class HMC:
    """Hamiltonian transitions: from the same momentum, the same proposal and acceptance."""

    target: Target = field(default_factory=Target)
    step_size: float = 0.05
    num_leapfrog_steps: int = 10
    name = "rbm560_hmc"
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def peers(self) -> dict[str, Peer]:
        """blackjax."""
        return _peers(Peer("blackjax", ("blackjax",), _ROOM + "blackjax_chains:hmc"))

    @cached_property
    def start(self) -> _ais_hmc.Point:
        """The chains' start, with its energies."""
        return jax.jit(jax.vmap(self._evaluate))(self.target.start)

    def ours(self) -> Callable[[jax.Array, _ais_hmc.Point], tuple[_ais_hmc.Point, jax.Array]]:
        """Returns ``(keys, points) -> (points, acceptance)`` for all chains."""
        density = _ais_hmc.Density(self._evaluate, lambda x: -x.energy, lambda x: -x.gradient)

        def one(key, point):
            return _ais_hmc.hmc_step(key, point, density, self.step_size, self.num_leapfrog_steps)

        return jax.vmap(one)

    def _evaluate(self, x):
        return _ais_hmc.Point(x, *jax.value_and_grad(self.target.energy)(x))

    def prove(self, peer: str, ours: Callable) -> tuple[Any, float]:
        """Takes one transition of both with the library's momenta and step sizes."""
        chain = self.peers[peer].build(self)
        start = self.target.start
        keys = jax.random.split(jax.random.key(2), self.target.num_chains)
        points, acceptance = jax.jit(ours)(keys, self.start)
        moved = np.asarray(points.z)
        spread = jax.vmap(
            lambda key: jax.random.uniform(jax.random.split(key, 3)[1], (), float, 0.8, 1.2)
        )(keys)
        proposal, rate = map(np.asarray, chain.replay(start, keys, self.step_size * spread))
        accepted = np.any(moved != np.asarray(start), axis=1)
        if not accepted.any():
            raise ValueError("step_size: no chain accepts its proposal, so none can be compared")
        displaced = [x[accepted] - np.asarray(start)[accepted] for x in (moved, proposal)]
        differences = {
            "displacement": proof.relative(*displaced),
            "acceptance": proof.relative(np.asarray(acceptance), rate),
        }
        return chain, proof.check(differences, f"{peer} on {self.name}")

    def program(self, ours: Callable, proven: Any | None) -> clock.Program:
        """Transitions of all chains."""
        if proven is not None:
            return proven.program(_CALL)

        @jax.jit
        def run(key, x):
            def step(x, key):
                return ours(jax.random.split(key, self.target.num_chains), x)[0], None

            return jax.lax.scan(step, x, jax.random.split(key, _CALL))[0]

        return jax_program(run, self.start, _CALL)


def all_chains() -> list[Langevin | HMC]:
    """Every contest of chains."""
    return [Langevin(), HMC()]


def jax_program(run: Callable, start: Any, num_steps: int) -> clock.Program:
    """Returns the program of ``run(key, x) -> x``, compiled, that takes so many steps."""
    x, count = start, 0

    def steps(wanted):
        nonlocal x, count
        for _ in range(wanted // num_steps):
            x = jax.block_until_ready(run(jax.random.fold_in(jax.random.key(3), count), x))
            count += 1

    return clock.Program(steps, multiple=num_steps)


def _peers(*peers):
    return {peer.name: peer for peer in peers}
