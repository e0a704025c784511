"""Trunks: both convolutions agree with each other and with Flax; shapes are as documented."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import energies, networks
from tests import oracles

IMPLEMENTATIONS = ("lax", "auto")


def convolution(implementation, **options):
    conv = networks.Conv3x3(features=4, implementation=implementation, **options)
    x = jax.random.normal(jax.random.key(0), (5, 6, 3), jnp.float64)
    theta = oracles.to_float64(conv.init(jax.random.key(1), x))
    return conv, oracles.perturbed(jax.random.key(2), theta, 0.2), x


def value(conv, theta, x):
    return jnp.sum(jnp.tanh(conv.apply(theta, x)) ** 2)


def gradient(conv, theta, x):
    return jax.grad(value, argnums=(1, 2))(conv, theta, x)


def second_order(conv, theta, x):
    def gradient_norm(theta, x):
        return oracles.tree_dot(*[gradient(conv, theta, x)] * 2)

    return jax.grad(gradient_norm, argnums=(0, 1))(theta, x)


def scanned(conv, theta, x):
    def loss(theta):
        def step(x, _):
            return x - 0.1 * jax.grad(value, argnums=2)(conv, theta, x), None

        return jnp.sum(jax.lax.scan(step, x, length=3)[0] ** 2)

    return jax.value_and_grad(loss)(theta)


@pytest.mark.parametrize(
    "function",
    [lambda conv, theta, x: conv.apply(theta, x), gradient, second_order, scanned],
    ids=["value", "gradient", "second_order", "scanned"],
)
def test_implementations_agree(x64, function):
    lax, auto = (
        oracles.jit(lambda theta, x, conv=conv: function(conv, theta, x))(theta, x)
        for conv, theta, x in map(convolution, IMPLEMENTATIONS)
    )
    oracles.assert_trees_close(auto, lax, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("stride", "use_bias"), [(1, True), (2, True), (3, False)])
def test_convolution_equals_flax(x64, implementation, stride, use_bias):
    conv, theta, x = convolution(implementation, stride=stride, use_bias=use_bias)
    reference = nn.Conv(4, (3, 3), strides=stride, padding=1, use_bias=use_bias)
    oracles.assert_close(
        conv.apply(theta, x), reference.apply(theta, x[None])[0], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_convolution_has_the_parameters_of_flax(implementation, use_bias):
    conv = networks.Conv3x3(features=4, implementation=implementation, use_bias=use_bias)
    x = jnp.zeros((5, 6, 3))
    flax_conv = nn.Conv(4, (3, 3), use_bias=use_bias)
    reference = jax.eval_shape(flax_conv.init, jax.random.key(0), x[None])
    chosen = jax.eval_shape(conv.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, chosen) == jax.tree.map(jnp.shape, reference)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("use_bias", [True, False])
def test_convolutions_promote_as_dense_layers_do(implementation, stride, use_bias):
    conv = networks.Conv3x3(2, implementation, stride, use_bias)
    x = (10 * jax.random.uniform(jax.random.key(0), (5, 4, 3))).astype(jnp.uint8)
    theta = conv.init(jax.random.key(1), x)
    exact = conv.apply(theta, x.astype(jnp.float32))
    for given in (x, x.astype(jnp.bfloat16)):
        y = conv.apply(theta, given)
        assert y.dtype == jnp.float32
        np.testing.assert_array_equal(y, exact)
    short = conv.clone(dtype=jnp.bfloat16).apply(theta, x)
    assert short.dtype == jnp.bfloat16
    oracles.assert_close(short.astype(np.float32), exact, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_pooled_convolution_is_a_mean_of_two_by_two(x64, implementation):
    conv, theta, _ = convolution(implementation)
    conv = conv.clone(pool=True)
    x = jax.random.normal(jax.random.key(3), (6, 8, 3), jnp.float64)

    def pooled(function):
        def value(theta, x):
            y = function(theta, x)
            return jnp.sum(jnp.tanh(y) ** 2), y

        return oracles.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(theta, x)

    def reference(theta, x):
        y = nn.Conv(4, (3, 3), padding=1).apply(theta, x[None])
        return nn.avg_pool(y, (2, 2), (2, 2))[0]

    oracles.assert_trees_close(pooled(conv.apply), pooled(reference), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("net", "shape", "size"),
    [
        (networks.MLP(features=(7, 5)), (3, 2), 5),
        (networks.MLP(features=(6, 6), residual=True), (6,), 6),
        (networks.ConvEncoder(features=(2, 3)), (8, 12, 1), 2 * 3 * 3),
        (networks.ResidualConvNet(channels=2, blocks_per_level=1), (16, 24, 3), 2 * 3 * 8),
        (networks.ResidualConvNet(channels=3, blocks_per_level=2, levels=1), (4, 4, 1), 2 * 2 * 3),
        (networks.ConvEncoder(features=(2, 3, 3), strides=(2, 1, 2)), (8, 10, 1), 2 * 3 * 3),
        (
            networks.ResidualConvNet(2, blocks_per_level=2, levels=2, variant="published"),
            (8, 12, 3),
            2 * 3 * 8,
        ),
    ],
    ids=[
        "mlp",
        "residual_mlp",
        "conv_encoder",
        "residual_three_levels",
        "residual_one_level",
        "strided_encoder",
        "published_residual",
    ],
)
def test_trunks_return_a_vector(net, shape, size):
    v = jax.ShapeDtypeStruct(shape, jnp.float32)
    features, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), v)
    assert features.shape == (size,)


@pytest.mark.parametrize(
    "net",
    [
        networks.ConvEncoder(features=(2,)),
        networks.ResidualConvNet(channels=2, blocks_per_level=1, levels=1),
        networks.ConvEncoder(features=(2,), strides=(2,)),
        networks.ResidualConvNet(2, blocks_per_level=1, levels=1, variant="published"),
    ],
    ids=["conv_encoder", "residual", "strided_encoder", "published_residual"],
)
def test_every_pixel_counts(net):
    v = jax.random.normal(jax.random.key(0), (4, 6, 1))

    def output(v):
        return jnp.sum(net.init_with_output(jax.random.key(1), v)[0] ** 2)

    assert jnp.all(oracles.jit(jax.grad(output))(v) != 0.0)


def test_average_pooling_is_a_mean_of_two_by_two(x64):
    """With an identity kernel and no nonlinearity one level of the encoder is the pooling."""
    v = jax.random.normal(jax.random.key(0), (4, 6, 1), jnp.float64)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    theta = {"params": {"Conv3x3_0": {"kernel": kernel, "bias": jnp.zeros(1)}}}
    pooled = networks.ConvEncoder(features=(1,), activation=lambda x: x).apply(theta, v)
    expected = [v[i : i + 2, j : j + 2, 0].mean() for i in (0, 2) for j in (0, 2, 4)]
    oracles.assert_close(pooled, expected, rtol=1e-14)


def test_residual_mlp_adds_its_input_where_widths_agree(x64):
    x = jnp.array([0.3, -0.8, 1.2])
    plain, residual = (networks.MLP(features=(3, 2), residual=r) for r in (False, True))
    theta = oracles.to_float64(plain.init(jax.random.key(0), x))
    p = theta["params"]
    hidden = x + nn.elu(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
    expected = nn.elu(hidden @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"])
    oracles.assert_close(residual.apply(theta, x), expected, rtol=1e-12)
    assert not np.allclose(plain.apply(theta, x), expected)


@pytest.mark.parametrize(
    ("net", "shape", "match"),
    [
        (
            networks.ConvEncoder(features=(2, 2)),
            (6, 8, 1),
            r"v .* 4 divides, got shape \(6, 8, 1\)",
        ),
        (
            networks.ResidualConvNet(channels=2, levels=2),
            (4, 6, 1),
            r"v .* 4 divides, got .*6, 1\)",
        ),
        (networks.ConvEncoder(), (8, 8), r"v must be one image .* an example, got shape \(8, 8\)"),
        (networks.ResidualConvNet(), (2, 8, 8, 1), "v must be one image"),
        (networks.ResidualConvNet(levels=0), (8, 8, 1), "levels must be"),
        (networks.ResidualConvNet(channels=0), (8, 8, 1), "channels must be"),
        (networks.ResidualConvNet(blocks_per_level=0), (8, 8, 1), "blocks_per_level must be"),
        (networks.ResidualConvNet(variant="wide"), (8, 8, 1), "variant must be one of"),
        (networks.ConvEncoder((2, 2), strides=(2,)), (8, 8, 1), "strides must have one entry"),
        (networks.ConvEncoder((2, 2), strides=(2, 0)), (8, 8, 1), "stride must be"),
        (networks.Conv3x3(2, implementation="fft"), (8, 8, 1), "implementation must be one of"),
        (networks.Conv3x3(2), (8, 8), "x must have rank 3"),
        (networks.Conv3x3(2, pool=True), (8, 7, 1), "height and width must be even"),
        (networks.Conv3x3(2, stride=2, pool=True), (8, 8, 1), "pool=True needs stride 1, got 2"),
        (networks.Conv3x3(0), (8, 8, 1), "features must be"),
    ],
)
def test_bad_input_names_the_argument(net, shape, match):
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    "net", [networks.MLP((4,)), networks.ConvEncoder((2,)), networks.ResidualConvNet(2, 1, 1)]
)
def test_integers_are_refused_rather_than_cut_off_as_features(net):
    with pytest.raises(TypeError, match="v must have a floating dtype, got uint8"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((8, 8, 1), jnp.uint8))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (networks.ResidualConvNet(channels=8, levels=2), (16, 16, 1)),
        (networks.ResidualConvNet(channels=8, levels=2, variant="published"), (16, 16, 1)),
        (networks.ConvEncoder(features=(16, 16)), (16, 16, 1)),
        (networks.MLP(features=(64, 64), residual=True), (20,)),
    ],
)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_trunks_keep_their_error_budget(net, shape, implementation):
    """Energy within 1 %, its score within 3 %, parameters and what goes in and out float32."""
    if hasattr(net, "implementation"):
        net = net.clone(implementation=implementation)
    elif implementation == "lax":
        pytest.skip("has no convolutions")
    v = jax.random.normal(jax.random.key(0), shape)
    h = jax.random.normal(jax.random.key(1), (5,))
    model = energies.DeepEBLVM(num_latents=5, trunk=net)
    theta = model.init(jax.random.key(2), v, h)
    found = {}
    for dtype in (None, jnp.bfloat16):
        model = energies.DeepEBLVM(num_latents=5, trunk=net.clone(dtype=dtype))
        assert jax.tree.map(jnp.shape, model.init(jax.random.key(2), v, h)) == jax.tree.map(
            jnp.shape, theta
        )
        trunk = net.clone(dtype=dtype)
        assert trunk.init_with_output(jax.random.key(3), v)[0].dtype == v.dtype
        found[dtype] = jax.value_and_grad(model.apply, 1)(theta, v, h)
    (energy, score), (short_energy, short_score) = found[None], found[jnp.bfloat16]
    assert short_energy.dtype == short_score.dtype == jnp.float32
    errors = abs(short_energy / energy - 1), oracles.tree_distance(score, short_score)
    assert 0 < errors[0] < 0.01
    assert 1e-4 < errors[1] < 0.03
