"""Second opinions for the tests: enumeration, quadrature, dense Gaussians, finite differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from jbism import energies, networks

# Tests run a program a few times: quick compilation matters more than quick code.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# NaN is not close to NaN.
assert_close = functools.partial(np.testing.assert_allclose, equal_nan=False)

# For what runs long enough to be worth compiling well, unlike the rest of the suite.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def to_float64(tree):
    """The floating leaves of a tree in double precision; needs x64."""
    return jax.tree.map(lambda x: x.astype(jnp.float64), tree)


def perturbed(key, tree, scale):
    """A tree plus scale · N(0, 1) in every entry, each leaf from its own key."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + scale * jax.random.normal(k, leaf.shape, leaf.dtype)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def gaussian_rbm(key, dim_v, num_hidden, *, scale=0.5):
    """A GRBM all of whose parameters, σ included, are away from their initial values."""
    model = energies.GaussianRBM(num_hidden=num_hidden)
    theta = jit(model.init)(key, jnp.zeros(dim_v), jnp.zeros(num_hidden))
    return model, perturbed(key, to_float64(theta), scale)


def linear_gaussian(key, dim_v, num_latents, *, scale=0.15):
    """A LinearGaussian with dense A, B, C and non-zero biases; Λ stays positive definite."""
    model = energies.LinearGaussian(num_latents=num_latents)
    theta = jit(model.init)(key, jnp.zeros(dim_v), jnp.zeros(num_latents))
    theta = perturbed(key, to_float64(theta), scale)
    precision, _ = joint_gaussian(theta)
    assert np.linalg.eigvalsh(precision).min() > 0.05
    return model, theta


def linear_decoder(key, dim_v, num_latents, *, scale):
    """A GaussianDecoder with G(h) = W h + b, φ of its exact posterior, mean and covariance of v.

    φ is that of ``posteriors.Gaussian(num_latents, covariance="full")``, and
    p(v) = N(b, W Wᵀ + σ² I).
    """
    decoder = networks.MLPDecoder(shape=(dim_v,), features=())
    model = energies.GaussianDecoder(num_latents, decoder, scale)
    theta = jit(model.init)(key, jnp.zeros(dim_v), jnp.zeros(num_latents))
    theta = perturbed(key, to_float64(theta), 0.5)
    output = theta["params"]["decoder"]["output"]
    w, b = output["kernel"].T, output["bias"]
    covariance = jnp.linalg.inv(jnp.eye(num_latents) + w.T @ w / scale**2)
    gain = covariance @ w.T / scale**2
    phi = exact_phi_gaussian(gain.T, -gain @ b, covariance)
    return model, theta, phi, (b, w @ w.T + scale**2 * jnp.eye(dim_v))


def joint_gaussian(theta):
    """(K, f) with -E(x) = -½xᵀKx + fᵀx, x = [v; h], from the raw parameters of LinearGaussian."""
    p = jax.tree.map(np.asarray, theta["params"])

    def from_cholesky(raw):
        tril = np.tril(raw, -1) + np.diag(np.exp(np.diag(raw)))
        return tril @ tril.T

    a, c, b = (
        from_cholesky(p["visible_cholesky"]),
        from_cholesky(p["latent_cholesky"]),
        p["coupling"],
    )
    return np.block([[a, -b], [-b.T, c]]), np.concatenate([p["visible_bias"], p["latent_bias"]])


def binary_states(n):
    """All of {0, 1}^n, [2^n, n]."""
    return jnp.array(list(itertools.product([0.0, 1.0], repeat=n)))


def sign_vectors(n):
    """All of {-1, 1}^n, [2^n, n]."""
    return 2.0 * binary_states(n) - 1.0


def log_integral(log_f, dim, *, limit=30.0, num=241):
    """log ∫ exp(log_f(x)) dx over [-limit, limit]^dim, x [dim], by the trapezoidal rule.

    For analytic integrands that vanish at the border its error is below the rounding error.
    """
    axis = jnp.linspace(-limit, limit, num)
    points = jnp.stack(jnp.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    return logsumexp(jax.vmap(log_f)(points)) + dim * jnp.log(axis[1] - axis[0])


def gauss_hermite(dim, num=6):
    """Nodes [n, dim] and weights [n] that integrate polynomials under N(0, I) exactly."""
    x, w = np.polynomial.hermite_e.hermegauss(num)
    nodes = np.array(list(itertools.product(x, repeat=dim)))
    weights = np.prod(np.array(list(itertools.product(w, repeat=dim))), axis=1)
    return jnp.asarray(nodes), jnp.asarray(weights / weights.sum())


def directional_difference(f, x, direction, *, step=1e-5):
    """(f(x + step·d) - f(x - step·d)) / 2 step, for trees x, d and f's output."""

    def at(t):
        return f(jax.tree.map(lambda a, d: a + t * d, x, direction))

    return jax.tree.map(lambda p, m: (p - m) / (2.0 * step), at(step), at(-step))


def tree_dot(x, y):
    """The inner product of two trees."""
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)))


def assert_gradient(f, x, grad, key, *, num_directions=3, rtol=1e-6, atol=1e-9):
    """Asserts that ``grad`` is the gradient of the scalar f along random directions."""
    for direction_key in jax.random.split(key, num_directions):
        direction = perturbed(direction_key, jax.tree.map(jnp.zeros_like, x), 1.0)
        expected = directional_difference(f, x, direction)
        assert_close(tree_dot(grad, direction), expected, rtol=rtol, atol=atol)


def assert_trees_close(actual, expected, *, rtol=1e-7, atol=0.0):
    """Asserts equal structure and equal values to a tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(a, e, rtol=rtol, atol=atol)


def tree_distance(x, y):
    """max |x - y| / max |y| over whole trees."""
    difference = max(
        float(jnp.max(jnp.abs(a - b)))
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    )
    return difference / max(float(jnp.max(jnp.abs(b))) for b in jax.tree.leaves(y))


def assert_mean(samples, expected, *, max_z=4.5):
    """Asserts a Monte-Carlo mean over axis 0: every |mean - expected| within max_z errors.

    A component without variance has to agree to rounding.
    """
    samples = np.asarray(samples)
    expected = np.asarray(expected)
    error = samples.std(axis=0, ddof=1) / np.sqrt(samples.shape[0])
    deviation = np.abs(samples.mean(axis=0) - expected)
    assert np.all(deviation <= max_z * error + 1e-10), f"z = {deviation / error}"


def exact_phi_rbm(theta):
    """φ*(θ) of posteriors.Bernoulli with linear logits: the posterior of the GRBM."""
    p = theta["params"]
    return {"params": {"logits": {"kernel": p["weights"], "bias": p["hidden_bias"]}}}


def exact_phi_linear_gaussian(theta):
    """φ*(θ) of posteriors.Gaussian(covariance="full"): the posterior of LinearGaussian."""
    p = theta["params"]
    raw = p["latent_cholesky"]
    tril = jnp.tril(raw, -1) + jnp.diag(jnp.exp(jnp.diagonal(raw)))
    covariance = jnp.linalg.inv(tril @ tril.T)
    return exact_phi_gaussian(p["coupling"] @ covariance, covariance @ p["latent_bias"], covariance)


def exact_phi_gaussian(kernel, bias, covariance):
    """φ of posteriors.Gaussian(covariance="full") for N(v kernel + bias, covariance)."""
    factor = jnp.linalg.cholesky(covariance)
    rows, columns = np.tril_indices(bias.size, -1)

    def constant(bias):
        return {"kernel": jnp.zeros((kernel.shape[0], bias.size)), "bias": bias}

    return {
        "params": {
            "mean": {"kernel": kernel, "bias": bias},
            "log_scale": constant(jnp.log(jnp.diagonal(factor))),
            "lower": constant(factor[rows, columns]),
        }
    }
