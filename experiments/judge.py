"""Judges a trained model of images by its samples, its latents, and what it tells from its data.

Writes to --out: config.json, classifier.npz (unless named), samples.npz (if drawn), cells/ (each
part as it was finished), image_evaluation.json, tsne.png and neighbors.png. Run again, the same
command does the parts that are missing, and the distances anew if what the extractor computes has
changed; --overwrite starts over.

Samples are the run's own samples.npz, or --num_samples drawn anew; distances to the test set want
a thousand or more. They are measured between features of a small classifier trained on the run's
training images; these are no Fréchet inception distances. For those, name an Inception network by
--extractor.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import (
    _main,
    features,
    image_evaluation,
    image_latents,
    image_outliers,
    judge_report,
)
from experiments.builders import Experiment
from experiments.image_evaluation import Model
from experiments.restore import restore
from experiments.resumable import FOLDER, ChainStore
from jbism import plotting
from jbism.training import lock_workdir, open_workdir, replace_file

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory written by experiments.train.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Directory for the files; by default WORKDIR/judge.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to use; by default the latest.")
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 0, "Samples of each kind to draw anew; 0 takes WORKDIR/samples.npz.", 0
)
_SAMPLE_BATCH = flags.DEFINE_integer("sample_batch", 500, "Samples drawn at a time, at most.", 1)
_EXTRACTOR = flags.DEFINE_string(
    "extractor", "", "path/to/file.py:function or package.module:function; "
    "images [n, height, width, channels] in [0, 1] to features [n, d]. By default a small "
    "classifier's."
)  # fmt: skip
_CLASSIFIER = flags.DEFINE_string(
    "classifier", "", "File of the small classifier, trained and written if absent, so that "
    "several runs are judged by one; by default classifier.npz in --out."
)  # fmt: skip
_OTHER_IMAGES = flags.DEFINE_list("other_images", [], ".npz files of images of other data.")
_NUM_TEST = flags.DEFINE_integer("num_test", 2_000, "Test images, at most.", 4)
_NUM_TRAIN = flags.DEFINE_integer("num_train", 5_000, "Training images of probes, at most.", 4)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of samples, subsets, estimates, classifier.", 0)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of local data files, if it has moved.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Start over, removing the former results.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")
flags.adopt_module_key_flags(_main)

# What belongs to the results: the same on resumption.
_SETTINGS = (
    _NUM_SAMPLES,
    _SAMPLE_BATCH,
    _EXTRACTOR,
    _CLASSIFIER,
    _OTHER_IMAGES,
    _NUM_TEST,
    _NUM_TRAIN,
    _SEED,
)
_MARKING = 32  # test images whose features mark the extractor
_PICTURES = ("tsne.png", "neighbors.png")
_RESULTS = ("samples.npz", "classifier.npz", "image_evaluation.json")
_OUTPUTS = ("cells", FOLDER, *_RESULTS, *_PICTURES)


def main() -> None:
    experiment, state = restore(_WORKDIR.value, _STEP.value, _DATA_DIR.value)
    _check_data(experiment)
    run = pathlib.Path(_WORKDIR.value)
    others = {
        name: image_outliers.read_images(pathlib.Path(name), experiment.dataset)
        for name in _OTHER_IMAGES.value
    }
    if pathlib.Path(_OUT.value or run / "judge").resolve() == run.resolve():
        raise ValueError(f"out must not be the work directory {run} itself: its files would go")
    if 0 < _NUM_SAMPLES.value < image_evaluation.LEAST:
        raise ValueError(
            f"num_samples must be 0 or at least {image_evaluation.LEAST}, got {_NUM_SAMPLES.value}"
        )
    own = features.load_extractor(_EXTRACTOR.value) if _EXTRACTOR.value else None
    samples = None
    if not _NUM_SAMPLES.value:
        samples = image_evaluation.stored_samples(run / "samples.npz", experiment.dataset)
    config = {flag.name: flag.value for flag in _SETTINGS} | {
        "run": json.loads(experiment.config.to_json()),
        "step": int(state.step),
        "samples_sha256": None if samples is None else _digest(samples),
        "other_images_sha256": {name: _digest({name: v}) for name, v in others.items()},
    }
    out = pathlib.Path(_OUT.value or run / "judge").absolute()
    with lock_workdir(out):
        open_workdir(
            out,
            config,
            overwrite=_OVERWRITE.value,
            may_differ=("run.data.dir", "run.log"),
            outputs=_OUTPUTS,
        )
        model = Model(experiment, experiment.evaluated_theta(state), state.phi)
        figures = {
            "model": experiment.config.name,
            "step": int(state.step),
            "parameters": "moving average" if experiment.config.evaluation.use_ema else "last",
            "data": experiment.dataset.name,
            **_judge(model, own, samples, others, out),
        }
        _write(out / "image_evaluation.json", figures)
    print(judge_report.text(figures))
    print(f"\nFigures and pictures are in {out}")


def _check_data(experiment: Experiment) -> None:
    dataset = experiment.dataset
    if dataset.image_shape is None:
        raise ValueError(f"{_WORKDIR.value}: a model of {dataset.name}, which are no images")
    for split in (dataset.train, dataset.test):
        if split.dtype.kind == "f" and (split.min() < 0 or split.max() > 1):
            raise ValueError(f"{_WORKDIR.value}: the images of {dataset.name} exceed [0, 1]")
    if dataset.train_labels is None and not _EXTRACTOR.value:
        raise ValueError(
            f"extractor must be given: {dataset.name} has no labels to train a classifier with"
        )


def _judge(model: Model, extract, samples, others, out: pathlib.Path) -> dict[str, Any]:
    dataset, progress = model.experiment.dataset, _PROGRESS.value
    names = ("draw", "compare", "neighbors", "fisher", "corrupt", "detect", "test", "train")
    keys = jax.random.split(jax.random.key(_SEED.value), len(names))
    key = dict(zip(names, keys, strict=True))
    test_rows = image_evaluation.choose_rows(key["test"], len(dataset.test), _NUM_TEST.value)
    train_rows = image_evaluation.choose_rows(key["train"], len(dataset.train), _NUM_TRAIN.value)
    test = dataset.examples("test", test_rows)
    cell = partial(_cell, out)
    if extract is None:
        path = _CLASSIFIER.value or out / "classifier.npz"
        extract = features.classifier_extractor(dataset, path, seed=_SEED.value, progress=progress)
    source = f"{_WORKDIR.value}/samples.npz"
    if samples is None:
        samples, source = _drawn(model, key["draw"], out), f"drawn with seed {_SEED.value}"
    # By another extractor under the same name the distances are others.
    mark = extract.digest(dataset.images(test[:_MARKING]))[:12]
    quality = cell(
        f"quality_{mark}",
        lambda: image_evaluation.compare_samples(
            samples, dataset, extract, key["compare"], test=test
        ),
    )
    panels = image_evaluation.nearest_training_images(samples, dataset, key["neighbors"])
    plotting.save(plotting.neighbors(panels), out / "neighbors.png")
    probes = None
    if dataset.train_labels is not None:
        probes = cell(
            "linear_probes",
            lambda: image_latents.probe_latents(
                model, train_rows=train_rows, test_rows=test_rows, progress=progress
            ),
        )
    fisher = cell(
        "posterior_fisher_divergence",
        lambda: image_latents.posterior_fisher_divergence(model, key["fisher"], test),
    )
    represent, what = image_latents.trunk_features, "features of E's trunk"
    if model.experiment.latent_size:
        represent, what = image_latents.latent_means, "means of q(h|v)"
    points = represent(model, test)
    positions = cell("tsne", lambda: image_latents.embed(points, seed=_SEED.value).tolist())
    labels = None if dataset.test_labels is None else dataset.test_labels[test_rows]
    title = f"t-SNE of the {what} of {len(test):,} test images"
    figure = plotting.embedding(np.asarray(positions, np.float32), labels, title=title)
    plotting.save(figure, out / "tsne.png")
    others = image_outliers.corrupted_images(key["corrupt"], dataset, test) | others
    detection = cell(
        "other_images",
        lambda: image_outliers.detect(model, others, key["detect"], test=test, progress=progress),
    )
    return {
        "extractor": {"name": extract.name, **extract.details},
        "samples": source,
        "sample_quality": quality,
        "linear_probes": probes,
        "posterior_fisher_divergence": fisher,
        "other_images": detection,
    }


def _drawn(model: Model, key, out: pathlib.Path) -> dict[str, np.ndarray]:
    (out / "cells").mkdir(exist_ok=True)
    with ChainStore(out, "judge") as store:
        samples = image_evaluation.draw_samples(
            model,
            key,
            num_samples=_NUM_SAMPLES.value,
            batch_size=_SAMPLE_BATCH.value,
            folder=out / "cells",
            store=store,
            progress=_PROGRESS.value,
        )
    image_evaluation.store_samples(out / "samples.npz", samples)
    return samples


def _digest(samples: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for title, v in samples.items():
        digest.update(title.encode() + v.tobytes())
    return digest.hexdigest()


def _cell(out: pathlib.Path, name: str, compute: Callable[[], Any]) -> Any:
    """Returns a part's stored result, computed if there is none."""
    path = out / "cells" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        _write(path, compute())
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: damaged; remove it to have it computed anew: {error}") from error


def _write(path: pathlib.Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    replace_file(path, text + "\n")


if __name__ == "__main__":
    _main.run(main)
