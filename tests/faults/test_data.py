"""Data files that vanish while a run reads them."""

from functools import partial

import numpy as np
import pytest

from experiments.builders import build
from tests.configs import MARGINAL, TINY_DEEP, make_config
from tests.faults.children import Child, at_step, train
from tests.faults.runs import assert_same_runs, flags_of, num_lines
from tests.faults.test_directories import fails

Image = pytest.importorskip("PIL.Image")

FACES = 40
OVERRIDES = {
    **MARGINAL,
    "energy.marginal.trunk.mlp.features": (8,),
    "data.name": "celeba",
    "data.celeba.lazy": True,
    "data.celeba.size": 32,
    "train.batch_size": 4,
    "train.num_steps": 80,
    "log.checkpoint_every": 20,
}


def test_a_vanished_image_is_named_and_nothing_is_lost(tmp_path):
    """A step takes four of 38 images, so that each is read again and again."""
    folder = tmp_path / "faces" / "img_align_celeba"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (FACES, 3), np.uint8)
    for i, colour in enumerate(pixels):
        Image.new("RGB", (178, 218), tuple(colour.tolist())).save(folder / f"{i:06}.png")
    splits = "".join(f"{i:06}.png {max(0, i - FACES + 3)}\n" for i in range(FACES))
    (folder.parent / "list_eval_partition.txt").write_text(splits)
    overrides = OVERRIDES | {"data.dir": str(folder.parent)}
    run, whole = tmp_path / "run", tmp_path / "whole"

    def flags(workdir):
        return flags_of(workdir, config="base", tiny=TINY_DEEP, **overrides)

    face, elsewhere = folder / "000007.png", tmp_path / "000007.png"
    said = fails(tmp_path, flags(run), partial(at_step, 35, partial(face.rename, elsewhere)))
    assert str(face) in said
    assert "No such file" in said
    assert 3 <= num_lines(run) < 8  # batches are read some steps ahead
    # It is still away: told at once, and the checkpoint stays what it is.
    assert f"{folder} lacks {face.name}" in fails(tmp_path, flags(run))
    elsewhere.rename(face)
    children = [Child(tmp_path, train, flags(workdir)) for workdir in (run, whole)]
    assert [child.wait() for child in children] == [0, 0], [child.stderr for child in children]
    assert children[0].stdout.startswith("resuming from step ")
    template = build(make_config("base", TINY_DEEP | overrides)).initial_state
    assert_same_runs(run, whole, template)
