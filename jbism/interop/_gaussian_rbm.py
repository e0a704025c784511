"""The published Gaussian RBM."""

from collections.abc import Mapping
from typing import Any

from jbism import _checks
from jbism.energies import GaussianRBM
from jbism.interop._arrays import Arrays


def from_published_gaussian_rbm(
    state: Mapping[str, Any], *, sigma: float | None = None
) -> tuple[GaussianRBM, dict]:
    """Returns the Gaussian RBM of a published state dict, and its variables.

    E(v, h) = ½‖(v - b)/σ‖² - cᵀh - vᵀWh, the same energy here and there (Bao et al., 2020, 2021).

    Args:
      state: ``W`` [D, H], ``b_v`` [D], ``b_h`` [H] and, where σ was learned, ``log_std`` [D]; from
        `jbism.interop.read_state_dict`.
      sigma: σ of a model that was trained with a fixed one, which its state dict does not hold; in
        the units of v. None if σ was learned.

    Raises:
      ValueError: if σ is neither in ``state`` nor given, or both; if an array is missing, left over
        or of a wrong shape.

    Example:
      >>> import numpy as np
      >>> state = {"W": np.ones((2, 4)), "b_v": np.zeros(2), "b_h": np.zeros(4)}
      >>> rbm, theta = from_published_gaussian_rbm(state, sigma=0.5)
      >>> float(rbm.apply(theta, np.ones(2), np.ones(4)))
      -4.0
    """
    arrays = Arrays(state)
    weights = arrays.take("W", (None, None))  # first: without it this is another state
    learned = "log_std" in arrays
    if learned and sigma is not None:
        raise ValueError(f"sigma must be None, since state holds the learned one, got {sigma!r}")
    if not learned and sigma is None:
        raise ValueError("sigma must be given, since state holds no 'log_std'")
    if sigma is not None:
        _checks.positive("sigma", sigma)
    dim_v, num_hidden = weights.shape
    params = {
        "weights": weights,
        "visible_bias": arrays.take("b_v", (dim_v,)),
        "hidden_bias": arrays.take("b_h", (num_hidden,)),
    }
    if learned:
        params["log_sigma"] = arrays.take("log_std", (dim_v,))
    theta = arrays.finish("Gaussian RBM", params)
    if sigma is None:
        return GaussianRBM(num_hidden), theta
    return GaussianRBM(num_hidden, learn_sigma=False, sigma_init=sigma), theta
