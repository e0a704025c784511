"""The Gaussian RBM as a transformer and density of scikit-learn."""

import warnings
from numbers import Integral, Real

import jax.numpy as jnp
import numpy as np
from scipy.special import expit
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from jbism import _checks
from jbism.data import BatchOrder
from jbism.sklearn import _inference
from jbism.sklearn._learning import METHODS
from jbism.sklearn._training import Training, Whole, check_countable, key, precision

_FLOATS = (np.float64, np.float32)
_MIN_SAMPLE = 10  # an effective sample below this makes an estimate of log Z doubtful


def _normalized(estimator):
    if estimator.normalize == "none":
        raise AttributeError(
            "log-likelihoods need a log Z: set normalize to 'ais' or 'exact', got 'none'"
        )
    return True


class GaussianRBM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Training, BaseEstimator):
    """Restricted Boltzmann machine of real-valued features, learned by score matching.

    E(v, h) = ½‖(v - b)/σ‖² - cᵀh - vᵀWh with binary h, W = ``components_``ᵀ. It is to real-valued
    features what `sklearn.neural_network.BernoulliRBM` is to binary ones.

    Training runs on (v - mean)/scale_, with the mean of each feature and ``scale_``, the root mean
    variance of all; ``learning_rate`` and ``noise_level`` so mean the same whatever the units, and
    the fitted attributes are in those of X. No feature is scaled by itself: put a StandardScaler
    before it where features have units of their own, and leave images as they are.

    Training is compiled, which takes seconds, for each combination of settings, number of features
    and float type that a process has not met.

    Args:
      n_components: H, the number of binary hidden units.
      method: how θ is learned. By the exact score of the free energy, ``"dsm"`` (denoising; the
        quickest) and ``"ssm"`` (sliced score matching); by a variational posterior, as for models
        whose own is intractable, ``"vages-dsm"``, ``"bidsm"`` and ``"bissm"`` (implicit
        hypergradient); by Gibbs chains, ``"cd"`` and ``"pcd"``; ``"ml"`` by exact maximum
        likelihood, which enumerates 2^H latents a step: H <= 24, and quick to about 12.
      learning_rate: of Adam, in the units of training.
      batch_size: examples a step; at most all of them are taken. What fills no batch at the end of
        a sweep is left out of it.
      n_iter: sweeps over the training set, each in a new order.
      noise_level: standard deviation of the noise of ``"dsm"``, ``"vages-dsm"`` and ``"bidsm"``, in
        multiples of ``scale_``. The model learned is that of data so smoothed, so that σ_ stays
        above it; the other methods have no such floor and take σ_ towards 0 on constant features.
      n_particles: L >= 2 samples of h in each of the two sets of ``"vages-dsm"``.
      n_lower_steps: steps of the posterior for each of θ, by ``"vages-dsm"``, ``"bidsm"`` and
        ``"bissm"``.
      n_gibbs_steps: k of ``"cd"`` and ``"pcd"``.
      normalize: what `score_samples` subtracts from -F(v): ``"none"``, log Z by annealed importance
        sampling (``"ais"``), or log Z by enumeration (``"exact"``, H <= 24). With ``"none"`` there
        is no `score`, which a GridSearchCV of the estimator alone needs.
      n_ais_chains: chains of ``"ais"``, at least 2.
      n_ais_temperatures: its temperatures, at least 2; log Ẑ is low with few of them. Hundreds of
        features want thousands: a warning says where the estimate rests on few chains.
      verbose: above 0 shows a progress bar on stderr.
      random_state: an int, a RandomState or None, as everywhere in scikit-learn.

    Attributes:
      components_: Wᵀ, (n_components, n_features), in 1 / units of X.
      intercept_hidden_: c, (n_components,).
      intercept_visible_: b, (n_features,), in units of X.
      sigma_: σ, (n_features,), in units of X.
      scale_: the unit of training, in units of X; 1 if all features are constant.
      n_steps_: how many steps were made.
      loss_curve_: mean loss of each sweep, or of each `partial_fit`; of ``"cd"`` and ``"pcd"`` a
        difference of energies and no measure of progress.
      random_state_: the RandomState that `gibbs` and `sample` draw from.
      n_features_in_: the number of features.
      feature_names_in_: their names, where X has any.

    Example:
      >>> import numpy as np
      >>> from jbism.sklearn import GaussianRBM
      >>> X = np.random.RandomState(0).normal(size=(100, 3))
      >>> rbm = GaussianRBM(4, method="dsm", n_iter=2, normalize="exact", random_state=0).fit(X)
      >>> rbm.transform(X).shape, rbm.sample(5).shape
      ((100, 4), (5, 3))
      >>> round(rbm.score(X))  # mean log-likelihood; that of N(0, I) is about -4.3
      -4
    """

    _parameter_constraints: dict = {  # noqa: RUF012  (scikit-learn's own)
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "method": [StrOptions(set(METHODS))],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "noise_level": [Interval(Real, 0, None, closed="neither")],
        "n_particles": [Interval(Integral, 2, None, closed="left")],
        "n_lower_steps": [Interval(Integral, 1, None, closed="left")],
        "n_gibbs_steps": [Interval(Integral, 1, None, closed="left")],
        "normalize": [StrOptions({"none", "ais", "exact"})],
        "n_ais_chains": [Interval(Integral, 2, None, closed="left")],
        "n_ais_temperatures": [Interval(Integral, 2, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components=256,
        *,
        method="vages-dsm",
        learning_rate=1e-2,
        batch_size=50,
        n_iter=100,
        noise_level=0.3,
        n_particles=10,
        n_lower_steps=5,
        n_gibbs_steps=1,
        normalize="none",
        n_ais_chains=500,
        n_ais_temperatures=1000,
        verbose=0,
        random_state=None,
    ):
        self.n_components = n_components
        self.method = method
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.noise_level = noise_level
        self.n_particles = n_particles
        self.n_lower_steps = n_lower_steps
        self.n_gibbs_steps = n_gibbs_steps
        self.normalize = normalize
        self.n_ais_chains = n_ais_chains
        self.n_ais_temperatures = n_ais_temperatures
        self.verbose = verbose
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):  # noqa: ARG002
        """Learns from X (n_samples, n_features) anew; y is ignored.

        Raises:
          ValueError: if a parameter is out of range, or X is not a finite matrix.
          DivergenceError: of `jbism.training`, if a loss is not finite; lower ``learning_rate``.
        """
        with self._all_or_nothing():
            X = validate_data(self, X, dtype=_FLOATS)
            with precision(X.dtype):
                state, key_order = self._begin(X)
                order = BatchOrder(key_order, len(X), min(self.batch_size, len(X)))
                sweep = order.steps_per_epoch
                self._advance(state, X, order, sweep, sweep * int(self.n_iter))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):  # noqa: ARG002
        """Takes one step with X (batch, n_features) as the minibatch; y is ignored.

        The first call sets the centre and ``scale_`` from its X; after a `fit`, training goes on.

        Raises:
          ValueError: as `fit`; if ``method`` or ``n_components`` has changed since the first call.
          DivergenceError: as `fit`.
        """
        first = not hasattr(self, "_state")
        dtype = _FLOATS if first else self.components_.dtype
        with self._all_or_nothing():
            X = validate_data(self, X, dtype=dtype, reset=first)
            with precision(X.dtype):
                state = self._begin(X)[0] if first else self._resume()
                self._advance(state, X, Whole(len(X)), 1, 1)
        return self

    def transform(self, X):
        """Returns P(h=1 | v), (n_samples, n_components)."""
        X = self._validated(X)
        return expit(self._logits(X))

    def inverse_transform(self, X):
        """Returns E[v | h], (n_samples, n_features), of h or P(h=1), (n_samples, n_components)."""
        check_is_fitted(self)
        X = check_array(X, dtype=_FLOATS, input_name="X")
        if X.shape[1] != len(self.components_):
            raise ValueError(
                f"X must have n_components = {len(self.components_)} columns, got {X.shape[1]}"
            )
        p = self._parameters(X.dtype)
        return p["intercept_visible_"] + p["sigma_"] ** 2 * (X @ p["components_"])

    def score_samples(self, X):
        """Returns -F(v) - log Z, (n_samples,), in nats, with log Z left out if not normalised.

        log Ẑ by annealed importance sampling varies with ``random_state``; with an int every call
        gives the same.

        Warns:
          ConvergenceWarning: if few of the chains carry the estimate of log Z.
        """
        X = self._validated(X)
        log_z = 0.0 if self.normalize == "none" else self.log_partition()
        p = self._parameters(X.dtype)
        quadratic = 0.5 * np.sum(((X - p["intercept_visible_"]) / p["sigma_"]) ** 2, axis=1)
        log_f = np.sum(np.logaddexp(0, self._logits(X)), axis=1) - quadratic
        return log_f - X.dtype.type(log_z)

    @available_if(_normalized)
    def score(self, X, y=None):  # noqa: ARG002
        """Returns the mean log-likelihood of X, in nats; there is none if ``normalize="none"``."""
        return float(np.mean(self.score_samples(X)))

    @available_if(_normalized)
    def log_partition(self):
        """Returns log Z, by enumeration or annealed importance sampling as ``normalize`` says."""
        check_is_fitted(self)
        with precision(self.components_.dtype):
            arrays = self._arrays(self.components_.dtype)
            if self.normalize == "exact":
                check_countable("normalize='exact'", len(self.components_))
                return float(_inference.exact_log_z(arrays))
            result = _inference.ais(
                arrays,
                key(check_random_state(self.random_state)),
                num_chains=self.n_ais_chains,
                num_temperatures=self.n_ais_temperatures,
            )
            if not result.effective_sample_size >= _MIN_SAMPLE:
                warnings.warn(
                    "log Z is doubtful: the effective sample size of its "
                    f"{self.n_ais_chains} chains is {float(result.effective_sample_size):.1f}; "
                    "raise n_ais_temperatures or n_ais_chains",
                    ConvergenceWarning,
                    stacklevel=2,
                )
            return float(result.log_partition)

    def gibbs(self, v):
        """Returns v (n_samples, n_features) after one step v → h → v of block Gibbs sampling."""
        v = self._validated(v)
        with precision(v.dtype):
            arrays = self._arrays(v.dtype)
            drawn = _inference.gibbs_steps(arrays, key(self.random_state_), v, num_steps=1)
            return np.array(drawn)

    def sample(self, n_samples=1, *, n_steps=1000):
        """Returns the ends of Gibbs chains from noise, (n_samples, n_features).

        Args:
          n_samples: how many chains, each for itself.
          n_steps: steps from N(b, σ²) on, at least 1.

        Raises:
          ValueError: if a number is below 1.
        """
        check_is_fitted(self)
        _checks.integer("n_samples", n_samples, minimum=1)
        _checks.integer("n_steps", n_steps, minimum=1)
        dtype = self.components_.dtype
        with precision(dtype):
            drawn = _inference.samples(
                self._arrays(dtype),
                key(self.random_state_),
                num_samples=int(n_samples),
                num_steps=int(n_steps),
            )
            return np.array(drawn)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return len(self.components_)

    def _validated(self, X):
        check_is_fitted(self)
        return validate_data(self, X, dtype=_FLOATS, reset=False)

    # In NumPy, for a compiled function is compiled anew for every number of rows.
    def _logits(self, X):
        p = self._parameters(X.dtype)
        return X @ p["components_"].T + p["intercept_hidden_"]

    def _parameters(self, dtype):
        names = ("components_", "intercept_hidden_", "intercept_visible_", "sigma_")
        return {name: np.asarray(getattr(self, name), dtype) for name in names}

    def _arrays(self, dtype):
        """Returns the parameters as `jbism.energies.GaussianRBM` has them."""
        p = self._parameters(dtype)
        return {
            "weights": jnp.asarray(p["components_"].T),
            "visible_bias": jnp.asarray(p["intercept_visible_"]),
            "hidden_bias": jnp.asarray(p["intercept_hidden_"]),
            "log_sigma": jnp.asarray(np.log(p["sigma_"])),
        }
