"""One image file, or the bytes of one."""

import io
import pathlib
from typing import Any

import numpy as np

_MODES = {1: "L", 3: "RGB"}


def require_pillow(name: str) -> None:
    """Raises an ImportError that names the extra if images cannot be decoded."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{name} needs pillow: pip install 'jbism[experiments]'") from error


def open_image(source: pathlib.Path | bytes, label: str, shape: tuple[int, int, int]) -> Any:
    """Returns a PIL image, decoded.

    Args:
      source: the file, or its bytes.
      label: what errors call it.
      shape: the ``(height, width, channels)`` it must have; 1 channel is grey, 3 are RGB.

    Raises:
      ValueError: it cannot be decoded, or has another size or mode.
    """
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{label} is no readable image: {reason}") from error
    height, width, channels = shape
    expected = (width, height), _MODES[channels]
    if (image.size, image.mode) != expected:
        raise ValueError(
            f"{label} must be an image of {width}×{height} pixels in mode {_MODES[channels]}, "
            f"got {image.width}×{image.height} in mode {image.mode}"
        )
    return image


def read_image(source: pathlib.Path | bytes, label: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the image that :func:`open_image` opens as uint8 ``[height, width, channels]``."""
    return to_array(open_image(source, label, shape))


def to_array(image: Any) -> np.ndarray:
    """Returns a PIL image as uint8 ``[height, width, channels]``."""
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)
