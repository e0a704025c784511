"""A step of each method on several numbers of host devices; prints what it computed as JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from experiments.builders import build
from jbism.training import DataParallel, make_mesh, train_steps
from tests.configs import BIDVL, DEEP, TINY, TINY_DEEP, make_config

_RBM = {"divergence.name": "mean_field_kl", "objective.name": "dsm"}
_KSD = {"objective.name": "ksd", "method.name": "vages"}
_CD = {"method.name": "contrastive", "method.contrastive.persistent": True}
_CG = {"hypergradient.name": "implicit_cg", "hypergradient.implicit_cg.ridge": 0.1}
_MDSM = {
    "objective.name": "mdsm",
    "objective.mdsm.sigma_min": 0.05,
    "objective.mdsm.sigma_max": 0.5,
    "objective.mdsm.sigma0": 0.05,
}
# Sums over the batch, spreads over it, pairs within it, noise shared by an equation's two sides.
CASES = {
    "unroll": ("checkerboard_rbm", _RBM | _MDSM),
    "implicit_cg": ("checkerboard_rbm", _RBM | _CG),
    "vages_dsm": ("checkerboard_rbm", _RBM | {"method.name": "vages"}),
    "vages_ksd": ("checkerboard_rbm", _RBM | _KSD),
    "persistent_cd": ("checkerboard_rbm", _CD | {"method.contrastive.num_chains": 16}),
    "deep_bism": ("digits_deep", DEEP),
    "bidvl": ("digits_bidvl", BIDVL),
}
COUNTS = (2, 4, 8)
DIVIDED = ("unroll", "deep_bism")  # parameters too


def one_step(experiment, layout):
    """Returns the metrics and the change of the parameters, which is minus the gradient."""
    state = jax.tree.map(jnp.copy, experiment.initial_state)
    before = jax.tree.map(np.asarray, {"theta": state.theta, "phi": state.phi})
    state = state if layout is None else layout.place(state)
    run = train_steps(experiment.step, experiment.dataset.train, layout=layout)
    indices = experiment.order.indices(0, 1)
    share = indices if layout is None else layout.batches(indices).addressable_shards[0].data
    state, metrics = run(state, indices)
    after = {"theta": state.theta, "phi": state.phi}
    change = jax.tree.map(lambda new, old: np.asarray(new) - old, after, before)
    chains = [np.ravel(x) for x in jax.tree.leaves(state.chains)]
    return {
        "metrics": {name: float(x[0]) for name, x in metrics.items()},
        "change": {
            level: np.concatenate([x.ravel() for x in leaves]).tolist()
            for level, tree in change.items()
            if (leaves := jax.tree.leaves(tree))
        },
        "share": share.shape[1] / indices.shape[1],
        "chains": np.concatenate(chains).tolist() if chains else [],
        "divided": sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state)),
    }


def main():
    results = {}
    for name, (config, overrides) in CASES.items():
        tiny = TINY if config == "checkerboard_rbm" else TINY_DEEP
        optimizers = {
            f"{level}_optimizer.{key}": value
            for level in ("theta", "phi")
            for key, value in {"name": "sgd", "learning_rate": 1.0, "clip_norm": 0.0}.items()
        }
        optimizers["phi_optimizer.learning_rate"] = 1e-3
        optimizers["hypergradient.unroll.optimizer"] = "sgd"
        experiment = build(make_config(config, tiny | overrides | optimizers))
        results[name] = {"none": one_step(experiment, None)}
        for count in COUNTS:
            results[name][str(count)] = one_step(experiment, DataParallel(make_mesh(count)))
        if name in DIVIDED:
            layout = DataParallel(make_mesh(4), shard_parameters_from=8)
            results[name]["divided"] = one_step(experiment, layout)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
