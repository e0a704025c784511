"""Chains over four devices against the same on one, in a process that has four."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jbism import energies, likelihood, samplers
from tests.processes import ROOT
from tests.test_ais_pieces import HMC, RBM

KEY = jax.random.key(0)
N = 24
AIS = {"num_temperatures": 40}
AXES = {"auto": jax.sharding.AxisType.Auto, "explicit": jax.sharding.AxisType.Explicit}


def energy(theta, v, h):
    return theta * jnp.sum(v**4) + 0.5 * jnp.sum((v - h) ** 2)


def gibbs(v):
    rbm = energies.GaussianRBM(num_hidden=2)
    theta = {"params": RBM}
    given = energies.conditionals(rbm, theta)
    return samplers.block_gibbs(KEY, v, **given, num_steps=5)


def inpaint(v):
    options = {"energy": energy, "step_size": 0.1}
    missing = jnp.broadcast_to(jnp.array([[True, False, True]]), v.shape)
    return samplers.langevin_inpaint(KEY, 0.3, v, 0.0 * v, missing, jnp.ones(30), **options)


def langevin(sampler):
    options = {"energy": energy, "step_size": 0.1}
    return lambda v: sampler(KEY, 0.3, v, jnp.ones_like(v), jnp.ones(30), **options)


# ``v, sharding -> chains`` that start at v, or on a base of their own laid out by sharding.
CHAINS = {
    "langevin": lambda v, _: samplers.langevin(
        KEY, v, jnp.ones(30), energy=lambda v: energy(0.3, v, v), step_size=0.1
    ),
    "langevin_shared": lambda v, _: samplers.langevin(
        KEY, v, jnp.ones(30), energy=lambda v: energy(0.3, v, v), step_size=0.1, shared_noise=True
    ),
    "langevin_joint": lambda v, _: langevin(samplers.langevin_joint)(v),
    "langevin_visible": lambda v, _: langevin(samplers.langevin_visible)(v),
    "langevin_hidden": lambda v, _: langevin(samplers.langevin_hidden)(v),
    "langevin_inpaint": lambda v, _: inpaint(v),
    "block_gibbs": lambda v, _: gibbs(v),
    "reverse_ais": lambda v, _: likelihood.reverse_ais_gaussian_rbm(KEY, v, **RBM, **AIS),
    "ais": lambda _, sharding: likelihood.ais_gaussian_rbm(
        KEY, **RBM, **AIS, num_chains=N, sharding=sharding
    ),
    "ais_in_chunks": lambda _, sharding: likelihood.ais_gaussian_rbm(
        KEY, **RBM, **AIS, num_chains=N, chunk_size=8, sharding=sharding
    ),
    "ais_hmc": lambda _, sharding: likelihood.ais_hmc(
        KEY, **HMC, **AIS, num_chains=N, sharding=sharding
    ),
}


CASES = [(name, "auto") for name in CHAINS]
CASES += [(name, "explicit") for name in ("langevin_joint", "block_gibbs", "reverse_ais", "ais")]


def compare(name, axes):
    """Returns how the chains lie, how far they are from one device's, and what is exchanged."""
    mesh = jax.make_mesh((4,), ("chains",), axis_types=(AXES[axes],))
    split = NamedSharding(mesh, PartitionSpec("chains"))
    v = jax.random.normal(jax.random.key(1), (N, 3))
    spread = jax.device_put(v, split)

    def on_four(v):
        return CHAINS[name](v, split)

    compiled = jax.jit(on_four).lower(spread).compile()
    expected = jax.jit(lambda v: CHAINS[name](v, None))(v)
    text = compiled.as_text()
    found = {"exchanges": re.findall(r"= (.*) (?:all-gather|all-to-all|collective-.*)\(", text)}
    for how, run in {"jit": compiled, "eager": on_four}.items():
        pairs = [
            (a, np.asarray(b))
            for a, b in zip(jax.tree.leaves(run(spread)), jax.tree.leaves(expected), strict=True)
            if a.ndim and len(a) == N
        ]
        found[how] = {
            "split": [a.sharding.is_equivalent_to(split, a.ndim) for a, _ in pairs],
            "error": max(float(np.abs(np.asarray(a) - b).max()) for a, b in pairs),
            "spread": min(float(b.std()) for _, b in pairs),
        }
    return found


@pytest.fixture(scope="module")
def on_four():
    code = (
        "import json; from tests.test_chains_on_devices import CASES, compare; "
        "print(json.dumps({' '.join(case): compare(*case) for case in CASES}))"
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("name", "axes"), CASES)
def test_chains_stay_where_they_are_and_go_where_one_device_takes_them(name, axes, on_four):
    found = on_four[f"{name} {axes}"]
    for how in ("jit", "eager"):
        assert found[how]["split"]
        assert all(found[how]["split"]), how
        assert found[how]["error"] < 1e-5 < 0.1 < found[how]["spread"], how
    # The pilot's acceptance is shared, and chunks are cut anew; else every chain is on its own.
    exchanged = {"ais_hmc": 2, "ais_in_chunks": 2}
    assert len(found["exchanges"]) <= exchanged.get(name, 0), found["exchanges"]


def layout(*spec, devices=1):
    mesh = jax.sharding.AbstractMesh((devices,), ("chains",))
    return NamedSharding(mesh, PartitionSpec(*spec))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"num_chains": 6},
            ValueError,
            "num_chains must be a multiple of the 4 parts of .*, got 6",
        ),
        ({"sharding": layout("chains", None)}, ValueError, "sharding must have one axis"),
        ({"sharding": 4}, TypeError, "sharding must be NamedSharding, got int"),
    ],
)
@pytest.mark.parametrize(
    "ais",
    [
        lambda **options: likelihood.ais_gaussian_rbm(KEY, **RBM, **options),
        lambda **options: likelihood.ais_hmc(KEY, **HMC, **options),
    ],
    ids=["ais_gaussian_rbm", "ais_hmc"],
)
def test_layouts_that_do_not_fit(ais, change, error, match):
    with pytest.raises(error, match=match):
        ais(**({"num_chains": 8, "sharding": layout("chains", devices=4)} | change))


def test_chunks_that_the_devices_do_not_divide():
    options = {"num_chains": 8, "chunk_size": 2, "sharding": layout("chains", devices=4)}
    with pytest.raises(ValueError, match="chunk_size must be a multiple of the 4 parts of shard"):
        likelihood.ais_gaussian_rbm(KEY, **RBM, **options)
