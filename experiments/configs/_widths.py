"""The widths that a config of images comes in."""

_WIDTHS = ("published", "small")


def is_small(width: str) -> bool:
    """Whether networks are to be small, as ``--config=FILE:small`` says.

    Raises:
      ValueError: if the width is neither "published" nor "small".
    """
    if width not in _WIDTHS:
        raise ValueError(f"--config=FILE:WIDTH must have a WIDTH of {_WIDTHS}, got {width!r}")
    return width == "small"
