"""Draws samples and figures of an untrained model on several host devices, into a file."""

import sys

import jax
import numpy as np

from experiments import evaluation, sampling
from experiments.builders import build
from tests.configs import TINY_DEEP, make_config


def main(path, count):
    overrides = TINY_DEEP | {
        "mesh.data": int(count),
        "evaluation.log_likelihood": True,
        "sampling.num_samples": 4,
    }
    experiment = build(make_config("digits_deep", overrides))
    state = experiment.initial_state
    arguments = state.theta, state.phi, jax.random.key(1)
    samples = sampling.draw(experiment, *arguments, num_samples=4, pictures=True, progress=False)
    figures = evaluation.evaluate(experiment, *arguments)
    np.savez(
        path,
        *samples.panels.values(),
        samples.frames.images,
        samples.interpolations.images,
        samples.inpaintings.completions,
        figures["log_likelihood"],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
