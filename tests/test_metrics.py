"""Metrics against closed forms, double loops, scikit-learn and Monte-Carlo coverage."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import metrics

KEY = jax.random.key(0)


def rng(seed=0):
    return np.random.default_rng(seed)


def covariance(seed, size, rank=None):
    factor = rng(seed).normal(size=(size, size if rank is None else rank))
    return factor @ factor.T


# Fréchet distance


def test_frechet_distance_of_commuting_gaussians_is_that_of_their_deviations():
    basis, _ = np.linalg.qr(rng().normal(size=(6, 6)))
    a, b = rng(1).uniform(0, 3, (2, 6))
    mean_a, mean_b = rng(2).normal(size=(2, 6))
    value = metrics.frechet_distance(mean_a, basis * a**2 @ basis.T, mean_b, basis * b**2 @ basis.T)
    assert value == pytest.approx(np.sum((mean_a - mean_b) ** 2) + np.sum((a - b) ** 2), rel=1e-12)


@pytest.mark.parametrize("rank", [5, 2])
def test_frechet_distance_is_the_formula_with_a_matrix_square_root(rank):
    a, b = covariance(0, 5, rank), covariance(1, 5)
    mean = rng(2).normal(size=5)
    # C_b^½ C_a C_b^½ has the eigenvalues of C_a C_b, and their square roots its root's trace.
    eigenvalues = np.linalg.eigvals(a @ b).real.clip(0)
    expected = mean @ mean + np.trace(a + b) - 2 * np.sum(np.sqrt(eigenvalues))
    value = metrics.frechet_distance(mean, a, np.zeros(5), b)
    assert value == pytest.approx(expected, rel=1e-6)
    assert value == metrics.frechet_distance(np.zeros(5), b, mean, a)  # to the bit


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_frechet_distance_is_never_negative_and_keeps_what_is_small(rank):
    cov = covariance(3, 8, rank)
    zero = np.zeros(8)
    assert metrics.frechet_distance(zero, cov, zero, cov) == 0
    near = metrics.frechet_distance(zero, cov, zero, cov * (1 + 1e-7) ** 2)
    assert near == pytest.approx(1e-14 * np.trace(cov), rel=1e-2)  # the deviations' difference
    single = metrics.frechet_distance(zero, cov.astype(np.float32), zero, cov)
    assert 0 <= single < 1e-5 * np.trace(cov)


@pytest.mark.parametrize("sizes", [(40, 60), (5, 9), (3, 50)])
def test_frechet_distance_of_features_is_that_of_their_moments(sizes):
    a, b = (rng(n).normal(size=(n, 7)) @ rng(n + 1).normal(size=(7, 7)) for n in sizes)
    b += 0.3
    value = metrics.frechet_distance_of_features(a, b)
    moments = [m for x in (a, b) for m in (x.mean(0), np.cov(x.T))]
    assert value == pytest.approx(metrics.frechet_distance(*moments), rel=1e-6)
    assert value == metrics.frechet_distance_of_features(b, a)
    assert metrics.frechet_distance_of_features(a, a) == 0
    assert 0 <= metrics.frechet_distance_of_features(a, a[::-1]) < 1e-12
    half = metrics.frechet_distance_of_features(a.astype(np.float32), jnp.asarray(b))
    assert half == pytest.approx(value, rel=1e-5)


def test_frechet_distance_rejects():
    zero, eye = np.zeros(2), np.eye(2)
    for arguments, error, message in (
        ((np.zeros((1, 2)), eye, zero, eye), ValueError, "mean_a must have rank 1"),
        ((zero, np.eye(3), zero, eye), ValueError, r"cov_a must have shape \(2, 2\)"),
        ((zero, eye, np.zeros(3), eye), ValueError, "mean_b must have the shape of mean_a"),
        ((zero, eye, zero, -eye), ValueError, "cov_b must be positive semi-definite.*-1"),
        ((zero, eye, zero, np.triu(np.ones((2, 2)))), ValueError, "cov_b must be symmetric"),
        ((zero, eye * np.nan, zero, eye), ValueError, r"cov_a must be finite.*\(0, 0\) is nan"),
        ((zero, eye.astype(int), zero, eye), TypeError, "cov_a must have a floating dtype"),
    ):
        with pytest.raises(error, match=message):
            metrics.frechet_distance(*arguments)
    with pytest.raises(ValueError, match=r"features_b must have shape .* n >= 2"):
        metrics.frechet_distance_of_features(np.zeros((4, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="features_b must have as many columns as features_a, 3"):
        metrics.frechet_distance_of_features(np.zeros((4, 3)), np.zeros((4, 2)))


# Kernel distance


def kernel(x, y):
    return (np.dot(x, y) / len(x) + 1) ** 3


def brute_force_mmd(a, b):
    """MMD², pair by pair."""

    def within(x):
        pairs = list(itertools.permutations(range(len(x)), 2))
        return sum(kernel(x[i], x[j]) for i, j in pairs) / len(pairs)

    return within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])


def test_kernel_distance_is_the_mean_over_all_subsets():
    a, b = rng().normal(size=(4, 2)), 0.5 + rng(1).normal(size=(5, 2))
    subsets = [
        brute_force_mmd(a[list(i)], b[list(j)])
        for i in itertools.combinations(range(4), 3)
        for j in itertools.combinations(range(5), 3)
    ]
    # The mean over all subsets of an unbiased estimate is the estimate on the whole sets.
    assert np.mean(subsets) == pytest.approx(brute_force_mmd(a, b), rel=1e-12)
    found = metrics.kernel_distance(KEY, a, b, num_subsets=4_000, subset_size=3)
    z = (found.mean - np.mean(subsets)) / (np.std(subsets) / np.sqrt(4_000))
    assert abs(z) < 4
    assert found.standard_deviation == pytest.approx(np.std(subsets), rel=0.1)
    assert found.standard_error == pytest.approx(
        found.standard_deviation * np.sqrt(3 / (4 - 3) + 1 / 4_000), rel=1e-12
    )


def test_kernel_distance_has_the_exact_expectation_and_error_of_fresh_samples():
    # One feature, N(0, 1) against N(1, 1): E k(x, y) = Σ_r C(3, r) E[x^r] E[y^r].
    x, y = (1, 0, 1, 0), (1, 1, 2, 4)  # moments
    coefficients = (1, 3, 3, 1)
    truth = sum(c * (p - q) ** 2 for c, p, q in zip(coefficients, x, y, strict=True))
    results = [
        metrics.kernel_distance(
            key,
            rng(2 * i).normal(size=(100, 1)),
            1 + rng(2 * i + 1).normal(size=(100, 1)),
            num_subsets=20,
        )
        for i, key in enumerate(jax.random.split(KEY, 200))
    ]
    means = np.array([r.mean for r in results])
    assert abs(means.mean() - truth) < 4 * means.std() / np.sqrt(200)
    errors = np.array([r.standard_error for r in results])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(means.std(), rel=0.25)


def test_kernel_distance_depends_on_its_key_alone():
    a, b = rng().normal(size=(2, 12, 3))
    assert metrics.kernel_distance(KEY, a, b) == metrics.kernel_distance(KEY, a, b)
    raw = metrics.kernel_distance(jax.random.key_data(KEY), a, b)
    assert raw == metrics.kernel_distance(KEY, a, b)
    assert metrics.kernel_distance(jax.random.key(1), a, b) != raw


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features_a": np.zeros((3, 2))}, "features_a must have shape .* n >= 4"),
        ({"features_b": np.full((9, 2), np.inf)}, r"features_b must be finite, but entry \(0, 0\)"),
        ({"num_subsets": 1}, "num_subsets must be an integer >= 2"),
        ({"subset_size": 1}, "subset_size must be an integer >= 2"),
        ({"subset_size": 8}, "subset_size must be below the size of the smaller set, 8, got 8"),
    ],
)
def test_kernel_distance_rejects(options, message):
    arguments = {"features_a": np.zeros((8, 2)), "features_b": np.zeros((9, 2)), **options}
    with pytest.raises(ValueError, match=message):
        metrics.kernel_distance(KEY, **arguments)


# AUROC


def test_auroc_counts_pairs():
    pytest.importorskip("sklearn")
    from sklearn.metrics import roc_auc_score

    negative, positive = rng().integers(0, 6, 30) / 2, rng(1).integers(2, 8, 21) / 2
    pairs = [(p > n) + 0.5 * (p == n) for n in negative for p in positive]
    area = metrics.auroc(negative, positive)
    assert area == pytest.approx(np.mean(pairs), rel=1e-14)
    expected = roc_auc_score([0] * 30 + [1] * 21, np.concatenate([negative, positive]))
    assert area == pytest.approx(expected, rel=1e-12)
    assert metrics.auroc(positive, negative) == pytest.approx(1 - area, rel=1e-12)
    assert metrics.auroc(np.zeros(3), np.zeros(5)) == 0.5
    assert metrics.auroc(jnp.zeros(3), jnp.ones(5)) == 1.0
    tiny = np.array([1.0, 1.0 + 1e-12])  # alike in single precision
    assert metrics.auroc(tiny[:1], tiny[1:]) == 1.0


def test_auroc_interval_covers_the_truth_as_often_as_it_says():
    truth = 0.7602499389  # Φ(1 / √2) of N(0, 1) against N(1, 1)
    keys = jax.random.split(KEY, 400)
    intervals = np.array(
        [
            metrics.auroc_interval(
                key,
                rng(2 * i).normal(size=40),
                1 + rng(2 * i + 1).normal(size=50),
                level=0.9,
                num_bootstrap=200,
            )
            for i, key in enumerate(keys)
        ]
    )
    covered = np.mean((intervals[:, 0] < truth) & (truth < intervals[:, 1]))
    assert abs(covered - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 400)
    width = np.mean(intervals[:, 1] - intervals[:, 0])
    wide = metrics.auroc_interval(KEY, rng(0).normal(size=40), 1 + rng(1).normal(size=50))
    assert wide[1] - wide[0] > width  # of level 0.95


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"negative_scores": np.zeros(0)}, ValueError, "negative_scores must not be empty"),
        ({"positive_scores": np.zeros((2, 1))}, ValueError, "positive_scores must have rank 1"),
        ({"positive_scores": np.array([1, 2])}, TypeError, "positive_scores must have a floating"),
        ({"positive_scores": np.array([0, np.nan])}, ValueError, r"entry \(1,\) is nan"),
        ({"level": 1.0}, ValueError, "level must be between 0 and 1, got 1.0"),
        ({"num_bootstrap": 1}, ValueError, "num_bootstrap must be an integer >= 2"),
    ],
)
def test_auroc_rejects(options, error, message):
    arguments = {"negative_scores": np.zeros(2), "positive_scores": np.ones(2), **options}
    with pytest.raises(error, match=message):
        metrics.auroc_interval(KEY, **arguments)
    if not {"level", "num_bootstrap"} & set(options):
        with pytest.raises(error, match=message):
            metrics.auroc(**arguments)


# Linear probe


def probe_data():
    labels = rng().integers(0, 3, 300)
    features = rng(1).normal(size=(300, 4)) + np.eye(3, 4)[labels]
    return features[:200], labels[:200], features[200:], labels[200:]


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_linear_probe_finds_the_optimum_of_standardised_features(kind):
    pytest.importorskip("sklearn")
    train, train_labels, test, test_labels = probe_data()
    probe = metrics.linear_probe(train, train_labels, test, test_labels, kind=kind)
    assert probe.converged
    assert 0.45 < probe.test_accuracy < 0.85  # Bayes' rule is right about 2 times in 3
    # Units and offsets do not matter, nor what the test set's own moments are.
    other = [x * np.array([1e3, 1, 1e-2, 7]) + 5 for x in (train, test)]
    assert probe == metrics.linear_probe(other[0], train_labels, other[1], test_labels, kind=kind)
    alone = [
        metrics.linear_probe(
            train, train_labels, test[i : i + 1], test_labels[i : i + 1], kind=kind
        ).test_accuracy
        for i in range(10)
    ]
    first = metrics.linear_probe(train, train_labels, test[:10], test_labels[:10], kind=kind)
    assert np.mean(alone) == pytest.approx(first.test_accuracy)
    constant = [np.pad(x, ((0, 0), (0, 1)), constant_values=2.0) for x in (train, test)]
    same = metrics.linear_probe(constant[0], train_labels, constant[1], test_labels, kind=kind)
    assert same == probe


def test_logistic_probe_is_the_minimum_of_its_loss():
    pytest.importorskip("sklearn")
    import scipy.optimize

    train, labels, test, test_labels = probe_data()
    mean, scale = train.mean(0), train.std(0)
    x, x_test = ((z - mean) / scale for z in (train, test))

    def logits(flat, x):
        return x @ flat[:12].reshape(4, 3) + flat[12:]

    def loss(flat):
        z = logits(flat, x)
        log_p = z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))
        return 0.5 * np.sum(flat[:12] ** 2) - 0.1 * np.sum(log_p[np.arange(200), labels])

    best = scipy.optimize.minimize(loss, np.zeros(15), tol=1e-8).x
    expected = np.mean(logits(best, x_test).argmax(1) == test_labels)
    probe = metrics.linear_probe(train, labels, test, test_labels, inverse_regularization=0.1)
    assert probe.test_accuracy == pytest.approx(expected, abs=0.011)  # one example may be on edge
    expected = np.mean(logits(best, x).argmax(1) == labels)
    assert probe.train_accuracy == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_linear_probe_says_when_it_was_stopped(kind):
    pytest.importorskip("sklearn")
    assert not metrics.linear_probe(*probe_data(), kind=kind, max_steps=1).converged


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "tree"}, ValueError, "kind must be one of 'logistic', 'svm', got 'tree'"),
        ({"train_labels": np.zeros(200, int)}, ValueError, "train_labels must be of at least 2"),
        ({"train_labels": np.zeros(200)}, TypeError, "train_labels must have an integer dtype"),
        ({"test_labels": np.zeros(3, int)}, ValueError, r"test_labels must have shape \(100,\)"),
        ({"test_features": np.zeros((100, 3))}, ValueError, "test_features must have as many"),
        ({"inverse_regularization": 0.0}, ValueError, "inverse_regularization must be a number"),
        ({"max_steps": 0}, ValueError, "max_steps must be an integer >= 1"),
    ],
)
def test_linear_probe_rejects(options, error, message):
    names = ("train_features", "train_labels", "test_features", "test_labels")
    with pytest.raises(error, match=message):
        metrics.linear_probe(**(dict(zip(names, probe_data(), strict=True)) | options))


def test_missing_sklearn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(ImportError, match=r"pip install 'jbism\[experiments\]'"):
        metrics.linear_probe(*probe_data())


# Nearest neighbours


@pytest.mark.parametrize("block_size", [1, 7, 1000])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_nearest_neighbors_are_those_of_all_pairs(block_size, k):
    queries, references = rng().normal(size=(11, 3)), rng(1).normal(size=(30, 3))
    distances = np.linalg.norm(queries[:, None] - references[None], axis=2)
    found = metrics.nearest_neighbors(queries, references, k=k, block_size=block_size)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, axis=1)[:, :k])
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :k], rtol=1e-12)


def test_nearest_neighbors_know_copies_far_from_the_origin():
    references = (1e4 + rng().normal(size=(50, 4))).astype(np.float32)
    references[40] = references[3]
    found = metrics.nearest_neighbors(references[[3, 7]], references, k=2, block_size=16)
    assert found.indices[0].tolist() == [3, 40]
    assert found.distances[0].tolist() == [0, 0]
    assert found.indices[1, 0] == 7
    assert found.distances[1, 0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 6}, "k must be at most the number of references, 5, got 6"),
        ({"k": 0}, "k must be an integer >= 1"),
        ({"block_size": 0}, "block_size must be an integer >= 1"),
        ({"queries": np.zeros((2, 2))}, "references must have as many columns as queries, 2"),
        ({"references": np.zeros((0, 3))}, "references must have shape"),
        ({"queries": np.full((2, 3), np.nan)}, "queries must be finite"),
    ],
)
def test_nearest_neighbors_reject(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.nearest_neighbors(
            **{"queries": np.zeros((2, 3)), "references": np.zeros((5, 3)), **options}
        )
