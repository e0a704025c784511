"""The mixture experiment: its quadrature and scores against closed forms, and as a process."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import mixture_model, mixture_report
from jbism import distributions
from jbism.hypergradients import FirstOrder, Unroll
from jbism.losses import BidvlCompact, BidvlFull
from tests import oracles
from tests.processes import run_binary

SMALL = {
    "methods": ["all"],
    "seeds": 2,
    "num_steps": 3,
    "num_lower_steps": 2,
    "batch_size": 8,
    "num_modes": 3,
    "radius": 2.0,
    "noise": 0.4,
    "num_latents": 2,
    "width": 4,
    "scale": 0.3,
    "compact_elbo": 0.05,
    "full_elbo": 1.0,
    "num_particles": 2,
    "theta_rate": 1e-3,
    "phi_rate": 1e-3,
    "unroll_steps": 1,
    "unroll_rate": 0.01,
    "seed": 0,
}


def test_ring_density_is_that_of_its_samples(x64):
    ring = mixture_model.Ring(SMALL)
    points = ring.sample(jax.random.key(0), 20_000)
    # Moments of a mixture whose centres add up to zero.
    second = SMALL["noise"] ** 2 * jnp.eye(2) + ring.centres.T @ ring.centres / 3
    oracles.assert_mean(points, jnp.zeros(2))
    oracles.assert_mean(points[:, :, None] * points[:, None, :], second)
    components = [
        distributions.Normal(centre, jnp.full(2, math.log(SMALL["noise"]))).log_prob(points[0])
        for centre in ring.centres
    ]
    expected = jax.nn.logsumexp(jnp.stack(components)) - math.log(3)
    oracles.assert_close(ring.log_density(points[0]), expected, rtol=1e-12)
    mass = jnp.sum(jnp.exp(jax.vmap(ring.log_density)(ring.points) + ring.log_cell))
    oracles.assert_close(mass, 1.0, rtol=1e-9)


def test_shares_count_points_near_their_mode():
    ring = mixture_model.Ring(SMALL)
    far = ring.centres[:1] + jnp.array([[1.3, 0.0]])  # above three noises
    close = ring.centres[1:] + jnp.array([[1.1, 0.0]])
    points = jnp.concatenate([ring.centres, close, far])
    np.testing.assert_allclose(ring.shares(points), np.array([1, 2, 2]) / 6, rtol=1e-6)


def test_divergence_is_that_of_gaussians(x64):
    """One mode about the origin, and an energy without its network: N(0, s²)."""
    study = mixture_model.Study(SMALL | {"num_modes": 1, "radius": 0.7, "noise": 0.5})
    theta = study.energy.init(jax.random.key(0), jnp.zeros(2))
    theta = jax.tree.map(jnp.zeros_like, theta)
    found = study.divergence(theta)
    # Both means and covariances are known: the data's mean is (0.7, 0), both are isotropic.
    ratio = (0.5 / 0.7) ** 2
    expected = ratio - 1.0 - math.log(ratio) + 0.5 * (0.7 / 0.7) ** 2
    # The grid cuts the model's tail off.
    inside = math.erf(study.ring.bounds[1] / 0.7 / math.sqrt(2)) ** 2
    oracles.assert_close(found, expected + math.log(inside), rtol=1e-5)
    oracles.assert_close(
        jnp.sum(jnp.exp(study.log_density(theta) + study.ring.log_cell)), 1.0, rtol=1e-12
    )


def test_likelihood_is_learned_by_the_gradient_of_the_divergence(x64):
    """Its loss, short of the data's entropy, is the divergence at many points of the data."""
    study = mixture_model.Study(SMALL)
    theta = study.energy.init(jax.random.key(0), jnp.zeros(2))
    v = study.ring.sample(jax.random.key(1), 4_000)
    log_data = jax.vmap(study.ring.log_density)(v)
    # As one batch after the other.
    losses = jax.vmap(lambda v: study._likelihood(theta, None, v[None])[0])(v)
    oracles.assert_mean(losses + log_data, study.divergence(theta))


def test_seeds_start_alike_whatever_the_method():
    study = mixture_model.Study(mixture_model.check_settings(SMALL))
    thetas = [study.start(name, jax.random.key(3)).theta for name in mixture_model.METHODS[:3]]
    oracles.assert_trees_close(thetas[0], thetas[1])
    oracles.assert_trees_close(thetas[0], thetas[2])


def test_methods_have_the_form_and_the_strategy_of_their_names():
    study = mixture_model.Study(SMALL | {"compact_elbo": 0.3, "full_elbo": 0.7})
    forms = {name: study._form(name) for name in mixture_model.METHODS[1:]}
    assert forms["compact"] == (BidvlCompact(SMALL["scale"], 0.3), None)
    weights = {"full": "uniform", "full, unrolled": "uniform"}
    weights |= {"full, generator's weights": "generator", "full, flat weights": "flat"}
    weights |= {"full, known weights": study.ring.log_density}
    for name, kind in weights.items():
        form, strategy = forms[name]
        assert isinstance(form, BidvlFull)
        assert (form.scale, form.elbo_coefficient) == (SMALL["scale"], 0.7)
        assert form.weights == kind
        assert form.num_particles == (1 if kind == "uniform" else SMALL["num_particles"])
        assert isinstance(strategy, Unroll if name == "full, unrolled" else FirstOrder)


def test_run(tmp_path):
    workdir = tmp_path / "run"
    flags = SMALL | {"methods": "likelihood,full_known_weights", "workdir": workdir}
    done = run_binary("mixture", flags, switches=["--noprogress"])
    assert done.returncode == 0, done.stderr
    files = {path.name for path in workdir.iterdir()}
    assert files == {
        "config.json",
        "cells",
        "table.md",
        "table.json",
        "densities.png",
        "curves.png",
    }
    stored = workdir / "cells" / "likelihood.json"
    before = stored.stat().st_mtime_ns
    cell = json.loads(stored.read_text())
    assert cell["steps"] == [1, 2, 3]
    assert np.shape(cell["divergence"]) == (3, 2)

    # More methods join those that there are.
    done = run_binary("mixture", flags | {"methods": "compact"}, switches=["--noprogress"])
    assert done.returncode == 0, done.stderr
    assert stored.stat().st_mtime_ns == before
    rows = json.loads((workdir / "table.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["likelihood", "compact", "full, known weights"]
    for row in rows:
        assert len(row["divergence"]) == 2
        assert row["mean"] == pytest.approx(np.mean(row["divergence"]))
        assert ("near" in row) == (row["method"] != "likelihood")
    assert rows[1]["effective_sample_size"] == 1.0
    assert 0 < rows[2]["effective_sample_size"] < 1
    assert (workdir / "table.md").read_text() == mixture_report.markdown(rows) + "\n"

    done = run_binary("mixture", flags | {"scale": 0.2}, switches=["--noprogress"])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr

    (workdir / "cells" / "compact.npz").write_bytes(b"no archive")
    done = run_binary("mixture", flags, switches=["--noprogress"])
    assert done.returncode == 1
    assert "compact.npz cannot be read" in done.stderr.splitlines()[-1]


def test_summary_by_hand():
    cell = {
        "divergence": [[9.0, 9.0], [1.0, 3.0]],
        "seconds": 5.0,
        "mode_shares": [[0.5, 0.25], [0.4, 0.4]],
        "reconstruction_error": [0.1, 0.3],
        "effective_sample_size": [1.0, 0.5],
    }
    (row,) = mixture_report.summarize({"full": cell})
    assert (row["mean"], row["error"]) == (2.0, pytest.approx(1.0))
    assert (row["least_mode"], row["near"]) == (0.5, pytest.approx(0.775))
    line = "| full | 2.000 ± 1.000 | 78% | 0.50 | 0.200 | 0.75 | 5 |"
    assert mixture_report.markdown([row]).splitlines()[-1] == line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["gan"]}, "--methods must be all, or of likelihood, compact, full, full_unr"),
        ({"radius": 0.0}, "--radius must be a number > 0, got 0.0"),
        ({"noise": math.nan}, "--noise must be a number > 0, got nan"),
        ({"noise": 0.03}, "--noise must be wide enough for a grid of 80 x 80 cells, which holds 0"),
        ({"methods": []}, "--methods must be all, or of likelihood, .* got none"),
        ({"scale": -1.0}, "--scale must be a number > 0, got -1.0"),
        ({"theta_rate": math.inf}, "--theta_rate must be a number > 0, got inf"),
        ({"phi_rate": 0.0}, "--phi_rate must be a number > 0"),
        ({"unroll_rate": 0.0}, "--unroll_rate must be a number > 0"),
    ],
)
def test_bad_settings_name_the_flag(changes, message):
    with pytest.raises(ValueError, match=message):
        mixture_model.check_settings(SMALL | changes)
