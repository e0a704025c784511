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

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import _grid, _main, contraction_report
from experiments.contraction_model import Problem, check_settings, contraction_factor, jit
from jbism import plotting
from jbism.hypergradients import FirstOrder, ImplicitCG, compare_gradients

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
    flags.DEFINE_integer("seed", 0, "Seed of everything.", lower_bound=0, upper_bound=2**32 - 1),
)
_PRODUCTS = (1, 2, 4, 8, 16, 24)  # of conjugate gradients
_LEAST = 1e-12  # κ^N where the unrolls end, if --max_steps allows


def main() -> None:
    config = check_settings({flag.name: flag.value for flag in _SETTINGS})
    # The bias falls to the rounding error.
    with jax.enable_x64(True):
        problem = Problem(config)
        rates = [problem.step_size(share) for share in config["shares"]]
        with _grid.open_grid(config, outputs=("contraction.png",), may_differ=()) as grid:
            table = _measure(problem, rates, config)
            grid.write_table(table)
            plotting.save(contraction_report.draw(table), grid.workdir / "contraction.png")
    print(contraction_report.markdown(table))
    print(f"\nThe picture and the table are in {grid.workdir}")


def _measure(problem, rates, config):
    """Returns the table, JSON values."""
    reference, solve, first_order, implicit = jit(partial(_direct, problem))(problem.starts)
    factors = [contraction_factor(rate, problem.eigenvalues) for rate in rates]
    numbers = [_numbers(factor, config) for factor in factors]
    max_steps = int(max(steps[-1] for steps in numbers))

    @jit
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
