"""Image data sets: in the formats of their sites and of tfds, against the arrays written there."""

import functools
import gzip
import io
import pathlib
import pickle
import re
import struct
import sys
import tarfile
import threading
import time

import jax
import numpy as np
import pytest

import jbism.data
from jbism.data import BatchLoader, BatchOrder, LazyImages

PIL_Image = pytest.importorskip("PIL.Image")

_TFDS_NAMES = {
    "mnist": "mnist",
    "fashion_mnist": "fashion_mnist",
    "cifar10": "cifar10",
    "celeba": "celeb_a",
}
_CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer")


def _pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def _labels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 10, n).astype(np.uint8)


def _padded(images):
    padded = np.zeros((len(images), 32, 32, 1), np.uint8)
    padded[:, 2:30, 2:30, 0] = images
    return padded


def _assert_is(dataset, train, train_labels, test, test_labels, *, num_validation):
    """Asserts that a data set is these arrays, its validation the end of train."""
    validation, validation_labels = train[-num_validation:], train_labels[-num_validation:]
    np.testing.assert_array_equal(dataset.train, train[:-num_validation])
    np.testing.assert_array_equal(dataset.validation, validation)
    np.testing.assert_array_equal(dataset.test, test)
    np.testing.assert_array_equal(dataset.train_labels, train_labels[:-num_validation])
    np.testing.assert_array_equal(dataset.validation_labels, validation_labels)
    np.testing.assert_array_equal(dataset.test_labels, test_labels)
    assert dataset.train.dtype == np.uint8
    assert dataset.image_shape == dataset.event_shape == train.shape[1:]


# --- idx files ---


def _idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def digits():
    """Images and labels of train and test."""
    return _pixels(9, 28, 28), _labels(9), _pixels(4, 28, 28, seed=1), _labels(4, 1)


def _write_idx(folder, arrays, *, zipped):
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{s}-{k}-ubyte" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
    for name, array in zip(names, arrays, strict=True):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(_idx(array)))
        else:
            (folder / name).write_bytes(_idx(array))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "."), ("mnist", "mnist"), ("fashion_mnist", "FashionMNIST/raw")],
)
def test_idx_files(tmp_path, digits, name, folder, zipped):
    _write_idx(tmp_path / folder, digits, zipped=zipped)
    train, train_labels, test, test_labels = digits
    dataset = getattr(jbism.data, name)(tmp_path, num_validation=2)
    assert dataset.name == name
    expected = _padded(train), train_labels, _padded(test), test_labels
    _assert_is(dataset, *expected, num_validation=2)
    for seed in (0, 1):  # the key changes nothing
        key = jax.random.key(seed)
        same = jbism.data.load(name, key=key, data_dir=str(tmp_path), num_validation=2)
        _assert_is(same, *expected, num_validation=2)


def test_each_mnist_prefers_its_own_folder(tmp_path, digits):
    other = [255 - x for x in digits[:1]] + list(digits[1:])
    _write_idx(tmp_path, digits, zipped=True)
    _write_idx(tmp_path / "fashion_mnist", other, zipped=True)
    mnist = jbism.data.mnist(tmp_path, num_validation=2)
    fashion_mnist = jbism.data.fashion_mnist(tmp_path, num_validation=2)
    np.testing.assert_array_equal(mnist.train, _padded(digits[0])[:7])
    np.testing.assert_array_equal(fashion_mnist.train, _padded(other[0])[:7])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte.gz", lambda x: x[:-20], "no readable gzip file"),
        ("train-images-idx3-ubyte.gz", lambda x: x[:4], "no readable gzip file"),
        ("train-images-idx3-ubyte.gz", lambda x: b"idx" + x, "no readable gzip file"),
        (
            "train-images-idx3-ubyte.gz",
            lambda x: x[:100] + bytes(20) + x[120:],
            "no readable gzip file",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            lambda x: gzip.compress(_idx(_pixels(4, 28, 28))),
            "magic number 2049 .* got 2051",
        ),
        ("t10k-labels-idx1-ubyte.gz", lambda x: gzip.compress(b""), "magic number 2049 .* got 0"),
        (
            "t10k-images-idx3-ubyte.gz",
            lambda x: gzip.compress(gzip.decompress(x)[:-3]),
            r"must hold 3136 values for its shape \(4, 28, 28\), got 3133",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            lambda x: gzip.compress(gzip.decompress(x)[:9]),
            "header of 16 bytes, got 9",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            lambda x: gzip.compress(_idx(_labels(8))),
            "train-images.* and .*as many images as labels, got 9 and 8",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            lambda x: gzip.compress(_idx(_pixels(4, 28, 27))),
            r"images of shape \(28, 28, 1\), got \(28, 27, 1\)",
        ),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, digits, name, change, message):
    _write_idx(tmp_path, digits, zipped=True)
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        jbism.data.mnist(tmp_path, num_validation=2)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_idx_file_is_named(tmp_path, digits):
    _write_idx(tmp_path, digits, zipped=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks the idx.*/t10k-labels-idx1-ubyte\.gz$"):
        jbism.data.mnist(tmp_path, num_validation=2)


# --- CIFAR-10's batches ---


class _Python2Pickler(pickle._Pickler):
    """Writes bytes and strings as Python 2 wrote its strings, like the published batches."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def _string(self, x):
        data = x if isinstance(x, bytes) else x.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(x)

    dispatch[bytes] = dispatch[str] = _string


def _python2_pickle(value):
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


@pytest.fixture
def batches():
    """Six batches of images and labels."""
    return {name: (_pixels(3, 32, 32, 3, seed=i), _labels(3, i)) for i, name in enumerate(_BATCHES)}


def _write_batches(folder, batches):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in batches.items():
        rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(-1, 3072)
        batch = {"batch_label": name, "data": rows, "labels": labels.tolist()}
        (folder / name).write_bytes(_python2_pickle(batch))


def _pack(folder, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname="cifar-10-batches-py")


@pytest.mark.parametrize("place", [".", "cifar10/cifar-10-batches-py", "archive"])
def test_cifar_batches(tmp_path, batches, place):
    if place == "archive":
        _write_batches(tmp_path / "elsewhere", batches)
        _pack(tmp_path / "elsewhere", tmp_path / "cifar-10-python.tar.gz")
    else:
        _write_batches(tmp_path / place, batches)
    images, labels = (np.concatenate(x) for x in zip(*list(batches.values())[:5], strict=True))
    dataset = jbism.data.cifar10(tmp_path, num_validation=4)
    _assert_is(dataset, images, labels, *batches["test_batch"], num_validation=4)


def _damage_missing(folder):
    (folder / "data_batch_4").unlink()


def _damage_truncated(folder):
    path = folder / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-500])


def _damage_shape(folder):
    (folder / "test_batch").write_bytes(
        pickle.dumps({b"data": _pixels(2, 3071), b"labels": [1, 2]}, 2)
    )


def _damage_count(folder):
    (folder / "test_batch").write_bytes(
        pickle.dumps({b"data": _pixels(2, 3072), b"labels": [1, 2, 3]}, 2)
    )


def _damage_program(folder):
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_damage_missing, FileNotFoundError, r"lacks the CIFAR-10 batch\(es\) data_batch_4"),
        (_damage_truncated, ValueError, "data_batch_2 is no readable CIFAR-10 batch"),
        (_damage_shape, ValueError, r"test_batch: data must be .*\(\*, 3072\).*\(2, 3071\)"),
        (_damage_count, ValueError, "test_batch must hold as many images as labels, got 2 and 3"),
        (_damage_program, ValueError, "data_batch_1 is no .*os.system has no place in a CIFAR-10"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_cifar_batches_are_named(
    tmp_path, monkeypatch, batches, damage, error, message, packed
):
    monkeypatch.chdir(tmp_path)
    _write_batches(tmp_path / "b", batches)
    damage(tmp_path / "b")
    if packed:
        (tmp_path / "packed").mkdir()
        _pack(tmp_path / "b", tmp_path / "packed" / "cifar-10-python.tar.gz")
    with pytest.raises(error, match=message):
        jbism.data.cifar10(tmp_path / ("packed" if packed else "b"), num_validation=4)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("kept", [0, 10, 4000])
def test_truncated_cifar_archive_is_named(tmp_path, batches, kept):
    _write_batches(tmp_path / "b", batches)
    archive = tmp_path / "cifar-10-python.tar.gz"
    _pack(tmp_path / "b", archive)
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is no readable archive"):
        jbism.data.cifar10(tmp_path, num_validation=4)


# --- NumPy archives ---


def test_npz_of_one_array_is_split_with_all_classes_in_each_split(tmp_path):
    images, labels = _pixels(40, 32, 32, 3), np.repeat(np.arange(10), 4)
    np.savez(tmp_path / "any.npz", x=images, any_name=labels)
    dataset = jbism.data.cifar10(tmp_path, num_validation=10, num_test=20)
    counts = [np.bincount(getattr(dataset, f"{s}_labels")) for s in ("train", "validation", "test")]
    np.testing.assert_array_equal(counts, np.outer([1, 1, 2], np.ones(10)))
    got = np.concatenate([dataset.train, dataset.validation, dataset.test])
    # Within a class the order is kept.
    expected = images.reshape(10, 4, 32, 32, 3).swapaxes(0, 1).reshape(40, 32, 32, 3)
    np.testing.assert_array_equal(got, expected)


def test_npz_without_labels_keeps_its_order(tmp_path):
    images = _pixels(6, 28, 28)
    np.savez(tmp_path / "any.npz", x=images)
    dataset = jbism.data.mnist(tmp_path, num_validation=2, num_test=1)
    assert dataset.train_labels is None
    got = np.concatenate([dataset.train, dataset.validation, dataset.test])
    np.testing.assert_array_equal(got, _padded(images))


def test_npz_with_a_test_split(tmp_path, digits):
    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "mnist.npz", **dict(zip(keys, digits, strict=True)))
    train, train_labels, test, test_labels = digits
    dataset = jbism.data.mnist(tmp_path, num_validation=2)
    _assert_is(dataset, _padded(train), train_labels, _padded(test), test_labels, num_validation=2)


@pytest.mark.parametrize("splits", [("",), ("_train", "_test")])
def test_npz_with_a_column_of_labels(tmp_path, splits):
    images, labels = _pixels(40, 32, 32, 3), np.repeat(np.arange(10), 4)
    datasets = []
    for y in (labels, labels[:, None]):
        arrays = {f"x{split}": images for split in splits} | {f"y{split}": y for split in splits}
        np.savez(tmp_path / "any.npz", **arrays)
        datasets.append(jbism.data.cifar10(tmp_path, num_validation=10, num_test=20))
    for split in ("train", "validation", "test"):
        for name in (split, f"{split}_labels"):
            np.testing.assert_array_equal(*(getattr(dataset, name) for dataset in datasets))


@pytest.mark.parametrize("num_test", [1, 4])
def test_num_test_keeps_the_first_of_the_own_test_split(tmp_path, digits, num_test):
    _write_idx(tmp_path, digits, zipped=True)
    train, train_labels, test, test_labels = digits
    dataset = jbism.data.mnist(tmp_path, num_validation=2, num_test=num_test)
    test, test_labels = _padded(test[:num_test]), test_labels[:num_test]
    _assert_is(dataset, _padded(train), train_labels, test, test_labels, num_validation=2)


_X, _Y = _pixels(6, 28, 28), _labels(6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": _X.astype(float)}, r"one uint8 array of images, but holds x float64 \(6, 28, 28\)"),
        ({"x": _X, "z": _X}, "one uint8 array of images, but holds x .*, z "),
        ({"x": _X, "y": _Y, "z": _Y}, "one integer array of labels"),
        ({"x": _X, "y": _Y[:5]}, r"y must be integer labels of shape \(6,\) .*, got uint8 \(5,\)"),
        ({"x": _X, "y": _Y * 1.0}, r"y is neither .* nor integer labels .*, got float64 \(6,\)"),
        ({"x": _X, "y": _Y > 4}, r"y is neither .*, got bool \(6,\)"),
        ({"x": _X, "y": np.eye(10, dtype=np.uint8)[_Y]}, r"y is neither .*, got uint8 \(6, 10\)"),
        ({"x": _X, "y": _Y, "z": _Y * 1.0}, r"z is neither .*, got float64 \(6,\)"),
        ({"x_train": _X, "x_test": _X, "labels": _Y}, "labels is none of x_train, .*, got uint8"),
        ({"x_train": _X, "x_test": _X, "y_test": _Y}, "both of y_train and y_test or neither"),
        ({"x_train": _X, "x_test": _X[0]}, r"x_test must be uint8 images .* \(28, 28\)"),
        ({"x_train": _X, "x_test": _X, "y_train": _Y, "y_test": _Y * 1.0}, "y_test .* float64"),
        ({}, "but holds nothing"),
    ],
)
def test_npz_that_does_not_fit_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "any.npz", **arrays)
    with pytest.raises(ValueError, match=rf"any\.npz.*{message}"):
        jbism.data.mnist(tmp_path, num_validation=2, num_test=1)


def test_npz_damaged_or_ambiguous_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=_X)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"a\.npz is no readable NumPy archive"):
        jbism.data.mnist(tmp_path, num_validation=2, num_test=1)
    (tmp_path / "b.npz").write_bytes(whole)
    with pytest.raises(ValueError, match=r"must hold one \*\.npz, got a\.npz, b\.npz"):
        jbism.data.mnist(tmp_path, num_validation=2, num_test=1)


# --- Sizes of the splits ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "num_validation must be below 9, .*, got 10000"),
        ({"num_validation": 9}, "num_validation must be below 9, .*, got 9"),
        ({"num_validation": 0}, "num_validation must be an integer >= 1"),
        ({"num_validation": 2, "num_test": 0}, "num_test must be an integer >= 1"),
        ({"num_validation": 2, "num_test": 5}, "num_test must be at most 4, .*, got 5"),
    ],
)
def test_split_sizes_are_checked(tmp_path, digits, options, message):
    _write_idx(tmp_path, digits, zipped=True)
    with pytest.raises(ValueError, match=message):
        jbism.data.mnist(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_validation": 2},
            r"num_test must be given, because .*any\.npz holds no test split; num_validation, "
            "here 2, and num_test together must be below 6,",
        ),
        ({}, "num_test must be given, .* num_validation, here 10000, and num_test together"),
        ({"num_validation": 2, "num_test": 0}, "num_test must be an integer >= 1"),
        (
            {"num_validation": 2, "num_test": 4},
            r"num_validation \+ num_test must be below 6, .*, got 2 \+ 4",
        ),
    ],
)
def test_split_sizes_are_checked_without_a_test_split(tmp_path, options, message):
    np.savez(tmp_path / "any.npz", x=_X)
    with pytest.raises(ValueError, match=message):
        jbism.data.mnist(tmp_path, **options)


# --- Folders of images ---


def _write_images(folder, numbers, *, suffix="png", seed=0):
    """Writes ``numbers[class]`` images a class, and returns them by class."""
    written = {}
    for i, (name, number) in enumerate(numbers.items()):
        (folder / name).mkdir(parents=True)
        written[name] = _pixels(number, 32, 32, 3, seed=seed + i)
        for j, pixels in enumerate(written[name]):
            PIL_Image.fromarray(pixels).save(folder / name / f"{j:04}.{suffix}")
    return written


def test_image_folder(tmp_path):
    train = _write_images(tmp_path / "cifar10" / "train", dict.fromkeys(_CIFAR_CLASSES, 4))
    test = _write_images(tmp_path / "cifar10" / "test", dict.fromkeys(_CIFAR_CLASSES, 2), seed=50)
    (tmp_path / "cifar10" / "train" / "bird" / "Thumbs.db").touch()

    def alternating(written):
        stacked = np.stack([written[name] for name in sorted(written)], axis=1)
        return stacked.reshape(-1, 32, 32, 3), np.tile(np.arange(5), len(stacked))

    dataset = jbism.data.cifar10(tmp_path, num_validation=5)
    _assert_is(dataset, *alternating(train), *alternating(test), num_validation=5)


def test_image_folder_spreads_unequal_classes(tmp_path):
    _write_images(tmp_path / "train", {"a": 2, "b": 6})
    dataset = jbism.data.cifar10(tmp_path, num_validation=2, num_test=2)
    labels = [dataset.train_labels, dataset.validation_labels, dataset.test_labels]
    np.testing.assert_array_equal(np.concatenate(labels), [1, 0, 1, 1, 1, 0, 1, 1])


def test_image_folder_of_lossy_images_is_close(tmp_path):
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (32, 32, 3))
    for split in ("train", "test"):
        (tmp_path / split / "ramp").mkdir(parents=True)
        for i in range(3):
            PIL_Image.fromarray(ramp).save(tmp_path / split / "ramp" / f"{i}.JPEG", quality=75)
    dataset = jbism.data.cifar10(tmp_path, num_validation=1)
    assert np.abs(dataset.train.astype(int) - ramp[None]).max() < 8


def _break_mixed_sizes(folder):
    PIL_Image.fromarray(_pixels(32, 30, 3)).save(folder / "train" / "cat" / "0001.png")
    return "0001.png must be an image of 32×32 pixels in mode RGB, got 30×32 in mode RGB"


def _break_mode(folder):
    PIL_Image.fromarray(_pixels(32, 32)).save(folder / "test" / "cat" / "0000.png")
    return "0000.png must be .* in mode RGB, got 32×32 in mode L"


def _break_truncated(folder):
    path = folder / "train" / "dog" / "0001.png"
    path.write_bytes(path.read_bytes()[:200])
    return "train/dog/0001.png is no readable image"


def _break_garbage(folder):
    (folder / "train" / "dog" / "0000.png").write_bytes(b"no image at all")
    return "train/dog/0000.png is no readable image"


def _break_empty_class(folder):
    (folder / "train" / "emu").mkdir()
    return "train/emu must hold images"


def _break_empty_split(folder):
    (folder / "train").rename(folder / "old")
    (folder / "train").mkdir()
    return "train must hold one folder of images a class, but holds none"


def _break_classes(folder):
    (folder / "test" / "dog").rename(folder / "test" / "hound")
    return r"test must have the class folders of .*\['cat', 'dog'\], got \['cat', 'hound'\]"


@pytest.mark.parametrize(
    "broken",
    [
        _break_mixed_sizes,
        _break_mode,
        _break_truncated,
        _break_garbage,
        _break_empty_class,
        _break_empty_split,
        _break_classes,
    ],
)
def test_broken_image_folder_is_named(tmp_path, broken):
    for split in ("train", "test"):
        _write_images(tmp_path / split, {"cat": 2, "dog": 2})
    message = broken(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        jbism.data.cifar10(tmp_path, num_validation=1)
    assert str(tmp_path) in str(error.value)


# --- tensorflow-datasets ---


@pytest.fixture(scope="module")
def tfds():
    pytest.importorskip("array_record")
    return pytest.importorskip("tensorflow_datasets")


def _file(image, file_format):
    file = io.BytesIO()
    PIL_Image.fromarray(image).save(file, file_format)
    file.seek(0)
    return file


def _prepare(tfds, class_name, version, features, splits, data_dir):
    """Prepares a data set under tfds' own name, version and features, as its builder would."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def generators(self, dl_manager):
        return {name: enumerate(examples) for name, examples in splits.items()}

    with tfds.core.registered.skip_registration():
        builder_class = type(
            class_name,
            (tfds.core.GeneratorBasedBuilder,),
            {
                "VERSION": tfds.core.Version(version),
                "_info": info,
                "_split_generators": generators,
                "_generate_examples": None,
                "__module__": __name__,
            },
        )
        builder = builder_class(data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    return pathlib.Path(builder.data_path)


@pytest.fixture(scope="module")
def prepared(tfds, tmp_path_factory):
    """A folder of three data sets in tfds' format, and what was written there."""
    data_dir = tmp_path_factory.mktemp("tfds")
    label = tfds.features.ClassLabel(num_classes=10)
    written, places = {}, {}
    for class_name, version, shape in [
        ("Mnist", "3.0.1", (28, 28, 1)),
        ("Cifar10", "3.0.2", (32, 32, 3)),
    ]:
        arrays = _pixels(9, *shape), _labels(9), _pixels(4, *shape, seed=1), _labels(4, 1)
        splits = {
            split: [
                {"image": _file(image.squeeze(), "PNG"), "label": int(of_image)}
                for image, of_image in zip(images, labels, strict=True)
            ]
            for split, images, labels in [("train", *arrays[:2]), ("test", *arrays[2:])]
        }
        features = {"image": tfds.features.Image(shape=shape), "label": label}
        places[class_name] = _prepare(tfds, class_name, version, features, splits, data_dir)
        written[class_name.lower()] = arrays
    faces = {s: _faces(n, seed=n) for s, n in [("train", 5), ("validation", 3), ("test", 2)]}
    features = {"image": tfds.features.Image(shape=(218, 178, 3), encoding_format="png")}
    splits = {s: [{"image": _file(x, "PNG")} for x in images] for s, images in faces.items()}
    _prepare(tfds, "CelebA", "2.1.0", features, splits, data_dir)
    return data_dir, written | {"celeba": faces}, places


def _sorted_rows(images, labels):
    """Examples in an order of their own: tfds shuffles what it prepares."""
    rows = np.column_stack([images.reshape(len(images), -1), labels])
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("source", ["tfds", "auto"])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_tfds_holds_what_was_prepared(prepared, name, source):
    data_dir, written, _ = prepared
    train, train_labels, test, test_labels = written[name]
    if name == "mnist":
        train, test = _padded(train[..., 0]), _padded(test[..., 0])
    dataset = getattr(jbism.data, name)(data_dir, source=source, num_validation=2)
    images = np.concatenate([dataset.train, dataset.validation])
    labels = np.concatenate([dataset.train_labels, dataset.validation_labels])
    assert len(dataset.train) == 7
    np.testing.assert_array_equal(_sorted_rows(images, labels), _sorted_rows(train, train_labels))
    np.testing.assert_array_equal(
        _sorted_rows(dataset.test, dataset.test_labels), _sorted_rows(test, test_labels)
    )
    again = getattr(jbism.data, name)(data_dir, source=source, num_validation=2)
    np.testing.assert_array_equal(again.train, dataset.train)


def test_tfds_default_folder_is_its_own(prepared, monkeypatch):
    data_dir, written, _ = prepared
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    tfds = sys.modules["tensorflow_datasets"]
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(data_dir))
    dataset = jbism.data.load("cifar10", num_validation=2)
    np.testing.assert_array_equal(np.sort(dataset.test, axis=0), np.sort(written["cifar10"][2], 0))


def test_files_come_before_tfds(prepared, tmp_path, digits):
    data_dir, _, _ = prepared
    (tmp_path / "mnist").symlink_to(data_dir / "mnist")
    _write_idx(tmp_path, digits, zipped=True)
    dataset = jbism.data.mnist(tmp_path, num_validation=2)
    np.testing.assert_array_equal(dataset.test, _padded(digits[2]))
    prepared_there = jbism.data.mnist(tmp_path, source="tfds", num_validation=2)
    assert not np.array_equal(prepared_there.test, dataset.test)


def test_tfds_format_without_random_access_is_named(prepared, tmp_path):
    _, _, places = prepared
    place = tmp_path / "mnist" / "3.0.1"
    place.mkdir(parents=True)
    for path in places["Mnist"].glob("*.json"):
        (place / path.name).write_text(path.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"3\.0\.1 must be prepared .* but is in tfrecord"):
        jbism.data.mnist(tmp_path, source="tfds", num_validation=2)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba"])
def test_nothing_anywhere_says_what_to_do(tfds, tmp_path, name):
    loader = getattr(jbism.data, name)
    for source in ("auto", "files", "tfds"):
        begin = time.monotonic()
        with pytest.raises(FileNotFoundError) as error:
            loader(tmp_path, source=source)
        assert time.monotonic() - begin < 10  # nothing waits for a network
        message = str(error.value)
        assert "\n" not in message
        assert "https://" in message
        own_folder = "a folder that you pass" if source == "tfds" else str(tmp_path / name)
        assert re.search(
            rf"^no [\w-]+\. Get .* put what you get in {re.escape(own_folder)}", message
        )
        assert (", unpack the zip and put" in message) == (name == "celeba")
        assert ("--config.data.dir" in message) == (source == "tfds")
        tfds_advice = f"Or, with tensorflow installed, tfds.data_source({_TFDS_NAMES[name]!r}, "
        assert (tfds_advice in message) == (source != "files")
        assert (f"Looked in {tmp_path / name}, " in message) == (source != "tfds")
    (tmp_path / name).mkdir()
    (tmp_path / name / "images.tar.xz").touch()
    with pytest.raises(FileNotFoundError, match=rf"Unpack .*{name}/images\.tar\.xz"):
        loader(tmp_path)


@pytest.mark.parametrize(
    ("name", "looked_in", "patterns", "belong"),
    [
        (
            "mnist",
            "{0}/mnist, {0}/MNIST/raw, {0}",
            "*-ubyte(.gz), train|test/<class>/*.png|jpg, *.npz",
            "train/<class>",
        ),
        (
            "cifar10",
            "{0}/cifar10, {0}",
            "data_batch_*, cifar-10-batches-py/data_batch_*, cifar-10-python.tar.gz, "
            "train|test/<class>/*.png|jpg, *.npz",
            "train/<class>",
        ),
        ("celeba", "{0}/celeba, {0}", "img_align_celeba/*.png|jpg", "img_align_celeba"),
    ],
)
def test_nothing_there_names_folders_and_patterns_once(tmp_path, name, looked_in, patterns, belong):
    with pytest.raises(FileNotFoundError) as error:
        getattr(jbism.data, name)(tmp_path, source="files")
    message = str(error.value)
    assert f". Looked in {looked_in.format(tmp_path)} for {patterns}. " in message
    assert message.endswith(f". {tmp_path} holds nothing")
    assert "directly" not in message
    (tmp_path / "0.JPG").touch()
    with pytest.raises(FileNotFoundError) as error:
        getattr(jbism.data, name)(tmp_path, source="files")
    assert f". {tmp_path} holds images directly: move them to {tmp_path / belong}. " in str(
        error.value
    )


@pytest.mark.parametrize("source", ["auto", "files", "tfds"])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba"])
def test_a_folder_that_does_not_exist_is_called_so_first(tfds, tmp_path, name, source):
    loader = getattr(jbism.data, name)
    with pytest.raises(FileNotFoundError) as error:
        loader(tmp_path / "absent", source=source)
    message = str(error.value)
    assert re.match(rf"no [\w-]+: data_dir '{tmp_path}/absent' does not exist\. Get ", message)
    assert ("tensorflow" in message) == (source == "tfds")
    assert "Looked in" not in message
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"^no [\w-]+: data_dir '.*/file' is no folder\. "):
        loader(tmp_path / "file", source=source)


@pytest.mark.parametrize("name", ["cifar10", "celeba"])
def test_files_of_another_data_set_are_listed_and_not_to_be_unpacked(tmp_path, digits, name):
    _write_idx(tmp_path, digits, zipped=True)
    if name == "celeba":
        (tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(FileNotFoundError) as error:
        getattr(jbism.data, name)(tmp_path, source="files")
    message = str(error.value)
    assert "Unpack" not in message
    files = sorted(path.name for path in tmp_path.iterdir())
    more = " and 1 more" if len(files) == 5 else ""
    assert message.endswith(f". {tmp_path} holds {', '.join(files[:4])}{more}")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba"])
def test_missing_packages_name_the_extra(monkeypatch, tmp_path, name):
    loader = getattr(jbism.data, name)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for options in ({}, {"data_dir": tmp_path, "source": "tfds"}):
        with pytest.raises(ImportError, match=r"tensorflow-datasets.* 'jbism\[experiments\]'"):
            loader(**options)
    with pytest.raises(FileNotFoundError, match=r"Get .*needs tensorflow-datasets.*Looked in"):
        loader(tmp_path)
    folder = "img_align_celeba" if name == "celeba" else "train/class"
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "0.png").touch()
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"needs pillow: pip install 'jbism\[experiments\]'"):
        loader(tmp_path)


def test_missing_tfds_names_the_extra_of_the_builder(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "jbism.data._freyface_builder", raising=False)
    with pytest.raises(ImportError, match=r"FreyFace needs .*pip install 'jbism\[experiments\]'"):
        _ = jbism.data.FreyFace
    with pytest.raises(AttributeError, match="no attribute 'FreyFaces'"):
        _ = jbism.data.FreyFaces


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba"])
def test_source_is_checked(name):
    with pytest.raises(
        ValueError, match="source must be one of 'auto', 'tfds', 'files', got 'web'"
    ):
        getattr(jbism.data, name)(source="web")
    with pytest.raises(ValueError, match=r"data_dir must name the folder that holds .*, got None"):
        getattr(jbism.data, name)(source="files")
    for source in ("auto", "files", "tfds"):
        with pytest.raises(TypeError, match="data_dir must be str or PathLike, got int"):
            getattr(jbism.data, name)(3, source=source)


def test_freyface_builder_holds_the_frames_of_the_file(tfds, tmp_path):
    ff = _pixels(560, 1965)
    pytest.importorskip("scipy.io").savemat(tmp_path / "frey_rawface.mat", {"ff": ff})
    builder = jbism.data.FreyFace(data_dir=tmp_path, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path)
    builder.download_and_prepare(download_config=config)
    splits = ["train", "validation", "test"]
    read = tfds.data_source("frey_face", split=splits, data_dir=tmp_path, download=False)
    assert [len(split) for split in read] == [1400, 300, 265]
    examples = [example for split in read for example in split]
    frames = np.stack([example["image"] for example in examples])
    np.testing.assert_array_equal(frames.reshape(1965, 560).T, ff)
    assert [int(example["frame"]) for example in examples] == list(range(1965))


# --- CelebA ---


def _faces(n, seed=0):
    """Images that survive PNG only; coarse blocks, so that they stay different when shrunk."""
    return _pixels(n, 218, 178, 3, seed=seed)


def _write_faces(folder, images):
    (folder / "img_align_celeba").mkdir(parents=True)
    for i, image in enumerate(images, start=1):
        path = folder / "img_align_celeba" / f"{i:06}.png"
        PIL_Image.fromarray(image).save(path, compress_level=1)


def _box_filtered(image, size):
    """A bilinear (triangle filter) reduction of the central 140×140, in double precision."""
    image = image[39:179, 19:159].astype(float)
    centres = (np.arange(size) + 0.5) * 140 / size - 0.5
    weights = 1 - np.abs(np.arange(140)[None] - centres[:, None]) * size / 140
    weights = weights.clip(0)
    weights /= weights.sum(1, keepdims=True)
    return np.einsum("iy,yxc,jx->ijc", weights, image, weights, optimize=True)


@pytest.mark.parametrize("size", [32, 64])
def test_celeba_is_the_central_square_resized(tmp_path, size):
    faces = _faces(4)
    _write_faces(tmp_path / "celeba", faces)
    dataset = jbism.data.celeba(tmp_path, size=size, num_validation=1, num_test=1)
    assert dataset.image_shape == dataset.event_shape == (size, size, 3)
    got = np.concatenate([dataset.train, dataset.validation, dataset.test])
    assert got.dtype == np.uint8
    expected = np.stack([_box_filtered(face, size) for face in faces])
    assert np.abs(got - expected).max() < 1.1  # the library rounds twice


def test_celeba_follows_the_partition_file(tmp_path):
    _write_faces(tmp_path, _faces(6))
    numbered = jbism.data.celeba(tmp_path, size=32, num_validation=1, num_test=1)
    images = np.concatenate([numbered.train, numbered.validation, numbered.test])
    split_of = [0, 2, 1, 0, 1, 0]
    lines = [f"{i:06}.png {split}" for i, split in enumerate(split_of, start=1)]
    partition = tmp_path / "list_eval_partition.txt"
    partition.write_text("\n".join(lines) + "\n")
    dataset = jbism.data.celeba(tmp_path, size=32)
    np.testing.assert_array_equal(dataset.train, images[[0, 3, 5]])
    np.testing.assert_array_equal(dataset.validation, images[[2, 4]])
    np.testing.assert_array_equal(dataset.test, images[[1]])
    for text, error, message in [
        (lines[:-1], ValueError, r"must list all images, but lacks 000006\.png"),
        ([*lines, "000007.png 0"], FileNotFoundError, r"lacks 000007\.png and 0 other images"),
        ([x.replace(" 2", " 1") for x in lines], ValueError, r"all of 0, 1 and 2, got \(3, 3, 0\)"),
        ([*lines[:2], "000003.png"], ValueError, "partition.txt:3 must be 'IMAGE 0|1|2'"),
    ]:
        partition.write_text("\n".join(text))
        with pytest.raises(error, match=message):
            jbism.data.celeba(tmp_path, size=32)


def test_celeba_takes_the_folder_of_the_images_itself(tmp_path, monkeypatch):
    _write_faces(tmp_path, _faces(3))
    (tmp_path / "list_eval_partition.txt").write_text("000001.png 2\n000002.png 0\n000003.png 1\n")
    outer = jbism.data.celeba(tmp_path, size=32)
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)  # not to be taken in its place
    inner = jbism.data.celeba(tmp_path / "img_align_celeba", size=32)
    monkeypatch.chdir(tmp_path / "img_align_celeba")
    here = jbism.data.celeba(".", size=32)
    for dataset in (inner, here):
        for split in ("train", "validation", "test"):
            np.testing.assert_array_equal(getattr(dataset, split), getattr(outer, split))


def test_celeba_without_a_partition_file(tmp_path, monkeypatch):
    faces = _faces(6)
    _write_faces(tmp_path, faces)
    with pytest.raises(ValueError, match=r"num_test must be given, because .* must be below 6$"):
        jbism.data.celeba(tmp_path)
    monkeypatch.setattr("jbism.data._celeba._PUBLISHED", (3, 1, 2))  # as many as there are
    published = jbism.data.celeba(tmp_path, size=32)
    assert [len(published.train), len(published.validation), len(published.test)] == [3, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 48}, "size must be one of 32, 64, got 48"),
        ({"num_test": 1}, "num_validation and num_test must be given together, got None and 1"),
        ({"num_validation": 1}, "given together, got 1 and None: the last num_test images are for"),
        (
            {"num_test": 1, "num_validation": 1},
            r"num_validation \+ num_test must be below 2, .*, got 1 \+ 1",
        ),
        ({"num_test": 0, "num_validation": 1}, "num_test must be an integer >= 1"),
    ],
)
def test_celeba_options_are_checked(tmp_path, options, message):
    _write_faces(tmp_path, _faces(2))
    with pytest.raises(ValueError, match=message):
        jbism.data.celeba(tmp_path, **options)
    with pytest.raises(TypeError, match="lazy must be bool"):
        jbism.data.celeba(tmp_path, lazy=1)


def test_celeba_names_bad_images_and_empty_folders(tmp_path):
    _write_faces(tmp_path, _faces(3))
    options = {"num_validation": 1, "num_test": 1}
    path = tmp_path / "img_align_celeba" / "000002.png"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"000002\.png is no readable image"):
        jbism.data.celeba(tmp_path, **options)
    lazily = jbism.data.celeba(tmp_path, lazy=True, **options)
    with pytest.raises(ValueError, match=r"000002\.png is no readable image"):
        lazily.examples("validation")
    PIL_Image.fromarray(_pixels(178, 178, 3)).save(path)
    with pytest.raises(ValueError, match=r"000002\.png must be .*178×218.*got 178×178"):
        jbism.data.celeba(tmp_path, **options)
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)
    with pytest.raises(ValueError, match="celeba/img_align_celeba must hold images"):
        jbism.data.celeba(tmp_path, **options)


def test_lazy_celeba_is_the_decoded_one(tmp_path):
    _write_faces(tmp_path, _faces(5))
    load = functools.partial(jbism.data.celeba, tmp_path, size=32, num_validation=1, num_test=2)
    lazily, decoded = load(lazy=True), load()
    for split in ("train", "validation", "test"):
        assert isinstance(getattr(lazily, split), LazyImages)
        np.testing.assert_array_equal(getattr(lazily, split)[:], getattr(decoded, split))
        np.testing.assert_array_equal(lazily.examples(split), decoded.examples(split))
    assert lazily.event_shape == decoded.event_shape


@pytest.mark.parametrize("lazy", [False, True])
def test_celeba_of_tfds(prepared, lazy):
    data_dir, written, _ = prepared
    dataset = jbism.data.celeba(data_dir, size=32, lazy=lazy)
    for split, faces in written["celeba"].items():
        expected = np.stack([_box_filtered(face, 32) for face in faces])
        got = getattr(dataset, split)[:].astype(float)
        distances = np.abs(got[:, None] - expected[None]).max(axis=(2, 3, 4))
        assert (distances.min(axis=1) < 1.1).all()  # each is one of them,
        assert sorted(distances.argmin(axis=1)) == list(range(len(faces)))  # and another one
    mine = jbism.data.celeba(data_dir, size=32, num_validation=4, num_test=4)
    joined = [np.concatenate([d.train[:], d.validation[:], d.test[:]]) for d in (mine, dataset)]
    np.testing.assert_array_equal(*joined)
    assert len(mine.train) == 2


# --- Lazily decoded images and their loader ---


def _lazy(num_images=10, decode=lambda i: np.full((2, 3, 1), i, np.uint8)):
    return LazyImages(decode, num_images, (2, 3, 1))


@pytest.mark.parametrize(
    "rows",
    [
        3,
        -1,
        slice(2, 9, 3),
        slice(0, 0),
        [4, 4, -2],
        np.array([[1, 2], [3, 4]]),
        np.arange(10) % 2 == 0,
        Ellipsis,
    ],
)
def test_lazy_images_take_rows_like_an_array(rows):
    images = _lazy()
    decoded = np.asarray(images)
    assert (images.shape, images.dtype, images.ndim, images.size, len(images)) == (
        decoded.shape,
        decoded.dtype,
        decoded.ndim,
        decoded.size,
        len(decoded),
    )
    np.testing.assert_array_equal(images[rows], decoded[rows])
    assert images[rows].dtype == np.uint8


def test_lazy_images_say_their_number_and_shape():
    assert repr(_lazy(200, _fail_on(0))) == "<LazyImages: 200 of (2, 3, 1) uint8>"


def test_lazy_images_reject():
    for rows in (10, [0, -11], (slice(2), 0)):
        with pytest.raises(IndexError):
            _lazy()[rows]
    for decoded in (np.zeros((2, 3), np.uint8), np.zeros((2, 3, 1))):
        with pytest.raises(ValueError, match=r"decode\(7\) must be a uint8 array of shape"):
            _lazy(decode=lambda i, decoded=decoded: decoded)[7]
    with pytest.raises(ValueError, match="num_images must be an integer >= 1"):
        _lazy(0)
    with pytest.raises(ValueError, match="without a copy"):
        np.array(_lazy(), copy=False)
    assert np.asarray(_lazy(), np.float32).dtype == np.float32


def _fail_on(row):
    def decode(i):
        if i == row:
            raise ValueError(f"image {i} is broken")
        return np.full((2, 3, 1), i, np.uint8)

    return decode


def test_lazy_images_raise_what_decoding_raises():
    images = _lazy(200, _fail_on(150))
    with pytest.raises(ValueError, match="image 150 is broken"):
        np.asarray(images)
    assert images[149].max() == 149


def _threads():
    return [t for t in threading.enumerate() if t.name.startswith("jbism-batches")]


@pytest.mark.parametrize("kind", ["lazy", "array"])
@pytest.mark.parametrize(("num_threads", "num_ahead"), [(1, 0), (3, 5)])
def test_loader_takes_the_rows_of_the_order(kind, num_threads, num_ahead):
    images = _lazy() if kind == "lazy" else np.asarray(_lazy())
    order = BatchOrder(jax.random.key(0), 10, 4)  # two steps an epoch
    with BatchLoader(images, order, num_threads=num_threads, num_ahead=num_ahead) as loader:
        # Consecutive calls, then back, then far ahead: each as if it were the first.
        for step, num_steps in [(0, 1), (1, 3), (4, 7), (11, 1), (2, 2), (30, 4), (34, 1)]:
            batches = loader.take(step, num_steps)
            assert batches.shape == (num_steps, 4, 2, 3, 1)
            assert batches.dtype == np.uint8
            rows = order.indices(step, num_steps)
            np.testing.assert_array_equal(batches[..., 0, 0, 0], rows)


def test_loader_decodes_ahead_and_no_further():
    decoded = []
    images = _lazy(decode=lambda i: decoded.append(i) or np.full((2, 3, 1), i, np.uint8))
    order = BatchOrder(jax.random.key(0), 10, 2)
    with BatchLoader(images, order, num_threads=1, num_ahead=3) as loader:
        loader.take(0, 2)
        deadline = time.monotonic() + 10
        while len(decoded) < 10 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert decoded == order.indices(0, 5).ravel().tolist()
        time.sleep(0.02)
        assert len(decoded) == 10
        loader.take(2, 3)  # was decoded already
        assert decoded[:10] == order.indices(0, 5).ravel().tolist()
    assert decoded == order.indices(0, 8).ravel().tolist()[: len(decoded)]


def test_loader_raises_in_the_caller_what_a_thread_raised():
    order = BatchOrder(jax.random.key(0), 10, 2)
    broken = int(order.indices(3, 1)[0, 1])
    with BatchLoader(_lazy(decode=_fail_on(broken)), order) as loader:
        assert loader.take(0, 3).shape[0] == 3  # the broken batch lies ahead
        for _ in range(2):  # and stays broken
            with pytest.raises(ValueError, match=f"image {broken} is broken"):
                loader.take(3, 1)
        np.testing.assert_array_equal(loader.take(0, 3)[..., 0, 0, 0], order.indices(0, 3))


def test_loader_ends_its_threads():
    order = BatchOrder(jax.random.key(0), 10, 2)
    loader = BatchLoader(_lazy(), order, num_threads=3)
    loader.take(0, 5)
    assert _threads()
    loader.close()
    assert not _threads()
    loader.close()
    with pytest.raises(ValueError, match="loader, but it was closed"):
        loader.take(5, 1)
    with BatchLoader(_lazy(decode=_fail_on(3)), order) as loader:
        with pytest.raises(ValueError, match="image 3 is broken"):
            loader.take(0, 5)
        assert _threads()
    assert not _threads()


def test_loader_rejects():
    order = BatchOrder(jax.random.key(0), 9, 2)
    with pytest.raises(ValueError, match=r"order must be of 10 examples, .*, got 9"):
        BatchLoader(_lazy(), order)
    with pytest.raises(TypeError, match="order must be BatchOrder, got int"):
        BatchLoader(_lazy(), 3)
    with pytest.raises(ValueError, match="num_threads must be an integer >= 1"):
        BatchLoader(_lazy(9), order, num_threads=0)
    with pytest.raises(ValueError, match="num_ahead must be an integer >= 0"):
        BatchLoader(_lazy(9), order, num_ahead=-1)
    with BatchLoader(_lazy(9), order) as loader:
        with pytest.raises(ValueError, match="step must be an integer >= 0"):
            loader.take(-1, 1)
        with pytest.raises(ValueError, match="num_steps must be an integer >= 1"):
            loader.take(0, 0)
    assert not _threads()


# --- Real data ---


def _require(path):
    if not path.exists():
        pytest.skip(f"no {path}")


def test_real_mnist(data_dir):
    _require(data_dir / "mnist")
    dataset = jbism.data.load("mnist", key=jax.random.key(0), data_dir=data_dir)
    sizes = [len(dataset.train), len(dataset.validation), len(dataset.test)]
    assert sizes == [50_000, 10_000, 10_000]
    labels = np.concatenate([dataset.train_labels, dataset.validation_labels])
    # The published class counts.
    expected = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(labels), expected)
    inside = dataset.train[:, 2:30, 2:30]
    assert inside.sum(dtype=np.int64) == dataset.train.sum(dtype=np.int64)
    mean = np.concatenate([dataset.train, dataset.validation])[:, 2:30, 2:30].mean() / 255
    assert mean == pytest.approx(0.1307, abs=5e-5)  # the mean commonly published


def test_real_fashion_mnist(data_dir):
    _require(data_dir / "fashion_mnist")
    dataset = jbism.data.fashion_mnist(data_dir, num_validation=100, num_test=200)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), np.full(10, 20))
    means = [dataset.train[dataset.train_labels == c].mean(0) for c in range(10)]
    distances = ((dataset.test[:, None] - np.stack(means)[None]) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(1) == dataset.test_labels).mean() > 0.6


def test_real_cifar10_from_two_formats(data_dir, tmp_path):
    archive = data_dir / "cifar10" / "cifar10_jpegs.tar.xz"
    _require(archive)
    exact = jbism.data.load(
        "cifar10", key=jax.random.key(0), data_dir=data_dir, num_validation=500, num_test=500
    )
    assert exact.train.shape == (3000, 32, 32, 3)
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name[-7:] < "010.jpg" and member.name[-8] == "0":
                tar.extract(member, tmp_path, filter="data")
    with pytest.raises(ValueError, match="num_validation must be below 100"):
        jbism.data.cifar10(tmp_path)
    lossy = jbism.data.cifar10(tmp_path, num_validation=10)
    np.testing.assert_array_equal(np.bincount(lossy.test_labels), np.full(10, 10))
    # The folder numbers each class in the order of the published batches, as the exact images are.
    for label in range(10):
        pair = [d.train[d.train_labels == label][:9].astype(int) for d in (exact, lossy)]
        assert np.abs(pair[0] - pair[1]).mean() < 12


def test_real_freyface_as_examples(data_dir):
    _require(data_dir / "frey" / "frey_rawface.mat")
    dataset = jbism.data.freyface(data_dir)
    np.testing.assert_array_equal(dataset.examples("test"), dataset.test)
