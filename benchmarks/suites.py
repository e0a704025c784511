"""What the sweep measures: the cases of each suite, their parameters, and how costs should grow.

Nothing here starts a JAX backend; `benchmarks.programs` builds what is described here.
"""

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cases import all_cases
from benchmarks.slopes import FLAT, LINEAR, SUBLINEAR, Expected, at_most

Cell = dict[str, Any]  # the case's name as "case", and a value of each of its parameters
Grid = dict[str, tuple[Any, ...]]

MEANINGS = {
    "N": "virtual steps, Hessian products or terms of a series",
    "K": "lower steps",
    "L": "particles",
    "batch": "examples",
    "latents": "size of h",
    "visibles": "size of v",
    "width": "channels",
    "chains": "Markov chains",
    "steps": "of a chain",
    "temperatures": "values of β",
    "seeds": "in one program",
    "devices": "that share a batch",
}


@dataclass(frozen=True)
class Case:
    """A program of a suite."""

    parameters: dict[str, Any]  # where the others are while one is swept
    grid: Grid = field(default_factory=dict)  # what is swept by default


def star(name: str, case: Case, grid: Grid) -> list[Cell]:
    """Returns the cells in which one parameter varies and the others keep their base values.

    The base is the case's own, or the first of the grid's values where these lack it.

    Example:
      >>> star("a", Case({"N": 5, "K": 5}), {"N": (5, 10), "K": (1,)})
      [{'case': 'a', 'N': 5, 'K': 1}, {'case': 'a', 'N': 10, 'K': 1}]
    """
    base = {
        key: value if value in grid.get(key, (value,)) else grid[key][0]
        for key, value in case.parameters.items()
    }
    cells = [{"case": name, **base}]
    for key, values in grid.items():
        cells += [{"case": name, **base, key: value} for value in values if value != base[key]]
    return sorted(cells, key=lambda cell: [cell[key] for key in grid])


@dataclass(frozen=True)
class Suite:
    """Programs that are measured in one unit.

    Attributes:
      unit: what a time is of.
      cases: by name.
      selected: patterns of the cases measured by default.
      expected: how time and memory should grow.
      pinned: whether the processes keep to one core of a CPU.
      arrange: ``(name, case, grid) -> cells`` of a case.
    """

    unit: str
    cases: dict[str, Case]
    selected: str = "*"
    expected: tuple[Expected, ...] = ()
    pinned: bool = True
    arrange: Callable[[str, Case, Grid], list[Cell]] = star


def cells_of(suite: Suite, patterns: str | None, grid: Grid) -> list[Cell]:
    """Returns what a sweep measures, in order.

    Args:
      suite: whose.
      patterns: comma-separated shell patterns of cases; None for the suite's own choice.
      grid: values by parameter, for every selected case that has it, instead of its own.

    Raises:
      ValueError: if a pattern matches no case, or no selected case has a parameter; it names the
        flag.
    """
    cells = []
    names = select(list(suite.cases), patterns or suite.selected)
    for key in grid:
        known = sorted({k for name in names for k in suite.cases[name].parameters})
        if key not in known:
            raise ValueError(
                f"--grid: {key!r} is no parameter of the selected cases, which have "
                f"{', '.join(known)}"
            )
    for name in names:
        case = suite.cases[name]
        own = {key: values for key, values in grid.items() if key in case.parameters}
        cells += suite.arrange(name, case, {**case.grid, **own})
    return cells


def parse_grid(texts: list[str]) -> Grid:
    """Returns values by parameter of texts such as ``N=0,2,5``.

    Raises:
      ValueError: if a text is not that, or a value not an integer >= 0 or repeated.

    Example:
      >>> parse_grid(["N=0,2", "scaling=weak"])
      {'N': (0, 2), 'scaling': ('weak',)}
    """
    grid: Grid = {}
    for text in texts:
        key, sign, values = text.partition("=")
        if not sign or not key or key in grid:
            raise ValueError(f"--grid must be NAME=VALUES, each name once, got {text!r}")
        parts = values.split(",")
        if key == "scaling":
            if not set(parts) <= {"weak", "strong"}:
                raise ValueError(f"--grid: scaling must be weak or strong, got {values!r}")
            grid[key] = tuple(parts)
            continue
        if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
            raise ValueError(f"--grid: {key} must be different integers >= 0, got {values!r}")
        grid[key] = tuple(map(int, parts))
    return grid


def select(names: list[str], patterns: str, *, flag: str = "--cases") -> list[str]:
    """Returns the names that match one of the comma-separated shell patterns of a flag.

    Raises:
      ValueError: if a pattern matches none.

    Example:
      >>> select(["toy_n0", "toy_n5", "deep"], "*_n5,toy_*")
      ['toy_n5', 'toy_n0']
    """
    selected: list[str] = []
    for pattern in patterns.split(","):
        matches = fnmatch.filter(names, pattern)
        if not matches:
            raise ValueError(f"{flag}: {pattern!r} matches none of {', '.join(names)}")
        selected += [name for name in matches if name not in selected]
    return selected


def _steps() -> Suite:
    seeds: dict[str, Grid] = {"toy_dsm_kl_n5": {"seeds": (1, 10)}}
    return Suite(
        unit="training step, of all seeds",
        cases={
            name: Case({"seeds": 1, "batch": case.batch_size}, seeds.get(name, {}))
            for name, case in all_cases().items()
        },
        selected=(
            "toy_dsm_kl_n5,toy_ssm_kl_n5,toy_vages_dsm_kl_l2,rbm560_dsm_kl_n0,rbm560_dsm_kl_n5,"
            "rbm560_ssm_kl_n5,rbm560_dsm_mean_field_kl_cg*,rbm560_vages_dsm_kl_l*,"
            "deep32_small_mdsm_fisher_n0"
        ),
        expected=(
            Expected("toy_*", "seeds", "time", at_most(0.477, "ten for less than three times one")),
        ),
    )


def _hypergradients() -> Suite:
    # A Gaussian RBM 560/400 on the exact lower level, DSM; a whole step with K lower steps.
    base = {"N": 5, "K": 5, "batch": 100, "latents": 400, "visibles": 560}
    every = {"N": (1, 2, 5, 10)}
    loops = {"N": (2, 5, 10, 20)}  # one term or product is in no loop
    sizes = {"batch": (25, 100, 400), "latents": (100, 200, 400), "visibles": (140, 280, 560)}
    return Suite(
        unit="training step",
        cases={
            "first_order": Case(base, {**loops, "K": (0, 2, 5, 10)}),
            "unroll": Case(base, {**every, "batch": sizes["batch"]}),
            "unroll_remat": Case(base, every),
            "neumann": Case(base, loops),
            "implicit_cg": Case(base, {**loops, **sizes}),
        },
        expected=(
            Expected("*", "N", "time", LINEAR),
            Expected("*", "K", "time", LINEAR),
            Expected("first_order", "N", "memory", FLAT),
            Expected("unroll_remat", "N", "memory", at_most(0.5, "as the root of N or less")),
            Expected("neumann", "N", "memory", FLAT),
            Expected("implicit_cg", "N", "memory", FLAT),
            Expected("*", "batch", "time", at_most(1.1, "linear or less")),
            Expected("*", "latents", "time", at_most(1.1, "linear or less")),
            Expected("*", "visibles", "time", at_most(1.1, "linear or less")),
        ),
    )


def _estimators() -> Suite:
    rbm = {"L": 10, "batch": 100, "latents": 400, "visibles": 560}
    deep = {"L": 10, "batch": 16, "latents": 50, "width": 16}
    particles = {"L": (2, 5, 10, 20, 50)}
    few = {"L": (2, 10, 50)}
    return Suite(
        unit="estimate of a batch",
        cases={
            "rbm_vaes": Case(rbm, {**particles, "batch": (25, 100, 400)}),
            "rbm_vages": Case(
                rbm, {**particles, "batch": (25, 100, 400), "latents": (100, 200, 400)}
            ),
            "deep_vaes": Case(deep, {**few, "batch": (4, 16)}),
            "deep_vages": Case(deep, {**few, "batch": (4, 16), "width": (8, 16, 32)}),
        },
        expected=(
            Expected("deep_*", "L", "time", SUBLINEAR),
            Expected("rbm_*", "L", "time", SUBLINEAR),
            Expected("*", "batch", "time", at_most(1.1, "linear or less")),
            Expected("*", "latents", "time", at_most(1.1, "linear or less")),
            Expected("*", "width", "time", at_most(2.1, "quadratic or less")),
        ),
    )


def _samplers() -> Suite:
    rbm = {"chains": 100, "steps": 30, "latents": 400, "visibles": 560}
    deep = {"chains": 16, "steps": 10, "latents": 50, "width": 16}
    of_rbm = {"chains": (25, 100, 400), "steps": (10, 30, 100)}
    of_deep = {"chains": (4, 16, 64), "steps": (3, 10, 30)}
    return Suite(
        unit="call",
        cases={
            "rbm_gibbs": Case(rbm, of_rbm),
            "rbm_langevin": Case(rbm, of_rbm),
            "deep_langevin_visible": Case(deep, of_deep),
            "deep_langevin_hidden": Case(deep, of_deep),
            "deep_langevin_joint": Case(deep, of_deep),
        },
        expected=(
            Expected("*", "steps", "time", LINEAR),
            Expected("*", "steps", "memory", FLAT),
            Expected("*", "chains", "time", at_most(1.1, "linear or less")),
        ),
    )


def _ais() -> Suite:
    rbm = {"temperatures": 100, "chains": 100, "latents": 400, "visibles": 560}
    small = {"temperatures": 30, "chains": 100, "latents": 64, "visibles": 64}
    return Suite(
        unit="call",
        cases={
            "gaussian_rbm": Case(
                rbm,
                {
                    "temperatures": (30, 100, 300),
                    "chains": (25, 100, 400),
                    "latents": (100, 200, 400),
                },
            ),
            "hmc": Case(small, {"temperatures": (10, 30, 100), "chains": (64, 100, 400)}),
        },
        expected=(
            Expected("*", "temperatures", "time", LINEAR),
            Expected("*", "temperatures", "memory", FLAT),
            Expected("*", "chains", "time", at_most(1.1, "linear or less")),
            Expected("*", "latents", "time", at_most(1.1, "linear or less")),
        ),
    )


def _scaling() -> Suite:
    parameters = {"devices": 1, "scaling": "strong", "shard_parameters_from": 0}
    grid = {
        "devices": (1, 2),
        "scaling": ("weak", "strong"),
        "shard_parameters_from": (0, 1_024),
    }
    return Suite(
        unit="training step",
        cases={
            name: Case({**parameters, "batch": case.batch_size}, grid)
            for name, case in all_cases().items()
        },
        selected="rbm560_vages_dsm_kl_l2,rbm560_dsm_mean_field_kl_cg5",
        pinned=False,
        arrange=scaling_cells,
    )


def scaling_cells(name: str, case: Case, grid: Grid) -> list[Cell]:
    """Returns the cells of a case on several numbers of devices.

    Weak scaling gives every device the case's batch, strong scaling divides that batch, both
    rounded up to a multiple of the most devices. ``shard_parameters_from`` are the thresholds of
    `jbism.training.DataParallel`, 0 for parameters that every device has a copy of. On one device
    all is the same program, whose scaling is None.

    Raises:
      ValueError: if the numbers of devices do not start with 1.

    Example:
      >>> case = Case({"devices": 1, "batch": 100})
      >>> grid = {"devices": (1, 2), "scaling": ("weak",), "shard_parameters_from": (0,)}
      >>> [(cell["scaling"], cell["batch"]) for cell in scaling_cells("a", case, grid)]
      [(None, 100), ('weak', 200)]
    """
    counts = sorted(grid["devices"])
    if counts[:1] != [1]:
        raise ValueError(f"--grid: devices must be numbers from 1, got {grid['devices']}")
    cells = []
    for batch in grid.get("batch", (case.parameters["batch"],)):
        size = -(-batch // counts[-1]) * counts[-1]
        one = {"case": name, "devices": 1, "scaling": None, "shard_parameters_from": 0}
        cells.append({**one, "batch": size})
        cells += [
            {
                "case": name,
                "devices": n,
                "scaling": scaling,
                "shard_parameters_from": threshold,
                "batch": size * n if scaling == "weak" else size,
            }
            for n in counts[1:]
            for threshold in grid["shard_parameters_from"]
            for scaling in grid["scaling"]
        ]
    return cells


SUITES = {
    "steps": _steps(),
    "estimators": _estimators(),
    "hypergradients": _hypergradients(),
    "samplers": _samplers(),
    "ais": _ais(),
    "scaling": _scaling(),
}
