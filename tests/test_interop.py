"""Published checkpoints: the same energies and posteriors, by NumPy and, if there, by PyTorch."""

import collections
import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import interop
from tests import oracles

# Trunk, coupling and head as the codes of 2020 and of 2021 call them.
ENERGY_NAMES = {
    2020: ("v2f.module.feature", "f2h", "cp2e.linear"),
    2021: ("feature_net.module.down", "linear", "scalar_net.module.linear"),
}
# The convolutions, the prefix of the heads and the widths.
ENCODER_NAMES = {
    "conv3": (("conv1", "conv2", "conv3"), "", (64, 128, 256)),
    "conv5": (tuple(f"feature_net.{2 * i}" for i in range(5)), "", (64, 64, 128, 128, 256)),
    "2021": (
        tuple(f"param_net.main.net.{2 * i}" for i in range(3)),
        "param_net.",
        (64, 128, 256),
    ),
}


def layer(name, shape, bias=True):
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def energy_shapes(year, *, image_channels, channels, blocks, num_latents, side):
    """Shapes of the published energy of images with ``side`` pixels a row, by name."""
    trunk, coupling, head = ENERGY_NAMES[year]
    shapes = layer(f"{trunk}.0.conv", (channels, image_channels, 3, 3))
    width = channels
    for i in range(3 * blocks):
        halves = i % blocks == 0
        out, suffix = (2 * width, ".conv.conv") if halves else (width, ".conv")
        name = f"{trunk}.{i + 1}"
        shapes |= layer(f"{name}.conv1.conv", (width, width, 3, 3), bias=False)
        shapes |= layer(f"{name}.conv2{suffix}", (out, width, 3, 3))
        shapes |= layer(f"{name}.conv_shortcut{suffix}", (out, width, 1, 1))
        width = out
    pixels = (side // 8) ** 2
    shapes |= layer(coupling, (num_latents, width * pixels))
    return shapes | layer(head, (4 * channels * pixels, 2 * num_latents))


def encoder_shapes(kind, *, image_channels, num_latents, side, shrink=1):
    """Shapes of a published encoder, its widths divided by ``shrink``."""
    names, heads, widths = ENCODER_NAMES[kind]
    widths = [width // shrink for width in widths]
    shapes = {}
    for name, before, width in zip(names, [image_channels, *widths], widths, strict=False):
        shapes |= layer(name, (width, before, 3, 3))
    for name in ("mean", "log_std"):
        shapes |= layer(f"{heads}{name}", (num_latents, widths[-1] * (side // 8) ** 2))
    return shapes


def rbm_shapes(dim_v, num_hidden):
    return {"b_h": (num_hidden,), "b_v": (dim_v,), "W": (dim_v, num_hidden), "log_std": (dim_v,)}


def random_state(shapes, dtype=np.float64):
    """Arrays through which signals keep their size, with biases of that size too."""
    rng = np.random.default_rng(0)
    return {
        name: (
            rng.standard_normal(shape, dtype=dtype)
            * dtype(1.0 / math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else 4.0))
        )
        for name, shape in shapes.items()
    }


def random_inputs(image_channels, side, num_latents, dtype=np.float64):
    rng = np.random.default_rng(1)
    v = rng.uniform(size=(image_channels, side, side)).astype(dtype)
    return v, rng.standard_normal(num_latents, dtype=dtype)


def our_image(v):
    return np.moveaxis(v, 0, -1)


# The published networks again, channels first, in NumPy


def elu(x):
    return np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))


def conv(x, weight, stride=1):
    reach = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (1, 2))
    return np.tensordot(weight, windows[:, ::stride, ::stride], ((1, 2, 3), (0, 3, 4)))


def pool(x):
    return 0.25 * sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))


def published_energy(year, state, v, h):
    trunk, coupling, head = ENERGY_NAMES[year]

    def biased(name, x):
        return conv(x, state[f"{name}.weight"]) + state[f"{name}.bias"][:, None, None]

    x = biased(f"{trunk}.0.conv", v)
    for i in itertools.count(1):
        name = f"{trunk}.{i}"
        if f"{name}.conv1.conv.weight" not in state:
            break
        y = elu(conv(elu(x), state[f"{name}.conv1.conv.weight"]))
        if f"{name}.conv2.conv.conv.weight" in state:
            y = pool(biased(f"{name}.conv2.conv.conv", y))
            x = y + biased(f"{name}.conv_shortcut.conv.conv", pool(x))
        else:
            x = biased(f"{name}.conv2.conv", y) + biased(f"{name}.conv_shortcut.conv", x)
    fh = state[f"{coupling}.weight"] @ x.reshape(-1) + state[f"{coupling}.bias"]
    coupled = np.concatenate([fh + h, h])
    return np.sum(elu(state[f"{head}.weight"] @ coupled + state[f"{head}.bias"]) ** 2)


def published_moments(kind, state, v):
    names, heads, widths = ENCODER_NAMES[kind]
    for before, width, name in zip((None, *widths), widths, names, strict=False):
        stride = 1 if width == before else 2
        v = conv(v, state[f"{name}.weight"], stride) + state[f"{name}.bias"][:, None, None]
        v = np.where(v > 0.0, v, 0.2 * v)
    return [
        state[f"{heads}{name}.weight"] @ v.reshape(-1) + state[f"{heads}{name}.bias"]
        for name in ("mean", "log_std")
    ]


def assert_moments(q, phi, v, expected, **tolerances):
    d = oracles.jit(q.apply)(phi, our_image(v))
    oracles.assert_close(d.mean, expected[0], **tolerances)
    oracles.assert_close(d.log_scale, expected[1], **tolerances)


@pytest.mark.parametrize(("year", "blocks"), [(2020, 2), (2021, 3), (2021, 1)])
def test_deep_eblvm_is_the_published_one(x64, year, blocks):
    sizes = {"image_channels": 3, "side": 16, "num_latents": 4}
    state = random_state(energy_shapes(year, channels=2, blocks=blocks, **sizes))
    model, theta = interop.from_published_deep_eblvm(state)
    assert (model.trunk.blocks_per_level, model.trunk.levels) == (blocks, 3)
    v, h = random_inputs(**sizes)
    expected = published_energy(year, state, v, h)
    oracles.assert_close(oracles.jit(model.apply)(theta, our_image(v), h), expected, rtol=1e-12)
    # Upside down is another image: the order of the pixels counts.
    assert abs(published_energy(year, state, v[:, ::-1], h) / expected - 1.0) > 1e-3


@pytest.mark.parametrize("kind", ENCODER_NAMES)
def test_gaussian_posterior_is_the_published_one(x64, kind):
    sizes = {"image_channels": 3, "side": 16, "num_latents": 4}
    state = random_state(encoder_shapes(kind, shrink=16, **sizes))
    v, _ = random_inputs(**sizes)
    q, phi = interop.from_published_gaussian_posterior(state)
    assert_moments(q, phi, v, published_moments(kind, state, v), rtol=1e-11)


def test_published_mnist_networks():
    sizes = {"image_channels": 1, "side": 32, "num_latents": 50}
    v, h = random_inputs(**sizes, dtype=np.float32)
    state = random_state(energy_shapes(2020, channels=64, blocks=2, **sizes), np.float32)
    model, theta = interop.from_published_deep_eblvm(state)
    expected = published_energy(2020, state, v, h)
    oracles.assert_close(oracles.jit(model.apply)(theta, our_image(v), h), expected, rtol=1e-5)

    state = random_state(encoder_shapes("conv3", **sizes), np.float32)
    q, phi = interop.from_published_gaussian_posterior(state)
    assert_moments(q, phi, v, published_moments("conv3", state, v), rtol=1e-5, atol=1e-5)


def test_published_cifar_networks_have_the_parameters_of_ours():
    sizes = {"image_channels": 3, "side": 32, "num_latents": 50}
    shapes = energy_shapes(2021, channels=128, blocks=3, **sizes)
    model, theta = interop.from_published_deep_eblvm(
        {name: np.broadcast_to(np.float32(0.0), shape) for name, shape in shapes.items()}
    )
    v, h = jnp.zeros((32, 32, 3)), jnp.zeros(50)
    initial = jax.eval_shape(model.init, jax.random.key(0), v, h)
    assert jax.tree.map(jnp.shape, theta) == jax.tree.map(jnp.shape, initial)

    shapes = encoder_shapes("2021", **sizes)
    q, phi = interop.from_published_gaussian_posterior(
        {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    )
    initial = jax.eval_shape(q.init, jax.random.key(0), v)
    assert jax.tree.map(jnp.shape, phi) == jax.tree.map(jnp.shape, initial)


@pytest.mark.parametrize("sigma", [None, 0.3])
def test_gaussian_rbm_is_the_published_one(x64, sigma):
    state = random_state(rbm_shapes(5, 3))
    log_std = state["log_std"] if sigma is None else np.full(5, math.log(sigma))
    if sigma is not None:
        del state["log_std"]
    rbm, theta = interop.from_published_gaussian_rbm(state, sigma=sigma)
    v, h = np.arange(5.0), np.array([1.0, 0.0, 1.0])
    expected = 0.5 * np.sum((v - state["b_v"]) ** 2 * np.exp(-2.0 * log_std))
    expected -= state["b_h"] @ h + v @ state["W"] @ h
    oracles.assert_close(rbm.apply(theta, v, h), expected, rtol=1e-12)
    initial = jax.eval_shape(rbm.init, jax.random.key(0), v, h)
    assert jax.tree.structure(theta) == jax.tree.structure(initial)


@pytest.mark.parametrize("name", ["main", "param_net"])
def test_bernoulli_posterior_is_the_published_one(x64, name):
    state = random_state(layer(name, (3, 5)))
    q, phi = interop.from_published_bernoulli_posterior(state, temperature=0.4)
    v = np.arange(5.0)
    d = q.apply(phi, v)
    expected = state[f"{name}.weight"] @ v + state[f"{name}.bias"]
    oracles.assert_close(d.logits, expected, rtol=1e-12)
    assert d.temperature == 0.4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_those_of_the_file(x64, dtype):
    state = random_state(rbm_shapes(5, 3), dtype)
    _, theta = interop.from_published_gaussian_rbm(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(theta)} == {np.dtype(dtype)}


# What the files hold

ENERGY = random_state(rbm_shapes(2, 3))
POSTERIOR = random_state(layer("main", (3, 2)))


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


RUN = prefixed("model.", ENERGY) | prefixed("q.", POSTERIOR)
RUN_WITH_TRAINING = {"model": RUN, "opts": {}, "schs": {}, "best_val_loss": 0.5, "it": 10}
MODELS = {
    "it": 10,
    "best_val_loss": 0.5,
    "models_states": {"lvm": ENERGY, "q": POSTERIOR},
    "optimizers_states": {},
    "lr_schedulers_states": {},
    "ema_models_states": {
        "lvm": jax.tree.map(lambda x: -x, ENERGY),
        "q": jax.tree.map(lambda x: -x, POSTERIOR),
    },
}
BEST = dict.fromkeys(MODELS) | {"models_states": MODELS["models_states"]}


def assert_states_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert isinstance(actual[name], np.ndarray)
        np.testing.assert_array_equal(actual[name], expected[name])


DATA_PARALLEL_RUN = prefixed("module.", RUN)


@pytest.mark.parametrize(
    "source",
    [RUN, RUN_WITH_TRAINING, MODELS, BEST, DATA_PARALLEL_RUN, {"model": DATA_PARALLEL_RUN}],
)
def test_every_layout_holds_both_parts(source):
    assert_states_equal(interop.read_state_dict(source, "energy"), ENERGY)
    assert_states_equal(interop.read_state_dict(source, "posterior"), POSTERIOR)


def test_moving_averages_are_read_where_asked_for():
    for part, state in (("energy", ENERGY), ("posterior", POSTERIOR)):
        averaged = interop.read_state_dict(MODELS, part, averaged=True)
        assert_states_equal(averaged, {name: -value for name, value in state.items()})


def test_a_module_alone_is_read_whole():
    assert_states_equal(interop.read_state_dict(POSTERIOR, "posterior"), POSTERIOR)


@pytest.mark.parametrize(
    ("source", "part", "options", "error", "match"),
    [
        (RUN, "model", {}, ValueError, "part must be one of 'energy', 'posterior', got 'model'"),
        (3, "energy", {}, TypeError, "source must be str or PathLike or Mapping, got int"),
        ({}, "energy", {}, ValueError, "source must hold arrays, got none"),
        ({0: ENERGY["W"]}, "energy", {}, ValueError, "source must hold a state dict"),
        ({"epoch": 3}, "energy", {}, TypeError, r"source\['epoch'\] must be an array, got int"),
        (
            prefixed("model.", ENERGY),
            "posterior",
            {},
            ValueError,
            r"source holds no posterior: 'q' is not among \['model'\]",
        ),
        (
            {"models_states": {"lvm": ENERGY}},
            "posterior",
            {},
            ValueError,
            r"source holds no posterior: 'q' is not among \['lvm'\]",
        ),
        (RUN, "energy", {"averaged": True}, ValueError, "averaged must be False"),
        (BEST, "energy", {"averaged": True}, ValueError, "nothing at 'ema_models_states'"),
    ],
)
def test_files_that_hold_something_else_are_refused(source, part, options, error, match):
    with pytest.raises(error, match=match):
        interop.read_state_dict(source, part, **options)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


def deep(**changes):
    sizes = {"image_channels": 1, "channels": 2, "blocks": 2, "num_latents": 3, "side": 8}
    shapes = energy_shapes(2020, **sizes) | changes
    return {name: np.zeros(shape) for name, shape in shapes.items()}


def gaussian(**changes):
    shapes = encoder_shapes("conv3", image_channels=1, num_latents=3, side=8, shrink=32) | changes
    return {name: np.zeros(shape) for name, shape in shapes.items()}


TRUNK = ENERGY_NAMES[2020][0]


@pytest.mark.parametrize(
    ("read", "state", "error", "match"),
    [
        ("gaussian_rbm", [], TypeError, "state must be Mapping, got list"),
        ("gaussian_rbm", {0: ENERGY["W"]}, TypeError, "a name in state must be str, got int"),
        ("gaussian_rbm", without(ENERGY, "log_std"), ValueError, "sigma must be given"),
        ("gaussian_rbm", without(ENERGY, "b_h"), ValueError, "state lacks 'b_h'"),
        ("gaussian_rbm", prefixed("net.", ENERGY), ValueError, "state lacks 'W'; .* is 'net.b_h',"),
        ("gaussian_rbm", ENERGY | {"c": np.zeros(1)}, ValueError, "no Gaussian RBM has: 'c'"),
        ("gaussian_rbm", ENERGY | {"W": np.zeros(3)}, ValueError, r"state\['W'\] must have shape"),
        (
            "gaussian_rbm",
            ENERGY | {"b_v": np.zeros(3)},
            ValueError,
            r"state\['b_v'\] must have shape \(2\), got \(3,\)",
        ),
        ("gaussian_rbm", ENERGY | {"W": {}}, TypeError, r"state\['W'\] must be an array, got dict"),
        (
            "gaussian_rbm",
            ENERGY | {"W": np.zeros((2, 3), int)},
            TypeError,
            r"state\['W'\] must have a floating dtype",
        ),
        (
            "gaussian_rbm",
            ENERGY | {"module.W": ENERGY["W"]},
            ValueError,
            "state has 'W' twice, with and without 'module'",
        ),
        ("bernoulli_posterior", ENERGY, ValueError, "a published linear Bernoulli posterior, got"),
        (
            "bernoulli_posterior",
            without(POSTERIOR, "main.bias"),
            ValueError,
            "state lacks 'main.bias'; what is left of it is nothing",
        ),
        (
            "bernoulli_posterior",
            POSTERIOR | {"mean.weight": POSTERIOR["main.weight"]},
            ValueError,
            "no linear Bernoulli posterior has: 'mean.weight'",
        ),
        ("deep_eblvm", ENERGY, ValueError, "a published deep EBLVM, got 'b_h', 'b_v', 'W'"),
        ("deep_eblvm", without(deep(), "f2h.weight"), ValueError, "state lacks 'f2h.weight'"),
        ("deep_eblvm", deep(extra=(1,)), ValueError, "no deep EBLVM has: 'extra'"),
        (
            "deep_eblvm",
            deep(**{f"{TRUNK}.2.conv1.conv.weight": (4, 4, 5, 5)}),
            ValueError,
            r"2.conv1.conv.weight'\] must have shape \(4, 4, 3, 3\), got \(4, 4, 5, 5\)",
        ),
        (
            "deep_eblvm",
            {name: value for name, value in deep().items() if f"{TRUNK}.6." not in name},
            ValueError,
            r"got 5, of which \[1, 3, 5\] do",
        ),
        (
            "deep_eblvm",
            deep(**{"f2h.weight": (3, 32)}),
            ValueError,
            r"f2h.weight'\] must have 16 s² columns.*got shape \(3, 32\)",
        ),
        (
            "deep_eblvm",
            deep(**{"cp2e.linear.weight": (8, 7)}),
            ValueError,
            r"cp2e.linear.weight'\] must have shape \(\*, 6\), got \(8, 7\)",
        ),
        ("gaussian_posterior", POSTERIOR, ValueError, "convolutional Gaussian posterior, got"),
        (
            "gaussian_posterior",
            gaussian(**{"conv4.weight": (8, 8, 3, 3)}),
            ValueError,
            "state lacks 'conv4.bias'",
        ),
        (
            "gaussian_posterior",
            gaussian(**{"log_std.weight": (4, 8), "log_std.bias": (4,)}),
            ValueError,
            r"'log_std.weight'\] must have the shape of 'mean.weight', \(3, 8\), got \(4, 8\)",
        ),
        ("gaussian_posterior", gaussian(extra=(1,)), ValueError, "has: 'extra'"),
    ],
)
def test_every_array_is_used_once_or_named(read, state, error, match):
    with pytest.raises(error, match=match):
        getattr(interop, f"from_published_{read}")(state)


def test_bad_options_name_the_argument():
    with pytest.raises(ValueError, match="sigma must be None, since state holds the learned one"):
        interop.from_published_gaussian_rbm(ENERGY, sigma=0.3)
    with pytest.raises(ValueError, match="sigma must be a number > 0"):
        interop.from_published_gaussian_rbm(without(ENERGY, "log_std"), sigma=0.0)
    with pytest.raises(ValueError, match="temperature must be a number > 0"):
        interop.from_published_bernoulli_posterior(POSTERIOR, temperature=0.0)


def test_reading_a_file_without_pytorch_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(FileNotFoundError, match=r"run\.pth"):
        interop.read_state_dict(tmp_path / "run.pth", "energy")
    (tmp_path / "run.pth").touch()
    with pytest.raises(ModuleNotFoundError, match=r'needs torch: pip install "\.\[torch\]"'):
        interop.read_state_dict(tmp_path / "run.pth", "energy")


# The same with PyTorch: its names, its files, its derivatives


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def torch_energy(torch, year, *, image_channels, channels, blocks, num_latents, side):
    """The published energy as a PyTorch module that is called with batches of v and h."""
    nn = torch.nn

    def named(**modules):
        return nn.Sequential(collections.OrderedDict(modules))

    def convolution(before, after, size, **options):
        return named(conv=nn.Conv2d(before, after, size, padding=size // 2, **options))

    class Block(nn.Module):
        def __init__(self, before, after, halves):
            super().__init__()
            self.conv1 = convolution(before, before, 3, bias=False)
            self.conv2 = convolution(before, after, 3)
            self.conv_shortcut = convolution(before, after, 1)
            if halves:
                self.conv2 = named(conv=self.conv2, pool=nn.AvgPool2d(2))
                self.conv_shortcut = named(pool=nn.AvgPool2d(2), conv=self.conv_shortcut)

        def forward(self, x):
            y = self.conv1(nn.functional.elu(x))
            return self.conv2(nn.functional.elu(y)) + self.conv_shortcut(x)

    layers = [convolution(image_channels, channels, 3)]
    width = channels
    for i in range(3 * blocks):
        halves = i % blocks == 0
        layers.append(Block(width, 2 * width if halves else width, halves))
        width = 2 * width if halves else width
    pixels = (side // 8) ** 2
    trunk = nn.Sequential(*layers)
    coupling = nn.Linear(width * pixels, num_latents)
    head = named(linear=nn.Linear(2 * num_latents, 4 * channels * pixels))

    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            if year == 2020:
                self.v2f = nn.DataParallel(named(feature=trunk))
                self.f2h, self.cp2e = coupling, head
            else:
                self.feature_net = nn.DataParallel(named(down=trunk))
                self.linear, self.scalar_net = coupling, nn.DataParallel(head)

        def forward(self, v, h):
            coupled = torch.cat([coupling(trunk(v).flatten(1)) + h, h], dim=-1)
            return nn.functional.elu(head(coupled)).pow(2).sum(-1)

    return Energy()


def torch_posterior(torch, kind, *, image_channels, num_latents, side):
    """The published encoder as a PyTorch module that returns mean and log standard deviation."""
    nn = torch.nn
    _, _, widths = ENCODER_NAMES[kind]
    convolutions = [
        nn.Conv2d(before, after, 3, stride=1 if before == after else 2, padding=1)
        for before, after in itertools.pairwise([image_channels, *widths])
    ]

    class Moments(nn.Module):
        def __init__(self):
            super().__init__()
            if kind == "conv3":
                self.conv1, self.conv2, self.conv3 = convolutions
            else:
                between = [nn.Sequential(c, nn.LeakyReLU(0.2)) for c in convolutions]
                layers = nn.Sequential(*itertools.chain(*between))
                if kind == "conv5":
                    self.feature_net = layers
                else:
                    self.main = nn.Sequential(collections.OrderedDict(net=layers))
            size = widths[-1] * (side // 8) ** 2
            self.mean, self.log_std = (nn.Linear(size, num_latents) for _ in range(2))

        def forward(self, v):
            for layer in convolutions:
                v = nn.functional.leaky_relu(layer(v), 0.2)
            return self.mean(v.flatten(1)), self.log_std(v.flatten(1))

    if kind != "2021":
        return Moments()
    return nn.Sequential(collections.OrderedDict(param_net=Moments()))


@pytest.mark.parametrize(("channels", "blocks"), [(64, 2), (128, 3)])
@pytest.mark.parametrize(("year", "kind"), [(2020, "conv3"), (2020, "conv5"), (2021, "2021")])
def test_names_and_shapes_are_those_of_pytorch(torch, year, kind, channels, blocks):
    sizes = {"image_channels": 3, "side": 32, "num_latents": 50}
    with torch.device("meta"):
        energy = torch_energy(torch, year, channels=channels, blocks=blocks, **sizes)
        posterior = torch_posterior(torch, kind, **sizes)
    for module, shapes in (
        (energy, energy_shapes(year, channels=channels, blocks=blocks, **sizes)),
        (posterior, encoder_shapes(kind, **sizes)),
    ):
        assert {name: tuple(x.shape) for name, x in module.state_dict().items()} == shapes


@pytest.mark.parametrize(("year", "kind"), [(2020, "conv3"), (2020, "conv5"), (2021, "2021")])
@pytest.mark.parametrize("zipped", [False, True])
def test_files_of_pytorch_give_its_energies_and_derivatives(
    x64, torch, tmp_path, year, kind, zipped
):
    sizes = {"image_channels": 3, "side": 16, "num_latents": 4}
    states = {
        "model": random_state(energy_shapes(year, channels=2, blocks=2, **sizes)),
        "q": random_state(encoder_shapes(kind, **sizes)),
    }
    energy = torch_energy(torch, year, channels=2, blocks=2, **sizes).double()
    posterior = torch_posterior(torch, kind, **sizes).double()
    for name, module in (("model", energy), ("q", posterior)):
        module.load_state_dict({k: torch.from_numpy(x) for k, x in states[name].items()})
    if year == 2020:
        run = torch.nn.ModuleDict({"model": energy, "q": posterior}).state_dict()
        content = {**RUN_WITH_TRAINING, "model": run, "best_val_loss": torch.tensor(0.5)}
    else:
        models = {"lvm": energy.state_dict(), "q": posterior.state_dict()}
        content = {**BEST, "models_states": models}
    path = tmp_path / "10.ckpt.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)

    v, h = random_inputs(**sizes)
    torch_v, torch_h = (torch.from_numpy(x[None]).requires_grad_() for x in (v, h))
    expected = energy(torch_v, torch_h)
    expected.sum().backward()
    model, theta = interop.from_published_deep_eblvm(interop.read_state_dict(path, "energy"))
    gradients = jax.value_and_grad(model.apply, argnums=(1, 2))
    value, (by_v, by_h) = oracles.jit(gradients)(theta, our_image(v), h)
    oracles.assert_close(value, expected.detach().numpy()[0], rtol=1e-11)
    oracles.assert_close(by_v, our_image(torch_v.grad.numpy()[0]), rtol=1e-8, atol=1e-10)
    oracles.assert_close(by_h, torch_h.grad.numpy()[0], rtol=1e-10)

    q, phi = interop.from_published_gaussian_posterior(interop.read_state_dict(path, "posterior"))
    moments = [x.detach().numpy()[0] for x in posterior(torch_v)]
    assert_moments(q, phi, v, moments, rtol=1e-10, atol=1e-12)


def test_tensors_of_a_live_model_are_copied(x64, torch):
    state = {name: torch.from_numpy(x.copy()).requires_grad_() for name, x in ENERGY.items()}
    _, theta = interop.from_published_gaussian_rbm(state)
    with torch.no_grad():
        state["W"].zero_()
    np.testing.assert_array_equal(theta["params"]["weights"], ENERGY["W"])


@pytest.mark.parametrize(
    "write",
    [
        lambda torch, path: path.write_bytes(b""),
        lambda torch, path: path.write_text("no checkpoint"),
        lambda torch, path: path.write_bytes(b"PK\x03\x04 no zip file"),
        lambda torch, path: torch.save(torch.nn.Linear(2, 3), path),
        lambda torch, path: torch.save(torch.zeros(3), path),
        lambda torch, path: torch.save([1, 2], path),
    ],
    ids=["empty", "text", "no_zip", "whole_module", "tensor", "list"],
)
def test_files_without_a_state_dict_are_refused(torch, tmp_path, write):
    write(torch, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="source must"):
        interop.read_state_dict(tmp_path / "file.pth", "energy")
