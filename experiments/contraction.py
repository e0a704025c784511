"""Shows how fast the bias of an unrolled hypergradient falls: Theorem 2 of Bao et al. (2020).

On a linear-Gaussian EBLVM with q(h | v) = N(Wᵀv + b, I), the data and all noise fixed, the lower
loss is quadratic in φ = (W, b), so that φ*, the Hessian and the gradient through φ*(θ) are exact.
Where the lower level is strongly convex and smooth, the theorem bounds the bias through N steps of
gradient descent from φ⁰ by (A + BN) κ^N ‖φ⁰ - φ*‖ + C κ^N, κ = max |1 - αλ| over the eigenvalues λ
of the Hessian. The slope of the logarithm of the measured bias is set beside log κ, for step sizes
α, from φ⁰ = φ* and from elsewhere. It is less steep from elsewhere, where A + BN grows, and steeper
where ∂F/∂φ has next to nothing along the slowest eigenvector. Beside it are the biases of the
first-order gradient, and of conjugate gradients against the number of Hessian products.

Writes to the work directory: config.json, table.json and contraction.png. It takes seconds.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

from experiments import _grid, _main, contraction_report
from jbism import distributions, divergences, energies, losses, plotting
from jbism.hypergradients import FirstOrder, ImplicitCG, Unroll, compare_gradients

flags.adopt_module_key_flags(_main)
flags.adopt_module_key_flags(_grid)
_SETTINGS = (
    flags.DEFINE_integer("dim", 6, "Visibles, D.", lower_bound=1),
    flags.DEFINE_integer("num_latents", 4, "Latents, L.", lower_bound=1),
    flags.DEFINE_integer("batch_size", 100, "Points of the data, more than D.", lower_bound=2),
    flags.DEFINE_float("scale", 0.1, "Standard deviation of θ about its initial value."),
    flags.DEFINE_float("sigma", 0.3, "Noise of denoising score matching."),
    flags.DEFINE_list("shares", ["0.25", "0.5", "1"], "Step sizes α over 2 / (λ_min + λ_max)."),
    flags.DEFINE_float("distance", 1.0, "‖φ⁰ - φ*‖ / ‖φ*‖ of the start elsewhere."),
    flags.DEFINE_integer("num_points", 40, "About how many N, at most.", lower_bound=16),
    flags.DEFINE_integer("max_steps", 400, "The largest N.", lower_bound=10),
    flags.DEFINE_integer("seed", 0, "Seed of everything."),
)
_PRODUCTS = (1, 2, 4, 8, 16, 24)  # of conjugate gradients
_LEAST = 1e-12  # κ^N where the unrolls end, if --max_steps allows
# Compilation is nearly all of the time.
_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def main() -> None:
    config = check_settings({flag.name: flag.value for flag in _SETTINGS})
    # The bias falls to the rounding error.
    with jax.enable_x64(True):
        problem = Problem(config)
        rates = [problem.step_size(share) for share in config["shares"]]
        grid = _grid.open_grid(config, picture="contraction.png", may_differ=())
        table = _measure(problem, rates, config)
    grid.write_table(table)
    plotting.save(contraction_report.draw(table), grid.workdir / "contraction.png")
    print(contraction_report.markdown(table))
    print(f"\nThe picture and the table are in {grid.workdir}")


def check_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings with numbers for the shares.

    Raises:
      ValueError: if a flag's value cannot be used, naming it.
    """
    try:
        shares = sorted({float(text) for text in config["shares"]})
    except ValueError:
        raise ValueError(f"--shares must be numbers, got {','.join(config['shares'])}") from None
    if not shares:
        raise ValueError("--shares must be at least one number, got none")
    numbers = [(name, config[name]) for name in ("scale", "sigma", "distance")]
    for name, value in [*numbers, *(("shares", share) for share in shares)]:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name} must be a number > 0, got {value}")
    if config["batch_size"] <= config["dim"]:
        raise ValueError(
            f"--batch_size must be above --dim={config['dim']}, got {config['batch_size']}"
        )
    return config | {"shares": shares}


def contraction_factor(step_size: float, eigenvalues: np.ndarray) -> float:
    """κ = max |1 - αλ|, by which a step of gradient descent shrinks ‖φ - φ*‖ at the least."""
    return float(np.max(np.abs(1.0 - step_size * eigenvalues)))


class Problem:
    """A bi-level problem with a lower level that is quadratic in φ, {kernel [D, L], bias [L]}.

    Raises:
      ValueError: if the model of these settings is no density.
    """

    def __init__(self, config: dict[str, Any]):
        key_model, key_noise, key_start = jax.random.split(jax.random.key(config["seed"]), 3)
        dim, num_latents = config["dim"], config["num_latents"]
        model = energies.LinearGaussian(num_latents)
        self.theta, v, log_partition = _jit(partial(_draw, model, config))(key_model)
        if not jnp.isfinite(log_partition):
            raise ValueError(f"--scale must be smaller for a density, got {config['scale']}")

        def posterior(phi, v):
            return distributions.Normal(v @ phi["kernel"] + phi["bias"], jnp.zeros(num_latents))

        objective, divergence = losses.DSM(config["sigma"]), divergences.KL()
        parts: Any = {"energy": model.apply, "posterior": posterior, "objective": objective}

        # All noise is fixed, and that of the levels the same.
        def upper_loss(theta, phi, _):
            return losses.bism_upper_loss(theta, phi, key_noise, v, **parts)

        def lower_loss(theta, phi, _):
            return losses.bism_lower_loss(theta, phi, key_noise, v, **parts, divergence=divergence)

        # Traced once for all strategies.
        self.upper_loss, self.lower_loss = jax.jit(upper_loss), jax.jit(lower_loss)
        self.key = key_noise
        self.zero, self.unravel = ravel_pytree(
            {"kernel": jnp.zeros((dim, num_latents)), "bias": jnp.zeros(num_latents)}
        )

        @_jit
        def lower_level(theta, key):
            phi_star = self.optimum(theta)
            direction = jax.random.normal(key, phi_star.shape, phi_star.dtype)
            length = config["distance"] * jnp.linalg.norm(phi_star) / jnp.linalg.norm(direction)
            starts = jnp.stack([phi_star, phi_star + length * direction])
            return self.hessian(theta), jax.vmap(self.unravel)(starts)

        hessian, self.starts = lower_level(self.theta, key_start)
        self.eigenvalues = np.linalg.eigvalsh(hessian)

    def hessian(self, theta):
        """∂²G/∂φ², the same at every φ; φ as one vector."""
        return jax.hessian(lambda x: self.lower_loss(theta, self.unravel(x), None))(self.zero)

    def optimum(self, theta):
        """φ*(θ) as one vector."""
        slope = jax.grad(lambda x: self.lower_loss(theta, self.unravel(x), None))(self.zero)
        return -jnp.linalg.solve(self.hessian(theta), slope)

    def step_size(self, share: float) -> float:
        """Returns α, share 1 being that of the quickest contraction.

        Raises:
          ValueError: if gradient descent does not contract.
        """
        low, high = self.eigenvalues[[0, -1]]
        step_size = share * 2.0 / (low + high)
        if contraction_factor(step_size, self.eigenvalues) >= 1.0:
            limit = 1.0 + low / high
            raise ValueError(f"--shares must be below {limit:.4g} for a contraction, got {share:g}")
        return float(step_size)

    def gradient(self, strategy, phi):
        """Returns the strategy's θ-gradient from a start, and its `Solve`."""

        def loss(theta):
            (value, _), lower = strategy(self.upper_loss, self.lower_loss, theta, phi, self.key)
            return value, lower.solve

        return jax.grad(loss, has_aux=True)(self.theta)

    def unrolled_gradient(self, num_steps, step_size, phi, *, max_steps: int):
        """The gradient of ``Unroll(num_steps, optax.sgd(step_size))``, both numbers traced.

        One program for all N: of max_steps, those after the first N have size zero, and the
        identity as derivative.
        """
        optimizer = optax.sgd(lambda count: jnp.where(count < num_steps, step_size, 0.0))
        return self.gradient(Unroll(max_steps, optimizer), phi)[0]


def _draw(model, config, key):
    """Returns θ, about its initial value, data of the initial model, and log Z of θ."""
    key_init, key_theta, key_data = jax.random.split(key, 3)
    initial = model.init(key_init, jnp.zeros(config["dim"]), jnp.zeros(config["num_latents"]))
    flat, unravel = ravel_pytree(initial)
    noise = jax.random.normal(key_theta, flat.shape, flat.dtype)
    theta = unravel(flat + config["scale"] * noise)
    data = model.apply(initial, method="marginal")
    v = jax.vmap(data.sample)(jax.random.split(key_data, config["batch_size"]))
    return theta, v, model.apply(theta, method="log_partition")


def _measure(problem, rates, config):
    """Returns the table, JSON values."""
    reference, solve, first_order, implicit = _jit(partial(_direct, problem))(problem.starts)
    factors = [contraction_factor(rate, problem.eigenvalues) for rate in rates]
    numbers = [_numbers(factor, config) for factor in factors]
    max_steps = int(max(steps[-1] for steps in numbers))

    @_jit
    def errors(num_steps, step_size):
        def error(phi):
            gradient = problem.unrolled_gradient(num_steps, step_size, phi, max_steps=max_steps)
            return compare_gradients(gradient, reference).relative_error

        return jax.vmap(error)(problem.starts)

    rows = []
    with tqdm(total=sum(map(len, numbers)), disable=not _grid.PROGRESS.value) as bar:
        for i, (share, rate) in enumerate(zip(config["shares"], rates, strict=True)):
            found = []
            for n in numbers[i]:
                bar.set_description(f"share {share:g}, N = {n}")
                found.append(errors(n, rate))
                bar.update()
            settings = {"share": share, "step_size": rate, "contraction": factors[i]}
            rows += contraction_report.summarize(settings, numbers[i], np.stack(found))
    by_start = partial(zip, contraction_report.STARTS, strict=True)
    return {
        "eigenvalues": problem.eigenvalues.tolist(),
        "reference_residual": float(solve.residual),
        "first_order": dict(by_start(first_order.tolist())),
        "implicit_cg": {"products": _PRODUCTS} | dict(by_start(implicit.tolist())),
        "rows": rows,
    }


def _numbers(factor, config):
    """The N of a contraction factor."""
    largest = min(config["max_steps"], math.ceil(math.log(_LEAST) / math.log(factor)))
    stride = math.ceil(largest / config["num_points"])
    # Even: at share 1 the mode of λ_max changes sign with every step, and is as slow as any.
    stride += stride % 2 if stride > 1 else 0
    return np.arange(0, largest + 1, stride)


def _direct(problem, starts):
    """The reference with its `Solve`, and the errors of what unrolls nothing: [starts, ...]."""
    phi_star = jax.tree.map(lambda x: x[0], starts)
    reference, solve = problem.gradient(ImplicitCG(10 * problem.zero.size, 0.0, 1e-14), phi_star)

    def error(strategy, phi):
        return compare_gradients(problem.gradient(strategy, phi)[0], reference).relative_error

    first_order = jax.vmap(partial(error, FirstOrder()))(starts)
    implicit = [jax.vmap(partial(error, ImplicitCG(n, 0.0, 0.0)))(starts) for n in _PRODUCTS]
    return reference, solve, first_order, jnp.stack(implicit, axis=1)


if __name__ == "__main__":
    _main.run(main)
