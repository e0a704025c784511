"""The contraction experiment: its gradients against second implementations, and as a process."""

import json
import operator

import jax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from experiments import contraction_model, contraction_report
from jbism.hypergradients import ImplicitCG, Unroll
from tests import oracles
from tests.processes import run_binary

SMALL = {
    "dim": 3,
    "num_latents": 2,
    "batch_size": 40,
    "shares": ["0.5", "1"],
    "num_points": 16,
    "max_steps": 400,
    "scale": 0.1,
    "sigma": 0.3,
    "distance": 2.0,
    "seed": 0,
}


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        return contraction_model.Problem(SMALL | {"shares": [0.5, 1.0]})


def test_the_lower_level_is_quadratic_and_its_optimum_exact(x64, problem):
    phi_star = jax.tree.map(lambda x: x[0], problem.starts)
    distance = optax.tree.norm(jax.tree.map(lambda x: x[1] - x[0], problem.starts))
    oracles.assert_close(distance, 2.0 * optax.tree.norm(phi_star), rtol=1e-12)

    # One step of gradient descent is linear in φ - φ*, and its matrix norm is κ.
    step_size = problem.step_size(0.5)
    star = np.asarray(ravel_pytree(phi_star)[0])

    def step(x):
        loss = lambda x: problem.lower_loss(problem.theta, problem.unravel(x), None)  # noqa: E731
        return x - step_size * jax.grad(loss)(x)

    points = np.concatenate([[star], star + 3.0 * np.eye(star.size)])
    stepped = np.asarray(oracles.jit(jax.vmap(step))(points))
    oracles.assert_close(stepped[0], star, rtol=1e-12, atol=1e-13)
    factor = contraction_model.contraction_factor(step_size, problem.eigenvalues)
    oracles.assert_close(np.linalg.norm((stepped[1:] - star) / 3.0, ord=2), factor, rtol=1e-10)
    low, high = problem.eigenvalues[0], problem.eigenvalues[-1]
    quickest = contraction_model.contraction_factor(problem.step_size(1.0), problem.eigenvalues)
    oracles.assert_close(quickest, (high - low) / (high + low), rtol=1e-12)


def test_contraction_factor():
    eigenvalues = np.array([0.5, 1.0, 3.0])
    for step_size, factor in ((0.1, 0.95), (0.5, 0.75), (0.6, 0.8), (1.0, 2.0)):
        assert contraction_model.contraction_factor(step_size, eigenvalues) == pytest.approx(factor)


def test_gradients(x64, problem):
    """The reference is that through the solved φ*(θ), and a masked unroll the plain one."""

    def exact(theta):
        return problem.upper_loss(theta, problem.unravel(problem.optimum(theta)), None)[0]

    @oracles.jit
    def gradients(theta, starts):
        phi_star, far = (jax.tree.map(operator.itemgetter(i), starts) for i in (0, 1))
        found, _ = problem.gradient(ImplicitCG(80, 0.0, 1e-14), phi_star)
        masked = problem.unrolled_gradient(4, 0.2, far, max_steps=20)
        plain, _ = problem.gradient(Unroll(4, optax.sgd(0.2), unroll=1), far)
        return found, jax.grad(exact)(theta), masked, plain

    found, true, masked, plain = gradients(problem.theta, problem.starts)
    assert oracles.tree_distance(found, true) < 1e-11
    assert oracles.tree_distance(masked, plain) < 1e-12
    assert oracles.tree_distance(plain, true) > 1e-3


def test_fit_slope():
    steps = np.arange(0, 101, 10)
    errors = np.where(steps < 35, 1.0, 5.0 * 0.7**steps)
    errors[-1] = 1.0
    slope, fitted = contraction_report.fit_slope(steps, errors)
    # 5 · 0.7^70 is the last above rounding.
    assert fitted == [40, 70]
    assert slope == pytest.approx(np.log(0.7))
    with pytest.raises(ValueError, match="3 errors above rounding, there are 1"):
        contraction_report.fit_slope(steps, 1e-3**steps)


def test_run(tmp_path):
    workdir = tmp_path / "run"
    flags = SMALL | {"shares": "0.5,1", "workdir": workdir}
    done = run_binary("contraction", flags, switches=["--noprogress"])
    assert done.returncode == 0, done.stderr
    files = {path.name for path in workdir.iterdir()}
    assert files == {"config.json", "table.json", "contraction.png"}
    table = json.loads((workdir / "table.json").read_text())
    assert table["reference_residual"] <= 1e-14
    assert len(table["rows"]) == 4
    errors = {}
    for row in table["rows"]:
        factor = contraction_model.contraction_factor(
            row["step_size"], np.array(table["eigenvalues"])
        )
        assert row["contraction"] == pytest.approx(factor)
        assert row["slope"] == pytest.approx(np.log(factor), rel=0.1)
        assert row["ratio"] == pytest.approx(row["slope"] / np.log(factor))
        assert row["relative_errors"][-1] < 1e-10 < 0.1 < row["relative_errors"][0]
        errors[row["start"]] = row["relative_errors"][0]
    # No step at all is the first-order gradient.
    assert table["first_order"] == pytest.approx(errors)
    # Conjugate gradients end after a product for each of eight dimensions, exact at φ* alone.
    implicit = table["implicit_cg"]
    assert implicit["products"] == [1, 2, 4, 8, 16, 24]
    assert implicit["optimum"][4] < 1e-12 < 1e-3 < implicit["optimum"][1]
    assert implicit["elsewhere"][-1] > 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": ["a"]}, "--shares must be numbers, got a"),
        ({"shares": []}, "--shares must be at least one number"),
        ({"shares": ["0"]}, "--shares must be a number > 0, got 0.0"),
        ({"scale": float("nan")}, "--scale must be a number > 0, got nan"),
        ({"sigma": -1.0}, "--sigma must be a number > 0, got -1.0"),
        ({"distance": float("inf")}, "--distance must be a number > 0, got inf"),
        ({"batch_size": 3}, "--batch_size must be above --dim=3"),
    ],
)
def test_bad_settings_name_the_flag(changes, message):
    with pytest.raises(ValueError, match=message):
        contraction_model.check_settings(SMALL | changes)


def test_what_has_no_contraction_or_density(x64, problem):
    with pytest.raises(ValueError, match=r"--shares must be below 1\..* got 1.9"):
        problem.step_size(1.9)
    with pytest.raises(ValueError, match=r"--scale must be smaller for a density, got 9\.0"):
        contraction_model.Problem(SMALL | {"scale": 9.0})


def test_an_error_is_one_line_and_leaves_nothing(tmp_path):
    wrong = run_binary("contraction", {"workdir": tmp_path / "other", "shares": "a"})
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith("error: --shares must be numbers"), wrong
    assert not (tmp_path / "other").exists()
