"""The step builder of bi-level doubly variational learning."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jbism import _random
from jbism.losses import BidvlCompact, BidvlFull, bidvl_loss, bidvl_lower_loss
from jbism.training._step import Step, bilevel_step
from jbism.typing import FreeEnergy, Hypergradient, Posterior


def bidvl_step(
    *,
    energy: FreeEnergy,
    generator: Any,
    posterior: Posterior,
    form: str | BidvlCompact | BidvlFull,
    theta_optimizer: optax.GradientTransformation,
    phi_optimizer: optax.GradientTransformation,
    num_lower_steps: int,
    hypergradient: Hypergradient | None = None,
    ema_decay: float = 0.999,
    unroll_lower: int | bool = 1,
) -> Step:
    """Builds one step of bi-level doubly variational learning (Kan et al., 2022).

    The virtual steps of the hypergradient start from the live state of ``phi_optimizer`` where the
    strategy's ``optimizer`` is that very object, else from a fresh state of its own.

    Args:
      energy: see `jbism.losses.bidvl_lower_loss`.
      generator: see `jbism.losses.bidvl_lower_loss`.
      posterior: see `jbism.losses.bidvl_lower_loss`.
      form: see `jbism.losses.bidvl_lower_loss`.
      theta_optimizer: see `bilevel_step`.
      phi_optimizer: see `bilevel_step`; it trains generator and encoder, by rates of their own if
        it is an `optax.multi_transform`.
      num_lower_steps: see `bilevel_step`; published 1.
      hypergradient: see `jbism.losses.bidvl_loss`; for the full form alone.
      ema_decay: see `bilevel_step`.
      unroll_lower: see `bilevel_step`.

    Returns:
      A step as of `bilevel_step`, for states whose phi is a `jbism.losses.BidvlParams`. Its metrics
      also hold, all at φ⁰, ``data_energy`` and ``generated_energy``, means over the batch;
      ``reconstruction_error``, the mean squared error of an entry of v through a sample of q_ψ;
      ``elbo``, mean, in nats; ``effective_sample_size`` of the weights as a share of the batch;
      and, of an implicit strategy, ``solve_residual``, ``solve_products`` and ``solve_failed``.

    Raises:
      ValueError: as `bilevel_step`; when it is traced, as `jbism.losses.bidvl_loss`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbism
      >>> model = jbism.energies.MarginalEnergy(jbism.networks.MLP((8,)), head="softplus")
      >>> q, g = jbism.posteriors.Gaussian(2), jbism.networks.MLPDecoder((3,), (8,))
      >>> adam = optax.adam(1e-4, b1=0.0, b2=0.9)
      >>> step = bidvl_step(
      ...     energy=model.apply, generator=g.apply, posterior=q.apply, form="compact",
      ...     theta_optimizer=adam, phi_optimizer=adam, num_lower_steps=1)
      >>> v, keys = jnp.ones((10, 3)), jax.random.split(jax.random.key(0), 4)
      >>> phi = jbism.losses.BidvlParams(g.init(keys[0], jnp.zeros(2)), q.init(keys[1], v[0]))
      >>> state = jbism.training.create_state(
      ...     keys[2], model.init(keys[3], v[0]), phi, theta_optimizer=adam, phi_optimizer=adam)
      >>> state, metrics = jax.jit(step)(state, v)
      >>> int(state.step), float(metrics["effective_sample_size"])
      (1, 1.0)
    """
    parts: dict[str, Any] = {
        "energy": energy,
        "generator": generator,
        "posterior": posterior,
        "form": form,
    }
    live = getattr(hypergradient, "optimizer", None)
    live = live is not None and live is phi_optimizer

    def upper_loss(theta, phi, phi_opt_state, key, v):
        key_loss, key_metrics = _random.split(key)
        loss, aux = bidvl_loss(
            theta,
            phi,
            key_loss,
            v,
            **parts,
            hypergradient=hypergradient,
            opt_state=phi_opt_state if live else None,
        )
        # What of it is not used, such as the energies, is not computed.
        lower = bidvl_lower_loss(*jax.lax.stop_gradient((theta, phi)), key_metrics, v, **parts)[1]
        metrics = {
            "data_energy": jnp.mean(aux.upper.data_energies),
            "generated_energy": jnp.mean(lower.generated_energies),
            "reconstruction_error": jnp.mean(lower.squared_errors) / v[0].size,
            "elbo": jnp.mean(lower.elbos),
            "effective_sample_size": lower.effective_sample_size / v.shape[0],
        }
        if aux.lower is not None and aux.lower.solve is not None:
            solve = aux.lower.solve
            metrics |= {
                "solve_residual": solve.residual,
                "solve_products": solve.num_products.astype(solve.residual.dtype),
                "solve_failed": solve.failed.astype(solve.residual.dtype),
            }
        return loss, metrics

    def lower_loss(theta, phi, key, v):
        return bidvl_lower_loss(theta, phi, key, v, **parts)[0]

    return bilevel_step(
        upper_loss=upper_loss,
        lower_loss=lower_loss,
        theta_optimizer=theta_optimizer,
        phi_optimizer=phi_optimizer,
        num_lower_steps=num_lower_steps,
        ema_decay=ema_decay,
        unroll_lower=unroll_lower,
    )
