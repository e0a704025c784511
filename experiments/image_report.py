"""Pictures of what a model makes of images, and of chains on their way."""

from typing import Any

import numpy as np

from experiments.chains import Frames
from experiments.image_sampling import Inpaintings, Interpolations, Traversals
from experiments.sampling import Samples
from jbism import data, plotting

FILES = (
    "reconstructions.png",
    "frames.png",
    "interpolations.png",
    "inpaintings.png",
    "traversals.png",
)
_RECONSTRUCTED = 30
_MISSING = (0.35, 0.55, 0.85)  # no grey, so that no pixel is taken for it


def draw(dataset: data.Dataset, samples: Samples) -> dict[str, Any]:
    """Returns the figures of `FILES` by name; None where there is nothing to show."""
    panels = (
        samples.frames and _frames(dataset, samples.frames),
        samples.interpolations and _interpolations(dataset, samples.interpolations),
        samples.inpaintings and _inpaintings(dataset, samples.inpaintings),
        samples.traversals and _traversals(dataset, samples.traversals),
    )
    titles = (None, samples.interpolations and _interpolated(samples.interpolations), None, None)
    figures = [
        shown and plotting.image_panels(shown, columns=1, title=title, pixels=64)
        for shown, title in zip(panels, titles, strict=True)
    ]
    return dict(zip(FILES, (_reconstructions(dataset, samples), *figures), strict=True))


def arrays(samples: Samples) -> dict[str, np.ndarray]:
    """Returns what the pictures show, for ``samples.npz``; images in data units."""
    found: dict[str, np.ndarray] = {}
    if samples.frames is not None:
        found["frame_titles"] = np.array(samples.frames.titles)
        found["frames"] = samples.frames.images
    if samples.interpolations is not None:
        found["interpolation_ends"] = samples.interpolations.ends
        found["interpolation_weights"] = samples.interpolations.weights
        found["interpolations"] = samples.interpolations.images
        if samples.interpolations.start_noise is not None:
            found["interpolation_start_noise"] = np.array(samples.interpolations.start_noise)
    if samples.inpaintings is not None:
        masks = samples.inpaintings.masks
        found["inpainting_originals"] = samples.inpaintings.originals
        found["inpainting_mask_titles"] = np.array(list(masks))
        found["inpainting_masks"] = np.stack(list(masks.values()))
        found["inpaintings"] = samples.inpaintings.completions
    if samples.traversals is not None:
        found["traversed_latents"] = samples.traversals.latents
        found["traversal_values"] = samples.traversals.values
        found["traversals"] = samples.traversals.images
    return found


def _reconstructions(dataset, samples):
    if samples.originals is None:
        return None
    both = samples.originals[:_RECONSTRUCTED], samples.reconstructions[:_RECONSTRUCTED]
    return plotting.reconstructions(*map(dataset.images, both))


def _frames(dataset, frames: Frames):
    return {
        title.replace(", ", "\n"): dataset.images(images)
        for title, images in zip(frames.titles, frames.images, strict=True)
    }


def _interpolations(dataset, interpolations: Interpolations):
    titles = [f"{weight:.0%} of b" for weight in interpolations.weights]
    titles[0], titles[-1] = "h of a", "h of b"
    between = {title: dataset.images(interpolations.images[:, i]) for i, title in enumerate(titles)}
    first, second = (dataset.images(interpolations.ends[:, i]) for i in range(2))
    return {"image a": first, **between, "image b": second}


def _interpolated(interpolations: Interpolations) -> str:
    noise = interpolations.start_noise
    text = "v given h on the line from h of a to h of b"
    if noise is None:
        return text
    return (
        f"{text}; chains start on the line from image a to image b, with noise of scale {noise:.2g}"
    )


def _traversals(dataset, traversals: Traversals):
    rows = len(traversals.latents)
    moved = {
        f"h_j = {value:.3g}": dataset.images(traversals.images[:, i])
        for i, value in enumerate(traversals.values)
    }
    return {"original": dataset.images(np.repeat(traversals.original[None], rows, 0)), **moved}


def _inpaintings(dataset, inpaintings: Inpaintings):
    originals = dataset.images(inpaintings.originals)
    shown, masked = [], []
    for mask in inpaintings.masks.values():
        hole = (
            dataset.images(mask[None].astype(np.float32))[0]
            .reshape(*originals.shape[1:3], -1)
            .any(-1)
        )
        colours = np.broadcast_to(
            originals.reshape(*originals.shape[:3], -1), (*originals.shape[:3], 3)
        ).copy()
        colours[:, hole] = _MISSING
        shown.append(originals)
        masked.append(colours)
    completions = np.concatenate(inpaintings.completions)  # [mask and row, draw, *event]
    draws = {
        f"draw {i + 1}": dataset.images(completions[:, i]) for i in range(completions.shape[1])
    }
    return {"original": np.concatenate(shown), "missing": np.concatenate(masked), **draws}
