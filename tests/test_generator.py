"""Decoders and spectral normalisation: second implementations, shapes, bad input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbism import energies, networks
from tests import oracles

LATENT = jnp.array([0.3, -0.8, 1.2])


def layer(implementation):
    up = networks.UpConv3x3(features=4, implementation=implementation)
    x = jax.random.normal(jax.random.key(0), (3, 5, 2), jnp.float64)
    theta = oracles.to_float64(up.init(jax.random.key(1), x))
    return up, oracles.perturbed(jax.random.key(2), theta, 0.2), x


@pytest.mark.parametrize("implementation", ["lax", "auto"])
def test_upsampling_layer_equals_repetition_and_flax(x64, implementation):
    """In value and in both gradients."""
    up, theta, x = layer(implementation)
    reference = nn.Conv(4, (3, 3), padding=1)

    def repeated(theta, x):
        x = jnp.repeat(jnp.repeat(x, 2, axis=0), 2, axis=1)
        return reference.apply(theta, x[None])[0]

    assert up.apply(theta, x).shape == (6, 10, 4)

    def everything(function):
        def value(theta, x):
            y = function(theta, x)
            return jnp.sum(jnp.tanh(y) ** 2), y

        return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)

    found, expected = (oracles.jit(everything(f))(theta, x) for f in (up.apply, repeated))
    oracles.assert_trees_close(found, expected, rtol=1e-11, atol=1e-11)


def test_both_implementations_have_one_parameter_layout():
    x = jnp.zeros((3, 5, 2))
    shapes = [
        jax.tree.map(
            jnp.shape, jax.eval_shape(networks.UpConv3x3(4, name).init, jax.random.key(0), x)
        )
        for name in ("lax", "auto")
    ]
    assert shapes[0] == shapes[1] == {"params": {"kernel": (3, 3, 2, 4), "bias": (4,)}}


def test_the_large_image_is_never_made_on_a_cpu():
    x = jnp.zeros((4, 4, 1))
    net = networks.UpConv3x3(1)
    primitives = str(jax.make_jaxpr(net.apply)(net.init(jax.random.key(0), x), x))
    assert ("conv_general_dilated" in primitives) == (jax.default_backend() != "cpu")


DECODERS = {
    "mlp": (networks.MLPDecoder((2,), (4,)), (2,)),
    "linear": (networks.MLPDecoder((3, 2, 1), ()), (3, 2, 1)),
    "conv": (networks.ConvDecoder((8, 12, 3), (4, 3, 2)), (8, 12, 3)),
    "conv_of_one_level": (networks.ConvDecoder((3, 5, 1), (4,)), (3, 5, 1)),
    "published": (networks.ConvDecoder((32, 32, 3), (32, 32, 16, 8)), (32, 32, 3)),
}


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_return_one_visible(name):
    net, shape = DECODERS[name]
    v, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), LATENT)
    assert v.shape == shape
    assert v.dtype == jnp.float32


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_every_latent_and_parameter_counts(name):
    net, shape = DECODERS[name]
    phi = oracles.jit(net.init)(jax.random.key(0), LATENT)
    direction = jax.random.normal(jax.random.key(1), shape)
    gradients = oracles.jit(jax.grad(lambda phi, h: jnp.sum(net.apply(phi, h) * direction), (0, 1)))
    found = gradients(phi, LATENT)
    assert all(np.all(np.any(g != 0)) for g in jax.tree.leaves(found))
    assert np.all(found[1] != 0)


def test_mlp_decoder_by_hand(x64):
    net = networks.MLPDecoder((2, 1), (4,), output_activation=nn.sigmoid)
    phi = oracles.to_float64(net.init(jax.random.key(0), LATENT))
    p = phi["params"]
    h = LATENT.astype(jnp.float64)
    hidden = nn.elu(h @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
    expected = nn.sigmoid(hidden @ p["output"]["kernel"] + p["output"]["bias"]).reshape(2, 1)
    oracles.assert_close(net.apply(phi, h), expected, rtol=1e-12)


def test_conv_decoder_by_hand(x64):
    """With two levels, by its own layers."""
    net = networks.ConvDecoder((4, 6, 2), (3, 5), output_activation=jnp.tanh)
    phi = oracles.to_float64(net.init(jax.random.key(0), LATENT))
    p = phi["params"]
    h = LATENT.astype(jnp.float64)
    x = nn.elu(h @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]).reshape(2, 3, 3)
    x = nn.elu(networks.UpConv3x3(5).apply({"params": p["UpConv3x3_0"]}, x))
    x = jnp.tanh(networks.Conv3x3(2).apply({"params": p["output"]}, x))
    oracles.assert_close(net.apply(phi, h), x, rtol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_bfloat16_decoders_keep_their_error_budget(name):
    net, _ = DECODERS[name]
    phi = net.init(jax.random.key(0), LATENT)
    exact, short = (
        net.clone(dtype=d, output_activation=nn.sigmoid).apply(phi, LATENT)
        for d in (None, jnp.bfloat16)
    )
    assert short.dtype == jnp.float32
    assert 1e-5 < float(jnp.max(jnp.abs(short - exact))) < 0.02


@pytest.mark.parametrize(
    ("net", "h", "error", "match"),
    [
        (networks.MLPDecoder((2, 0)), LATENT, ValueError, "shape must be an integer >= 1"),
        (networks.MLPDecoder((2,)), jnp.ones(3, int), TypeError, "h must have a floating dtype"),
        (networks.ConvDecoder((6, 8, 1)), LATENT, ValueError, "shape must be .* that 4 divides"),
        (networks.ConvDecoder((8, 8)), LATENT, ValueError, "shape must be .*height, width, chan"),
        (
            networks.ConvDecoder((8, 8, 1), ()),
            LATENT,
            ValueError,
            "features must hold a number of channels, got none",
        ),
        (
            networks.ConvDecoder((8, 8, 1), implementation="fft"),
            LATENT,
            ValueError,
            "implementation",
        ),
        (networks.UpConv3x3(0), jnp.zeros((4, 4, 1)), ValueError, "features must be"),
        (networks.UpConv3x3(2), jnp.zeros((4, 4)), ValueError, "x must have rank 3"),
        (networks.SpectralNorm(networks.MLP(), 0), LATENT, ValueError, "num_steps must be"),
    ],
)
def test_bad_input_names_the_argument(net, h, error, match):
    with pytest.raises(error, match=match):
        jax.eval_shape(net.init, jax.random.key(0), h)


# Spectral normalisation


def normalized(num_steps):
    module = energies.MarginalEnergy(networks.ConvEncoder((3, 4)), head="linear")
    net = networks.SpectralNorm(module, num_steps)
    v = jax.random.normal(jax.random.key(0), (8, 8, 2), jnp.float64)
    theta = oracles.to_float64(net.init(jax.random.key(1), v))
    params = oracles.perturbed(jax.random.key(2), theta["params"], 0.5)
    return net, module, theta | {"params": params}, v


def matrix(x):
    return x.reshape(-1, x.shape[-1])


def test_spectral_norm_divides_every_kernel_by_its_largest_singular_value(x64):
    """And is differentiable as that quotient is; iterations start at the singular vectors."""
    net, module, theta, v = normalized(num_steps=2)
    kernels = {
        "/".join([*(part.key for part in path), "u"]): x
        for path, x in jax.tree_util.tree_leaves_with_path(theta["params"])
        if x.ndim > 1
    }
    (vectors,) = theta["batch_stats"].values()
    assert {name for name in vectors if name.endswith("/u")} == set(kernels)
    for name, x in kernels.items():
        vectors[name] = jnp.linalg.svd(matrix(x), full_matrices=False)[2][:1]

    def divide(x):
        return x / jnp.linalg.norm(matrix(x), ord=2) if x.ndim > 1 else x

    def expected(theta, v):
        return module.apply({"params": jax.tree.map(divide, theta["params"])["module"]}, v)

    found, second = (
        oracles.jit(jax.value_and_grad(f, argnums=(0, 1)))(theta, v) for f in (net.apply, expected)
    )
    oracles.assert_close(found[0], second[0], rtol=1e-12)
    oracles.assert_trees_close(found[1], second[1], rtol=1e-9, atol=1e-12)
    # The vectors lie among the parameters, and no gradient moves them.
    still = jax.tree.leaves(found[1][0]["batch_stats"])
    assert len(still) == 2 * len(kernels) == 6
    assert all(jnp.all(leaf == 0.0) for leaf in still)


def test_default_iterations_come_close_to_the_largest_singular_value():
    """Of kernels drawn as for training, whose singular values lie close together."""
    net = networks.SpectralNorm(nn.Dense(64, use_bias=False))
    theta = net.init(jax.random.key(0), jnp.zeros(128))
    normalized = oracles.jit(jax.jacobian(lambda x: net.apply(theta, x)))(jnp.zeros(128))
    assert 1.0 <= np.linalg.norm(normalized, ord=2) < 1.08


def test_spectral_norm_does_not_depend_on_scales_nor_on_the_batch(x64):
    net, _, theta, v = normalized(num_steps=3)
    scaled = jax.tree.map(lambda x: 7.0 * x if x.ndim > 1 else x, theta["params"])
    batch = jnp.stack([v, -v])
    values = [
        oracles.jit(jax.vmap(net.apply, (None, 0)))(theta | {"params": params}, batch)
        for params in (theta["params"], scaled)
    ]
    oracles.assert_close(*values, rtol=1e-12)
    oracles.assert_close(values[0][0], net.apply(theta, v), rtol=1e-12)
