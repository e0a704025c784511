"""BiDVL on Gaussians, where every divergence is known: identities, hypergradients, bad input."""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbism import distributions, energies, networks, posteriors
from jbism.hypergradients import FirstOrder, ImplicitCG, Neumann, Unroll, descend
from jbism.losses import (
    BidvlCompact,
    BidvlFull,
    BidvlParams,
    bidvl_loss,
    bidvl_lower_loss,
    bidvl_upper_loss,
)
from jbism.losses._bidvl_parts import Parts, evidence
from jbism.losses._bidvl_weights import importance_weights
from jbism.training import Checkpointer, bidvl_step, create_state, train_steps
from tests import oracles

DIM, LATENT, SCALE = 2, 1, 0.6
KEY = jax.random.key(5)


# A Gaussian p_θ, a linear generator and a linear encoder


def energy(theta, v):
    return 0.5 * jnp.sum((theta["root"] @ (v - theta["mean"])) ** 2)


def generator(phi, h):
    return phi["weights"] @ h + phi["bias"]


def posterior(psi, v):
    return distributions.MultivariateNormal(psi["weights"] @ v + psi["bias"], psi["tril"])


PARTS = {"energy": energy, "generator": generator, "posterior": posterior}


def parameters():
    theta = {"root": jnp.array([[1.3, 0.4], [-0.2, 0.9]]), "mean": jnp.array([0.3, -0.5])}
    phi = BidvlParams(
        generator={"weights": jnp.array([[0.8], [-0.6]]), "bias": jnp.array([0.2, 0.1])},
        posterior={
            "weights": jnp.array([[0.5, -0.3]]),
            "bias": jnp.array([0.1]),
            "tril": jnp.array([[0.7]]),
        },
    )
    return theta, phi


def model_joint(theta, psi):
    """Mean and covariance of p_θ(v) q_ψ(h | v), over [v; h]."""
    covariance = jnp.linalg.inv(theta["root"].T @ theta["root"])
    w, mean = psi["weights"], theta["mean"]
    latent = w @ covariance @ w.T + psi["tril"] @ psi["tril"].T
    joint = jnp.block([[covariance, covariance @ w.T], [w @ covariance, latent]])
    return jnp.concatenate([mean, w @ mean + psi["bias"]]), joint


def variational_joint(phi):
    """Mean and covariance of p_φ(v, h), over [v; h]."""
    w = phi["weights"]
    visible = w @ w.T + SCALE**2 * jnp.eye(DIM)
    joint = jnp.block([[visible, w], [w.T, jnp.eye(LATENT)]])
    return jnp.concatenate([phi["bias"], jnp.zeros(LATENT)]), joint


def kl(p, q):
    (p_mean, p_cov), (q_mean, q_cov) = p, q
    precision, d = jnp.linalg.inv(q_cov), q_mean - p_mean
    log_dets = jnp.linalg.slogdet(q_cov)[1] - jnp.linalg.slogdet(p_cov)[1]
    return 0.5 * (jnp.trace(precision @ p_cov) + d @ precision @ d - d.size + log_dets)


def marginal(joint):
    return joint[0][:DIM], joint[1][:DIM, :DIM]


def entropy(gaussian):
    mean, covariance = gaussian
    return 0.5 * (mean.size * (1 + math.log(2 * math.pi)) + jnp.linalg.slogdet(covariance)[1])


def log_partition(theta):
    return 0.5 * DIM * math.log(2 * math.pi) - jnp.linalg.slogdet(theta["root"])[1]


def generators_model(phi):
    """θ and ψ of the model p_φ(v, h) itself."""
    mean, covariance = variational_joint(phi)
    visible = covariance[:DIM, :DIM]
    gain = covariance[DIM:, :DIM] @ jnp.linalg.inv(visible)
    rest = covariance[DIM:, DIM:] - gain @ covariance[:DIM, DIM:]
    psi = {"weights": gain, "bias": -gain @ mean[:DIM], "tril": jnp.linalg.cholesky(rest)}
    root = jnp.linalg.cholesky(jnp.linalg.inv(visible)).T
    return {"root": root, "mean": mean[:DIM]}, psi


# Points of equal weight with the first three moments of N(0, I): means of quadratics are exact


def nodes():
    size = DIM + LATENT
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    points = math.sqrt(size) * np.concatenate([rotation, -rotation])
    return jnp.asarray(points[:, :DIM]), jnp.asarray(points[:, DIM:])


def points_of(gaussian):
    """A batch with the mean and the covariance of a Gaussian of v."""
    mean, covariance = gaussian
    return mean[None] + nodes()[0] @ jnp.linalg.cholesky(covariance).T


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean", "scale_tril", "noise"],
    meta_fields=[],
)
@dataclass(frozen=True)
class OfNode(distributions.MultivariateNormal):
    noise: jax.Array

    def _noise(self, key):
        return self.noise


@pytest.fixture
def exact(monkeypatch):
    """Returns the posterior whose sample at a data point is the node's, and fixes the generator's.

    With them means over a batch of ``points_of`` are expectations.
    """
    visible, latent = nodes()

    def generate(self, phi, key, v):
        means = jax.vmap(lambda h: self.decode(phi.generator, h, v.shape[1:]))(latent)
        return latent, means, visible

    monkeypatch.setattr(Parts, "generate", generate)

    def fixed(data):
        def at(psi, v):
            q = posterior(psi, v)
            node = jnp.argmin(jnp.sum((data - v[None]) ** 2, axis=1))
            return OfNode(q.mean, q.scale_tril, latent[node])

        return {"energy": energy, "generator": generator, "posterior": at}

    return fixed


DATA = (jnp.array([0.5, 0.2]), jnp.array([[1.2, 0.3], [0.3, 0.7]]))


def data_gaussian():
    return tuple(x.astype(float) for x in DATA)


def test_the_upper_level_is_the_difference_of_divergences(x64, exact):
    theta, phi = parameters()
    p_d = data_gaussian()
    v = points_of(p_d)

    def expected(theta, phi):
        joint = model_joint(theta, phi.posterior)
        difference = kl(p_d, marginal(joint)) - kl(variational_joint(phi.generator), joint)
        return difference + entropy(p_d)

    def found(theta, phi):
        form = BidvlFull(scale=SCALE)
        return bidvl_upper_loss(theta, phi, KEY, v, **exact(v), form=form)[0]

    both = [oracles.jit(jax.value_and_grad(f, (0, 1)))(theta, phi) for f in (found, expected)]
    oracles.assert_trees_close(*both, rtol=1e-10, atol=1e-12)
    assert oracles.tree_dot(both[0][1], both[0][1]) > 0.1


def test_where_the_generator_is_the_model_the_upper_gradient_is_that_of_likelihood(x64, exact):
    theta, phi = parameters()
    theta, _ = generators_model(phi.generator)
    p_d = data_gaussian()
    v = points_of(p_d)
    form = BidvlFull(scale=SCALE)
    gradient, aux = jax.grad(bidvl_upper_loss, has_aux=True)(
        theta, phi, KEY, v, **exact(v), form=form
    )
    likelihood = jax.grad(lambda theta: kl(p_d, marginal(model_joint(theta, phi.posterior))))
    oracles.assert_trees_close(gradient, likelihood(theta), rtol=1e-10, atol=1e-12)
    oracles.assert_close(jnp.mean(aux.generated_energies), DIM / 2, rtol=1e-12)


def lower_divergence(theta, phi):
    """What the full lower loss is where p_d is p_θ."""
    model, other = model_joint(theta, phi.posterior), variational_joint(phi.generator)
    symmetric = kl(other, model) + kl(model, other)
    return symmetric - log_partition(theta) + entropy(marginal(model))


@pytest.mark.parametrize("weights", ["uniform", "known"])
def test_the_lower_level_is_the_symmetric_divergence(x64, exact, weights):
    theta, phi = parameters()
    v = points_of(marginal(model_joint(theta, phi.posterior)))
    known = {"uniform": "uniform", "known": lambda v: 3.0 - energy(theta, v)}[weights]

    def found(phi):
        form = BidvlFull(scale=SCALE, weights=known)
        return bidvl_lower_loss(theta, phi, KEY, v, **exact(v), form=form)

    (value, aux), gradient = oracles.jit(jax.value_and_grad(found, has_aux=True))(phi)
    expected = jax.value_and_grad(partial(lower_divergence, theta))(phi)
    oracles.assert_trees_close((value, gradient), expected, rtol=1e-10, atol=1e-12)
    oracles.assert_close(aux.effective_sample_size, v.shape[0], rtol=1e-12)


def test_sampled_losses_are_unbiased(x64):
    """Against the divergences, gradients included: data are drawn from p_θ."""
    theta, phi = parameters()
    mean, covariance = marginal(model_joint(theta, phi.posterior))
    factor = jnp.linalg.cholesky(covariance)
    form = BidvlFull(scale=SCALE, num_particles=2)

    def sampled(key):
        key_data, key_loss = jax.random.split(key)
        v = mean[None] + jax.random.normal(key_data, (3, DIM)) @ factor.T
        lower = jax.value_and_grad(
            lambda phi: bidvl_lower_loss(theta, phi, key_loss, v, **PARTS, form=form)[0]
        )(phi)
        upper = jax.value_and_grad(bidvl_upper_loss, has_aux=True)(
            theta, phi, key_loss, v, **PARTS, form=form
        )
        return lower, (upper[0][0], upper[1])

    def upper_divergence(theta):
        joint = model_joint(theta, phi.posterior)
        p_d = jax.lax.stop_gradient((mean, covariance))
        difference = kl(p_d, marginal(joint)) - kl(variational_joint(phi.generator), joint)
        return difference + entropy(p_d)

    found = oracles.jit(jax.vmap(sampled))(jax.random.split(KEY, 4000))
    expected = (
        jax.value_and_grad(partial(lower_divergence, theta))(phi),
        jax.value_and_grad(upper_divergence)(theta),
    )
    jax.tree.map(oracles.assert_mean, found, expected)


def test_the_generator_feels_no_noise_where_it_is_the_model(x64):
    """With p_θ = p_φ and its own posterior no draw moves it, by the control variate."""
    _, phi = parameters()
    theta, psi = generators_model(phi.generator)
    phi = phi._replace(posterior=psi)
    form = BidvlFull(scale=SCALE, elbo_coefficient=0.0)

    def lower(phi):
        return bidvl_lower_loss(theta, phi, KEY, jnp.ones((4, DIM)), **PARTS, form=form)[0]

    value, gradient = oracles.jit(jax.value_and_grad(lower))(phi)
    oracles.assert_close(value, -log_partition(theta), rtol=1e-12)
    oracles.assert_trees_close(
        gradient.generator, jax.tree.map(jnp.zeros_like, phi.generator), atol=1e-12
    )


# The importance weights


def test_known_data_densities_make_the_batch_one_of_the_model(x64):
    """Of a fine grid of N(0.3, 1), E_{p_θ}[-ELBO] for p_θ = N(m, s²); flat weights are wrong."""
    quantiles = (jnp.arange(20_000) + 0.5) / 20_000
    v = (0.3 + jax.scipy.special.ndtri(quantiles))[:, None]
    theta = jnp.array([-0.1, 0.8])
    # The encoder's noise is as good as none.
    psi = jnp.array([0.5, 0.1]), math.log(1e-4)

    def lower(phi, weights):
        parts = {
            "energy": lambda theta, v: 0.5 * jnp.sum(((v - theta[0]) / theta[1]) ** 2),
            "generator": lambda phi, h: phi[0] * h + phi[1],
            "posterior": lambda psi, v: distributions.Normal(
                psi[0][0] * v + psi[0][1], jnp.full(1, psi[1])
            ),
        }
        with_data, without = (
            bidvl_lower_loss(theta, BidvlParams(phi, psi), KEY, v, **parts, form=form)[0]
            for form in (
                BidvlFull(scale=0.5, weights=weights),
                BidvlFull(scale=0.5, elbo_coefficient=0.0),
            )
        )
        return with_data - without

    def expected(phi):
        """-E_{p_θ}[ELBO], h = μ(v)."""
        slope, offset = 1.0 - phi[0] * psi[0][0], -phi[0] * psi[0][1] - phi[1]
        squared = (slope * theta[0] + offset) ** 2 + (slope * theta[1]) ** 2
        mean = psi[0][0] * theta[0] + psi[0][1]
        kl = 0.5 * (mean**2 + (psi[0][0] * theta[1]) ** 2 - 1.0) - psi[1]
        return 2.0 * squared + 0.5 * math.log(2 * math.pi * 0.25) + kl

    phi = jnp.array([0.7, 0.2])
    known = oracles.jit(
        jax.value_and_grad(partial(lower, weights=lambda v: -0.5 * jnp.sum((v - 0.3) ** 2)))
    )
    true = jax.value_and_grad(expected)(phi)
    oracles.assert_trees_close(known(phi), true, rtol=1e-4)
    flat = oracles.jit(jax.value_and_grad(partial(lower, weights="flat")))(phi)
    assert oracles.tree_distance(flat[1], true[1]) > 0.05


def test_evidence_at_the_generators_own_posterior_is_its_density(x64):
    """Every sample then gives log p_φ(v), and the bound is tight."""
    _, phi = parameters()
    mean, covariance = variational_joint(phi.generator)
    phi = phi._replace(posterior=generators_model(phi.generator)[1])
    v = jax.random.normal(KEY, (5, DIM))
    expected = jax.vmap(
        distributions.MultivariateNormal(
            mean[:DIM], jnp.linalg.cholesky(covariance[:DIM, :DIM])
        ).log_prob
    )(v)
    found = evidence(Parts(**PARTS), phi, KEY, v, scale=SCALE, num_particles=3)
    oracles.assert_close(found.log_densities, expected, rtol=1e-12)
    # E_q[log p_φ(v | h)] is still sampled.
    many = evidence(Parts(**PARTS), phi, KEY, v[:1], scale=SCALE, num_particles=20_000)
    oracles.assert_close(many.elbos, expected[:1], rtol=0.01)


@pytest.mark.parametrize("kind", ["Normal", "MultivariateNormal", "another"])
def test_elbo_of_any_posterior(x64, kind):
    """The divergence to N(0, I) is exact of Gaussians, else sampled, with the same mean."""
    mean, log_scale = jnp.array([0.4, -0.2]), jnp.array([-0.3, 0.1])

    @partial(jax.tree_util.register_dataclass, data_fields=["q"], meta_fields=[])
    @dataclass(frozen=True)
    class Another:
        q: distributions.Normal
        mean = property(lambda self: self.q.mean)

        def sample(self, key):
            return self.q.sample(key)

        def sample_and_log_prob(self, key):
            return self.q.sample_and_log_prob(key)

        def log_prob(self, h):
            return self.q.log_prob(h)

    q = {
        "Normal": distributions.Normal(mean, log_scale),
        "MultivariateNormal": distributions.MultivariateNormal(mean, jnp.diag(jnp.exp(log_scale))),
        "another": Another(distributions.Normal(mean, log_scale)),
    }[kind]
    parts = Parts(energy, lambda phi, h: jnp.zeros(DIM), lambda psi, v: q)
    v = jnp.ones((2000, DIM))
    found = evidence(parts, BidvlParams(None, None), KEY, v, scale=1.0, num_particles=1)
    variance = jnp.exp(2 * log_scale)
    divergence = 0.5 * jnp.sum(mean**2 + variance - 1.0) - jnp.sum(log_scale)
    oracles.assert_mean(found.elbos, -1.0 - math.log(2 * math.pi) - divergence)
    assert (float(jnp.std(found.elbos)) > 0.1) == (kind == "another")
    oracles.assert_close(found.squared_errors, 2.0, rtol=1e-14)


def test_weights_by_hand(x64):
    v = jnp.zeros((3, 1))
    given = jnp.array([1.0, 0.0, -1.0])
    log_densities = jnp.array([0.5, -0.5, 0.0])

    def weights(name, energies=given, clip=None):
        return importance_weights(
            name, v, energies=lambda: energies, log_densities=log_densities, clip=clip
        )

    flat = np.exp(-np.asarray(given))
    flat *= 3 / flat.sum()
    oracles.assert_close(weights("flat")[0], flat, rtol=1e-12)
    oracles.assert_close(weights("flat")[1], 9 / np.sum(flat**2), rtol=1e-12)
    oracles.assert_close(weights("flat", clip=(0.8, 1.2))[0], [0.8, 0.8, 1.2], rtol=1e-12)
    ratio = np.exp(-np.asarray(given) - np.asarray(log_densities))
    oracles.assert_close(weights("generator")[0], 3 * ratio / ratio.sum(), rtol=1e-12)
    assert weights("uniform")[0].tolist() == [1.0, 1.0, 1.0]
    # Where p_θ = p_φ they are all one, which flat ones are not.
    oracles.assert_close(weights("generator", energies=7.0 - log_densities)[0], 1.0, rtol=1e-12)
    hard, size = weights("flat", energies=jnp.array([1e30, -1e30, 0.0]))
    assert (hard.tolist(), float(size)) == ([0.0, 3.0, 0.0], 1.0)


# The compact form


def test_compact_lower_loss_by_hand(x64, exact):
    theta, phi = parameters()
    v = points_of(data_gaussian())
    _, latent = nodes()
    psi = phi.posterior

    def by_hand(phi, psi, c, elbo_coefficient):
        generated = latent @ phi["weights"].T + phi["bias"][None]
        loss = jnp.mean(jax.vmap(partial(energy, theta))(generated))
        frozen = jax.lax.stop_gradient(psi)
        codes = generated @ frozen["weights"].T + frozen["bias"][None]
        loss += c * jnp.mean(jnp.sum((codes - latent) ** 2, axis=1))
        mean, variance = v @ psi["weights"].T + psi["bias"][None], psi["tril"] ** 2
        h = mean + latent * psi["tril"]
        squared = jnp.sum((h @ phi["weights"].T + phi["bias"][None] - v) ** 2, axis=1)
        divergence = 0.5 * jnp.sum(mean**2 + variance - 1.0 - jnp.log(variance), axis=1)
        constant = 0.5 * DIM * math.log(math.pi)  # of N(·, I / 2)
        return loss + elbo_coefficient * jnp.mean(squared + divergence + constant)

    def lower_loss(phi, parts):
        return bidvl_lower_loss(theta, phi, KEY, v, **parts)[0]

    for c, form in (
        (1.0, BidvlCompact()),
        (1e-4, BidvlCompact(latent_coefficient=1e-4, hinge=True)),
    ):
        parts = exact(v) | {"form": form}
        found = oracles.jit(jax.value_and_grad(lambda phi, parts=parts: lower_loss(phi, parts)))(
            phi
        )
        expected = oracles.jit(jax.value_and_grad(by_hand, (0, 1)))(phi.generator, psi, c, 0.05)
        oracles.assert_trees_close(
            found, (expected[0], BidvlParams(*expected[1])), rtol=1e-11, atol=1e-13
        )


def test_compact_latent_coefficient_is_one_over_the_size_of_h(x64):
    theta, phi = parameters()
    phi = BidvlParams(jnp.ones((DIM, 4)), jnp.ones((4, DIM)))
    parts = {
        "energy": energy,
        "generator": lambda phi, h: phi @ h,
        "posterior": lambda psi, v: distributions.Normal(psi @ v, jnp.zeros(4)),
    }
    losses = [
        bidvl_lower_loss(theta, phi, KEY, jnp.ones((3, DIM)), **parts, form=form)[0]
        for form in (
            BidvlCompact(),
            BidvlCompact(latent_coefficient=0.25),
            BidvlCompact(latent_coefficient=0.0),
        )
    ]
    oracles.assert_close(losses[0], losses[1], rtol=1e-14)
    assert losses[1] > losses[2] + 0.1


def test_hinge(x64, exact):
    theta, phi = parameters()
    v = points_of(data_gaussian())
    shifted = exact(v) | {"energy": lambda theta, v: energy(theta, v) - 1.5}
    loss, aux = bidvl_upper_loss(theta, phi, KEY, v, **shifted, form=BidvlCompact(hinge=True))
    margins = np.maximum(1 + aux.data_energies, 0), np.maximum(1 - aux.generated_energies, 0)
    assert all(0 < np.mean(m > 0) < 1 for m in margins[:1])
    oracles.assert_close(loss, margins[0].mean() + margins[1].mean(), rtol=1e-13)
    plain, _ = bidvl_upper_loss(theta, phi, KEY, v, **shifted, form="compact")
    oracles.assert_close(
        plain, jnp.mean(aux.data_energies) - jnp.mean(aux.generated_energies), rtol=1e-13
    )


def test_the_forms_agree_where_they_should(x64, exact):
    """Of no noise the upper gradients, and of no data the generator's lower ones."""
    theta, phi = parameters()
    psi = phi.posterior | {"tril": jnp.eye(1)}
    phi = phi._replace(posterior=psi)
    v = points_of(data_gaussian())
    parts = exact(v)
    options = {"scale": 1e-6, "elbo_coefficient": 0.0}
    full, compact = BidvlFull(**options), BidvlCompact(**options, latent_coefficient=0.5)
    upper = [
        oracles.jit(jax.grad(partial(bidvl_loss, **parts, form=form, **strategy), has_aux=True))(
            theta, phi, KEY, v
        )[0]
        for form, strategy in (
            (full, {"hypergradient": _SameKey(FirstOrder())}),
            (compact, {}),
        )
    ]
    oracles.assert_trees_close(*upper, rtol=1e-5)
    lower = [
        oracles.jit(
            jax.grad(
                lambda phi, form=form: bidvl_lower_loss(theta, phi, KEY, v, **parts, form=form)[0]
            )
        )(phi)
        for form in (full, compact)
    ]
    oracles.assert_trees_close(lower[0].generator, lower[1].generator, rtol=1e-5)
    # The compact form trains the encoder on the data alone.
    assert oracles.tree_dot(lower[0].posterior, lower[0].posterior) > 0.01
    assert oracles.tree_dot(lower[1].posterior, lower[1].posterior) == 0.0


@dataclass(frozen=True)
class _SameKey:
    """A strategy whose upper loss sees the key that it gets."""

    strategy: object

    def __call__(self, upper_loss, lower_loss, theta, phi, key, *, opt_state=None):
        return self.strategy(
            lambda theta, phi, _: upper_loss(theta, phi, key), lower_loss, theta, phi, key
        )


# Hypergradients


def known_density(v):
    return -0.3 * jnp.sum(v**2)


FULL = {
    "flat": (BidvlFull(SCALE, elbo_coefficient=0.5, weights="flat", clip=(0.5, 1.1)), 2),
    "known": (BidvlFull(scale=SCALE, weights=known_density, num_particles=2), 2),
    # The estimate of p_d is a constant, so its change with φ_n(θ) is not the gradient's.
    "generator": (BidvlFull(scale=SCALE, weights="generator", num_particles=2), 1),
}


@pytest.mark.parametrize("name", FULL)
def test_unrolled_hypergradient_against_finite_differences(x64, exact, name):
    """Between the nodes, where the gradient's control variate is zero."""
    form, num_steps = FULL[name]
    theta, phi = parameters()
    v = jax.random.normal(KEY, (2 * (DIM + LATENT), DIM))
    parts = exact(v) | {"form": form}

    @oracles.jit
    def value_and_grads(theta):
        def loss(theta, phi):
            return bidvl_loss(
                theta,
                phi,
                KEY,
                v,
                **parts,
                hypergradient=Unroll(num_steps, optax.sgd(0.05)),
            )[0]

        direct = jax.grad(bidvl_loss, has_aux=True)(
            theta, phi, KEY, v, **parts, hypergradient=FirstOrder()
        )[0]
        return *jax.value_and_grad(loss, argnums=(0, 1))(theta, phi), direct

    _, (gradient, phi_gradient), direct = value_and_grads(theta)
    oracles.assert_gradient(
        lambda theta: value_and_grads(theta)[0], theta, gradient, KEY, rtol=1e-6
    )
    assert oracles.tree_distance(gradient, direct) > 0.01
    assert all(jnp.all(leaf == 0.0) for leaf in jax.tree.leaves(phi_gradient))


@pytest.mark.parametrize(
    "strategy", [ImplicitCG(40, 0.0, 1e-10), Neumann(4000, 0.02)], ids=["CG", "Neumann"]
)
def test_implicit_hypergradients_at_the_lower_optimum(x64, exact, strategy):
    """Against differences of F(θ, φ*(θ)), φ* by a long descent."""
    theta, phi = parameters()
    p_d = data_gaussian()
    v = points_of(p_d)
    parts = exact(v) | {"form": BidvlFull(scale=SCALE, weights=known_density)}

    def lower_loss(theta, phi, key):
        return bidvl_lower_loss(theta, phi, key, v, **parts)[0]

    @oracles.jit
    def optimum(theta):
        return descend(lower_loss, theta, phi, KEY, num_steps=4000, optimizer=optax.sgd(0.05))[::2]

    star, descent = optimum(theta)
    assert descent.grad_norms[-1] < 1e-10

    @oracles.jit
    def gradient(theta, phi):
        return jax.grad(bidvl_loss, has_aux=True)(
            theta, phi, KEY, v, **parts, hypergradient=strategy
        )

    found, aux = gradient(theta, star)
    assert not aux.lower.solve.failed
    oracles.assert_gradient(
        lambda theta: bidvl_upper_loss(theta, optimum(theta)[0], KEY, v, **parts)[0],
        theta,
        found,
        KEY,
        rtol=1e-5,
    )


def test_no_key_is_used_twice_but_where_noise_is_shared(x64):
    theta, phi = parameters()
    form = BidvlFull(scale=SCALE, weights="generator", num_particles=2)
    v = points_of(data_gaussian())

    def loss(theta, phi, key):
        return bidvl_loss(theta, phi, key, v, **PARTS, form=form, hypergradient=ImplicitCG(2))[0]

    with jax.debug_key_reuse(True):
        oracles.jit(jax.grad(loss))(theta, phi, jax.random.key(7))


# Bad input


def evaluate(function=bidvl_lower_loss, **replaced):
    theta, phi = parameters()
    options = PARTS | {"form": BidvlFull(weights="flat")}
    if function is bidvl_loss:
        options["hypergradient"] = FirstOrder()
    phi = replaced.pop("phi", phi)
    v = replaced.pop("v", jnp.ones((4, DIM)))
    jax.eval_shape(partial(function, **(options | replaced)), theta, phi, KEY, v)


def other(distribution):
    return {"posterior": lambda psi, v: distribution}


BAD_INPUT = {
    "form": ({"form": "whole"}, ValueError, "form must be one of 'compact', 'full'"),
    "form_class": ({"form": BidvlFull}, TypeError, "form must be BidvlCompact or BidvlFull"),
    "integer_v": ({"v": jnp.ones((4, DIM), int)}, TypeError, "v must have a floating dtype"),
    "v_without_batch": ({"v": jnp.ones(DIM)}, ValueError, "v must have shape"),
    "phi": ({"phi": {"generator": 0.0}}, TypeError, "phi must be BidvlParams"),
    "energy_shape": ({"energy": lambda theta, v: v}, ValueError, r"energy\(theta, v\) must be"),
    "energy_module": (
        {"energy": energies.MarginalEnergy(networks.MLP())},
        TypeError,
        "energy must be a function, got the module",
    ),
    "generator_shape": (
        {"generator": lambda phi, h: jnp.ones(3)},
        ValueError,
        r"generator\(phi.generator, h\) must have shape \(2\), got \(3,\)",
    ),
    "generator_module": ({"generator": networks.MLPDecoder((2,))}, TypeError, "generator must be"),
    "discrete": (
        other(distributions.RelaxedBernoulli(jnp.zeros(1))),
        ValueError,
        "posterior must return a distribution of continuous latents",
    ),
}
OF_A_LOWER_LOSS = {
    "batch_of_one": (
        {"v": jnp.ones((1, DIM))},
        ValueError,
        "v must have at least 2 examples for weights='flat', got 1",
    ),
    "density_shape": (
        {"form": BidvlFull(weights=lambda v: v)},
        ValueError,
        r"weights\(v\) must be a scalar",
    ),
}
OF_THE_WHOLE = {
    "no_strategy": ({"hypergradient": None}, ValueError, "hypergradient must be given to the full"),
    "strategy_class": ({"hypergradient": Unroll}, TypeError, "hypergradient must be an instance"),
    "strategy_of_compact": (
        {"form": "compact"},
        ValueError,
        "hypergradient must be None for the compact form",
    ),
    "state_of_compact": (
        {"form": "compact", "hypergradient": None, "opt_state": ()},
        ValueError,
        "opt_state must be None for the compact form",
    ),
}


@pytest.mark.parametrize(
    ("function", "replaced", "error", "match"),
    [
        *((bidvl_upper_loss, *case) for case in BAD_INPUT.values()),
        *((bidvl_lower_loss, *case) for case in (BAD_INPUT | OF_A_LOWER_LOSS).values()),
        *((bidvl_loss, *case) for case in OF_THE_WHOLE.values()),
    ],
)
def test_bad_input_names_the_argument(function, replaced, error, match):
    with pytest.raises(error, match=match):
        evaluate(function, **replaced)


@pytest.mark.parametrize(
    ("option", "error", "match"),
    [
        (partial(BidvlCompact, scale=0.0), ValueError, "scale must be a number > 0"),
        (partial(BidvlCompact, elbo_coefficient=-1.0), ValueError, "elbo_coefficient must be"),
        (partial(BidvlCompact, latent_coefficient=-1.0), ValueError, "latent_coefficient must be"),
        (partial(BidvlCompact, hinge=1), TypeError, "hinge must be bool"),
        (partial(BidvlFull, scale=-1.0), ValueError, "scale must be a number > 0"),
        (partial(BidvlFull, elbo_coefficient=-1.0), ValueError, "elbo_coefficient must be"),
        (partial(BidvlFull, weights="energy"), ValueError, "weights must be one of 'uniform'"),
        (partial(BidvlFull, weights=2.0), TypeError, "weights must be a function"),
        (partial(BidvlFull, weights="flat", clip=1.2), TypeError, "clip must be a pair"),
        (partial(BidvlFull, weights="flat", clip=(1.2, 0.8)), ValueError, "clip must have low <="),
        (partial(BidvlFull, weights="flat", clip=(-1.0, 1.0)), ValueError, "clip must be a number"),
        (partial(BidvlFull, clip=(0.8, 1.2)), ValueError, "clip must be None for weights='uni"),
        (partial(BidvlFull, num_particles=0), ValueError, "num_particles must be an integer >= 1"),
    ],
)
def test_bad_options_are_named(option, error, match):
    with pytest.raises(error, match=match):
        option()


@pytest.mark.parametrize("function", [bidvl_lower_loss, bidvl_upper_loss, bidvl_loss])
def test_good_input_passes(function):
    evaluate(function)
    evaluate(function, form="full")
    if function is not bidvl_loss:
        evaluate(function, form="compact")
        evaluate(function, form=BidvlFull(), v=jnp.ones((1, DIM)))


# Training


ADAM = optax.adam(1e-2, b1=0.0, b2=0.9, eps_root=1e-8)
OPTIMIZERS = {
    "theta_optimizer": ADAM,
    "phi_optimizer": optax.multi_transform(
        {"slow": optax.adam(1e-3), "quick": ADAM}, BidvlParams("slow", "quick")
    ),
}


def networks_step(energy_scale=1.0, **replaced):
    model = energies.MarginalEnergy(networks.MLP((8,)), head="softplus")
    q, g = posteriors.Gaussian(1), networks.MLPDecoder((DIM,), (4,))
    options = {"form": "compact", "num_lower_steps": 2, **OPTIMIZERS} | replaced

    def energy(theta, v):
        return energy_scale * model.apply(theta, v)

    step = bidvl_step(energy=energy, generator=g.apply, posterior=q.apply, **options)
    keys = jax.random.split(jax.random.key(0), 3)
    v = jnp.zeros(DIM)
    phi = BidvlParams(oracles.jit(g.init)(keys[0], jnp.zeros(1)), oracles.jit(q.init)(keys[1], v))
    theta = oracles.jit(model.init)(keys[2], v)
    optimizers = {name: options[name] for name in OPTIMIZERS}
    return step, create_state(jax.random.key(1), theta, phi, **optimizers)


METRICS = {
    "loss",
    "grad_norm",
    "lower_loss",
    "lower_grad_norm",
    "data_energy",
    "generated_energy",
    "reconstruction_error",
    "elbo",
    "effective_sample_size",
}
SOLVE = {"solve_residual", "solve_products", "solve_failed"}
STEPS = {
    "compact": ({}, set()),
    "unroll": (
        {
            "form": BidvlFull(weights="generator", num_particles=2),
            "hypergradient": Unroll(2, ADAM),
            "phi_optimizer": ADAM,
        },
        set(),
    ),
    "implicit": (
        {"form": BidvlFull(weights="flat"), "hypergradient": ImplicitCG(2, 0.1)},
        SOLVE,
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_step(name):
    options, more = STEPS[name]
    step, state = networks_step(**options)
    v = jax.random.normal(KEY, (6, DIM))
    after, metrics = oracles.jit(step)(state, v)
    assert set(metrics) == METRICS | more
    assert all(jnp.isfinite(x) for x in metrics.values())
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), after, state)
    assert all(jax.tree.leaves((moved.theta["params"]["trunk"], moved.phi, moved.ema)))
    assert metrics["reconstruction_error"] > 0
    assert (metrics["effective_sample_size"] < 1) == (name in ("unroll", "implicit"))


def test_metrics_are_those_of_the_losses(x64):
    """Of one example, whose energies and reconstruction are known."""
    theta = jnp.array(2.0)
    parts = {
        "energy": lambda theta, v: theta * jnp.sum(v),
        "generator": lambda phi, h: phi + 0.0 * h,
        "posterior": lambda psi, v: distributions.Normal(psi, jnp.zeros(DIM)),
    }
    phi = BidvlParams(jnp.array([1.0, 2.0]), jnp.zeros(DIM))
    optimizers = {"theta_optimizer": optax.sgd(0.1), "phi_optimizer": optax.sgd(0.1)}
    step = bidvl_step(**parts, form="compact", num_lower_steps=0, **optimizers)
    state = create_state(KEY, theta, phi, **optimizers)
    state, metrics = oracles.jit(step)(state, jnp.array([[4.0, 4.0]]))
    assert metrics["data_energy"] == 16.0
    assert metrics["generated_energy"] == 6.0
    assert metrics["loss"] == 10.0
    oracles.assert_close(metrics["grad_norm"], 5.0, rtol=1e-14)
    oracles.assert_close(state.theta, 2.0 - 0.1 * 5.0, rtol=1e-14)
    oracles.assert_close(metrics["reconstruction_error"], (9.0 + 4.0) / 2, rtol=1e-14)
    # N(v; G, I / 2) and no divergence of N(0, I) to itself.
    oracles.assert_close(metrics["elbo"], -13.0 - math.log(math.pi), rtol=1e-12)


def test_metrics_are_those_before_virtual_steps():
    metrics = []
    for unroll in (Unroll(0, optax.sgd(0.3)), Unroll(5, optax.sgd(0.3))):
        step, state = networks_step(form="full", hypergradient=unroll)
        metrics.append(oracles.jit(step)(state, jax.random.normal(KEY, (6, DIM)))[1])
    assert metrics[0]["loss"] != metrics[1]["loss"]
    for name in ("data_energy", "generated_energy", "elbo", "reconstruction_error"):
        oracles.assert_close(metrics[0][name], metrics[1][name], rtol=1e-6)


def test_extreme_batches_stay_finite():
    form = BidvlFull(scale=1e-3, weights="generator")
    step, state = networks_step(
        energy_scale=1e8, form=form, hypergradient=Unroll(1, ADAM), phi_optimizer=ADAM
    )
    v = jax.random.normal(KEY, (6, DIM))
    state, metrics = oracles.jit(step)(state, v)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((state.theta, state.phi, metrics)))
    assert abs(metrics["effective_sample_size"] - 1 / 6) < 1e-3


def test_a_resumed_run_is_the_whole_one_to_the_bit(tmp_path):
    step, state = networks_step(form="full", hypergradient=FirstOrder())
    run = train_steps(step, np.asarray(jax.random.normal(KEY, (12, DIM))))
    indices = np.arange(12, dtype=np.int32).reshape(4, 3)
    copy = partial(jax.tree.map, jnp.copy)
    whole, _ = run(copy(state), indices)
    half, _ = run(copy(state), indices[:2])
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(half)
        resumed, _ = run(checkpointer.restore(copy(state)), indices[2:])
    for a, b in zip(jax.tree.leaves(whole.phi), jax.tree.leaves(resumed.phi), strict=True):
        np.testing.assert_array_equal(a, b)
    assert isinstance(resumed.phi, BidvlParams)
