"""Peers do the library's work, and one that does not is refused; the command says what it lacks."""

import copy
import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks import cases
from benchmarks.peers import __main__ as command
from benchmarks.peers import clock, contests, problems, proof, table, training
from benchmarks.peers.chains import HMC, Langevin, Target
from benchmarks.peers.peer import Peer
from benchmarks.peers.problems import Problem
from benchmarks.rows import append_row
from jbism import divergences, energies, hypergradients, losses, networks, posteriors
from jbism.hypergradients import Unroll
from jbism.training import bism_step, create_state, vages_step

# What the peers warn of in themselves is not the library's.
pytestmark = pytest.mark.filterwarnings("default")

ADAM = cases.ADAM
DIVERGENCES = {"kl": divergences.KL(), "mean_field_kl": divergences.MeanFieldKL()}


def needs(*packages):
    """Skips a test where a package is not installed."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} not installed")


def small_rbm(**options):
    return Problem("small", "rbm", 3, losses.DSM(sigma=0.3), **options)


def contest_of(problem):
    """A contest of a Gaussian RBM 5/3 with a batch of 4."""

    def build():
        strategy = Unroll(problem.num_virtual, ADAM)
        if problem.num_solve_steps is not None:
            strategy = hypergradients.ImplicitCG(problem.num_solve_steps, tolerance=0.0)
        return cases.build_rbm(
            dim=5,
            num_hidden=3,
            objective=problem.objective,
            divergence=DIVERGENCES[problem.divergence],
            hypergradient=strategy,
            num_particles=problem.num_particles,
            num_examples=20,
        )

    return training.TrainingContest(cases.Case("small", build, 4, steps_per_call=2), problem)


def contest_of_images(**options):
    """A contest of the published networks, narrow, on images 8x8."""
    num_latents = 3
    problem = Problem(
        "small",
        "deep",
        num_latents,
        losses.MDSM(0.1, 3.0, 0.1, spacing="geometric"),
        divergence="fisher",
        **options,
    )

    def build():
        trunk = networks.ResidualConvNet(channels=2, blocks_per_level=2, variant="published")
        energy = energies.DeepEBLVM(num_latents, trunk=trunk, num_features=8, coupling_bias=True)
        encoder = networks.ConvEncoder((2, 3, 4), activation=jax.nn.leaky_relu, strides=(2, 2, 2))
        posterior = posteriors.Gaussian(num_latents, trunk=encoder)
        parts = {
            "energy": energy.apply,
            "posterior": posterior.apply,
            "objective": problem.objective,
            "divergence": divergences.Fisher(),
            "theta_optimizer": ADAM,
            "phi_optimizer": ADAM,
            "num_lower_steps": problems.NUM_LOWER_STEPS,
        }
        if problem.num_particles is None:
            step = bism_step(**parts, hypergradient=hypergradients.FirstOrder())
        else:
            step = vages_step(**parts, num_particles=problem.num_particles)
        data = jax.random.uniform(jax.random.key(0), (20, 8, 8, 1))
        theta = energy.init(jax.random.key(1), data[0], jnp.zeros(num_latents))
        phi = posterior.init(jax.random.key(2), data[0])
        optimizers = {"theta_optimizer": ADAM, "phi_optimizer": ADAM}
        return step, create_state(jax.random.key(3), theta, phi, **optimizers), data

    return training.TrainingContest(cases.Case("small", build, 4, steps_per_call=1), problem)


@needs("torch")
@pytest.mark.parametrize(
    "options",
    [
        {"divergence": "kl", "num_virtual": 2},
        {"divergence": "mean_field_kl", "num_virtual": 2},
        {"divergence": "kl", "num_particles": 3},
    ],
    ids=["unroll_kl", "unroll_mean_field_kl", "vages"],
)
def test_pytorch_takes_the_steps_of_an_rbm(options):
    contest = contest_of(small_rbm(**options))
    ours = contest.ours()
    for peer in ("eager", "func"):
        _, difference = contest.prove(peer, ours)
        assert difference < proof.TOLERANCE


@needs("torch")
@pytest.mark.parametrize("options", [{}, {"num_particles": 2}], ids=["bism", "vages"])
def test_pytorch_takes_the_steps_of_the_published_networks(options):
    contest = contest_of_images(**options)
    ours = contest.ours()
    for peer in ("eager", "func"):
        _, difference = contest.prove(peer, ours)
        assert difference < proof.TOLERANCE


@needs("torch")
def test_in_double_precision_nothing_but_constants_differs():
    """Single precision rounds σ and the initial state, and nothing that follows from them."""
    contest = contest_of_images(num_particles=2, proved_in_double=True)
    _, difference = contest.prove("eager", contest.ours())
    assert difference < 1e-6


@needs("torch", "torchopt")
@pytest.mark.parametrize(
    "options",
    [
        {"divergence": "kl", "num_virtual": 2},
        {"divergence": "mean_field_kl", "num_solve_steps": 3},
    ],
    ids=["unroll", "implicit"],
)
def test_torchopt_takes_the_steps_of_an_rbm(options):
    contest = contest_of(small_rbm(**options))
    _, difference = contest.prove("torchopt", contest.ours())
    assert difference < proof.TOLERANCE


@needs("torch")
def test_a_peer_with_another_gradient_is_refused():
    contest = contest_of(small_rbm(divergence="kl", num_virtual=1))
    ours = contest.ours()
    right, _ = contest.prove("eager", ours)

    def wrong(state, v, noise):
        before = copy.deepcopy(state.theta_moments.mean["weights"])
        state, found = right(state, v, noise)
        mean = state.theta_moments.mean["weights"]
        mean += 1e-3 * (mean - 0.9 * before)  # a thousandth of the gradient
        return state, found

    found = proof.differences(contest.problem, wrong, ours.before, ours.after, ours.metrics, ours.v)
    with pytest.raises(proof.DisagreementError, match="theta's gradient weights"):
        proof.check(found, "wrong")


def test_what_is_not_a_number_is_refused():
    with pytest.raises(proof.DisagreementError, match="eager differs from the library in loss"):
        proof.check({"loss": float("nan")}, "eager")


@needs("torch")
def test_both_sides_are_timed_in_turn():
    contest = contest_of(small_rbm(divergence="kl", num_virtual=1))
    ours = contest.ours()
    step, _ = contest.prove("eager", ours)
    for program in (contest.program(ours, None), contest.program(ours, step)):
        program.run(2 * program.multiple)
    calls = []
    programs = {name: clock.Program(lambda n, name=name: calls.append(name)) for name in ("a", "b")}
    times = clock.alternate(programs, 2)
    assert calls[-4:] == ["a", "b", "a", "b"]
    assert len(times["a"].cpu) == len(times["b"].wall) == 2


SMALL = Target(dim=5, num_hidden=3, num_chains=20)


@pytest.mark.parametrize(
    ("contest", "peer"),
    [
        pytest.param(Langevin(SMALL), "blackjax", marks=needs("blackjax")),
        pytest.param(Langevin(SMALL), "torchebm", marks=needs("torch", "torchebm")),
        pytest.param(HMC(SMALL, step_size=0.3), "blackjax", marks=needs("blackjax")),
    ],
    ids=["langevin_blackjax", "langevin_torchebm", "hmc_blackjax"],
)
def test_chains_go_the_same_way(contest, peer):
    ours = contest.ours()
    chain, difference = contest.prove(peer, ours)
    assert difference < proof.TOLERANCE
    for program in (contest.program(ours, None), contest.program(ours, chain)):
        program.run(program.multiple)


def test_every_problem_is_a_case_and_has_peers():
    assert problems.all_problems().keys() <= cases.all_cases().keys()
    assert all(contest.peers for contest in contests.all_contests().values())


def test_a_peer_that_is_not_installed_is_a_row_with_the_reason(monkeypatch):
    contest = contest_of(small_rbm(divergence="kl", num_virtual=1))
    absent = Peer("eager", ("no_such_package",), "benchmarks.peers.torch_eager:build")
    monkeypatch.setattr(training, "_PYTORCH", (absent,))
    (row,) = contests.hold(contest, ["eager"], 1)
    assert row == {
        "case": "small",
        "peer": "eager",
        "skipped": "no_such_package not installed: pip install 'jbism[benchmarks]'",
    }


def test_the_command_refuses_what_it_cannot_do(capsys):
    for arguments, message in (
        (["--check", "--repeats=0"], "--repeats must be at least 1, got 0"),
        ([], "--out must name a directory"),
    ):
        with pytest.raises(SystemExit):
            command.main(arguments)
        assert message in capsys.readouterr().err


def row_of(case, peer, ratio, target):
    times = {"cpu": {"median": 1.0, "min": 0.9}}
    return {
        "case": case,
        "peer": peer,
        "versions": "torch 2.13.0",
        "date": "2026-01-02",
        "difference": 2e-6,
        "first_call_seconds": 1.5,
        "ours_ms": times,
        "peer_ms": times,
        "ratio": ratio,
        "ratio_of_fastest": ratio,
        "target": target,
    }


def test_the_table_tells_targets_met_from_missed(tmp_path):
    rows = [
        row_of("toy", "eager", 30.0, 25.0),
        row_of("toy", "func", 2.0, None),
        row_of("frey", "eager", 3.0, 3.5),
        {"case": "frey", "peer": "torchopt", "skipped": "torchopt not installed"},
    ]
    machine = {"core": 1, "jax": "0.10.2", "processor": "P", "python": "3.11"}
    text = table.markdown(rows, machine)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    verdicts = {tuple(line[:2]): line[7] for line in cells if len(line) == 10}
    assert verdicts["toy", "eager"] == "yes"
    assert verdicts["toy", "func"] == ""
    assert verdicts["frey", "eager"] == "no"
    assert "- frey, torchopt: torchopt not installed" in text
    table.plot(rows, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 0


def test_results_go_on_where_they_stopped(tmp_path):
    append_row(tmp_path / "peers.jsonl", {"case": "toy", "peer": "eager"})
    append_row(tmp_path / "peers.jsonl", {"case": "toy", "peer": "func"})
    assert [row["peer"] for row in command._rows(tmp_path)] == ["eager", "func"]
    assert json.loads((tmp_path / "peers.jsonl").read_text().splitlines()[0])["case"] == "toy"
