"""One small training without faults, against which those with faults are held."""

import pytest

from tests.configs import TINY, make_config
from tests.faults.children import Child, train
from tests.faults.runs import CONFIG, LONGEST, OVERRIDES, Whole, flags_of


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run that nothing happened to, with all of its checkpoints."""
    from experiments.builders import build

    folder = tmp_path_factory.mktemp("whole")
    child = Child(
        folder / "printed",
        train,
        flags_of(folder / "run", **{"train.num_steps": LONGEST, "log.max_checkpoints": 10_000}),
    )
    template = build(make_config(CONFIG, TINY | OVERRIDES)).initial_state
    assert (child.wait(), child.stderr) == (0, "")
    return Whole(folder / "run", template)
