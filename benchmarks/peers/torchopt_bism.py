"""BiSM with TorchOpt: its Adam unrolled, or its implicit gradient by conjugate gradients."""

import torch
import torchopt

from benchmarks.peers import torch_adam, torch_eager
from benchmarks.peers.noise import Draw
from benchmarks.peers.problems import Problem
from benchmarks.peers.torch_losses import Losses
from benchmarks.peers.torch_state import Step

RIDGE = 1e-3  # that of `jbism.hypergradients.ImplicitCG`


def build(problem: Problem, batch_shape: tuple[int, ...]) -> Step:
    """Returns a step that changes its state in place; TorchOpt's part is the upper gradient."""
    parts = Losses(problem, batch_shape, torch_eager.derivative)
    gradient = _unrolled if problem.num_solve_steps is None else _implicit(problem, parts)
    return torch_eager.bilevel_step(parts, lambda *args: gradient(parts, *args))


def _unrolled(parts, state, v, virtual, draw):
    optimizer = torchopt.adam(
        torch_adam.RATE,
        betas=(torch_adam.DECAY, torch_adam.SQUARE_DECAY),
        eps=torch_adam.EPS,
        eps_root=torch_adam.EPS_ROOT,
    )
    theta, names = torch_eager.variables(state.theta), list(state.phi)
    phi = tuple(torch_eager.variables(state.phi).values())
    adam = _live(optimizer.init(phi), state.phi_moments)
    for virtual_draw in virtual:
        loss = parts.lower(theta, dict(zip(names, phi, strict=True)), v, virtual_draw)
        gradients = torch.autograd.grad(loss, phi, create_graph=True)
        updates, adam = optimizer.update(gradients, adam, params=phi, inplace=False)
        phi = torchopt.apply_updates(phi, updates, inplace=False)
    loss = parts.upper(theta, dict(zip(names, phi, strict=True)), v, draw)
    return loss, torch_eager.gradients_of(loss, theta)


def _live(opt_state, moments):
    """The optimizer's fresh state with the moments so far."""

    def live(part):
        if not hasattr(part, "mu"):
            return part
        count = [torch.as_tensor(moments.count)] * len(moments.mean)
        return part._replace(
            mu=list(moments.mean.values()), nu=list(moments.square.values()), count=count
        )

    return tuple(map(live, opt_state))


def _implicit(problem, parts):
    theta_names: list[str] = []
    phi_names: list[str] = []

    def optimality(phi, theta, v, noise):
        """∇_φ G, which the optimum sets to zero."""
        named = dict(zip(theta_names, theta, strict=True))

        def loss(phi):
            return parts.lower(named, dict(zip(phi_names, phi, strict=True)), v, Draw(noise, None))

        return torch.func.grad(loss)(phi)

    @torchopt.diff.implicit.custom_root(
        optimality,
        argnums=1,
        solve=torchopt.linear_solve.solve_cg(
            ridge=RIDGE, maxiter=problem.num_solve_steps, rtol=0.0, atol=0.0
        ),
    )
    def optimum(phi, theta, v, noise):  # noqa: ARG001
        return phi  # where the lower steps have led

    def gradient(parts, state, v, virtual, draw):  # noqa: ARG001
        theta_names[:], phi_names[:] = list(state.theta), list(state.phi)
        theta = torch_eager.variables(state.theta)
        phi = tuple(x.detach() for x in state.phi.values())
        phi = optimum(phi, tuple(theta.values()), v, draw.visible)
        loss = parts.upper(theta, dict(zip(phi_names, phi, strict=True)), v, draw)
        return loss, torch_eager.gradients_of(loss, theta)

    return gradient
