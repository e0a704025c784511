"""Measures level and power of the kernelized Stein test on a Gaussian RBM with perturbed couplings.

The null model is the Gaussian-Bernoulli RBM of Liu et al. (2016) and Jitkrittum et al. (2017),
p(v) ∝ Σ_g exp(½ vᵀBg + b₀ᵀv + c₀ᵀg - ½‖v‖²) with g in {-1, 1}^H, B of random signs times
--coupling, b₀ and c₀ from N(0, I). The published couplings are ±1: there block Gibbs stays in the
mode where it starts for thousands of steps, and a test would judge the sampler; at 0.2 it forgets
its start in ten. Points are drawn from the model with B + δ N(0, 1), the noise fresh in each
repetition, and tested against B by the exact score and by its variational estimate, whose posterior
is fitted to the null model, each with two kernels.

Writes to the work directory: config.json, cells/ (the p-values of each δ), table.json and
power.png. Run again, the same command does the cells that are missing, so --deltas may grow;
--overwrite starts over.
"""

import time
from functools import partial

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import _grid, _main
from experiments.goodness_of_fit_model import (
    TESTS,
    check_settings,
    fit_posterior,
    null_model,
    run_tests,
)
from experiments.goodness_of_fit_report import draw, markdown, summarize
from jbism import plotting

flags.adopt_module_key_flags(_main)
flags.adopt_module_key_flags(_grid)

_SETTINGS = (
    flags.DEFINE_list(
        "deltas",
        ["0.005", "0.0065", "0.008", "0.01", "0.0125", "0.016", "0.02", "0.05", "0.1"],
        "Standard deviations δ > 0 of the perturbation of the couplings.",
    ),
    flags.DEFINE_integer("repetitions", 1000, "Tests of the null model.", lower_bound=1),
    flags.DEFINE_integer("power_repetitions", 200, "Tests at each δ.", lower_bound=1),
    flags.DEFINE_integer("num_points", 1000, "Points of a test, n.", lower_bound=2),
    flags.DEFINE_integer("num_particles", 5, "Particles of the estimated score.", lower_bound=1),
    flags.DEFINE_integer("num_bootstrap", 500, "Bootstrap draws of a test.", lower_bound=19),
    flags.DEFINE_integer("gibbs_steps", 50, "Block Gibbs steps before the points.", lower_bound=1),
    flags.DEFINE_integer("dim_v", 50, "Visibles, D.", lower_bound=1),
    flags.DEFINE_integer("num_hidden", 40, "Latents, H.", lower_bound=1),
    flags.DEFINE_float("coupling", 0.2, "|B_ij|.", lower_bound=0.0),
    flags.DEFINE_integer("posterior_steps", 6000, "Steps that fit the posterior.", lower_bound=0),
    flags.DEFINE_float("alpha", 0.05, "Nominal level of the tests.", lower_bound=0.0),
    flags.DEFINE_integer("seed", 0, "Seed of everything."),
)

_CHUNK = 10  # repetitions between two ticks of the progress bar


def main() -> None:
    config = check_settings({flag.name: flag.value for flag in _SETTINGS})
    with _grid.open_grid(config, outputs=("power.png",), may_differ=("deltas",)) as grid:
        key_theta, key_fit, key_tests = jax.random.split(jax.random.key(config["seed"]), 3)
        rbm, theta = null_model(key_theta, config)
        phi, posterior_kl = fit_posterior(key_fit, rbm, theta, config)
        print(f"KL of the fitted posterior: {posterior_kl:.3g} nats", flush=True)
        tests = jax.jit(partial(run_tests, rbm, theta, phi, config))
        results = {}
        for delta in (0.0, *config["deltas"]):
            num = config["power_repetitions" if delta else "repetitions"]
            keys = jax.random.split(key_tests, num)
            run = partial(_run_cell, partial(tests, delta), keys, delta, config["num_bootstrap"])
            results[delta] = grid.cell(f"delta_{delta}", run)
        table = summarize(results, alpha=config["alpha"]) | {"posterior_kl": posterior_kl}
        grid.write_table(table)
        plotting.save(draw(table), grid.workdir / "power.png")
        print(markdown(table))
        print(f"\nThe picture, the table and all p-values are in {grid.workdir}")


def _run_cell(tests, keys, delta, num_bootstrap):
    # The same keys at every δ: the noise has the same directions, and the curves are smooth.
    start = time.perf_counter()
    chunks = []
    with tqdm(total=len(keys), desc=f"δ = {delta:g}", disable=not _grid.PROGRESS.value) as bar:
        for i in range(0, len(keys), _CHUNK):
            chunks.append(np.asarray(tests(keys[i : i + _CHUNK])))
            bar.update(len(chunks[-1]))
    p_values = np.concatenate(chunks).astype(float)
    if not np.isfinite(p_values).all():
        raise ValueError(f"the tests at delta = {delta:g} are not finite")
    # In single precision 1/20 is above 0.05; as doubles the two are equal.
    p_values = np.rint(p_values * (1 + num_bootstrap)) / (1 + num_bootstrap)
    seconds = round(time.perf_counter() - start, 1)
    by_test = dict(zip(TESTS, p_values.T.tolist(), strict=True))
    return {"p_values": by_test, "seconds": seconds}


if __name__ == "__main__":
    _main.run(main)
