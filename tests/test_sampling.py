"""Pictures of a deep model: frames, interpolations, completions, against plain runs of samplers."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import image_report, image_sampling, report, sampling
from experiments.builders import build, load_config
from experiments.chains import Frames, LangevinChains
from experiments.resumable import CHUNK
from experiments.validation import ConfigError
from jbism import samplers
from tests import oracles
from tests.configs import TINY_DEEP, make_config

KEY = jax.random.key(0)
SMALL = TINY_DEEP | {
    "sampling.langevin.frames": {"num_chains": 2, "num_stages": 3},
    "sampling.langevin.interpolation.num_rows": 2,
    "sampling.langevin.interpolation.num_points": 3,
    "sampling.langevin.inpainting.num_rows": 2,
    "sampling.langevin.inpainting.num_draws": 2,
}


@pytest.fixture(scope="module")
def experiment():
    return build(make_config("digits_deep", SMALL))


@pytest.fixture(scope="module")
def theta(experiment):
    return experiment.initial_state.theta


@pytest.fixture(scope="module")
def chains(experiment, theta):
    return LangevinChains(experiment, theta, progress=False)


def denoised(experiment, theta, v, h):
    """By the gradient of the energy summed over chains."""
    energies = jax.vmap(partial(experiment.energy.apply, theta))
    gradient = oracles.jit(jax.grad(lambda v: energies(v, h).sum()))
    return v - experiment.config.objective.mdsm.sigma0**2 * gradient(v)


# Frames


def test_frames_of_the_joint_chains_are_prefixes_of_one_run(experiment, theta, chains):
    v, h = jnp.full((4, 8, 8, 1), 0.5), jnp.zeros((4, 4))
    last, frames = chains.joint(KEY, v, h, "", num_chains=2, num_stages=3)
    run = jax.jit(
        partial(samplers.langevin_joint, energy=experiment.energy.apply, step_size=(0.02, 0.1))
    )
    v_ten, h_ten = run(KEY, theta, v, h, chains.schedule[:10])
    v_end, h_end = run(KEY, theta, v_ten, h_ten, chains.schedule[10:], start=10)
    assert len(chains.schedule) == 20
    assert frames.titles == ["start", "step 10, T = 12.9", "step 20, T = 0", "denoised"]
    np.testing.assert_array_equal(frames.images[0], v[:2])
    np.testing.assert_array_equal(frames.images[1], v_ten[:2])
    np.testing.assert_array_equal(frames.images[2], v_end[:2])
    np.testing.assert_array_equal(frames.images[3], last[:2])
    oracles.assert_close(last, denoised(experiment, theta, v_end, h_end), rtol=1e-5, atol=1e-6)
    unwatched, none = chains.joint(KEY, v, h, "")
    np.testing.assert_array_equal(unwatched, last)
    assert none is None


def test_stages_are_evenly_spread(chains, monkeypatch):
    v, h = jnp.full((4, 8, 8, 1), 0.5), jnp.zeros((4, 4))
    for most in (100, 2):  # a stage a piece, and after two
        monkeypatch.setattr("experiments.chains.CHUNK", most)
        _, frames = chains.joint(KEY, v, h, "", num_chains=1, num_stages=8)
        steps = [int(title.split()[1].rstrip(",")) for title in frames.titles[1:-1]]
        assert steps == [2, 5, 8, 11, 14, 17, 20]


def test_more_stages_than_steps_are_all_steps(chains):
    v, h = jnp.full((4, 8, 8, 1), 0.5), jnp.zeros((4, 4))
    _, frames = chains.joint(KEY, v, h, "", num_chains=1, num_stages=50)
    assert len(frames.titles) == len(frames.images) == 22
    assert frames.titles[1] == "step 1, T = 100"


# Interpolations


def test_interpolations_differ_by_their_latents_alone(experiment, theta, chains):
    # Two pairs: as many as the test set has, though more are asked for.
    config = experiment.config.copy_and_resolve_references()
    config.sampling.langevin.interpolation.num_rows = 50
    few = replace(
        experiment.dataset,
        test=experiment.dataset.test[:5],
        test_labels=experiment.dataset.test_labels[:5],
    )
    experiment = replace(experiment, config=config, dataset=few)
    test = jnp.asarray(few.test)

    def infer(v):
        """Of equal images 0 and 1, of the further ones what tells them apart."""
        apart = jnp.any(v != test[0]) & jnp.any(v != test[1])
        return SimpleNamespace(mean=jnp.where(apart, 10.0 * v.ravel()[10:14], 1.0))

    result = image_sampling.interpolate_by_chains(experiment, infer, chains, KEY)
    np.testing.assert_array_equal(result.ends, test[:4].reshape(2, 2, 8, 8, 1))
    np.testing.assert_array_equal(result.weights, [0.0, 0.5, 1.0])
    first, second = result.images
    np.testing.assert_array_equal(first, np.broadcast_to(first[:1], first.shape))
    assert np.abs(second[0] - second[2]).max() > 1e-4
    # Each is the chain that its latent gives alone.
    key_start, key_chain = jax.random.split(KEY)
    start = 0.5 + jax.random.normal(key_start, (1, 8, 8, 1))
    run = oracles.jit(
        partial(
            samplers.langevin_visible,
            energy=experiment.energy.apply,
            step_size=0.02,
            shared_noise=True,
        )
    )
    a, b = infer(test[2]).mean, infer(test[3]).mean
    for image, weight in zip(second, result.weights, strict=True):
        h = ((1 - weight) * a + weight * b)[None]
        v = denoised(experiment, theta, run(key_chain, theta, start, h, chains.schedule), h)
        oracles.assert_close(image, v[0], rtol=1e-4, atol=1e-5)


def test_interpolations_from_noised_images_are_annealed_from_their_temperature(experiment):
    """σ₀√T of noise on the line between the images, then the schedule from T on."""
    config = experiment.config.copy_and_resolve_references()
    config.sampling.langevin.interpolation.start_temperature = 25.0
    experiment = replace(experiment, config=config)
    assert config.objective.mdsm.sigma0 == 0.1
    seen = {}

    class Chains:
        schedule = jnp.array([100.0, 26.0, 25.0, 1.0, 0.0])

        def visible(self, key, v, h, temperatures, title, *, shared_noise):
            seen.update(v=v, h=h, temperatures=temperatures, shared=shared_noise)
            return v

    def infer(v):
        return SimpleNamespace(mean=v.ravel()[10:14])

    result = image_sampling.interpolate_by_chains(experiment, infer, Chains(), KEY)
    test = np.asarray(experiment.dataset.test[:4]).reshape(2, 2, 8, 8, 1)
    line = np.stack([test[:, 0], test.mean(1), test[:, 1]], 1).reshape(6, 8, 8, 1)
    noise = jax.random.normal(jax.random.split(KEY)[0], (8, 8, 1))
    assert result.start_noise == pytest.approx(0.5)
    oracles.assert_close(seen["v"], line + 0.5 * np.asarray(noise), rtol=1e-6, atol=1e-6)
    oracles.assert_close(seen["h"], line.reshape(6, -1)[:, 10:14], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(seen["temperatures"], [25.0, 1.0, 0.0])
    assert seen["shared"]


def test_reconstructions_are_draws_given_the_mean_of_q(experiment, theta, chains):
    phi = experiment.initial_state.phi
    originals, found = sampling.reconstruct(
        experiment, theta, phi, KEY, num_samples=3, progress=False
    )
    v = jnp.asarray(experiment.dataset.examples("test", slice(3)))
    np.testing.assert_array_equal(originals, v)
    h = jax.vmap(lambda v: experiment.posterior.apply(phi, v).mean)(v)
    mean = jnp.asarray(experiment.dataset.train.mean(0))
    run = oracles.jit(
        partial(samplers.langevin_visible, energy=experiment.energy.apply, step_size=0.02)
    )
    drawn = run(KEY, theta, jnp.broadcast_to(mean, v.shape), h, chains.tempered)
    expected = denoised(experiment, theta, drawn, h)
    oracles.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# Inpainting


def test_only_missing_pixels_move_and_every_draw_is_its_own(experiment, chains):
    result = image_sampling.inpaint(experiment, chains, KEY)
    lower, centre = (mask[..., 0] for mask in result.masks.values())
    assert list(result.masks) == ["lower half", "centre"]
    assert lower[4:].all()
    assert not lower[:4].any()
    assert centre[2:6, 2:6].all()
    assert centre.sum() == 16
    assert result.completions.shape == (2, 2, 2, 8, 8, 1)
    np.testing.assert_array_equal(result.originals, experiment.dataset.test[:2])
    for mask, completions in zip(result.masks.values(), result.completions, strict=True):
        for original, draws in zip(result.originals, completions, strict=True):
            for draw in draws:
                np.testing.assert_array_equal(draw[~mask], original[~mask])
            values = np.concatenate([original[mask], *(draw[mask] for draw in draws)])
            assert len(np.unique(values)) >= 2 * mask.sum()  # pixels of digits repeat


def test_completions_by_pieces_are_one_run_under_the_noise_of_training(experiment, theta):
    config = experiment.config.copy_and_resolve_references()
    config.sampling.langevin.annealed_steps = CHUNK
    chains = LangevinChains(replace(experiment, config=config), theta, progress=False)
    v = jnp.asarray(experiment.dataset.test[:2])
    h = jnp.zeros((2, config.energy.deep_eblvm.num_latents))
    missing = jnp.zeros(v.shape, bool).at[:, 4:].set(True)
    section = config.sampling.langevin
    assert len(chains.schedule) > CHUNK
    expected, h_after = samplers.langevin_inpaint(
        KEY,
        theta,
        v,
        h,
        missing,
        chains.schedule,
        energy=experiment.joint_energy,
        step_size=(section.step_size, section.latent_step_size),
        noise_scale=config.objective.mdsm.sigma0,
    )
    assert float(jnp.abs(expected - v)[~missing].max()) > 0  # moved, before they are put back
    expected = denoised(experiment, theta, jnp.where(missing, expected, v), h_after)
    completions = chains.inpaint(KEY, v, h, missing, "completions")
    oracles.assert_close(completions, jnp.where(missing, expected, v), atol=1e-4)


def test_completions_follow_the_energy(experiment):
    """½η² times the curvature is 1, so that the last step, without noise, ends at the minimum."""

    def energy(theta, v, h):
        return jnp.sum((v - theta) ** 2) / 0.02**2 + jnp.sum((h - v[0, 0, 0]) ** 2) / 0.1**2

    gaussian = replace(experiment, energy=SimpleNamespace(apply=energy))
    target = jnp.linspace(0.0, 1.0, 64).reshape(8, 8, 1)
    result = image_sampling.inpaint(gaussian, LangevinChains(gaussian, target, progress=False), KEY)
    for mask, completions in zip(result.masks.values(), result.completions, strict=True):
        expected = np.where(mask, target, result.originals[:, None])
        oracles.assert_close(completions, np.broadcast_to(expected, completions.shape), atol=1e-4)


# Samples by latents of the data


def test_samples_via_q_and_reconstructions_start_from_its_draws_and_its_means(
    experiment, theta, monkeypatch
):
    seen = {}

    def visible(self, key, v, h, temperatures, title, **options):
        seen[title] = np.asarray(h)
        return v

    monkeypatch.setattr(LangevinChains, "visible", visible)
    phi = experiment.initial_state.phi
    sampling.draw(experiment, theta, phi, KEY, num_samples=4, progress=False)
    infer = experiment.infer(theta, phi)
    keys = jax.random.split(jax.random.split(KEY, 8)[1], 4)
    train, test = (jnp.asarray(experiment.dataset.examples(s, slice(4))) for s in ("train", "test"))
    drawn = jax.vmap(lambda k, v: infer(v).sample(k))(keys, train)
    means = jax.vmap(lambda v: infer(v).mean)(test)
    oracles.assert_close(seen["Langevin v | h, h ~ q"], drawn, rtol=1e-6)
    oracles.assert_close(seen["reconstruction"], means, rtol=1e-6)
    assert np.abs(drawn - jax.vmap(lambda v: infer(v).mean)(train)).max() > 0.1


# What is written


def write(experiment, path):
    state = experiment.initial_state
    return report.write_samples(experiment, state, path, key=KEY, progress=False)


def test_pictures_and_arrays_are_written_and_leave_the_samples_as_they_were(experiment, tmp_path):
    write(experiment, tmp_path)
    for name in image_report.FILES:
        if name != "traversals.png":  # of generators
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    state = experiment.initial_state
    plain = sampling.draw(
        experiment, state.ema, state.phi, KEY, num_samples=4, pictures=False, progress=False
    )
    assert plain.frames is plain.interpolations is plain.inpaintings is None
    with np.load(tmp_path / "samples.npz") as stored:
        assert {name: stored[name].shape for name in stored} == {
            "titles": (2,),
            "originals": (4, 8, 8, 1),
            "reconstructions": (4, 8, 8, 1),
            "panel_0": (4, 8, 8, 1),
            "panel_1": (4, 8, 8, 1),
            "frame_titles": (4,),
            "frames": (4, 2, 8, 8, 1),
            "interpolation_ends": (2, 2, 8, 8, 1),
            "interpolation_weights": (3,),
            "interpolations": (2, 3, 8, 8, 1),
            "inpainting_originals": (2, 8, 8, 1),
            "inpainting_mask_titles": (2,),
            "inpainting_masks": (2, 8, 8, 1),
            "inpaintings": (2, 2, 2, 8, 8, 1),
        }
        for panel, (title, x) in enumerate(plain.panels.items()):
            assert stored["titles"][panel] == title
            np.testing.assert_array_equal(stored[f"panel_{panel}"], x)
        np.testing.assert_array_equal(stored["reconstructions"], plain.reconstructions)
        np.testing.assert_array_equal(stored["frames"][-1], stored["panel_1"][:2])

    config = experiment.config.copy_and_resolve_references()
    langevin = config.sampling.langevin
    langevin.frames.num_chains = langevin.interpolation.num_rows = langevin.inpainting.num_rows = 0
    write(replace(experiment, config=config), tmp_path)
    with np.load(tmp_path / "samples.npz") as stored:
        assert set(stored) == {"titles", "originals", "reconstructions", "panel_0", "panel_1"}
        np.testing.assert_array_equal(stored["panel_1"], plain.panels["joint samples (v, h)"])
    # Nor do pictures stay that belong to other samples.
    left = {p.name for p in tmp_path.iterdir()} & set(image_report.FILES)
    assert left == {"reconstructions.png"}


def test_pictures_show_what_was_drawn_under_its_name(experiment):
    masks = {"left": np.arange(8)[None, :, None] < np.full((8, 1, 1), 4)}
    inpaintings = image_sampling.Inpaintings(
        masks, np.full((1, 8, 8, 1), 0.25), np.full((1, 1, 2, 8, 8, 1), 0.75)
    )
    interpolations = image_sampling.Interpolations(
        np.zeros((1, 2, 8, 8, 1)), np.array([0.0, 0.5, 1.0]), np.zeros((1, 3, 8, 8, 1))
    )
    samples = sampling.Samples({}, interpolations=interpolations, inpaintings=inpaintings)
    figures = image_report.draw(experiment.dataset, samples)
    assert figures["frames.png"] is None
    line = "v given h on the line from h of a to h of b"
    titles = {
        name: [text.get_text().replace("\n", " ") for text in figure.texts]
        for name, figure in figures.items()
        if figure is not None
    }
    assert titles == {
        "interpolations.png": [line, "image a", "h of a", "50% of b", "h of b", "image b"],
        "inpaintings.png": ["original", "missing", "draw 1", "draw 2"],
    }
    noised = sampling.Samples({}, interpolations=interpolations._replace(start_noise=0.5))
    assert image_report.arrays(noised)["interpolation_start_noise"] == 0.5
    figure = image_report.draw(experiment.dataset, noised)["interpolations.png"]
    assert [text.get_text().replace("\n", " ") for text in figure.texts] == [
        f"{line}; chains start on the line from image a to image b, with noise of scale 0.5",
        "image a",
        "h of a",
        "50% of b",
        "h of b",
        "image b",
    ]
    frames = Frames(["start", "step 1,000, T = 1.5"], np.zeros((2, 3, 8, 8, 1)))
    figure = image_report.draw(experiment.dataset, sampling.Samples({}, frames=frames))[
        "frames.png"
    ]
    assert [text.get_text() for text in figure.texts] == ["start", "step 1,000\nT = 1.5"]
    original, missing, *_ = (
        np.asarray(axes.images[0].get_array()) for axes in figures["inpaintings.png"].axes
    )
    middle, width = len(missing) // 2, missing.shape[1]
    np.testing.assert_allclose(original[middle, [width // 4, 3 * width // 4]], 0.25)
    assert missing[middle, width // 4].std() > 0.1  # no grey
    np.testing.assert_allclose(missing[middle, 3 * width // 4], 0.25)


# What is refused


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [
        ("frames.num_chains", -1, 0),
        ("frames.num_stages", 1, 2),
        ("interpolation.num_rows", -1, 0),
        ("interpolation.num_points", 1, 2),
        ("inpainting.num_rows", -1, 0),
        ("inpainting.num_draws", 0, 1),
    ],
)
def test_numbers_that_cannot_be_drawn_are_refused(key, value, least):
    values = json.loads(make_config("digits_deep", SMALL).to_json())
    section, name = key.split(".")
    values["sampling"]["langevin"][section][name] = value
    message = rf"config.sampling.langevin.{key} must be an integer >= {least}, got {value}"
    with pytest.raises(ConfigError, match=message):
        load_config(values)
