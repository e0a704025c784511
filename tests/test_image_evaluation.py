"""How models of images are judged: extractors, samples, latents, other images, pictures."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbism.plotting
from experiments import features, image_evaluation, image_latents, image_outliers, sampling
from experiments.builders import build
from experiments.image_evaluation import Model
from jbism import data, distributions, energies, metrics, networks
from jbism.training import Checkpointer
from tests.configs import BIDVL, TINY_DEEP, VAE, make_config
from tests.processes import run_binary
from tests.test_plotting import _contains, _framed, _images, _inside_page_and_apart, _render

pytest.importorskip("sklearn")

KEY = jax.random.key(0)


def labelled(num=60, shape=(8, 8, 1), *, seed=0, classes=(3, 7), image_shape=None, contrast=0.5):
    """Dim images that are brighter on the left or on the right, by class."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split in ("train", "validation", "test"):
        codes = rng.integers(0, 2, num)
        v = rng.uniform(0, 0.5, (num, *shape))
        half = shape[1] // 2
        for image, code in zip(v, codes, strict=True):
            image[:, half * code : half * (code + 1)] += contrast
        splits |= {split: v, f"{split}_labels": np.asarray(classes)[codes]}
    return data.Dataset("halves", **splits, image_shape=image_shape or shape)


@pytest.fixture(scope="module")
def deep():
    experiment = build(make_config("digits_deep", TINY_DEEP))
    state = experiment.initial_state
    return Model(experiment, state.theta, state.phi)


def gaussian_model(*, offset=0.0, dataset=None, traced=None):
    """E = ½‖v‖² + ½‖h - v‖²: p(v) is N(0, I) but for log Z, p(h|v) = N(v, I); q has an offset.

    A list ``traced`` gets the shape of v at each trace of q.
    """

    def energy(theta, v, h):
        return 0.5 * jnp.sum(v**2) + 0.5 * jnp.sum((h - v) ** 2)

    def posterior(phi, v):
        if traced is not None:
            traced.append(v.shape)
        return distributions.Normal(v + phi, jnp.zeros(v.shape))

    experiment = SimpleNamespace(
        energy=SimpleNamespace(apply=energy),
        posterior=SimpleNamespace(apply=posterior),
        infer=lambda theta, phi: lambda v: posterior(phi, v),
        dataset=dataset,
        num_latents=7,
        latent_size=7,
    )
    return Model(experiment, None, jnp.float32(offset))


# Extractors


@pytest.fixture(scope="module")
def classifier_file(tmp_path_factory):
    """The file of a classifier of the digits that was trained for a moment."""
    path = tmp_path_factory.mktemp("classifier") / "new" / "digits.npz"
    dataset = data.digits(jax.random.key(1))
    trained = features.classifier_extractor(dataset, path, num_steps=150, progress=False)
    return path, dataset, trained


def test_classifier_learns_and_is_read_back(classifier_file):
    path, dataset, trained = classifier_file
    assert trained.name == "small classifier features"
    assert trained.details["test_accuracy"] > 0.9
    assert trained.details["trained_on_these_train_images"]
    images = dataset.images(dataset.test)
    found = trained(images)
    assert found.shape == (200, trained.details["num_features"])
    assert np.mean(trained(dataset.images(dataset.train)) ** 2) == pytest.approx(1, abs=0.01)
    again = features.classifier_extractor(dataset, path, progress=False)
    np.testing.assert_array_equal(again(images), found)
    assert again.details == trained.details
    np.testing.assert_array_equal(again(images * 3 - 1), again((images * 3 - 1).clip(0, 1)))
    # A classifier tells a digit's features from another's: its logits are linear in them.
    probe = metrics.linear_probe(
        trained(dataset.images(dataset.train)), dataset.train_labels, found, dataset.test_labels
    )
    assert probe.test_accuracy > 0.9
    other = features.classifier_extractor(data.digits(KEY), path, progress=False)
    assert not other.details["trained_on_these_train_images"]


def test_classifier_is_a_function_of_its_seed(tmp_path):
    dataset = labelled(300, (8, 6), classes=(-1, 5))  # no channel axis, odd classes
    paths = [tmp_path / f"{i}.npz" for i in range(3)]
    found = [
        features.classifier_extractor(dataset, path, seed=seed, num_steps=20, progress=False)
        for path, seed in zip(paths, (0, 0, 1), strict=True)
    ]
    images = dataset.images(dataset.test)
    np.testing.assert_array_equal(found[0](images), found[1](images))
    assert not np.allclose(found[0](images), found[2](images))
    assert found[0].details["test_accuracy"] == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.npz", "1.npz", "2.npz"]


def test_classifier_rejects(classifier_file, tmp_path):
    path, digits, _ = classifier_file
    with pytest.raises(ValueError, match=r"image_shape \[8, 8, 1\], the data have \[4, 4, 3\]"):
        features.classifier_extractor(labelled(shape=(4, 4, 3)), path)
    with pytest.raises(ValueError, match=r"classes \[0, .*, 9\], the data have \[3, 7\]"):
        features.classifier_extractor(labelled(), path)
    (tmp_path / "bad.npz").write_bytes(b"PK bad")
    with pytest.raises(ValueError, match=r"bad\.npz: holds no small classifier"):
        features.classifier_extractor(digits, tmp_path / "bad.npz")
    v = np.zeros((4, 8, 8))
    unlabelled = data.Dataset("faces", train=v, validation=v, test=v, image_shape=(8, 8))
    with pytest.raises(ValueError, match="needs images with labels, which faces has not"):
        features.classifier_extractor(unlabelled, tmp_path / "new.npz")


def test_extractors_of_the_user(tmp_path, monkeypatch):
    source = "import numpy as np\ndef means(images):\n    return images.mean((1, 2))\nscale = 3\n"
    (tmp_path / "mine.py").write_text(source)
    images = _images(300, 5, 4) * 2
    monkeypatch.syspath_prepend(str(tmp_path))
    for spec in (f"{tmp_path}/mine.py:means", "mine:means"):
        extractor = features.load_extractor(spec)
        assert extractor.name == spec
        expected = images.clip(0, 1).mean((1, 2))[:, None]
        np.testing.assert_allclose(extractor(images), expected, rtol=1e-5)
    (tmp_path / "broken.py").write_text("import nothing_of_the_kind")
    for spec, message in (
        ("mine", "extractor must be 'path/to/file.py:function'"),
        ("mine:", "extractor must be 'path/to/file.py:function'"),
        ("mine:medians", "extractor: mine has no function 'medians'"),
        ("mine:scale", "extractor: mine has no function 'scale'"),
        ("no_such_module:f", "no_such_module cannot be imported: ModuleNotFoundError"),
        (f"{tmp_path}/absent.py:f", r"absent\.py cannot be imported: FileNotFoundError"),
        (f"{tmp_path}/broken.py:f", r"broken\.py cannot be imported: .*nothing_of_the_kind"),
    ):
        with pytest.raises(ValueError, match=message):
            features.load_extractor(spec)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, r"must return floating features \[3, d\] of 3 images, got .* \(3, 4, 4, 1\)"),
        (lambda x: x[:2, 0, 0], r"must return .* got float32 \(2, 1\)"),
        (lambda x: x[:, 0, 0].astype(int), r"must return .* got int"),
        (lambda x: x[:, 0, 0] * np.nan, "returned a NaN or an infinity"),
    ],
)
def test_extractors_are_checked(function, message):
    with pytest.raises(ValueError, match=f"extractor mine: {message}"):
        features.Extractor("mine", function)(_images(3, 4, 4))


def test_digests_tell_what_extractors_compute():
    images = _images(5, 4, 4)
    digests = [
        features.Extractor(name, lambda x, scale=scale: scale * x.mean((1, 2))).digest(images)
        for name, scale in (("a", 1), ("a", 1), ("a", 1.001), ("b", 1))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


# Samples


def test_stored_samples(tmp_path):
    path = tmp_path / "samples.npz"
    panels = {"joint": np.ones((2, 3)), "via q": np.zeros((4, 3))}
    arrays = {f"panel_{i}": x for i, x in enumerate(panels.values())}
    np.savez(path, titles=np.array(list(panels)), originals=np.ones(3), **arrays)
    found = [image_evaluation.read_samples(path)]
    image_evaluation.store_samples(path, panels)
    found.append(image_evaluation.read_samples(path))
    assert [file.name for file in tmp_path.iterdir()] == ["samples.npz"]
    for each in found:
        assert list(each) == list(panels)
        for title in panels:
            np.testing.assert_array_equal(each[title], panels[title])
    with pytest.raises(FileNotFoundError, match="give num_samples to draw samples anew"):
        image_evaluation.read_samples(tmp_path / "absent.npz")
    dataset = plain(0, (3,), None)
    with pytest.raises(
        ValueError, match=r"'joint' must be 4 or more of shape \(3,\), got \(2, 3\)"
    ):
        image_evaluation.stored_samples(path, dataset)
    image_evaluation.store_samples(path, {"joint": np.ones((5, 4))})
    with pytest.raises(ValueError, match=r"of shape \(3,\), got \(5, 4\); give num_samples"):
        image_evaluation.stored_samples(path, dataset)
    image_evaluation.store_samples(path, {"joint": np.ones((5, 3))})
    assert image_evaluation.stored_samples(path, dataset)["joint"].shape == (5, 3)
    np.savez(path, x=np.ones(3))
    with pytest.raises(ValueError, match="holds no samples"):
        image_evaluation.read_samples(path)


def test_batches_of_samples_start_from_different_training_examples(deep, monkeypatch, tmp_path):
    seen = []

    def draw(experiment, theta, phi, key, *, num_samples, store, progress):
        seen.append((experiment.dataset.train[:num_samples], jax.random.key_data(key).tolist()))
        panels = {"a": experiment.dataset.train[:num_samples], "b": np.zeros((num_samples, 1))}
        return sampling.Samples(panels, np.zeros(1), np.zeros(1))

    monkeypatch.setattr(sampling, "draw", draw)
    options = {"num_samples": 1_405, "batch_size": 500, "folder": tmp_path}
    found = image_evaluation.draw_samples(deep, KEY, **options)
    assert [len(v) for v, _ in seen] == [500, 500, 405]
    assert len({tuple(key) for _, key in seen}) == 3
    assert {title: len(v) for title, v in found.items()} == {"a": 1_405, "b": 1_405}
    rows = found["a"].reshape(1_405, -1)
    train = deep.experiment.dataset.train.reshape(1_400, -1)
    np.testing.assert_array_equal(np.sort(rows[:1_400], axis=0), np.sort(train, axis=0))
    assert not np.array_equal(rows[:1_400], train)
    np.testing.assert_array_equal(rows[1_400:], rows[:5])  # from the start again
    # An interruption costs one batch at most.
    (tmp_path / "samples_1.npz").unlink()
    again = image_evaluation.draw_samples(deep, KEY, **options)
    assert [len(v) for v, _ in seen] == [500, 500, 405, 500]
    assert seen[3][1] == seen[1][1]
    np.testing.assert_array_equal(again["a"], found["a"])


def test_samples_are_compared_with_test_images_and_so_are_training_images():
    dataset = labelled(80)
    good, bad = labelled(30, seed=1).test, np.full((30, 8, 8, 1), 0.5, np.float32)

    def extract(images):
        return images.reshape(len(images), -1)[:, ::9]

    test = dataset.test[:50]
    rows = image_evaluation.compare_samples(
        {"good": good, "bad": bad}, dataset, extract, KEY, test=test
    )
    assert [row["images"] for row in rows] == ["good", "bad", "training images"]
    assert [row["num_images"] for row in rows] == [30, 30, 30]
    for row, v in zip(rows, (good, bad), strict=False):
        expected = metrics.frechet_distance_of_features(extract(v), extract(test))
        assert row["frechet_distance"] == pytest.approx(expected)
        assert row["num_test_images"] == 50
    for name in ("frechet_distance", "kernel_distance"):
        a, b, floor = (row[name] for row in rows)
        assert max(a, floor) < b
    assert abs(rows[2]["kernel_distance"]) < 4 * rows[2]["kernel_distance_standard_error"]
    for v, message in (
        (good[:3], "'x' must be 4 or more and finite, got 3, 0 of them"),
        (np.where(np.arange(30)[:, None, None, None] == 2, np.nan, good), "got 30, 1 of them"),
    ):
        with pytest.raises(ValueError, match=message):
            image_evaluation.compare_samples({"x": v}, dataset, extract, KEY, test=test)


def test_neighbours_of_copies_are_their_originals(monkeypatch):
    dataset = labelled(50, (4, 16), image_shape=(8, 8))
    panels = image_evaluation.nearest_training_images({"s": dataset.train[7:19]}, dataset, KEY)
    ((title, (shown, nearest)),) = panels.items()
    assert title == "s, and the nearest of 50 training images"
    assert shown.shape == (10, 8, 8)
    assert nearest.shape == (10, 6, 8, 8)
    np.testing.assert_array_equal(shown, dataset.images(dataset.train[7:17]))
    np.testing.assert_array_equal(nearest[:, 0], shown)
    assert (np.abs(nearest[:, 1] - shown).max(axis=(1, 2)) > 0).all()
    monkeypatch.setattr(image_evaluation, "_MAX_VALUES", 64 * 20)
    (title,) = image_evaluation.nearest_training_images({"s": dataset.train}, dataset, KEY)
    assert title == "s, and the nearest of 20 training images"


def test_rows_are_all_or_a_random_part():
    assert image_evaluation.choose_rows(KEY, 5, 7).tolist() == [0, 1, 2, 3, 4]
    some = image_evaluation.choose_rows(KEY, 1_000, 50)
    assert len(set(some.tolist())) == 50
    assert (np.diff(some) > 0).all()
    assert 300 < some.mean() < 700


# Latents


def test_functions_of_single_examples_are_mapped_in_batches(deep):
    v, keys = np.arange(230.0, dtype=np.float32), jax.random.split(KEY, 230)
    found = deep.map(lambda _, v, key: {"y": (2 * v, jax.random.uniform(key, (3,)))}, v, keys)
    np.testing.assert_array_equal(found["y"][0], 2 * v)
    expected = jax.vmap(lambda key: jax.random.uniform(key, (3,)))(keys)
    np.testing.assert_array_equal(found["y"][1], expected)


def test_functions_of_single_examples_are_compiled_once_for_any_number():
    traced = []

    def scale(model, v):
        traced.append(v.shape)
        return model.theta * v

    first, second = (Model(None, theta, None) for theta in (2.0, 3.0))
    for num in (230, 100, 7):
        v = np.arange(num, dtype=np.float32)
        np.testing.assert_array_equal(first.map(scale, v), 2 * v)
    assert traced == [()]
    np.testing.assert_array_equal(second.map(scale, v), 3 * v)  # parameters of its own
    assert traced == [(), ()]


def test_latents_are_probed_beside_pixels():
    dataset = labelled(60, contrast=0.05)
    labels = dataset.train_labels
    rows = image_latents.probe_latents(
        gaussian_model(offset=1.0, dataset=dataset),  # q's mean is the pixels plus 1
        train_rows=np.arange(5, 50),
        test_rows=np.arange(40),
        progress=False,
    )
    assert [(row["features"], row["classifier"]) for row in rows] == [
        (name, kind)
        for name in ("mean of q", "pixels")
        for kind in ("logistic regression", "linear SVM")
    ]
    grid = (1e-3, 1e-2, 1e-1, 1.0)
    for row, kind in zip(rows[2:], ("logistic", "svm"), strict=True):

        def accuracy(c, v, truth, kind=kind):
            train = dataset.train[5:50].reshape(45, -1), labels[5:50]
            v = v.reshape(len(v), -1)
            probe = metrics.linear_probe(*train, v, truth, kind=kind, inverse_regularization=c)
            return probe.test_accuracy

        c = row["inverse_regularization"]
        found = accuracy(c, dataset.test[:40], dataset.test_labels[:40])
        assert row["test_accuracy"] == found
        rows_of_validation = image_evaluation.choose_rows(KEY, 60, 40)
        validation = [
            accuracy(
                each,
                dataset.validation[rows_of_validation],
                dataset.validation_labels[rows_of_validation],
            )
            for each in grid
        ]
        chosen = grid.index(c)
        assert (np.diff(validation[: chosen + 1]) > 0).all()
        assert chosen == 3 or validation[chosen + 1] <= validation[chosen]
        assert (row["num_train"], row["num_test"], row["num_features"]) == (45, 40, 64)
    assert rows[2]["test_accuracy"] != rows[3]["test_accuracy"]
    for latent, pixels in zip(rows[:2], rows[2:], strict=True):
        assert latent["test_accuracy"] == pytest.approx(pixels["test_accuracy"], abs=0.026)


def test_trunk_features_are_what_the_energy_sees():
    trunk = networks.MLP((5,))
    energy = energies.MarginalEnergy(trunk)
    v = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    theta = energy.init(KEY, v[0])
    found = image_latents.trunk_features(Model(SimpleNamespace(energy=energy), theta, None), v)
    expected = jax.vmap(lambda v: trunk.apply({"params": theta["params"]["trunk"]}, v))(v)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_posterior_fisher_divergence_of_a_shifted_posterior():
    v = np.random.default_rng(0).normal(size=(130, 7)).astype(np.float32)
    found = image_latents.posterior_fisher_divergence(gaussian_model(offset=0.3), KEY, v)
    assert found == pytest.approx(0.5 * 7 * 0.3**2, rel=1e-5)


def test_embedding_keeps_clusters_together():
    rng = np.random.default_rng(0)
    codes = np.arange(60) % 3
    points = rng.normal(size=(60, 5)) + 30 * np.eye(3, 5)[codes]
    positions = image_latents.embed(points.astype(np.float32), seed=0)
    nearest = metrics.nearest_neighbors(positions, positions, k=2).indices[:, 1]
    np.testing.assert_array_equal(codes[nearest], codes)
    same = image_latents.embed(points.astype(np.float32), seed=0)
    np.testing.assert_array_equal(positions, same)


# Other images


def test_scores_of_a_known_density():
    v = np.random.default_rng(0).normal(size=(9, 4, 2)).astype(np.float32)
    found = image_outliers.scores(gaussian_model(), KEY, v)
    assert list(found) == [
        "-E(v, mean of q)",
        "log p(v) + log Z by 10 samples of q",
        "-‖variational score at the mean of q‖",
    ]
    energy, density, score = found.values()
    squares = np.sum(v**2, axis=(1, 2))
    np.testing.assert_allclose(energy, -0.5 * squares, rtol=1e-5)
    np.testing.assert_allclose(density, -0.5 * squares + 4 * np.log(2 * np.pi), rtol=1e-5)
    np.testing.assert_allclose(score, -np.sqrt(squares), rtol=1e-5)
    # Of another q it is a bound, each image's by samples of its own.
    copies = np.broadcast_to(v[:1], (9, 4, 2))
    gaps = (
        density[0]
        - list(image_outliers.scores(gaussian_model(offset=1.0), KEY, copies).values())[1]
    )
    assert len(set(gaps.tolist())) == 9
    assert 0 < gaps.mean() < 0.5 * 8  # less than KL(q ‖ p(h | v)), which one sample has


def test_scores_of_an_rbm_are_exact():
    experiment = build(make_config("digits_rbm", {"energy.gaussian_rbm.num_hidden": 3}))
    theta = experiment.initial_state.theta
    v = experiment.dataset.test[:5]
    found = image_outliers.scores(Model(experiment, theta, None), KEY, v)
    assert list(found) == ["log p(v) + log Z", "-‖∇ log p(v)‖"]
    p = {name: np.asarray(x, np.float64) for name, x in theta["params"].items()}
    sigma, logits = np.exp(p["log_sigma"]), v @ p["weights"] + p["hidden_bias"]
    quadratic = 0.5 * np.sum(((v - p["visible_bias"]) / sigma) ** 2, axis=1)
    expected = np.sum(np.logaddexp(0, logits), axis=1) - quadratic
    np.testing.assert_allclose(found["log p(v) + log Z"], expected, rtol=1e-4)
    score = (p["visible_bias"] - v) / sigma**2 + 1 / (1 + np.exp(-logits)) @ p["weights"].T
    np.testing.assert_allclose(found["-‖∇ log p(v)‖"], -np.linalg.norm(score, axis=1), rtol=1e-4)
    divergence = image_latents.posterior_fisher_divergence
    assert divergence(Model(experiment, theta, None), KEY, v) is None


def test_detection_by_a_known_density():
    rng = np.random.default_rng(0)
    test, same, wide = (rng.normal(size=(200, 2)).astype(np.float32) * s for s in (1, 1, 3))
    others = {"same": same, "wide": wide, "far": np.full((3, 2), 9, np.float32)}
    rows = image_outliers.detect(gaussian_model(), others, KEY, test=test, progress=False)
    assert [row["other_images"] for row in rows] == ["same"] * 3 + ["wide"] * 3 + ["far"] * 3
    for row in rows:
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
        assert row["num_test_images"] == 200
    # ½‖v‖² is exponential with mean 1 and 9: P(larger) = 9 / 10. All scores rank alike.
    for row, truth in zip(rows, np.repeat([0.5, 0.9, 1], 3), strict=True):
        assert row["auroc"] == pytest.approx(truth, abs=0.08)
    assert rows[6]["num_other_images"] == 3
    huge = {"huge": np.full((3, 2), 1e30, np.float32)}
    with pytest.raises(ValueError, match=r"-E\(v, mean of q\) of huge is not finite"):
        image_outliers.detect(gaussian_model(), huge, KEY, test=test, progress=False)


def test_other_images_and_probed_splits_share_a_program():
    test = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    few, many = [], []
    for traced, others in ((few, {"a": test[:3]}), (many, dict.fromkeys("abcd", test[:9]))):
        model = gaussian_model(traced=traced)
        image_outliers.detect(model, others, KEY, test=test, progress=False)
    assert few == many
    assert few
    traced = []
    model = gaussian_model(dataset=labelled(60, (2, 4, 1)), traced=traced)
    image_latents.probe_latents(
        model, train_rows=np.arange(50), test_rows=np.arange(40), progress=False
    )
    image_latents.latent_means(model, model.experiment.dataset.test)
    assert traced == [(2, 4, 1)]


def plain(seed, event_shape, image_shape):
    v = np.random.default_rng(seed).random((20, *event_shape))
    return data.Dataset("plain", train=v, validation=v, test=v, image_shape=image_shape)


@pytest.mark.parametrize("image_shape", [(8, 6), (8, 6, 1), (4, 4, 3)])
def test_corrupted_images(image_shape):
    dataset = plain(0, (48,), image_shape)
    found = image_outliers.corrupted_images(KEY, dataset, dataset.test)
    assert {v.shape for v in found.values()} == {(20, 48)}
    channels = image_shape[2] if len(image_shape) == 3 else 1
    pixels = {name: v.reshape(20, -1, channels) for name, v in found.items()}
    test = dataset.test.reshape(20, -1, channels)
    shuffled = pixels["test images, pixels shuffled"]
    orders = []
    for image, original in zip(shuffled, test, strict=True):
        order = [np.flatnonzero((original == pixel).all(axis=1))[0] for pixel in image]
        assert sorted(order) == list(range(len(original)))  # pixels move as wholes
        orders.append(tuple(order))
    assert len(set(orders)) == 20
    np.testing.assert_allclose(found["test images, inverted"], 1 - dataset.test)
    means = found["test images, means of two"]
    np.testing.assert_allclose(means, (dataset.test + dataset.test[np.arange(20) - 1]) / 2)
    constant = pixels["constant images"]
    assert (constant == constant[:, :1]).all()
    assert len(np.unique(constant)) == 20 * channels
    noise = found["uniform noise"]
    assert noise.min() >= 0
    assert noise.max() <= 1
    assert abs(noise.mean() - 0.5) < 4 * np.sqrt(1 / 12 / noise.size)


def test_images_of_files(tmp_path):
    dataset, images = plain(0, (48,), (8, 6)), _images(3, 8, 6)
    path = tmp_path / "images.npz"
    for arrays in (
        {"x": images},
        {"images": images[..., None], "labels": np.ones(3)},
        {"images": np.rint(images * 255).astype(np.uint8)},
    ):
        np.savez(path, **arrays)
        found = image_outliers.read_images(path, dataset)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, images.reshape(3, 48), atol=0.002)
    np.savez(path, x=images[:, :4, :2], y=np.ones(3))
    padded = image_outliers.read_images(path, dataset).reshape(3, 8, 6)
    np.testing.assert_array_equal(padded[:, 2:6, 2:4], images[:, :4, :2].astype(np.float32))
    assert padded.sum() == pytest.approx(images[:, :4, :2].sum(), rel=1e-5)
    for arrays, message in (
        (
            {"a": images, "b": images},
            r"one array, or one called 'images' or 'x', is wanted, got \['a', 'b'\]",
        ),
        ({"x": images[:, :5]}, r"with the data's \(8, 6, 1\), or less .*, got \(3, 5, 6, 1\)"),
        ({"x": np.ones((3, 10, 6))}, r"got \(3, 10, 6, 1\)"),
        ({"x": np.ones((3, 8, 6, 3))}, r"got \(3, 8, 6, 3\)"),
        ({"x": np.ones((3, 48))}, r"got \(3, 48\)"),
        ({"x": np.ones(())}, r"images\.npz: images must have shape .*, got \(\)"),
        ({"x": images[:0]}, r"got \(0, 8, 6, 1\)"),
        ({"x": images * 2}, r"images must be bytes, or floats in \[0, 1\]"),
        ({"x": images * np.nan}, r"images must be bytes, or floats in \[0, 1\]"),
        ({"x": np.ones((3, 8, 6), int)}, r"images must be bytes, or floats in \[0, 1\]"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message):
            image_outliers.read_images(path, dataset)
    colours = plain(0, (8 * 6 * 3,), (8, 6, 3))
    for grey in (images[..., None], images[:, :4, :, None]):  # nor are they made green
        np.savez(path, x=grey)
        with pytest.raises(ValueError, match=r"with the data's \(8, 6, 3\), .*, got \(3, "):
            image_outliers.read_images(path, colours)
    path.write_bytes(b"bad")
    with pytest.raises(ValueError, match="holds no images"):
        image_outliers.read_images(path, dataset)
    with pytest.raises(FileNotFoundError, match="no such file"):
        image_outliers.read_images(tmp_path / "absent.npz", dataset)


GENERATIVE = {
    # method -> overrides, what is probed, how many scores
    "bidvl": (
        BIDVL | {"energy.marginal.spectral_norm_steps": 2},
        ["mean of q", "trunk of E", "pixels"],
        ["log p(v) + log Z", "-‖∇ log p(v)‖"],
    ),
    "vae": (
        VAE,
        ["mean of q", "pixels"],
        [
            "-E(v, mean of q)",
            "log p(v) + log Z by 10 samples of q",
            "-‖variational score at the mean of q‖",
        ],
    ),
}


@pytest.mark.parametrize("name", GENERATIVE)
def test_models_with_a_generator_are_judged(name, tmp_path):
    overrides, probed, scored = GENERATIVE[name]
    experiment = build(make_config("base", TINY_DEEP | {"data.name": "digits"} | overrides))
    state = experiment.initial_state
    model = Model(experiment, state.theta, state.phi)
    samples = image_evaluation.draw_samples(
        model, KEY, num_samples=6, batch_size=4, folder=tmp_path, progress=False
    )
    ((title, drawn),) = samples.items()
    assert title == "G(h), h ~ N(0, I)"
    assert drawn.shape == (6, 8, 8, 1)
    assert len(np.unique(drawn, axis=0)) == 6
    rows = image_latents.probe_latents(
        model, train_rows=np.arange(60), test_rows=np.arange(20), progress=False
    )
    assert [row["features"] for row in rows[::2]] == probed
    assert rows[0]["num_features"] == 4
    test = experiment.dataset.test[:7]
    q = experiment.infer(state.theta, state.phi)
    expected = jax.vmap(lambda v: q(v).mean)(jnp.asarray(test))
    np.testing.assert_allclose(image_latents.latent_means(model, test), expected, rtol=1e-5)
    found = image_outliers.scores(model, KEY, test)
    assert list(found) == scored
    assert all(np.isfinite(x).all() for x in found.values())
    fisher = image_latents.posterior_fisher_divergence(model, KEY, test)
    assert fisher is None if name == "bidvl" else fisher > 0


# Pictures


def test_neighbours_stand_right_of_their_images():
    images, nearest = _images(3, 4, 4), _images(6, 4, 4, seed=1).reshape(3, 2, 4, 4)
    panels = {"joint samples": (images, nearest), "b": (images[:1], nearest[:1])}
    figure = jbism.plotting.neighbors(panels, pixels=4)
    page = _render(figure)
    for row in range(3):
        line = [_framed(image, 1) for image in (images[row], *nearest[row])]
        places = []
        for picture in line:
            assert _contains(page, picture)
            windows = np.lib.stride_tricks.sliding_window_view(page, picture.shape)[..., 0, :, :, :]
            places.append(np.argwhere(np.abs(windows - picture).max(axis=(-1, -2, -3)) < 0.01)[0])
        places = np.array(places)
        assert len(set(places[:, 0])) == 1
        assert (np.diff(places[:, 1]) > 0).all()
        assert places[1, 1] - places[0, 1] > places[2, 1] - places[1, 1]  # set off
    assert _inside_page_and_apart(figure)
    with pytest.raises(ValueError, match="panels must hold at least one"):
        jbism.plotting.neighbors({})
    for wrong in (nearest[:2], nearest[:, 0], nearest[:, :0], nearest[..., :3]):
        with pytest.raises(ValueError, match=r"panels\['a'\] must be images \[n, \.\.\.\] and"):
            jbism.plotting.neighbors({"a": (images, wrong)})


def test_embedding_colours_points_by_class():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(40, 2)).astype(np.float32), rng.choice([2, 5, 11], 40)
    axes = jbism.plotting.embedding(points, labels, title="t-SNE").axes[0]
    assert axes.get_title() == "t-SNE"
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["2", "5", "11"]
    colors = [handle.get_facecolor()[0][:3] for handle in legend.legend_handles]
    drawn = axes.collections[0]
    for point, color in zip(drawn.get_offsets(), drawn.get_facecolors(), strict=True):
        label = labels[np.flatnonzero((points == point).all(axis=1))[0]]
        np.testing.assert_allclose(color[:3], colors[[2, 5, 11].index(label)])
    plain = jbism.plotting.embedding(points).axes[0]
    assert plain.get_legend() is None
    assert len(plain.collections[0].get_offsets()) == 40
    for options, error, message in (
        ({"labels": labels[:3]}, ValueError, r"labels must have shape \(40,\), got \(3,\)"),
        ({"labels": labels / 2}, TypeError, "labels must have an integer dtype"),
        ({"labels": np.arange(40)}, ValueError, "labels must be of at most 20 classes, got 40"),
        ({"points": points * np.inf}, ValueError, "points must be finite, but index 0"),
        ({"points": points[:, :1]}, ValueError, "points must have shape"),
    ):
        with pytest.raises(error, match=message):
            jbism.plotting.embedding(**{"points": points, **options})


# The binary


@pytest.fixture(scope="module")
def run(deep, tmp_path_factory):
    """The work directory of a deep model as it was initialised."""
    workdir = tmp_path_factory.mktemp("run") / "deep"
    workdir.mkdir()
    (workdir / "config.json").write_text(deep.experiment.config.to_json())
    with Checkpointer(workdir / "checkpoints") as saved:
        saved.save(deep.experiment.initial_state)
    return workdir


def test_judge(run, classifier_file, tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, x=np.random.default_rng(0).random((6, 8, 8)))
    out = tmp_path / "judge"
    options = {
        "workdir": run,
        "out": out,
        "num_samples": 6,
        "sample_batch": 4,
        "classifier": classifier_file[0],
        "num_test": 40,
        "num_train": 100,
        "other_images": other,
    }
    done = run_binary("judge", options, switches=["--noprogress"])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {p.name for p in out.iterdir()} == {
        "cells",
        "config.json",
        "image_evaluation.json",
        "neighbors.png",
        "samples.npz",
        "tsne.png",
    }
    config = json.loads((out / "config.json").read_text())
    assert config["num_samples"] == 6
    assert config["run"]["name"] == "digits_deep"
    figures = json.loads((out / "image_evaluation.json").read_text())
    assert figures["extractor"]["name"] == "small classifier features"
    assert figures["samples"] == "drawn with seed 0"
    assert [(row["num_images"], row["num_test_images"]) for row in figures["sample_quality"]] == [
        (6, 40)
    ] * 3
    probed = [row["features"] for row in figures["linear_probes"][::2]]
    assert probed == ["mean of q", "trunk of E", "pixels"]
    assert figures["posterior_fisher_divergence"] > 0
    assert len(figures["other_images"]) == 3 * (5 + 1)
    assert figures["other_images"][-1]["other_images"] == str(other)
    assert figures["other_images"][-1]["num_other_images"] == 6
    for text in ("small classifier features (test accuracy", "Fréchet distance", "linear SVM"):
        assert text in done.stdout
    assert "FID" not in done.stdout
    for name in ("tsne.png", "neighbors.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")

    # What was finished is not done again; what is missing is, and comes out the same.
    probes = json.loads((out / "cells" / "linear_probes.json").read_text())
    probes[0]["classifier"] = "from the cell"
    (out / "cells" / "linear_probes.json").write_text(json.dumps(probes))
    next((out / "cells").glob("quality_*.json")).unlink()
    done = run_binary("judge", options, switches=["--noprogress"])
    assert done.returncode == 0, done.stderr
    again = json.loads((out / "image_evaluation.json").read_text())
    assert again["linear_probes"][0]["classifier"] == "from the cell"
    assert again["sample_quality"] == figures["sample_quality"]

    done = run_binary("judge", options | {"seed": 1})
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "seed is 0 there, 1 here" in done.stderr


def test_judge_measures_distances_anew_when_the_extractor_has_changed(run, tmp_path):
    out, extractor = tmp_path / "judge", tmp_path / "mine.py"
    options = {"workdir": run, "out": out, "num_samples": 4, "num_test": 8, "num_train": 20}
    options["extractor"] = f"{extractor}:features"

    def distances(statistic):
        extractor.write_text(f"def features(images):\n    return images.{statistic}((2, 3))\n")
        done = run_binary("judge", options, switches=["--noprogress"])
        assert done.returncode == 0, done.stderr
        figures = json.loads((out / "image_evaluation.json").read_text())
        return [row["frechet_distance"] for row in figures["sample_quality"]]

    means = distances("mean")
    (cell,) = (out / "cells").glob("quality_*.json")
    kept = json.loads(cell.read_text())
    kept[0]["frechet_distance"] = 12345.0
    cell.write_text(json.dumps(kept))
    assert distances("mean") == [12345.0, *means[1:]]
    variances = distances("var")
    assert len(variances) == len(means) == 3
    assert not set(variances) & {12345.0, *means}


def test_judge_does_not_write_over_the_run(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = run_binary("judge", {"workdir": run, "out": run}, switches=["--overwrite"])
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: out must not be the work directory {run}")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_judge_leaves_nothing_behind_a_wrong_flag(run):
    done = run_binary("judge", {"workdir": run, "num_samples": 4, "extractor": "inception"})
    assert done.returncode == 1
    assert done.stderr.startswith("error: extractor must be 'path/to/file.py:function'")
    assert done.stderr.count("\n") == 1
    assert not (run / "judge").exists()
