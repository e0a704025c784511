"""How an estimator begins, goes on and keeps what it has learned."""

import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils import check_random_state

from jbism.sklearn._learning import Settings, compiled_steps, initial_state
from jbism.training import fit as training_loop

_MAX_EXACT = 24  # of `jbism.likelihood.exact_log_partition`


class Training:
    """What `GaussianRBM.fit` and `GaussianRBM.partial_fit` share."""

    n_components: int
    method: str
    learning_rate: float
    batch_size: int
    noise_level: float
    n_particles: int
    n_lower_steps: int
    n_gibbs_steps: int
    verbose: int
    random_state: int | np.random.RandomState | None

    @contextlib.contextmanager
    def _all_or_nothing(self):
        """Leaves the estimator as it was if training fails or is interrupted."""
        former = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(former)
            raise

    def _begin(self, X):
        """Sets what training starts from; returns its state and the key of the data's order."""
        if self.method == "ml":
            check_countable("method='ml'", self.n_components)
        self.random_state_ = check_random_state(self.random_state)
        key_state, key_order = jax.random.split(key(self.random_state_))
        self._mean = X.mean(axis=0, dtype=np.float64).astype(X.dtype)
        scale = math.sqrt(X.var(axis=0, dtype=np.float64).mean())
        # The variance of a constant is rounding error.
        constant = scale <= 10.0 * np.finfo(X.dtype).eps * np.abs(self._mean).max()
        self.scale_ = 1.0 if constant else scale
        self._learned = self.method, self.n_components
        self.loss_curve_ = []
        state = initial_state(
            self._settings(), key_state, X.shape[1], X.dtype, num_chains=int(self.batch_size)
        )
        return state, key_order

    def _resume(self):
        """Returns the state that the last call left."""
        for name, former in zip(("method", "n_components"), self._learned, strict=True):
            if getattr(self, name) != former:
                raise ValueError(
                    f"{name} must stay {former!r} in partial_fit, got {getattr(self, name)!r}; "
                    "fit starts anew"
                )
        state = jax.tree.map(jnp.asarray, self._state)
        return dataclasses.replace(state, key=jax.random.wrap_key_data(state.key))

    def _advance(self, state, X, order, steps_per_sweep, num_steps):
        """Trains, then keeps the state and the parameters in the units of X."""
        run = compiled_steps(self._settings())
        v = (X - self._mean) / X.dtype.type(self.scale_)
        curve = []

        def sweep(state, rows):
            state, metrics = run(state, v[rows])
            curve.append(float(metrics["loss"].mean()))
            return state, metrics

        state = training_loop(
            state,
            sweep,
            order,
            num_steps=int(state.step) + num_steps,
            steps_per_call=steps_per_sweep,
            log_every=steps_per_sweep,
            progress=bool(self.verbose),
        )
        # NumPy arrays can be pickled, typed keys cannot.
        state = jax.device_get(dataclasses.replace(state, key=jax.random.key_data(state.key)))
        self._state = state
        self.n_steps_ = int(state.step)
        self.loss_curve_ += curve
        theta, scale = state.theta["params"], X.dtype.type(self.scale_)
        self.components_ = theta["weights"].T / scale
        self.intercept_hidden_ = theta["hidden_bias"] - self.components_ @ self._mean
        self.intercept_visible_ = self._mean + scale * theta["visible_bias"]
        self.sigma_ = scale * np.exp(theta["log_sigma"])

    def _settings(self):
        return Settings(
            method=self.method,
            num_hidden=int(self.n_components),
            learning_rate=float(self.learning_rate),
            noise_level=float(self.noise_level),
            num_particles=int(self.n_particles),
            num_lower_steps=int(self.n_lower_steps),
            num_gibbs_steps=int(self.n_gibbs_steps),
        )


class Whole:
    """The order of a set that is one batch."""

    def __init__(self, num_examples):
        self._rows = np.arange(num_examples, dtype=np.int32)

    def indices(self, step, num_steps):  # noqa: ARG002
        """Returns every row, for each step."""
        return np.broadcast_to(self._rows, (num_steps, self._rows.size))


def precision(dtype):
    """What is computed inside has the floating dtype of X, whatever JAX's own default."""
    return jax.enable_x64(dtype == np.float64)


def key(random_state):
    """Returns a key that a RandomState draws."""
    return jax.random.key(int(random_state.randint(np.iinfo(np.int32).max)))


def check_countable(use, n_components):
    """Raises if 2^n_components latents are too many to enumerate."""
    if n_components > _MAX_EXACT:
        raise ValueError(
            f"n_components must be <= {_MAX_EXACT} for {use}, which enumerates 2^n_components "
            f"latents, got {n_components}"
        )
