"""The Fisher divergence of a model from data, by a critic."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbism import _checks, _random
from jbism.stein._fisher_objective import (
    Critic,
    Score,
    check_shapes,
    evaluate_in_blocks,
    objective_values,
    raise_not_finite,
)
from jbism.typing import Array, Key, Params

_NORMAL_975 = 1.959964  # the 97.5 % quantile of N(0, 1)


class FisherDivergence(NamedTuple):
    """A critic's estimate of the Fisher divergence, and how the critic was trained."""

    value: Array  # scalar, the objective of the kept critic on the test points
    interval: Array  # [2], 95 % interval of that critic's expected objective, by the test points
    train_value: Array  # scalar, on as many training points; above ``value`` if overfitted
    validation_value: Array  # scalar, of the kept critic: the greatest of validation_curve
    critic_params: Params  # of the kept critic
    num_steps: Array  # integer scalar, optimizer steps taken
    stopped_early: Array  # boolean scalar, whether patience ran out before the last step
    train_curve: Array  # [validations], mean training objective since the validation before
    validation_curve: Array  # [validations], after each validate_every steps; NaN where not reached


def fisher_divergence(
    key: Key,
    v: Array,
    *,
    score: Score,
    critic: Critic,
    critic_params: Params,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    batch_size: int,
    num_projections: int = 1,
    evaluation_projections: int | None = 10,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    validate_every: int = 500,
    patience: int | None = 10,
    on_validation: Callable[[Any, Any, Any], None] | None = None,
) -> FisherDivergence:
    """Estimates the Fisher divergence between data and a model by training a critic.

    F = ½ E_data‖s(v) - ∇ log p_data(v)‖² = max_f E_data[f(v)ᵀs(v) + tr ∇f(v) - ½‖f(v)‖²],

    reached at f = s - ∇ log p_data (Bao et al., 2021; Grathwohl et al., 2020). The trace is
    estimated as the mean of uᵀ(∇f)u over Rademacher u, one forward-mode product each.

    The data are split at random. The critic is trained on batches of the first part, drawn with
    replacement; of its states at the validations, the best on the second part is kept; the third
    gives the value. So the value is unbiased for the critic that it has, and in expectation
    a *lower bound* of F whatever the critic: it falls short where the critic is too small, not
    converged (validation_curve still rises) or overfitted (train_value above the interval). The
    interval covers the noise of the test points alone, not this shortfall. With a stochastic score
    it all holds of the score's expectation.

    A pure function, for use under jit and vmap too. There scores or objectives that are not finite
    cannot raise: training stops and the value is NaN.

    Args:
      key: randomness of split, batches, score and projections.
      v: data, [n, *event].
      score: ``(key, v) -> [batch, *event]``, ∇ log p(v; θ) of the model at a batch of v. An exact
        score ignores the key.
      critic: ``(critic_params, v) -> [*event]`` of ONE v.
      critic_params: parameters to start from.
      optimizer: any optax transformation; it is given gradients to descend, of the negated
        objective.
      num_steps: training steps, at least 1.
      batch_size: points a step, and a block of the evaluations.
      num_projections: projections u a point in training.
      evaluation_projections: projections a point in evaluation; None takes the exact trace, one
        product a dimension.
      validation_fraction: share of the data that validates, in (0, 1).
      test_fraction: share of the data that tests, in (0, 1).
      validate_every: steps between validations; the last step is always validated. Validations
        share one key, so that their differences are the critic's.
      patience: stop after so many validations without improvement; None never stops early, as
        suits a decaying learning rate, where improvement comes late.
      on_validation: called as ``on_validation(step, train, validation)`` after each validation,
        in no guaranteed order, by `jax.debug.callback`; under vmap until the last lane stops.

    Returns:
      A `FisherDivergence`, in 1 / units of v squared.

    Raises:
      ValueError: if the split leaves a part empty or a single point to test on, batch_size exceeds
        the training points, a shape does not fit, a number is out of range, or (outside jit) v,
        the scores or the critic are not finite.
      TypeError: if v is not floating, or an argument is of the wrong type.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> v = jax.random.normal(jax.random.key(0), (2000, 2))
      >>> result = fisher_divergence(  # N(0, I) against N((1, 0), I): F = ½
      ...     jax.random.key(1), v, score=lambda key, v: jnp.array([[1.0, 0.0]]) - v,
      ...     critic=lambda b, v: b, critic_params=jnp.zeros(2),
      ...     optimizer=optax.adam(0.05), num_steps=200, batch_size=100, validate_every=50)
      >>> abs(float(result.value) - 0.5) < 0.2
      True
    """
    v = _checks.examples("v", v)
    _checks.function("score", score)
    _checks.function("critic", critic)
    _checks.instance("optimizer", optimizer, optax.GradientTransformation)
    num_steps = _checks.integer("num_steps", num_steps, minimum=1)
    validate_every = _checks.integer("validate_every", validate_every, minimum=1)
    num_projections = _checks.integer("num_projections", num_projections, minimum=1)
    if evaluation_projections is not None:
        _checks.integer("evaluation_projections", evaluation_projections, minimum=1)
    if patience is not None:
        _checks.integer("patience", patience, minimum=1)
    if on_validation is not None:
        _checks.option("on_validation", on_validation, "a function of (step, train, validation)")
    batch_size = _checks.integer("batch_size", batch_size, minimum=1)
    num_train, num_validation = _split(v.shape[0], validation_fraction, test_fraction)
    if batch_size > num_train:
        raise ValueError(
            f"batch_size must be at most the {num_train} training points of v, got {batch_size}"
        )
    check_shapes(score, critic, critic_params, key, v[:batch_size])

    key_split, key_train, key_validation, key_test = _random.split(key, 4)
    shuffled = v[_random.permutation(key_split, v.shape[0])]
    train, validation, test = jnp.split(shuffled, [num_train, num_train + num_validation])
    num_validations = -(-num_steps // validate_every)
    objective = partial(objective_values, score=score, critic=critic)
    evaluate = partial(
        evaluate_in_blocks, objective, block_size=batch_size, num_projections=evaluation_projections
    )

    def loss_of(params, key, batch):
        return -jnp.mean(objective(params, key, batch, num_projections=num_projections))

    def step(i, carry):
        params, opt_state, total = carry
        key_batch, key_step = _random.split(_random.fold_in(key_train, i))
        batch = train[_random.randint(key_batch, (batch_size,), 0, num_train)]
        loss, grads = jax.value_and_grad(loss_of)(params, key_step, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, total - loss

    def steps_and_validation(state):
        first = state.done * validate_every
        last = jnp.minimum(first + validate_every, num_steps)
        start = (state.params, state.opt_state, jnp.zeros((), v.dtype))
        params, opt_state, total = jax.lax.fori_loop(first, last, step, start)
        mean = total / (last - first).astype(v.dtype)
        value = jnp.mean(evaluate(params, key_validation, validation))
        if on_validation is not None:
            jax.debug.callback(on_validation, last, mean, value)
        better = value > state.best
        return _Training(
            params=params,
            opt_state=opt_state,
            done=state.done + 1,
            waited=jnp.where(better, 0, state.waited + 1),
            best=jnp.where(better, value, state.best),
            best_params=jax.tree.map(partial(jnp.where, better), params, state.best_params),
            train_curve=state.train_curve.at[state.done].set(mean),
            validation_curve=state.validation_curve.at[state.done].set(value),
            finite=jnp.isfinite(mean) & jnp.isfinite(value),
        )

    def goes_on(state):
        on = (state.done < num_validations) & state.finite
        return on if patience is None else on & (state.waited < patience)

    critic_params = jax.tree.map(jnp.asarray, critic_params)
    curve = jnp.full(num_validations, jnp.nan, v.dtype)
    state = jax.lax.while_loop(
        goes_on,
        steps_and_validation,
        _Training(
            params=critic_params,
            opt_state=optimizer.init(critic_params),
            done=jnp.zeros((), jnp.int32),
            waited=jnp.zeros((), jnp.int32),
            best=jnp.array(-jnp.inf, v.dtype),
            best_params=critic_params,
            train_curve=curve,
            validation_curve=curve,
            finite=jnp.array(True),
        ),
    )

    both = jnp.concatenate([test, train[: test.shape[0]]])
    values = evaluate(state.best_params, key_test, both)
    values, train_values = jnp.split(values, [test.shape[0]])
    value = jnp.where(state.finite, jnp.mean(values), jnp.nan)
    if not isinstance(value, jax.core.Tracer) and not jnp.isfinite(value):
        raise_not_finite(score, key_test, v, batch_size)
    half_width = _NORMAL_975 * jnp.std(values, ddof=1) / math.sqrt(values.size)
    return FisherDivergence(
        value=value,
        interval=jnp.stack([value - half_width, value + half_width]),
        train_value=jnp.mean(train_values),
        validation_value=state.best,
        critic_params=state.best_params,
        num_steps=jnp.minimum(state.done * validate_every, num_steps),
        stopped_early=(state.done < num_validations) & state.finite,
        train_curve=state.train_curve,
        validation_curve=state.validation_curve,
    )


class _Training(NamedTuple):
    """The state of the training between validations."""

    params: Params
    opt_state: optax.OptState
    done: Array  # validations
    waited: Array  # validations since the best
    best: Array
    best_params: Params
    train_curve: Array
    validation_curve: Array
    finite: Array


def _split(n, validation_fraction, test_fraction):
    """The sizes of the training and the validation part."""
    fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    for name, fraction in fractions.items():
        if _checks.positive(name, fraction) >= 1:
            raise ValueError(f"{name} must be in (0, 1), got {fraction}")
    num_validation, num_test = round(n * validation_fraction), round(n * test_fraction)
    num_train = n - num_validation - num_test
    sizes = f"{num_train} training, {num_validation} validation and {num_test} test points"
    if num_validation < 1:
        raise ValueError(f"validation_fraction must leave at least 1 point, got {sizes}")
    if num_test < 2:
        raise ValueError(f"test_fraction must leave at least 2 points, got {sizes}")
    if num_train < 1:
        raise ValueError(
            f"validation_fraction + test_fraction must leave points to train on, got {sizes}"
        )
    return num_train, num_validation
