"""Pictures and figures of a trained model, written to its work directory."""

import json
import math
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import evaluation, image_report, sampling
from experiments.builders import Experiment
from experiments.resumable import FOLDER, ChainStore
from jbism import likelihood, plotting
from jbism.training import TrainState, replace_file

_MAX_IMAGES = 64
FILES = (
    "curves.png",
    "samples.png",
    "samples.npz",
    *image_report.FILES,
    "evaluation.json",
    FOLDER,
)


def write_samples(
    experiment: Experiment,
    state: TrainState,
    workdir: pathlib.Path,
    *,
    key: jax.Array,
    num_samples: int | None = None,
    store: ChainStore | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Draws samples and writes ``samples.png``, ``samples.npz`` and ``reconstructions.png``.

    Of images under Langevin dynamics also ``frames.png``, ``interpolations.png`` and
    ``inpaintings.png``, by a generator ``interpolations.png`` and ``traversals.png``, unless the
    sampler's section of ``config.sampling`` switches them off. Chains are kept in ``store``.

    Returns:
      The reconstruction errors; nothing without latents.
    """
    theta = experiment.evaluated_theta(state)
    num_samples = num_samples or experiment.config.sampling.num_samples
    samples = sampling.draw(
        experiment,
        theta,
        state.phi,
        key,
        num_samples=num_samples,
        pictures=True,
        store=store,
        progress=progress,
    )
    arrays: dict[str, Any] = image_report.arrays(samples)
    for title, x in (samples.panels | arrays).items():
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ValueError(f"sampling: {title!r} holds NaN or Inf; the model cannot be sampled")
    if samples.originals is not None:
        arrays |= {"originals": samples.originals, "reconstructions": samples.reconstructions}
    arrays |= {f"panel_{i}": x for i, x in enumerate(samples.panels.values())}
    unfinished = workdir / "samples.tmp.npz"
    np.savez_compressed(unfinished, titles=np.array(list(samples.panels)), **arrays)
    unfinished.replace(workdir / "samples.npz")
    dataset = experiment.dataset
    panels = {"training data": dataset.examples("train", slice(num_samples)), **samples.panels}
    if dataset.image_shape is not None:
        shown = {
            title if len(x) <= _MAX_IMAGES else f"{title} ({_MAX_IMAGES} of {len(x):,})": (
                dataset.images(x[:_MAX_IMAGES])
            )
            for title, x in panels.items()
        }
        plotting.save(plotting.image_panels(shown), workdir / "samples.png")
        for name, figure in image_report.draw(dataset, samples).items():
            if figure is None:  # one of an earlier call would not belong to these samples
                (workdir / name).unlink(missing_ok=True)
            else:
                plotting.save(figure, workdir / name)
    elif dataset.event_shape == (2,):
        _write_plane(experiment, theta, panels, workdir)
    return evaluation.reconstruction(samples.originals, samples.reconstructions)


def _write_plane(experiment, theta, panels, workdir):
    from matplotlib.figure import Figure

    train = experiment.dataset.examples("train")
    low, high = train.min(0), train.max(0)
    margin = 0.25 * (high - low)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    bounds = (left, right, bottom, top)
    log_likelihood = _log_likelihood(experiment, theta)
    num_axes = len(panels) + (log_likelihood is not None)
    figure = Figure(figsize=(4.2 * num_axes, 4.4), layout="constrained")
    axes = figure.subplots(1, num_axes)
    for ax, (title, points) in zip(axes, panels.items(), strict=False):
        plotting.scatter(points, bounds=bounds, title=title, axes=ax)
    if log_likelihood is not None:
        plotting.density(log_likelihood, bounds=bounds, title="model density", axes=axes[-1])
    plotting.save(figure, workdir / "samples.png")


def _log_likelihood(experiment, theta):
    """Returns log p(v) of points [n, 2]; None where log Z cannot be had by enumeration."""
    most = experiment.config.evaluation.exact_max_latents
    if not hasattr(experiment.energy, "log_hidden_marginal") or experiment.num_latents > most:
        return None
    apply = experiment.energy.apply
    log_likelihood = jax.jit(
        partial(
            likelihood.exact_log_likelihood,
            free_energy=partial(apply, theta, method="free_energy"),
            log_hidden_marginal=partial(apply, theta, method="log_hidden_marginal"),
            num_latents=experiment.num_latents,
        )
    )
    return lambda points: log_likelihood(jnp.asarray(points))


def write_curves(workdir: pathlib.Path) -> None:
    """Draws ``curves.png`` from ``metrics.jsonl``."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    if not rows:  # no steps
        return
    names = [name for name in rows[-1] if name not in ("step", "wall_time")]
    names.sort(key=lambda name: (not name.endswith("loss"), name))
    series = {
        name: ([r["step"] for r in rows if name in r], [r[name] for r in rows if name in r])
        for name in names
    }
    wide = [name for name, (_, values) in series.items() if 0 < 10 * min(values) < max(values)]
    plotting.save(plotting.curves(series, log_y=wide), workdir / "curves.png")


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes a JSON file.

    Raises:
      ValueError: if a value is NaN or infinite.
    """
    for name, x in values.items():
        if isinstance(x, float) and not math.isfinite(x):
            raise ValueError(f"evaluation: {name} is {x}; the model cannot be evaluated")
    replace_file(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def table(figures: dict[str, Any]) -> str:
    """Formats figures as aligned lines."""
    width = max(map(len, figures), default=0)
    return "\n".join(
        f"  {name:<{width}}  {x:.6g}" if isinstance(x, float) else f"  {name:<{width}}  {x}"
        for name, x in figures.items()
    )
