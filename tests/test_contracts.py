"""What every part promises: jit = eager, vmap = loop, one trace, and errors that name arguments."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jbism import distributions, energies, networks, posteriors, stein
from jbism.divergences import IWAE, KL, Fisher, MeanFieldKL
from jbism.estimators import vaes, variational_score
from jbism.hypergradients import FirstOrder, ImplicitCG, Neumann, Unroll
from jbism.losses import (
    DSM,
    KSD,
    MDSM,
    SM,
    SSM,
    BidvlFull,
    BidvlParams,
    Corrupted,
    bidvl_loss,
    bidvl_lower_loss,
    bism_loss,
    bism_lower_loss,
    contrastive_loss,
    importance_loss,
    marginal_loss,
    nce_loss,
    vages_loss,
    vnce_loss,
)
from tests import oracles

DIM_V, NUM_LATENTS, BATCH = 2, 3, 4
V = jax.random.normal(jax.random.key(0), (BATCH, DIM_V))
H = jax.random.uniform(jax.random.key(1), (BATCH, NUM_LATENTS))
KEYS = jax.random.split(jax.random.key(2), BATCH)


def plain_energy(theta, v, h):
    return 0.5 * jnp.sum((v - theta) ** 2) - jnp.sum(jnp.tanh(v)) * jnp.sum(h)


def linen_energy(model):
    theta = oracles.jit(model.init)(jax.random.key(3), V[0], H[0])
    return functools.partial(model.apply, oracles.perturbed(jax.random.key(4), theta, 0.1))


def without_latents(model):
    theta = oracles.jit(model.init)(jax.random.key(3), V[0])
    theta = oracles.perturbed(jax.random.key(4), theta, 0.1)
    return lambda v, h: model.apply(theta, v)


def linen_posterior(model):
    phi = oracles.jit(model.init)(jax.random.key(5), V[0])
    return functools.partial(model.apply, oracles.perturbed(jax.random.key(6), phi, 0.3))


ENERGIES = {
    "plain": lambda: functools.partial(plain_energy, jnp.ones(DIM_V)),
    "GaussianRBM": lambda: linen_energy(energies.GaussianRBM(NUM_LATENTS)),
    "LinearGaussian": lambda: linen_energy(energies.LinearGaussian(NUM_LATENTS)),
    "DeepEBLVM": lambda: linen_energy(energies.DeepEBLVM(NUM_LATENTS, networks.MLP((4,)))),
    "GaussianDecoder": lambda: linen_energy(
        energies.GaussianDecoder(NUM_LATENTS, networks.MLPDecoder((DIM_V,), (4,)))
    ),
    "MarginalEnergy": lambda: without_latents(energies.MarginalEnergy(networks.MLP((4,)))),
    "MarginalEnergy_of_unit_norm": lambda: without_latents(
        energies.MarginalEnergy(networks.MLP((4,)), spectral_norm_steps=2)
    ),
}
POSTERIORS = {
    "Bernoulli": lambda: linen_posterior(posteriors.Bernoulli(NUM_LATENTS)),
    "hard": lambda: linen_posterior(posteriors.Bernoulli(NUM_LATENTS, relaxed=False)),
    "trunk": lambda: linen_posterior(posteriors.Bernoulli(NUM_LATENTS, networks.MLP((4,)))),
    "diagonal": lambda: linen_posterior(posteriors.Gaussian(NUM_LATENTS)),
    "full": lambda: linen_posterior(posteriors.Gaussian(NUM_LATENTS, covariance="full")),
}
DIVERGENCES = {
    "KL": ("Bernoulli", KL()),
    "KL_of_several": ("Bernoulli", KL(3)),
    "IWAE": ("trunk", IWAE(3)),
    "MeanFieldKL": ("Bernoulli", MeanFieldKL()),
    "Fisher": ("diagonal", Fisher()),
    "Fisher_of_several": ("full", Fisher(3)),
}
OBJECTIVES = {
    "SM": SM(),
    "SSM": SSM(),
    "SSM_gaussian": SSM("gaussian"),
    "DSM": DSM(0.3),
    "MDSM": MDSM(0.1, 0.8, 0.2),
    "MDSM_geometric": MDSM(0.1, 0.8, 0.2, "geometric"),
}
COUPLED = {"KSD": KSD(stein.RBF()), "KSD_imq": KSD(stein.IMQ())}  # examples of a batch

STRATEGIES = {
    "FirstOrder": FirstOrder(),
    "FirstOrder_of_several": FirstOrder(2, optax.sgd(0.1)),
    "Unroll": Unroll(2, optax.adam(0.1, eps_root=1e-8)),
    "Unroll_remat": Unroll(3, optax.sgd(0.1), remat=True),
    "Unroll_of_none": Unroll(0, optax.sgd(0.1)),
    "Unroll_truncated": Unroll(3, optax.sgd(0.1), truncate=1),
    "ImplicitCG": ImplicitCG(2, virtual_steps=2, optimizer=optax.sgd(0.1)),
    "Neumann": Neumann(3, 0.1),
}


def check_contract(function, *batches):
    """jit = eager for one example, vmap = loop over all, and one trace for both calls of each."""
    loop = [function(*[batch[i] for batch in batches]) for i in range(BATCH)]
    single = oracles.jit(chex.assert_max_traces(lambda *args: function(*args), n=1))
    for i in range(2):
        oracles.assert_trees_close(single(*[b[i] for b in batches]), loop[i], rtol=2e-5, atol=2e-6)
    mapped = oracles.jit(chex.assert_max_traces(lambda *args: jax.vmap(function)(*args), n=1))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    for _ in range(2):
        oracles.assert_trees_close(mapped(*batches), stacked, rtol=2e-5, atol=2e-6)


@pytest.fixture(autouse=True)
def _fresh_trace_counter():
    chex.clear_trace_counter()


@pytest.mark.parametrize("name", ENERGIES)
def test_energies(name):
    energy = ENERGIES[name]()
    check_contract(lambda v, h: (energy(v, h), jax.grad(energy)(v, h)), V, H)


@pytest.mark.parametrize("name", POSTERIORS)
def test_posteriors(name):
    posterior = POSTERIORS[name]()

    def everything(v, h, key):
        q = posterior(v)
        return q, q.mean, q.entropy(), q.log_prob(h), q.sample(key), q.sample_and_log_prob(key)

    check_contract(everything, V, H, KEYS)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences(name):
    posterior_name, divergence = DIVERGENCES[name]
    energy, posterior = ENERGIES["GaussianRBM"](), POSTERIORS[posterior_name]()

    def value(v, key):
        return divergence(
            None,
            None,
            key,
            v,
            energy=lambda theta, v, h: energy(v, h),
            posterior=lambda phi, v: posterior(v),
        )

    check_contract(value, V, KEYS)


BATCHES = jnp.stack([V, 2.0 * V, V + 1.0, -V])


@pytest.mark.parametrize("name", OBJECTIVES | COUPLED)
def test_objectives(name):
    """One call takes a batch, so the batch axis of this contract is one of batches."""
    objective = (OBJECTIVES | COUPLED)[name]

    def value(v, key):
        corrupted = objective.corrupt(key, v)
        values, scores = objective(lambda v: -(v**3) + v[:, ::-1], key, corrupted)
        assert values.shape == objective.lower_weight(corrupted).shape == (BATCH,)
        return corrupted, values, scores, objective.lower_weight(corrupted)

    check_contract(value, BATCHES, KEYS)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_treat_examples_separately(name):
    """Values at given corruptions do not change when another example does."""
    objective = OBJECTIVES[name]
    key = jax.random.key(9)
    corrupted = objective.corrupt(key, V)

    def values(inputs):
        return objective(
            jax.vmap(lambda v: -(v**3) + v[::-1]), key, Corrupted(inputs, *corrupted[1:])
        )

    changed = corrupted.inputs.at[-1].add(1.0)
    before, after = values(corrupted.inputs)[0], values(changed)[0]
    oracles.assert_close(before[:-1], after[:-1], rtol=1e-6)
    assert abs(before[-1] - after[-1]) > 1e-3


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(name):
    strategy = STRATEGIES[name]

    def lower_loss(theta, phi, key):
        noise = jax.random.normal(key, phi.shape)
        return jnp.sum(jnp.cosh(phi - theta + 0.1 * noise))

    def upper_loss(theta, phi, key):
        return jnp.sum(jnp.sin(phi) * theta), phi

    def upper(theta, phi, key):
        (value, aux), lower = strategy(upper_loss, lower_loss, theta, phi, key)
        return value, (aux, lower)

    check_contract(jax.value_and_grad(upper, has_aux=True), V, -0.5 * V, KEYS)


def test_variational_score():
    energy, posterior = ENERGIES["DeepEBLVM"](), POSTERIORS["full"]()

    def score(v, h):
        return variational_score(
            None,
            None,
            v,
            h,
            energy=lambda theta, v, h: energy(v, h),
            posterior=lambda phi, v: posterior(v),
        )

    check_contract(score, V, H)


def batch_functions():
    """What takes a batch and a key besides the losses of BiSM, with the θ-gradient of losses."""
    model, q = energies.GaussianRBM(NUM_LATENTS), POSTERIORS["Bernoulli"]()
    theta = oracles.jit(model.init)(jax.random.key(3), V[0], H[0])
    theta = oracles.perturbed(jax.random.key(4), theta, 0.1)
    sampled = {"energy": model.apply, "posterior": lambda phi, v: q(v), "num_particles": 2}
    proposal = {"proposal": distributions.Bernoulli(jnp.zeros(NUM_LATENTS)), "num_particles": 2}
    free_energy = functools.partial(model.apply, method="free_energy")

    def gradient(loss, **options):
        loss = jax.value_and_grad(functools.partial(loss, **options), has_aux=True)
        return lambda v, key: loss(theta, key, v)

    def vages(theta, key, v, **options):
        return vages_loss(theta, None, key, v, **options)

    def nce(theta, key, v, **options):
        return nce_loss(theta, jnp.zeros(()), key, v, **options)

    def vnce(theta, key, v, **options):
        return vnce_loss(theta, None, jnp.zeros(()), key, v, **options)

    noise = distributions.Normal(jnp.zeros(2), jnp.zeros(2))
    encoder, phi = POSTERIORS["diagonal"](), BidvlParams(jnp.ones((DIM_V, NUM_LATENTS)), None)
    decoupled = {
        "energy": free_energy,
        "generator": lambda phi, h: phi @ h,
        "posterior": lambda psi, v: encoder(v),
    }
    full = BidvlFull(weights="generator", num_particles=2)

    def bidvl(theta, key, v, **options):
        return bidvl_loss(theta, phi, key, v, **decoupled, **options)

    def bidvl_lower(theta, key, v, **options):
        return bidvl_lower_loss(theta, phi, key, v, **decoupled, **options)

    return {
        "vaes": lambda v, key: vaes(theta, None, key, v, **sampled),
        "vages_loss": gradient(vages, **sampled, objective=DSM(0.3)),
        "vages_loss_of_pairs": gradient(vages, **sampled, objective=KSD(stein.RBF())),
        "marginal_loss": gradient(marginal_loss, free_energy=free_energy, objective=SSM()),
        "importance_loss": gradient(
            importance_loss, **proposal, energy=model.apply, objective=DSM(0.3)
        ),
        "contrastive_loss": gradient(
            contrastive_loss,
            energy=free_energy,
            transition=lambda theta, key, v: 0.9 * v + 0.1 * jax.random.normal(key, v.shape),
            num_steps=2,
        ),
        "nce_loss": gradient(nce, free_energy=free_energy, noise=noise),
        "vnce_loss": gradient(vnce, **sampled, noise=noise),
        "bidvl_loss": gradient(bidvl, form="compact"),
        "bidvl_loss_of_full_form": gradient(
            bidvl, form=full, hypergradient=Unroll(1, optax.sgd(1e-4))
        ),
        "bidvl_lower_loss": gradient(bidvl_lower, form="compact"),
        "bidvl_lower_loss_of_full_form": gradient(bidvl_lower, form=full),
    }


@pytest.mark.parametrize(
    "name",
    [
        "vaes",
        "vages_loss",
        "vages_loss_of_pairs",
        "marginal_loss",
        "importance_loss",
        "contrastive_loss",
        "nce_loss",
        "vnce_loss",
        "bidvl_loss",
        "bidvl_loss_of_full_form",
        "bidvl_lower_loss",
        "bidvl_lower_loss_of_full_form",
    ],
)
def test_functions_of_a_batch(name):
    check_contract(batch_functions()[name], BATCHES, KEYS)


def loss(function=bism_loss, **replaced):
    """A loss over shapes that fit, but for what is replaced; evaluated abstractly."""
    model, q = energies.GaussianRBM(NUM_LATENTS), posteriors.Bernoulli(NUM_LATENTS)
    options = {
        "energy": model.apply,
        "posterior": q.apply,
        "objective": DSM(0.1),
        "divergence": KL(),
        "hypergradient": Unroll(1, optax.sgd(0.1)),
    }
    if function is bism_lower_loss:
        del options["hypergradient"]
    theta, phi = (
        jax.eval_shape(m.init, KEYS[0], *args) for m, args in ((model, (V[0], H[0])), (q, (V[0],)))
    )
    v = replaced.pop("v", V)
    phi = replaced.pop("phi", phi)
    jax.eval_shape(functools.partial(function, **(options | replaced)), theta, phi, KEYS[0], v)


def other_posterior(distribution):
    return lambda phi, v: distribution


BAD_INPUT = {
    "integer_v": ({"v": jnp.ones((4, 2), int)}, TypeError, "v must have a floating dtype"),
    "empty_v": ({"v": jnp.ones((0, 2))}, ValueError, "v must have a non-empty leading batch axis"),
    "scalar_v": ({"v": jnp.ones(())}, ValueError, "v must have a non-empty leading batch axis"),
    "v_without_batch": ({"v": jnp.ones(2)}, ValueError, "v must have shape"),
    "image_v": ({"v": jnp.ones((4, 2, 1))}, ValueError, r"v must have shape \(2\), got \(2, 1\)"),
    "v_of_another_size": ({"v": jnp.ones((4, 3))}, ValueError, "v must have 2 entries"),
    "latent_size": (
        {"posterior": other_posterior(distributions.RelaxedBernoulli(jnp.zeros(5)))},
        ValueError,
        r"h must have shape \(3\), got \(5,\)",
    ),
    "latent_rank": (
        {"posterior": other_posterior(distributions.RelaxedBernoulli(jnp.zeros((3, 1))))},
        ValueError,
        r"h must have shape \(3\), got \(3, 1\)",
    ),
    "hard_posterior": (
        {"posterior": other_posterior(distributions.Bernoulli(jnp.zeros(3)))},
        ValueError,
        "posterior must return a reparameterised distribution",
    ),
    "hard_posterior_of_an_exact_lower_level": (
        {
            "posterior": other_posterior(distributions.Bernoulli(jnp.zeros(3))),
            "divergence": MeanFieldKL(),
        },
        ValueError,
        "posterior must return a reparameterised distribution",
    ),
    "discrete_fisher": ({"divergence": Fisher()}, ValueError, "Fisher needs continuous latents"),
    "vector_energy": (
        {"energy": lambda theta, v, h: v * jnp.sum(h)},
        ValueError,
        "must be a scalar, got shape",
    ),
    "opt_state": (
        {"opt_state": optax.adam(0.1).init(jnp.zeros(3))},
        ValueError,
        "opt_state must be a state of the optimizer",
    ),
    "objective_class": ({"objective": SSM}, TypeError, "objective must be"),
    "objective_name": ({"objective": "dsm"}, TypeError, "objective must be"),
    "divergence_class": ({"divergence": KL}, TypeError, "divergence must be"),
    "hypergradient_class": ({"hypergradient": Unroll}, TypeError, "hypergradient must be"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_names_the_argument(name):
    replaced, error, match = BAD_INPUT[name]
    with pytest.raises(error, match=match):
        loss(**replaced)


@pytest.mark.parametrize("name", ["integer_v", "empty_v", "v_of_another_size", "vector_energy"])
def test_bad_input_of_the_lower_loss_names_the_argument(name):
    replaced, error, match = BAD_INPUT[name]
    with pytest.raises(error, match=match):
        loss(bism_lower_loss, **replaced)


def test_good_input_passes():
    loss()
    loss(bism_lower_loss)
