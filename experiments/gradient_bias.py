"""Measures the bias of every hypergradient strategy, after Bao et al. (2020), Figure 1.

A model of a config is trained for --warmup_steps. Then θ stays, the data and all noise are fixed,
and each strategy's θ-gradient of the upper loss is compared with a reference, after K more lower
steps that bring φ⁰ nearer to φ*, and against N: the virtual steps of an unroll, by SGD or by the
live optimizer of the config with its state; the Hessian products of an implicit solve; the terms of
a Neumann series. For a Gaussian RBM the reference is the gradient through the exact posterior; else
a long solve at a φ* that a long descent found, which is an approximation itself: its residual is in
the table.

Writes to the work directory: config.json, cells/ (one each), table.json and bias.png. Run again,
the same command does the cells that are missing, so the lists may grow; --overwrite starts over.
"""

import json
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from experiments import _grid, _main, gradient_bias_report, parts
from experiments.builders import build
from experiments.validation import ConfigError
from jbism import _checks, hypergradients, losses, plotting
from jbism.hypergradients import FirstOrder, ImplicitCG, Neumann, Unroll
from jbism.training import fit, train_steps

flags.adopt_module_key_flags(_main)
flags.adopt_module_key_flags(_grid)
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, such as experiments/configs/freyface_rbm.py."
)
_SETTINGS = (
    flags.DEFINE_integer("warmup_steps", 500, "Training steps before θ is held.", lower_bound=0),
    flags.DEFINE_enum(
        "start",
        "trained",
        ["trained", "initial"],
        "Where the K steps start: as the warm-up left φ, or as it began.",
    ),
    flags.DEFINE_integer(
        "num_examples",
        1_400,
        "Training examples used, at most; too few leave φ* undetermined.",
        lower_bound=2,
    ),
    flags.DEFINE_list("lower_steps", ["0", "20", "100", "500"], "K, steps from the start to φ⁰."),
    flags.DEFINE_list("virtual_steps", ["1", "2", "5", "10", "20"], "N, see above."),
    flags.DEFINE_float(
        "sgd_rate",
        None,
        "Step size of the unrolled SGD and the Neumann series; by default the inverse of the "
        "largest curvature at φ*.",
    ),
    flags.DEFINE_float("ridge", 1e-3, "Ridge of conjugate gradients.", lower_bound=0.0),
    flags.DEFINE_integer(
        "reference_steps", 3_000, "Descent to φ* where it is not known.", lower_bound=1
    ),
    flags.DEFINE_integer(
        "reference_products", 1_000, "Hessian products of the solve there.", lower_bound=1
    ),
)
STRATEGIES = ("FirstOrder", "Unroll, live", "Unroll, SGD", "Neumann", "ImplicitCG")


def main() -> None:
    config = _settings()
    with _grid.open_grid(
        config, outputs=("bias.png",), may_differ=("lower_steps", "virtual_steps", "data.dir")
    ) as grid:
        problem = _Problem(config)
        cells = []
        counts = [(name, n) for name in STRATEGIES for n in config["virtual_steps"]]
        counts = [(name, n) for name, n in counts if name != "FirstOrder" or n == counts[0][1]]
        with tqdm(
            total=len(config["lower_steps"]) * len(counts), disable=not _grid.PROGRESS.value
        ) as bar:
            for k in config["lower_steps"]:
                start = problem.descend(k)
                for name, n in counts:
                    bar.set_description(f"K = {k}, {name}, N = {n}")
                    label = name.lower().replace(", ", "_")
                    cell = partial(problem.measure, k, start, name, n)
                    cells.append(grid.cell(f"k{k}_{label}_n{n}", cell))
                    bar.update()
        table = {
            "reference_residual": problem.reference_residual,
            "sgd_rate": problem.sgd_rate,
            "rows": cells,
        }
        grid.write_table(table)
        title = f"{config['model']['name']}, θ after {config['warmup_steps']:,} steps"
        if problem.reference_residual is not None:
            title += f"; the reference's residual {problem.reference_residual:.2g}"
        plotting.save(gradient_bias_report.draw(cells, title=title), grid.workdir / "bias.png")
        print(f"{title}\n\n{gradient_bias_report.markdown(cells)}")
        print(f"\nThe picture and the table are in {grid.workdir}")


def _settings():
    settings: dict[str, Any] = {flag.name: flag.value for flag in _SETTINGS}
    for name, least in (("lower_steps", 0), ("virtual_steps", 1)):
        try:
            values = sorted({int(text) for text in settings[name]})
        except ValueError:
            raise ValueError(f"--{name} must be integers, got {settings[name]}") from None
        if not values or values[0] < least:
            raise ValueError(f"--{name} must be integers >= {least}, got {settings[name]}")
        settings[name] = values
    if settings["sgd_rate"] is not None:
        _checks.positive("--sgd_rate", settings["sgd_rate"])
    _checks.non_negative("--ridge", settings["ridge"])
    if _CONFIG.value.method.name != "bism":
        raise ConfigError(f"config.method.name must be 'bism', got {_CONFIG.value.method.name!r}")
    return settings | {"model": json.loads(_CONFIG.value.to_json())}


class _Problem:
    """A bi-level problem whose data and noise are fixed."""

    def __init__(self, config):
        self.config = config
        self.experiment = build(_CONFIG.value)
        # Training donates the buffers of the state.
        initial = jax.tree.map(jnp.copy, self.experiment.initial_state)
        state = self._warm_up()
        self.theta = state.theta
        first = initial if config["start"] == "initial" else state
        self.first = first.phi, first.phi_opt_state
        key = jax.random.fold_in(self.experiment.key, config["warmup_steps"])
        key, key_order = jax.random.split(key)
        train = self.experiment.dataset.examples("train")
        rows = jax.random.permutation(key_order, len(train))[: config["num_examples"]]
        v = jnp.asarray(train[np.asarray(rows)])
        model = _CONFIG.value
        score: dict[str, Any] = {
            "energy": self.experiment.energy.apply,
            "posterior": self.experiment.posterior.apply,
            "objective": parts.build_objective(model.objective),
        }
        divergence = parts.build_divergence(model.divergence)

        # All noise is fixed, and that of the levels the same.
        def upper_loss(theta, phi, _):
            return losses.bism_upper_loss(theta, phi, key, v, **score)

        def lower_loss(theta, phi, _):
            return losses.bism_lower_loss(theta, phi, key, v, **score, divergence=divergence)

        self.upper_loss, self.lower_loss, self.key = upper_loss, lower_loss, key
        self.optimizer = parts.build_optimizer(model, "phi_optimizer")
        self.reference, self.phi_star, self.reference_residual = self._reference()
        self.sgd_rate = config["sgd_rate"] or 1.0 / float(self._largest_curvature())

    def _warm_up(self):
        experiment, num_steps = self.experiment, self.config["warmup_steps"]
        state = experiment.initial_state
        if num_steps:
            per_call = experiment.config.train.steps_per_call
            state = fit(
                state,
                train_steps(experiment.step, experiment.dataset.train),
                experiment.order,
                num_steps=num_steps,
                steps_per_call=per_call,
                log_every=per_call,
                progress=_grid.PROGRESS.value,
            )
        return state

    def _reference(self):
        """The reference gradient, φ*, and the residual of the solve, None if there was none."""
        theta = self.theta
        if hasattr(self.experiment.energy, "free_energy"):

            def exact_phi(theta):
                arrays = theta["params"]
                logits = {"kernel": arrays["weights"], "bias": arrays["hidden_bias"]}
                return {"params": {"logits": logits}}

            exact = jax.grad(lambda theta: self.upper_loss(theta, exact_phi(theta), None)[0])
            return jax.jit(exact)(theta), exact_phi(theta), None
        phi, _ = self.descend(self.config["reference_steps"])
        strategy = ImplicitCG(self.config["reference_products"], self.config["ridge"], 1e-4)
        gradient, lower = jax.jit(partial(self.gradient, strategy))(theta, phi)
        return gradient, phi, float(lower.solve.residual)

    def _largest_curvature(self):
        """The largest eigenvalue of ∂²G/∂φ² at φ*, by power iteration."""

        def iterate(theta, phi):
            gradient = jax.grad(lambda phi: self.lower_loss(theta, phi, None))
            _, product = jax.linearize(gradient, phi)

            def step(x, _):
                x = product(x)
                norm = optax.tree.norm(x)
                return optax.tree.scale(1.0 / norm, x), norm

            return jax.lax.scan(step, optax.tree.ones_like(phi), length=50)[1][-1]

        return jax.jit(iterate)(self.theta, self.phi_star)

    def descend(self, num_steps):
        """Returns φ⁰ and the optimizer's state, so many lower steps from the first."""

        def steps(theta, phi, opt_state):
            return hypergradients.descend(
                self.lower_loss,
                theta,
                phi,
                self.key,
                num_steps=num_steps,
                optimizer=self.optimizer,
                opt_state=opt_state,
            )[:2]

        return jax.jit(steps)(self.theta, *self.first)

    def gradient(self, strategy, theta, phi, opt_state=None):
        """Returns the strategy's θ-gradient, and what it did below."""

        def loss(theta):
            (value, _), lower = strategy(
                self.upper_loss, self.lower_loss, theta, phi, self.key, opt_state=opt_state
            )
            return value, lower

        return jax.grad(loss, has_aux=True)(theta)

    def strategy(self, name, n):
        """Returns the strategy of a name at N."""
        rate = self.sgd_rate
        return {
            "FirstOrder": lambda: FirstOrder(),
            "Unroll, live": lambda: Unroll(n, self.optimizer),
            "Unroll, SGD": lambda: Unroll(n, optax.sgd(rate)),
            "Neumann": lambda: Neumann(n, rate),
            "ImplicitCG": lambda: ImplicitCG(n, self.config["ridge"], 0.0),
        }[name]()

    def measure(self, k, start, name, n):
        """Returns a row of the table."""
        phi, opt_state = start
        inputs = (self.theta, phi, opt_state if name == "Unroll, live" else None)
        compute = jax.jit(partial(self.gradient, self.strategy(name, n)))
        compiled = compute.lower(*inputs).compile()
        gradient, lower = jax.block_until_ready(compiled(*inputs))
        seconds = min(_seconds(compiled, *inputs) for _ in range(3))
        found = hypergradients.compare_gradients(gradient, self.reference)
        distance = optax.tree.norm(jax.tree.map(jnp.subtract, phi, self.phi_star))
        memory = compiled.memory_analysis()
        return {
            "lower_steps": k,
            "strategy": name,
            "virtual_steps": n,
            "relative_error": _finite(found.relative_error),
            "cosine": _finite(found.cosine),
            "norm_ratio": _finite(found.norm / found.reference_norm),
            "distance": float(distance / optax.tree.norm(self.phi_star)),
            "residual": None if lower.solve is None else _finite(lower.solve.residual),
            "failed": None if lower.solve is None else bool(lower.solve.failed),
            "milliseconds": 1e3 * seconds,
            "temp_mib": None if memory is None else memory.temp_size_in_bytes / 2**20,
        }


def _seconds(function, *inputs):
    start = time.perf_counter()
    jax.block_until_ready(function(*inputs))
    return time.perf_counter() - start


def _finite(x):
    """JSON has no NaN: None where a gradient is not finite."""
    return float(x) if np.isfinite(x) else None


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    _main.run(main)
