"""The README's code runs, and what it names exists."""

import json
import pathlib
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np

import jbism
from experiments import restore
from experiments.builders import build
from tests.configs import TINY, make_config

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run_in_order_and_the_loss_falls(monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 7
    recorded = []
    # Record the loss that the reader's loop computes.
    training = blocks[0].replace(
        "    if i % 50 == 0:\n",
        "    recorded.append(loss)\n    if i % 50 == 0:\n",
    )
    assert training != blocks[0]
    namespace = {"recorded": recorded}
    with jax.debug_key_reuse(True):
        exec(training, namespace)
        losses = jnp.stack(recorded)
        assert losses[-50:].mean() < losses[:50].mean()
        for block in blocks[1:5]:
            exec(block, namespace)
            assert jnp.isfinite(namespace["loss"])

    exec(blocks[5], namespace)
    assert namespace["model"].score(namespace["X"] / 16, namespace["y"]) > 0.9

    small = {"energy.deep_eblvm.trunk.mlp.features": (8,), "energy.deep_eblvm.num_latents": 3}
    experiment = build(make_config("digits_deep", small))
    monkeypatch.setattr(restore, "restore", lambda workdir: (experiment, experiment.initial_state))
    exec(blocks[6], namespace)
    assert namespace["v"].shape == (16, 8, 8, 1)
    assert namespace["h"].shape == (16, 3)
    assert jnp.isfinite(namespace["v"]).all()


def test_the_loop_of_the_docs_resumes(tmp_path):
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "long_runs.md").read_text(), re.DOTALL
    )
    namespace: dict = {}
    exec(block, namespace)
    experiment = build(make_config("checkerboard_rbm", TINY))

    def train(name, num_steps):
        start = jax.tree.map(jnp.copy, experiment.initial_state)
        arguments = experiment.step, start, experiment.dataset.train, experiment.order
        return namespace["train"](*arguments, tmp_path / name, num_steps)

    handler = signal.getsignal(signal.SIGTERM)
    try:
        whole = train("whole", 40)
        assert int(train("parts", 20).step) == 20
        parts = train("parts", 40)
    finally:
        signal.signal(signal.SIGTERM, handler)
    jax.tree.map(np.testing.assert_array_equal, parts.theta, whole.theta)
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30, 40]


def test_commands_name_existing_modules_configs_and_targets():
    for module in re.findall(r"python -m ([\w.]+)", README):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for config in re.findall(r"experiments/configs/\w+\.py", README):
        assert (ROOT / config).is_file(), config
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_config_table_lists_every_config():
    table = README.split("| config |")[1].split("\n\n")[0]
    names = re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE)
    listed = set(re.findall(r"`(\w+)`", " ".join(names)))
    present = {path.stem for path in (ROOT / "experiments/configs").glob("[!_]*.py")}
    assert listed == present - {"base"}


def test_room_table_names_what_is_public():
    normal = jbism.distributions.Normal(jnp.zeros(2), jnp.zeros(2))
    rows = re.findall(r"^\| (`jbism\.[^|]*) \| ([^|]*) \|$", README, re.MULTILINE)
    assert len(rows) == 16
    for rooms, contents in rows:
        room = getattr(jbism, re.match(r"`jbism\.(\w+)`", rooms).group(1))
        holder = normal if room is jbism.distributions else room
        for name in re.findall(r"`(\w+)`", contents):
            assert hasattr(holder, name), (rooms, name)


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
