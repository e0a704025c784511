"""Data: toys against closed forms, splits against their sources, the order as defined."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jbism.data
from jbism.data import BatchOrder, Dataset

_U = (np.arange(20_000) + 0.5) / 20_000
_TURN = 2 * np.pi * _U
_SPIRAL, _ROLL = 3 * np.pi * np.sqrt(_U), 1.5 * np.pi * (1 + 2 * _U)


def _circle(radius, t, centre=(0.0, 0.0)):
    return np.stack([centre[0] + radius * np.cos(t), centre[1] + radius * np.sin(t)], axis=1)


# The noiseless curves of each toy as equally likely points, and the standard deviation about them.
_CURVES = {
    "two_moons": ([_circle(1, np.pi * _U), _circle(1, np.pi * _U + np.pi, (1, 0.5))], 0.1),
    "rings": ([_circle(radius, _TURN) for radius in (0.75, 1.5, 2.25, 3)], 0.08),
    "eight_gaussians": ([_circle(8**0.5, np.arange(8) * np.pi / 4)], 0.125**0.5),
    "two_spirals": ([_circle(_SPIRAL / 3, _SPIRAL), _circle(-_SPIRAL / 3, _SPIRAL)], 0.1),
    "swiss_roll": ([_circle(_ROLL / 5, _ROLL)], 0.2),
}
_TOYS = ("checkerboard", "pinwheel", *_CURVES)


def _draw(name, key, num_samples, **options):
    generator = functools.partial(getattr(jbism.data, name), **options)
    return jax.jit(generator, static_argnums=1)(key, num_samples)


def _assert_moments(v, mean, second):
    """Compares E[v] and E[v vᵀ] with their exact values, by z-scores."""
    v = np.asarray(v, np.float64)
    statistics = np.stack([v[:, 0], v[:, 1], v[:, 0] ** 2, v[:, 1] ** 2, v[:, 0] * v[:, 1]], axis=1)
    exact = np.array([*mean, second[0][0], second[1][1], second[0][1]])
    z = (statistics.mean(0) - exact) / (statistics.std(0) / len(v) ** 0.5)
    assert np.abs(z).max() < 4.5, z


@pytest.mark.parametrize("name", _CURVES)
def test_curve_toy_has_the_moments_of_its_formula(name):
    curves, noise = _CURVES[name]
    points = np.concatenate(curves)
    v = _draw(name, jax.random.key(1), 50_000)
    second = points.T @ points / len(points) + noise**2 * np.eye(2)
    _assert_moments(v, points.mean(0), second)


@pytest.mark.parametrize("name", _CURVES)
def test_curve_toy_without_noise_lies_on_its_curve(name):
    curves, _ = _CURVES[name]
    points = np.concatenate([curve[:: max(1, len(curve) // 5000)] for curve in curves])
    v = np.asarray(_draw(name, jax.random.key(2), 300, noise=0.0))
    distance = np.linalg.norm(v[:, None] - points, axis=2).min(axis=1)
    assert distance.max() < 0.03  # the spiral's points lie this far apart near its centre
    assert np.median(distance) < 1e-3


@pytest.mark.parametrize("num_arms", [1, 5])
def test_pinwheel_has_the_moments_of_its_formula(num_arms):
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    r, weights = 1 + 0.3 * nodes, weights / weights.sum()
    angle = np.exp(r) / 4
    if num_arms == 1:
        cos, sin = np.cos(angle), np.sin(angle)
        mean = 2 * weights @ np.stack([r * cos, r * sin], axis=1)
        xx = 4 * weights @ (r**2 * cos**2 + 0.01 * sin**2)
        yy = 4 * weights @ (r**2 * sin**2 + 0.01 * cos**2)
        xy = 4 * weights @ ((r**2 - 0.01) * cos * sin)
    else:  # five-fold symmetry leaves no direction
        mean, xx, yy, xy = (0, 0), 2.2, 2.2, 0
    v = _draw("pinwheel", jax.random.key(3), 50_000, num_arms=num_arms)
    _assert_moments(v, mean, [[xx, xy], [xy, yy]])


def test_checkerboard_is_uniform_on_its_density():
    v = np.asarray(_draw("checkerboard", jax.random.key(4), 50_000))
    counts, *_ = np.histogram2d(*v.T, bins=16, range=[[0, 1], [0, 1]])
    centres = (np.arange(16) + 0.5) / 16
    grid = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1)
    density = np.exp(jbism.data.checkerboard_log_density(jnp.asarray(grid)))
    assert density.mean() == pytest.approx(1, rel=1e-6)  # it integrates to 1 over the unit square
    expected = len(v) * density / 256
    assert counts.sum() == len(v)
    assert counts[expected == 0].sum() == 0
    on = expected > 0
    chi2 = ((counts[on] - expected[on]) ** 2 / expected[on]).sum()
    freedom = on.sum() - 1
    assert abs(chi2 - freedom) / np.sqrt(2 * freedom) < 4


def test_checkerboard_log_density_on_its_edges_and_outside():
    v = jnp.array([[0, 0], [0.5, 0.5], [0.49, 0.5], [1, 1], [-0.1, 0.1], [0.9, 0.6]])
    log_density = jbism.data.checkerboard_log_density(v)
    np.testing.assert_array_equal(np.isfinite(log_density), [1, 1, 0, 0, 0, 1])
    np.testing.assert_allclose(log_density[np.isfinite(log_density)], np.log(2), rtol=1e-6)
    assert jbism.data.checkerboard_log_density(v[0]).shape == ()
    with pytest.raises(ValueError, match=r"v must have shape \(\.\.\., 2\)"):
        jbism.data.checkerboard_log_density(jnp.zeros((4, 3)))


@pytest.mark.parametrize("name", _TOYS)
def test_toy_is_jittable_float32_and_a_function_of_its_key(name):
    generator = getattr(jbism.data, name)
    v = generator(jax.random.key(0), 64)
    assert v.shape == (64, 2)
    assert v.dtype == jnp.float32
    np.testing.assert_allclose(_draw(name, jax.random.key(0), 64), v, rtol=1e-5, atol=1e-5)
    assert not np.allclose(generator(jax.random.key(1), 64), v)
    with pytest.raises(ValueError, match="num_samples must be an integer >= 1"):
        generator(jax.random.key(0), 0)


@pytest.mark.parametrize("name", _TOYS)
def test_toy_stays_float32_in_double_precision(name, x64):
    generator = functools.partial(getattr(jbism.data, name), num_samples=8)
    assert jax.eval_shape(generator, jax.random.key(0)).dtype == jnp.float32


def test_toy_options_are_checked():
    with pytest.raises(ValueError, match="noise must be a number >= 0"):
        jbism.data.rings(jax.random.key(0), 5, noise=-1.0)
    with pytest.raises(ValueError, match="num_arms must be an integer >= 1"):
        jbism.data.pinwheel(jax.random.key(0), 5, num_arms=0)


def test_toy_dataset_has_independent_splits():
    dataset = jbism.data.toy(
        "checkerboard", jax.random.key(0), num_train=30, num_validation=20, num_test=10
    )
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [30, 20, 10]
    every = np.concatenate([dataset.train, dataset.validation, dataset.test])
    assert len(np.unique(every, axis=0)) == 60
    np.testing.assert_allclose(dataset.log_density(dataset.test), np.log(2), rtol=1e-6)
    with pytest.raises(ValueError, match="num_test must be an integer >= 1"):
        jbism.data.toy("rings", jax.random.key(0), num_test=0)


def _splits(**changes):
    splits = {name: np.zeros((n, 6)) for name, n in [("train", 5), ("validation", 3), ("test", 2)]}
    return {**splits, **changes}


def test_dataset_keeps_float32_and_views_images():
    v = np.arange(30.0).reshape(5, 6)
    dataset = Dataset("d", **_splits(train=jnp.asarray(v)), image_shape=(2, 3))
    assert dataset.train.dtype == np.float32
    assert isinstance(dataset.train, np.ndarray)
    assert dataset.event_shape == (6,)
    np.testing.assert_array_equal(dataset.images(dataset.train), v.reshape(5, 2, 3))
    with pytest.raises(ValueError, match=r"v must have shape \(\*, 6\), got \(5, 7\)$"):
        dataset.images(np.zeros((5, 7)))
    with pytest.raises(ValueError, match=r"\(\*, 6\), got \(6,\): a leading axis is missing$"):
        dataset.images(dataset.train[0])
    with pytest.raises(ValueError, match="image_shape is None"):
        Dataset("d", **_splits()).images(v)
    with pytest.raises(AttributeError):
        dataset.name = "other"


def test_dataset_says_what_it_holds_without_its_arrays():
    labels = {f"{name}_labels": np.zeros(len(v), int) for name, v in _splits().items()}
    sizes = "train 5, validation 3, test 2; examples (6,) float32"
    assert repr(Dataset("d", **_splits())) == f"<Dataset 'd': {sizes}; no labels>"
    assert repr(Dataset("d", **_splits(), **labels)) == f"<Dataset 'd': {sizes}; labels>"


def test_to_unit_scales_uint8_and_keeps_floats():
    v = np.arange(256, dtype=np.uint8)
    expected = v / 255  # in double precision
    assert jbism.data.to_unit(v).dtype == np.float32
    assert isinstance(jbism.data.to_unit(v), np.ndarray)
    np.testing.assert_array_equal(jbism.data.to_unit(v), expected.astype(np.float32))
    np.testing.assert_allclose(jax.jit(jbism.data.to_unit)(v), expected, rtol=2e-7)
    floats = np.array([-1.0, 300.0], np.float16)
    assert jbism.data.to_unit(floats) is floats
    with pytest.raises(TypeError, match="v must have dtype uint8 or a floating dtype, got int32"):
        jbism.data.to_unit(jnp.arange(3))


def test_to_unit_is_float32_in_double_precision(x64):
    assert jbism.data.to_unit(jnp.arange(3, dtype=jnp.uint8)).dtype == jnp.float32
    assert jbism.data.to_unit(jnp.ones(3)).dtype == jnp.float64


def test_dataset_keeps_uint8_images_and_gives_them_in_the_unit_interval():
    v = np.arange(30, dtype=np.uint8).reshape(5, 6)
    splits = {"train": v, "validation": v[:3], "test": v[3:]}
    dataset = Dataset("d", **splits, image_shape=(2, 3))
    assert dataset.train is v
    for rows in (slice(None), slice(1, 3), [4, 0], 2):
        examples = dataset.examples("train", rows)
        assert examples.dtype == np.float32
        assert examples.shape == v[rows].shape
        np.testing.assert_allclose(examples, v[rows] / 255, rtol=1e-6)
    assert dataset.examples("test").shape == (2, 6)
    images = dataset.images(dataset.train[:2])
    np.testing.assert_allclose(images, v[:2].reshape(2, 2, 3) / 255, rtol=1e-6)
    np.testing.assert_array_equal(dataset.images(images.reshape(2, 6)), images)
    with pytest.raises(ValueError, match="split must be one of 'train', 'validation', 'test'"):
        dataset.examples("all")
    with pytest.raises(TypeError, match="test must have the dtype of train, uint8, got float32"):
        Dataset("d", **(splits | {"test": np.zeros((2, 6))}), image_shape=(2, 3))


def test_dataset_gives_floating_examples_as_they_are():
    dataset = Dataset("d", **_splits(train=np.full((5, 6), 300.0)))
    np.testing.assert_array_equal(dataset.examples("train", [0]), np.full((1, 6), 300.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_dataset_names_the_split_and_the_first_example_that_is_not_finite(split, bad):
    splits = _splits()
    splits[split][1, 4] = bad
    with pytest.raises(ValueError, match=rf"{split} must be finite, but example 1 .*0 others"):
        Dataset("d", **splits)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"test": np.zeros((0, 6))}, ValueError, r"test must be a non-empty .* \(0, 6\)"),
        ({"validation": np.zeros((3, 5))}, ValueError, r"validation .* train, \(6,\), got \(5,\)"),
        (
            {"train": np.zeros((5, 6), np.uint8)},
            TypeError,
            "train .* floating .*, got uint8; uint8",
        ),
        (
            {"train": np.zeros((5, 6), np.int64), "image_shape": (2, 3)},
            TypeError,
            "train must have a floating dtype, got int64",
        ),
        ({"image_shape": (2, 4)}, ValueError, r"image_shape .* \(2, 4\)"),
        ({"image_shape": (6,)}, ValueError, r"image_shape .* \(6,\)"),
        ({"train_labels": np.zeros(5, int)}, ValueError, r"all splits or none, got \['train'\]"),
    ],
)
def test_dataset_rejects(changes, error, message):
    with pytest.raises(error, match=message):
        Dataset("d", **_splits(**changes))


def test_dataset_labels_fit_their_split():
    labels = {"train_labels": np.arange(5), "test_labels": np.arange(2)}
    dataset = Dataset("d", **_splits(), **labels, validation_labels=np.arange(3))
    assert dataset.train_labels.dtype == np.int32
    with pytest.raises(ValueError, match=r"validation_labels must have shape \(3,\), got \(4,\)"):
        Dataset("d", **_splits(), **labels, validation_labels=np.arange(4))
    with pytest.raises(TypeError, match="validation_labels must have an integer dtype"):
        Dataset("d", **_splits(), **labels, validation_labels=np.zeros(3))


def test_digits_are_a_labelled_partition_of_scikit_learn():
    source = pytest.importorskip("sklearn.datasets").load_digits()
    dataset = jbism.data.digits(jax.random.key(0))
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [1400, 197, 200]
    v = np.concatenate([dataset.train, dataset.validation, dataset.test])
    labels = np.concatenate([dataset.train_labels, dataset.validation_labels, dataset.test_labels])
    rows = np.column_stack([v.reshape(-1, 64) * 16, labels])
    expected = np.column_stack([source.data, source.target])
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    again, other = (jbism.data.digits(jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(again.test, dataset.test)
    assert not np.array_equal(other.test, dataset.test)


def test_digits_split_sizes():
    pytest.importorskip("sklearn")
    dataset = jbism.data.digits(jax.random.key(0), num_validation=10, num_test=20)
    assert dataset.train.shape == (1767, 8, 8, 1)
    with pytest.raises(ValueError, match="num_validation \\+ num_test must be below 1797"):
        jbism.data.digits(jax.random.key(0), num_validation=1700)


@pytest.fixture
def ff(tmp_path):
    """The array of a made Frey face file, which lies under ``tmp_path / 'frey'``."""
    savemat = pytest.importorskip("scipy.io").savemat
    ff = np.random.default_rng(0).integers(0, 256, (560, 1965)).astype(np.uint8)
    (tmp_path / "frey").mkdir()
    savemat(tmp_path / "frey" / "frey_rawface.mat", {"ff": ff})
    return ff


def test_freyface_frames_are_columns_in_file_order(ff, tmp_path):
    dataset = jbism.data.freyface(tmp_path)
    sizes = [len(dataset.train), len(dataset.validation), len(dataset.test)]
    assert sizes == [1400, 300, 265]
    images = dataset.images(np.concatenate([dataset.train, dataset.validation, dataset.test]))
    assert images.dtype == np.float32
    for i in (0, 1399, 1400, 1700, 1964):
        np.testing.assert_allclose(images[i], ff[:, i].reshape(28, 20) / 255, rtol=1e-6)
    inside = jbism.data.freyface(str(tmp_path / "frey"))
    np.testing.assert_array_equal(inside.train, dataset.train)


@pytest.mark.parametrize("kept", [0, 1, 64, 127, 128, 200, 5000, -1])
@pytest.mark.parametrize("compressed", [False, True])
def test_freyface_names_a_truncated_file(ff, tmp_path, kept, compressed):
    from scipy.io import savemat

    path = tmp_path / "frey" / "frey_rawface.mat"
    savemat(path, {"ff": ff}, do_compression=compressed)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=r"frey_rawface\.mat: |frey_rawface\.mat (is no|must hold)"
    ) as error:
        jbism.data.freyface(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"faces": np.zeros((560, 1965), np.uint8)}, r"variable 'ff', but holds \['faces'\]"),
        ({"ff": np.zeros((1965, 560), np.uint8)}, r"shape \(560, 1965\), got uint8 \(1965, 560\)"),
        ({"ff": np.zeros((560, 1965))}, "uint8 array .* got float64"),
    ],
)
def test_freyface_names_what_the_file_lacks(ff, tmp_path, variables, message):
    from scipy.io import savemat

    savemat(tmp_path / "frey_rawface.mat", variables)
    with pytest.raises(ValueError, match=rf"frey_rawface\.mat.*{message}"):
        jbism.data.freyface(tmp_path)


def test_freyface_names_garbled_and_missing_files(tmp_path):
    with pytest.raises(TypeError, match="data_dir must be str or PathLike, got int"):
        jbism.data.freyface(3)
    with pytest.raises(
        FileNotFoundError, match=r"^no Frey face file: data_dir '.*' does not exist"
    ):
        jbism.data.freyface(tmp_path / "absent")
    with pytest.raises(FileNotFoundError) as error:
        jbism.data.freyface(tmp_path)
    for part in (str(tmp_path / "frey_rawface.mat"), str(tmp_path / "frey"), "https://"):
        assert part in str(error.value)
    pytest.importorskip("scipy")
    garbage = np.random.default_rng(0).integers(0, 256, 4000).astype(np.uint8).tobytes()
    (tmp_path / "frey_rawface.mat").write_bytes(garbage)
    with pytest.raises(ValueError, match=r"frey_rawface\.mat is no readable MATLAB file"):
        jbism.data.freyface(tmp_path)


def test_freyface_real_file(data_dir):
    if not any((data_dir / folder / "frey_rawface.mat").is_file() for folder in ("", "frey")):
        pytest.skip(f"no frey_rawface.mat in {data_dir}")
    dataset = jbism.data.load("freyface", key=jax.random.key(0), data_dir=data_dir)
    faces = dataset.images(dataset.train)
    # Neighbouring frames of a film, and neighbouring pixels of an upright frame, are alike.
    assert np.abs(np.diff(faces, axis=0)).mean() < 0.06
    assert np.abs(np.diff(faces, axis=2)).mean() < 0.5 * faces.std()
    assert 0.5 < faces.mean() < 0.7


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("sklearn.datasets", lambda folder: jbism.data.digits(jax.random.key(0))),
        ("scipy.io", jbism.data.freyface),
    ],
)
def test_missing_package_names_the_extra(monkeypatch, tmp_path, module, call):
    (tmp_path / "frey_rawface.mat").touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'jbism\[experiments\]'"):
        call(tmp_path)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (12, 4), (5, 5), (7, 1)])
def test_batch_order_is_its_definition(num_examples, batch_size):
    key = jax.random.key(5)
    order = BatchOrder(key, num_examples, batch_size)
    per_epoch = num_examples // batch_size
    assert (order.num_examples, order.steps_per_epoch) == (num_examples, per_epoch)
    rows = []
    for epoch in range(6):
        permutation = jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)
        rows += [permutation[i * batch_size : (i + 1) * batch_size] for i in range(per_epoch)]
    rows = np.stack(rows)
    got = order.indices(0, 6 * per_epoch)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, rows)
    for step in range(0, 5 * per_epoch, 2):  # any resumption, and any cut into chunks
        np.testing.assert_array_equal(order.indices(step, per_epoch), rows[step : step + per_epoch])
    for epoch in np.split(got, 6):  # no example twice within an epoch
        assert len(np.unique(epoch)) == per_epoch * batch_size


def test_batch_order_does_not_hand_out_its_cache():
    order = BatchOrder(jax.random.key(0), 10, 2)
    first = order.indices(0, 5)
    kept = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(order.indices(0, 5), kept)


def test_batch_order_draws_an_epoch_once(monkeypatch):
    drawn = []
    permutation = jax.random.permutation
    monkeypatch.setattr(
        jax.random, "permutation", lambda *args: drawn.append(1) or permutation(*args)
    )
    order = BatchOrder(jax.random.key(0), 10, 2)
    for step in range(15):
        order.indices(step, 3)
    assert len(drawn) == 4  # steps 0 to 16 lie in four epochs of five


def test_batch_order_depends_on_the_key_alone(x64):
    order = BatchOrder(jax.random.key(0), 100, 10)
    assert order.indices(10**6, 1).dtype == np.int32
    same, other = (BatchOrder(jax.random.key(seed), 100, 10).indices(0, 10) for seed in (0, 1))
    np.testing.assert_array_equal(order.indices(0, 10), same)
    assert not np.array_equal(same, other)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((5, 6), ValueError, "batch_size must be at most num_examples, 5, got 6"),
        ((5, 0), ValueError, "batch_size must be an integer >= 1"),
        ((0, 1), ValueError, "num_examples must be an integer >= 1"),
        ((5.0, 1), TypeError, "num_examples must be an integer"),
    ],
)
def test_batch_order_rejects(arguments, error, message):
    with pytest.raises(error, match=message):
        BatchOrder(jax.random.key(0), *arguments)


def test_batch_order_indices_reject():
    order = BatchOrder(jax.random.key(0), 5, 2)
    with pytest.raises(ValueError, match="step must be an integer >= 0"):
        order.indices(-1, 1)
    with pytest.raises(ValueError, match="num_steps must be an integer >= 1"):
        order.indices(0, 0)


@pytest.mark.parametrize("name", _TOYS)
def test_load_draws_each_toy(name):
    options = {"num_train": 64, "num_validation": 64, "num_test": 64}
    key = jax.random.key(0)
    dataset = jbism.data.load(name, key=key, **options)
    assert dataset.name == name
    assert (dataset.log_density is None) == (name != "checkerboard")
    np.testing.assert_array_equal(dataset.train, jbism.data.toy(name, key, **options).train)


def test_load_digits_and_errors():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"name must be one of 'checkerboard'.*'freyface'.*'cats'"):
        jbism.data.load("cats")
    for name in ("digits", "rings"):
        with pytest.raises(TypeError, match=f"key must be a random key for {name}, got None"):
            jbism.data.load(name)
    with pytest.raises(ValueError, match="data_dir must name the folder"):
        jbism.data.load("freyface")
    with pytest.raises(TypeError, match="num_arms"):
        jbism.data.load("rings", key=key, num_arms=3)
    pytest.importorskip("sklearn")
    digits = jbism.data.load("digits", key=key, num_test=11)
    np.testing.assert_array_equal(digits.test, jbism.data.digits(key, num_test=11).test)
