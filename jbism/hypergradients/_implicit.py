"""The implicit function theorem at φ_N, which implicit strategies share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbism import _checks, _random
from jbism.hypergradients._lower_level import LowerLevel, Solve
from jbism.hypergradients._virtual import check_virtual_steps, constant_steps, virtual_keys
from jbism.typing import Array, Key, LowerLoss, Params, UpperLoss

ON_FAILURE = ("report", "first_order")

Solver = Callable[[Callable[[Params], Params], Params], tuple[Params, Solve]]  # (product, b) -> x


class Implicit:
    """A strategy that solves for the hypergradient at φ_N; subclasses are dataclasses that say how.

    They have the fields named here and a method ``_solve``, a `Solver`.
    """

    num_samples: int
    on_failure: str
    virtual_steps: int
    optimizer: optax.GradientTransformation | None

    def _check_options(self):
        _checks.integer("num_samples", self.num_samples, minimum=1)
        _checks.one_of("on_failure", self.on_failure, ON_FAILURE)
        check_virtual_steps("virtual_steps", self.virtual_steps, self.optimizer)

    def _solve(self, product: Any, b: Params) -> tuple[Params, Solve]:
        raise NotImplementedError

    def __call__(
        self,
        upper_loss: UpperLoss,
        lower_loss: LowerLoss,
        theta: Params,
        phi: Params,
        key: Key,
        *,
        opt_state: optax.OptState | None = None,
    ) -> tuple[tuple[Array, Any], LowerLevel]:
        """Returns F(θ, φ_N), its aux, and the `LowerLevel` with its `Solve`."""
        for leaf in jax.tree.leaves(theta):
            _checks.floating("theta", leaf)
        keys, key_upper, key_solve = virtual_keys(key, self.virtual_steps)
        phi, descent = constant_steps(
            lower_loss,
            theta,
            phi,
            keys,
            optimizer=self.optimizer,
            opt_state=opt_state,
        )
        result, solve = implicit_gradient(
            upper_loss,
            lower_loss,
            theta,
            phi,
            key_upper,
            more_keys=_random.split(key_solve, self.num_samples - 1),
            solve=self._solve,
            on_failure=self.on_failure,
        )
        return result, LowerLevel(phi, descent, solve)


def implicit_gradient(
    upper_loss: UpperLoss,
    lower_loss: LowerLoss,
    theta: Params,
    phi: Params,
    key: Key,
    *,
    more_keys: Key,
    solve: Solver,
    on_failure: str,
) -> tuple[tuple[Array, Any], Solve]:
    """F(θ, φ) whose θ-gradient takes φ as the optimum φ*(θ) of the lower level.

    dF/dθ = ∂F/∂θ - (∂²G/∂θ∂φ) x with (∂²G/∂φ²) x = ∂F/∂φ, all at φ.

    Args:
      upper_loss: F, ``(theta, phi, key) -> (scalar, aux)``.
      lower_loss: G, ``(theta, phi, key) -> scalar``.
      theta: upper-level parameters.
      phi: where the lower level is taken to be at its optimum.
      key: fixes the randomness of F and of G in all products with its derivatives: the equation's
        two sides belong to the same noise.
      more_keys: [n], keys that G is averaged over besides.
      solve: solves the linear equation.
      on_failure: ``"report"`` uses x whatever it is, ``"first_order"`` x = 0 where it failed.
    """
    constant, phi = jax.lax.stop_gradient((theta, phi))

    def lower(theta, phi):
        # Not mapped with the others: the compiler finds what F has in common with it.
        total = lower_loss(theta, phi, jax.random.clone(key))
        if len(more_keys):
            keys = jax.random.clone(more_keys)
            total += jnp.sum(jax.vmap(lambda key: lower_loss(theta, phi, key))(keys))
        return total / (1 + len(more_keys))

    (value, aux), (direct, to_phi) = jax.value_and_grad(upper_loss, argnums=(0, 1), has_aux=True)(
        constant, phi, key
    )
    # One linearisation, whose products are forward over reverse.
    _, product = jax.linearize(jax.grad(lambda phi: lower(constant, phi)), phi)
    x, report = solve(product, to_phi)
    indirect = jax.grad(lambda theta: jax.jvp(lambda phi: lower(theta, phi), (phi,), (x,))[1])(
        constant
    )
    # An overflow may leave x finite, and worthless.
    finite = jnp.isfinite(report.residual) & _all_finite(indirect)
    report = report._replace(failed=report.failed | ~finite)
    if on_failure == "first_order":
        spoiled, substitute = report.failed, 0.0
    else:
        spoiled, substitute = ~finite, jnp.nan
    gradient = jax.tree.map(
        lambda direct, indirect: direct - jnp.where(spoiled, substitute, indirect), direct, indirect
    )
    value, aux, gradient = jax.lax.stop_gradient((value, aux, gradient))
    return (_with_gradient(value, theta, gradient), aux), report


def summarize(
    b: Params,
    squared_rest: Array,
    *,
    num_products: Array,
    negative_curvature: Array,
    may_diverge: bool,
) -> Solve:
    """Returns the `Solve` of an approximate solution that leaves a rest of b of this squared norm.

    A residual that has grown is a failure where the method ``may_diverge``; that of conjugate
    gradients may on the way, while the error falls.
    """
    scale = optax.tree.norm(b)
    residual = jnp.sqrt(squared_rest) / jnp.where(scale > 0, scale, 1.0)
    sound = residual <= 1.0 if may_diverge else jnp.isfinite(residual)
    failed = negative_curvature | ~sound
    return Solve(residual, num_products, negative_curvature, failed)


def _all_finite(tree):
    finite = jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), tree)
    return jax.tree.reduce(jnp.logical_and, finite, jnp.array(True))


@jax.custom_jvp
def _with_gradient(value, theta, gradient):  # noqa: ARG001
    """The value, whose derivative in theta is the gradient given."""
    return value


@_with_gradient.defjvp
def _with_gradient_jvp(primals, tangents):
    value, theta, gradient = primals
    gradient = _once(gradient, theta)
    products = jax.tree.map(lambda g, t: jnp.sum(g * t), gradient, tangents[1])
    total = sum(jax.tree.leaves(products), jnp.zeros_like(value))
    return value, total.astype(value.dtype)


@jax.custom_jvp
def _once(gradient, theta):  # noqa: ARG001
    """The gradient, whose own derivative in theta nobody has."""
    return gradient


@_once.defjvp
def _once_jvp(primals, tangents):
    raise NotImplementedError(
        "implicit hypergradients have no second derivatives; use Unroll, which has"
    )
