"""Measures the bias of VaES and VaGES against the divergence of q from the posterior.

On a Gaussian RBM whose latents can be enumerated, so that biases are exact: posteriors q are the
true one with its parameters moved along random directions, by ever smaller steps. Shown are the
norms of the score's bias and of the θ-gradient's (of denoising score matching, its derivative in
the scores held fixed), each beside the norm of its bound (`jbism.estimators.vaes_bias_bound`,
`vages_bias_bound`), against KL(q‖p(h|v)).

Writes to the work directory: config.json, table.json and bias.png. It takes seconds.
"""

import json
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.flatten_util import ravel_pytree

from experiments import _main
from experiments._table import markdown_table
from jbism import energies, estimators, likelihood, losses, metrics, plotting, posteriors
from jbism.training import lock_workdir, open_workdir

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the results; made if absent.", required=True
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the former results.")
flags.adopt_module_key_flags(_main)

_SETTINGS = (
    flags.DEFINE_integer("dim", 10, "Visibles.", lower_bound=1),
    flags.DEFINE_integer("num_latents", 6, "Latents.", lower_bound=1, upper_bound=10),
    flags.DEFINE_float("scale", 0.5, "Standard deviation of the parameters.", lower_bound=1e-3),
    flags.DEFINE_integer("batch_size", 20, "Visibles the means are over.", lower_bound=1),
    flags.DEFINE_integer("num_directions", 10, "Random directions of q.", lower_bound=1),
    flags.DEFINE_integer("seed", 0, "Seed of everything."),
)
_DISTANCES = np.geomspace(3.0, 1e-3, 15)
_PANELS = {"score": "score, VaES", "gradient": "θ-gradient, VaGES"}


def main() -> None:
    config = {flag.name: flag.value for flag in _SETTINGS}
    if not math.isfinite(config["scale"]):
        raise ValueError(f"--scale must be a number > 0, got {config['scale']}")
    with lock_workdir(_WORKDIR.value):
        _write(config, open_workdir(_WORKDIR.value, config, overwrite=_OVERWRITE.value))


def _write(config, workdir):
    # The bias at the smallest divergences is below single precision.
    with jax.enable_x64(True):
        rows = {name: np.asarray(x) for name, x in _measure(config).items()}
    table = {name: x.tolist() for name, x in rows.items()}
    (workdir / "table.json").write_text(json.dumps(table, indent=2) + "\n")
    plotting.save(_draw(rows), workdir / "bias.png")
    print("norms, means over the directions:\n" + _markdown(rows))
    print(f"\nThe picture and the table are in {workdir}")


def _measure(config):
    """Returns arrays [distances, directions]: kl, and bias and bound of score and gradient."""
    keys = jax.random.split(jax.random.key(config["seed"]), 5)
    key_theta, key_scale, key_data, key_noise, key_directions = keys
    num_latents, dim = config["num_latents"], config["dim"]
    model, q = energies.GaussianRBM(num_latents), posteriors.Bernoulli(num_latents)
    v = jax.random.normal(key_data, (config["batch_size"], dim))
    theta = model.init(key_theta, v[0], jnp.zeros(num_latents))
    theta = _perturb(theta, key_scale, config["scale"])
    exact = {
        "kernel": theta["params"]["weights"],
        "bias": theta["params"]["hidden_bias"],
    }
    infer: Any = q.apply
    latents = likelihood.enumerate_binary(num_latents)
    free_energy = partial(model.apply, method="free_energy")
    true: Any = jax.vmap(partial(model.apply, theta, method="hidden_given_visible"))(v)

    def true_scores(theta):
        return -jax.vmap(jax.grad(partial(free_energy, theta)))(v)

    noise = jax.random.normal(key_noise, v.shape)
    z = jax.grad(lambda s: jnp.mean(losses.dsm(s, noise, sigma=1.0)))(true_scores(theta))

    def functional(scores):
        return jnp.sum(z * scores)

    true_gradient = jax.grad(lambda theta: functional(true_scores(theta)))(theta)
    options: dict[str, Any] = {"energy": model.apply, "posterior": q.apply, "num_particles": None}
    nothing_drawn = jax.random.key(0)

    def compare(distance, key):
        phi = {"params": {"logits": _perturb(exact, key, distance)}}
        kl = metrics.bernoulli_kl(jax.vmap(partial(infer, phi))(v).logits, true.logits)
        scores = estimators.vaes(theta, phi, nothing_drawn, v, **options)
        gradient = jax.grad(
            lambda theta: estimators.vages(
                theta, phi, nothing_drawn, v, functional=functional, **options
            )[0]
        )(theta)
        parts: dict[str, Any] = {"latents": latents, "energy": model.apply}
        score_bounds = jax.vmap(lambda v, kl: estimators.vaes_bias_bound(theta, v, kl, **parts))(
            v, kl
        )
        gradient_bounds = jax.vmap(
            lambda v, z, kl: estimators.vages_bias_bound(theta, v, z, kl, **parts)
        )(v, z, kl)
        return {
            "kl": jnp.mean(kl),
            "score_bias": _norm(scores - true_scores(theta)),
            "score_bound": _norm(score_bounds),
            "gradient_bias": _norm(jax.tree.map(jnp.subtract, gradient, true_gradient)),
            "gradient_bound": _norm(jax.tree.map(lambda x: jnp.sum(x, axis=0), gradient_bounds)),
        }

    directions = jax.random.split(key_directions, config["num_directions"])
    grid = jax.vmap(jax.vmap(compare, (None, 0)), (0, None))
    return jax.jit(grid)(jnp.asarray(_DISTANCES), directions)


def _perturb(tree, key, scale):
    flat, unravel = ravel_pytree(tree)
    return unravel(flat + scale * jax.random.normal(key, flat.shape, flat.dtype))


def _norm(tree):
    return jnp.linalg.norm(ravel_pytree(tree)[0])


def _markdown(rows):
    lines = (
        [f"{distance:.3g}", *(f"{x[i].mean():.3g}" for x in rows.values())]
        for i, distance in enumerate(_DISTANCES)
    )
    return markdown_table(["distance of q", *rows], lines)


def _draw(rows):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    kl = rows["kl"]
    for axes, (name, title) in zip(figure.subplots(1, 2), _PANELS.items(), strict=True):
        for kind, marker, color in (("bound", "^", "tab:red"), ("bias", "o", "tab:blue")):
            values = rows[f"{name}_{kind}"]
            axes.loglog(
                kl.ravel(), values.ravel(), marker, color=color, markersize=3, alpha=0.6, label=kind
            )
        reference = np.geomspace(kl.min(), kl.max(), 2)
        start = rows[f"{name}_bias"][-1].mean() / np.sqrt(kl[-1].mean())
        axes.loglog(reference, start * np.sqrt(reference), "--", color="0.5", label="∝ √KL")
        axes.set(title=title, xlabel="KL of q from the posterior, nats", ylabel="norm")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    _main.run(main)
