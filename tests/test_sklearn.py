"""The estimator by scikit-learn's own checks, and its figures by other routes to them."""

import functools
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from jbism.energies import GaussianRBM as GaussianRBMEnergy
from jbism.sklearn import GaussianRBM
from jbism.training import DivergenceError
from tests import oracles

SMALL = {"n_iter": 1, "n_lower_steps": 1, "n_particles": 2, "batch_size": 16}


def data(n=40, dim=3, dtype=np.float64):
    """Two clusters of correlated features, whose units differ from 1."""
    rng = np.random.RandomState(0)
    centres = rng.choice([-2.0, 2.0], size=(n, 1)) * np.arange(1, dim + 1)
    return (5.0 + centres + rng.normal(size=(n, dim))).astype(dtype)


@functools.cache
def fitted(dtype=np.float64, **options):
    X = data(dtype=dtype)
    return GaussianRBM(4, random_state=0, **{**SMALL, "method": "dsm", **options}).fit(X)


def away_from_start(dtype=np.float64):
    """A fitted estimator all of whose parameters matter."""
    rbm, rng = clone(fitted(dtype)).fit(data(dtype=dtype)), np.random.RandomState(1)
    rbm.components_ = rng.normal(size=(4, 3)).astype(dtype)
    rbm.intercept_hidden_ = rng.normal(size=4).astype(dtype)
    rbm.intercept_visible_ = rng.normal(size=3).astype(dtype)
    rbm.sigma_ = rng.uniform(0.5, 2.0, size=3).astype(dtype)
    return rbm


@parametrize_with_checks([GaussianRBM(2, method="dsm", n_iter=1)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# What a fitted estimator says, against formulas in NumPy


def test_transform_and_its_inverse_are_the_conditional_means():
    rbm, X = away_from_start(np.float32), data(dtype=np.float32)
    theta = {
        "weights": rbm.components_.T,
        "visible_bias": rbm.intercept_visible_,
        "hidden_bias": rbm.intercept_hidden_,
        "log_sigma": np.log(rbm.sigma_),
    }

    def mean(name, x):
        given = functools.partial(GaussianRBMEnergy(4).apply, {"params": theta}, method=name)
        return oracles.jit(jax.vmap(lambda x: given(x).mean))(x)

    h = rbm.transform(X)
    oracles.assert_close(h, mean("hidden_given_visible", X), rtol=1e-4, atol=1e-6)
    v = mean("visible_given_hidden", h)
    oracles.assert_close(rbm.inverse_transform(h), v, rtol=1e-5, atol=1e-6)


def enumerated(rbm, X):
    """log Σ_h exp(-E(v, h)) of X, and log Z by integrating v out of each term."""
    h = np.asarray(oracles.binary_states(4))
    w, b, c = rbm.components_.T, rbm.intercept_visible_, rbm.intercept_hidden_
    quadratic = 0.5 * (((X - b) / rbm.sigma_) ** 2).sum(1)
    log_f = logsumexp((X @ w + c) @ h.T, axis=1) - quadratic
    moved = 0.5 * ((rbm.sigma_ * (h @ w.T)) ** 2).sum(1)
    log_z = logsumexp(h @ c + h @ w.T @ b + moved) + np.log(rbm.sigma_ * np.sqrt(2 * np.pi)).sum()
    return log_f, log_z


def test_scores_are_enumerated_log_likelihoods():
    rbm, X = away_from_start(), data()
    log_f, log_z = enumerated(rbm, X)
    oracles.assert_close(rbm.score_samples(X), log_f, rtol=1e-12)
    rbm.set_params(normalize="exact")
    oracles.assert_close(rbm.score_samples(X), log_f - log_z, rtol=1e-12)
    oracles.assert_close(rbm.score(X), np.mean(log_f - log_z), rtol=1e-12)
    rbm.set_params(normalize="ais", n_ais_chains=200, n_ais_temperatures=200)
    assert abs(rbm.log_partition() - log_z) < 0.3
    oracles.assert_close(rbm.score_samples(X), log_f - rbm.log_partition(), rtol=1e-12)


def test_few_temperatures_warn():
    rbm = away_from_start()
    rbm.components_ = 10.0 * rbm.components_
    rbm.set_params(normalize="ais", n_ais_chains=20, n_ais_temperatures=2)
    with pytest.warns(ConvergenceWarning, match="raise n_ais_temperatures"):
        rbm.score_samples(data())


@pytest.mark.parametrize("draw", ["sample", "gibbs"])
def test_samples_have_the_models_moments(draw):
    rbm = away_from_start()
    h = np.asarray(oracles.binary_states(4))
    logits = h @ rbm.intercept_hidden_ + h @ rbm.components_ @ rbm.intercept_visible_
    logits += 0.5 * ((rbm.sigma_ * (h @ rbm.components_)) ** 2).sum(1)
    p = np.exp(logits - logsumexp(logits))
    mean = rbm.intercept_visible_ + rbm.sigma_**2 * (p @ h @ rbm.components_)
    v = rbm.sample(2000, n_steps=100)
    if draw == "gibbs":  # leaves the model invariant
        v = rbm.gibbs(v)
    oracles.assert_mean(v, mean)


def test_gibbs_and_sample_go_on_and_are_reproducible():
    first, second = clone(fitted()).fit(data()), clone(fitted()).fit(data())
    assert first.gibbs(data()).shape == (40, 3)
    assert not np.array_equal(first.gibbs(data()), first.gibbs(data()))
    second.gibbs(data()), second.gibbs(data()), second.gibbs(data())
    np.testing.assert_array_equal(first.sample(2, n_steps=2), second.sample(2, n_steps=2))


# Learning


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        *[(method, np.float32) for method in ("dsm", "vages-dsm", "bidsm", "pcd")],
        *[(method, np.float64) for method in ("dsm", "ssm", "bissm", "cd")],
    ],
)
def test_every_method_learns_reproducibly_in_the_precision_of_its_data(method, dtype):
    X, rbm = data(dtype=dtype), fitted(dtype, method=method)
    for name in ("components_", "intercept_hidden_", "intercept_visible_", "sigma_"):
        value = getattr(rbm, name)
        assert value.dtype == dtype
        assert np.isfinite(value).all()
    again = clone(rbm).set_params(random_state=np.random.RandomState(0)).fit(X)
    np.testing.assert_array_equal(again.transform(X), rbm.transform(X))
    assert rbm.transform(X).dtype == rbm.score_samples(X).dtype == rbm.gibbs(X).dtype == dtype
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("method", ["dsm", "cd", "ml"])
def test_likelihood_comes_near_that_of_the_truth(method):
    rng = np.random.RandomState(0)
    centres = 1.5 * rng.choice([-1.0, 1.0], size=(1200, 1))
    X, held_out = np.split(10.0 + centres + rng.normal(size=(1200, 2)), 2)
    options = {"method": method, "learning_rate": 0.02, "n_iter": 60, "random_state": 0}
    rbm = GaussianRBM(3, normalize="exact", **options).fit(X)
    squares = ((held_out[:, None] - 10.0 - np.array([[-1.5], [1.5]])) ** 2).sum(-1)
    truth = np.mean(logsumexp(-0.5 * squares, axis=1)) - np.log(4.0 * np.pi)
    single = np.mean(multivariate_normal(X.mean(0), np.cov(X.T)).logpdf(held_out))
    assert single + 0.05 < rbm.score(held_out) < truth + 0.05


def test_units_do_not_matter():
    X, unit = data(), np.float64(0.01)
    rbm, other = fitted(), clone(fitted()).fit(unit * data())
    oracles.assert_close(other.transform(unit * X), rbm.transform(X), rtol=1e-9)
    oracles.assert_close(other.sigma_, unit * rbm.sigma_, rtol=1e-9)
    oracles.assert_close(other.score_samples(unit * X), rbm.score_samples(X), rtol=1e-9)


def test_partial_fit_goes_on_where_it_was_even_through_a_pickle():
    # Exact likelihood has no randomness and does not care for the order within a batch.
    X, options = data(), {"method": "ml", "batch_size": 40, "random_state": 0}
    rbm = GaussianRBM(4, n_iter=3, **options).fit(X)
    steps = GaussianRBM(4, **options).partial_fit(X).partial_fit(X)
    steps = pickle.loads(pickle.dumps(steps)).partial_fit(X)
    assert steps.n_steps_ == rbm.n_steps_ == 3
    oracles.assert_close(steps.components_, rbm.components_, rtol=1e-9)
    oracles.assert_close(steps.loss_curve_, rbm.loss_curve_, rtol=1e-9)
    assert rbm.partial_fit(X).n_steps_ == 4
    assert rbm.fit(X).n_steps_ == 3


def test_constant_features_are_learned_as_constants():
    X = np.full((40, 3), 0.1)
    rbm = clone(fitted()).fit(X)
    assert rbm.scale_ == 1.0
    oracles.assert_close(rbm.inverse_transform(rbm.transform(X)), X, atol=0.1)


# In scikit-learn's company


def test_pipeline_and_grid_search_choose_by_likelihood():
    X, y = data(), (data()[:, 0] > 5.0).astype(int)
    pipeline = make_pipeline(clone(fitted()), LogisticRegression()).fit(X, y)
    assert pipeline.predict(X).shape == (40,)
    names = pipeline[:1].get_feature_names_out()
    assert list(names) == [f"gaussianrbm{i}" for i in range(4)]
    estimator = clone(fitted()).set_params(normalize="exact")
    search = GridSearchCV(estimator, {"n_iter": [1, 100]}, cv=2).fit(X)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] + 0.1 < scores[1]  # longer training is better here
    assert search.best_params_ == {"n_iter": 100}


def test_verbose_shows_progress(capsys):
    clone(fitted()).set_params(verbose=1).fit(data())
    assert "step" in capsys.readouterr().err


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "bism"}, "'method' parameter .* must be a str among .*'bidsm'"),
        ({"n_components": 0}, "'n_components' parameter"),
        ({"learning_rate": 0.0}, "'learning_rate' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"n_iter": 0}, "'n_iter' parameter"),
        ({"noise_level": -0.1}, "'noise_level' parameter"),
        ({"n_particles": 1}, "'n_particles' parameter"),
        ({"n_lower_steps": 0}, "'n_lower_steps' parameter"),
        ({"n_gibbs_steps": 0}, "'n_gibbs_steps' parameter"),
        ({"normalize": "z"}, "'normalize' parameter"),
        ({"n_ais_chains": 1}, "'n_ais_chains' parameter"),
        ({"n_ais_temperatures": 1}, "'n_ais_temperatures' parameter"),
        ({"method": "ml", "n_components": 25}, "n_components must be <= 24 for method='ml'"),
    ],
)
def test_bad_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianRBM(**options).fit(data())
    with pytest.raises(ValueError, match=message):
        GaussianRBM(**options).partial_fit(data())


def test_bad_calls_are_named():
    rbm = clone(fitted()).fit(data())
    with pytest.raises(ValueError, match="X must have n_components = 4 columns, got 3"):
        rbm.inverse_transform(data())
    with pytest.raises(ValueError, match="n_samples must be an integer >= 1"):
        rbm.sample(0)
    with pytest.raises(ValueError, match="n_steps must be an integer >= 1"):
        rbm.sample(1, n_steps=0)
    with pytest.raises(ValueError, match="X has 2 features"):
        rbm.gibbs(data()[:, :2])
    with pytest.raises(AttributeError) as caught:
        rbm.score(data())
    assert "set normalize to 'ais' or 'exact'" in str(caught.value.__cause__)
    with pytest.raises(ValueError, match="method must stay 'dsm' in partial_fit, got 'ssm'"):
        clone(fitted()).fit(data()).set_params(method="ssm").partial_fit(data())
    rbm.components_ = np.zeros((25, 3))
    with pytest.raises(ValueError, match="n_components must be <= 24 for normalize='exact'"):
        rbm.set_params(normalize="exact").log_partition()
    for method in ("sample", "log_partition"):
        with pytest.raises(NotFittedError):
            getattr(GaussianRBM(normalize="exact"), method)()


def test_divergence_names_the_step_and_leaves_the_former_model():
    rbm = clone(fitted()).fit(data())
    before, last, former = rbm.transform(data()), rbm.n_steps_, rbm.get_params()
    rbm.set_params(method="cd", learning_rate=1e4, n_iter=5)
    with pytest.raises(DivergenceError, match="at step"):
        rbm.fit(100.0 + np.hstack([data(), data()]))
    assert rbm.n_features_in_ == data().shape[1]
    np.testing.assert_array_equal(rbm.transform(data()), before)
    rbm.set_params(**former).partial_fit(data())
    assert rbm.n_steps_ == last + 1


def test_without_scikit_learn_the_library_imports_and_the_estimator_names_the_extra():
    program = "import sys; sys.modules['sklearn'] = None; import jbism; import jbism.sklearn"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "jbism.sklearn needs sklearn: pip install 'jbism[sklearn]'" in done.stderr
