"""Langevin dynamics with TorchEBM."""

import jax
import numpy as np
import torch
from torchebm.core import BaseModel
from torchebm.integrators import EulerMaruyamaIntegrator
from torchebm.samplers import LangevinDynamics

from benchmarks.peers import clock
from benchmarks.peers.chains import Langevin


class FreeEnergy(BaseModel):
    """The free energy of a Gaussian RBM."""

    def __init__(self, parameters):
        super().__init__()
        for name, value in parameters.items():
            self.register_buffer(name, torch.tensor(np.asarray(value)))

    def forward(self, x):
        """Returns F of each row."""
        quadratic = ((x - self.visible_bias) * torch.exp(-self.log_sigma)).square().sum(-1)
        inputs = torch.addmm(self.hidden_bias, x, self.weights)
        return 0.5 * quadratic - torch.nn.functional.softplus(inputs).sum(-1)


class _Replay(EulerMaruyamaIntegrator):
    """Takes its noise from a list."""

    def __init__(self, noise):
        super().__init__()
        self.noise = iter(noise)

    def step(self, **options):
        return super().step(**options, noise=next(self.noise))


class Chain:
    """How the proof replays a chain, and the program that is timed."""

    def __init__(self, contest: Langevin):
        self.options = {
            "model": FreeEnergy(contest.target.theta["params"]),
            "step_size": 0.5 * contest.step_size**2,
            "noise_scale": 1.0,
        }
        self.start = torch.tensor(np.asarray(contest.target.start))

    def replay(self, x, keys):
        """Runs the sampler with the library's noise, a step a key."""
        noise = [torch.tensor(np.asarray(jax.random.normal(key, x.shape))) for key in keys]
        sampler = LangevinDynamics(**self.options, integrator=_Replay(noise))
        return sampler.sample(torch.tensor(np.asarray(x)), n_steps=len(keys)).numpy()

    def program(self, num_steps: int) -> clock.Program:
        """Calls of the sampler, each going on from the one before."""
        sampler, x = LangevinDynamics(**self.options), self.start

        def run(wanted):
            nonlocal x
            x = sampler.sample(x, n_steps=wanted)

        return clock.Program(run, multiple=num_steps)


def langevin(contest: Langevin) -> Chain:
    """Returns the chain of `torchebm.samplers.LangevinDynamics`."""
    torch.set_num_threads(1)
    return Chain(contest)
