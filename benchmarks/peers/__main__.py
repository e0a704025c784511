"""Times the library beside the libraries a user would otherwise pick, on work proved equal.

    python -m benchmarks.peers --out=DIR [--cases=PATTERNS] [--peers=PATTERNS] [--repeats=R]
    python -m benchmarks.peers --check [--cases=PATTERNS] [--peers=PATTERNS]

Training steps (`benchmarks.peers.problems`) against PyTorch and TorchOpt, Markov chains
(`benchmarks.peers.chains`) against blackjax and TorchEBM, on one pinned core. Before a peer is
timed it takes a step from the library's parameters with the library's noise, and has to come to the
same losses, gradients and parameters within 1e-4; one that does not is an error. Then calls of the
library and of all peers of a case alternate. Writes a row at a time to peers.jsonl in DIR, goes on
where it stopped if called again, and ends with peers.md and peers.png. A peer that is not installed
is a row with the reason.
"""

import argparse
import datetime
import json
import pathlib
import platform
from typing import Any

from benchmarks.cores import pin_to_one_core, processor
from benchmarks.rows import append_row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="directory of the results; needed unless --check")
    parser.add_argument("--cases", default="*", help="comma-separated shell patterns")
    parser.add_argument("--peers", default="*", help="comma-separated shell patterns")
    parser.add_argument("--repeats", type=int, default=7, help="calls timed of each")
    parser.add_argument("--check", action="store_true", help="only prove equality")
    parser.add_argument("--core", type=int, help="core to pin to; default the last allowed")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    if options.out is None and not options.check:
        parser.error("--out must name a directory, unless --check is given")
    core = pin_to_one_core(options.core)

    import jax

    from benchmarks.peers import contests
    from benchmarks.suites import select

    jax.config.update("jax_enable_compilation_cache", False)
    found = contests.all_contests()
    known_peers = sorted({peer for contest in found.values() for peer in contest.peers})
    try:
        cases = select(list(found), options.cases)
        peers = select(known_peers, options.peers, flag="--peers")
    except ValueError as error:
        parser.error(str(error))
    path = None if options.check else pathlib.Path(options.out)
    done = [] if path is None else _rows(path)
    for case in cases:
        known = {row["peer"] for row in done if row["case"] == case and "ratio" in row}
        wanted = [peer for peer in found[case].peers if peer in peers and peer not in known]
        for row in contests.hold(found[case], wanted, None if options.check else options.repeats):
            row["date"] = datetime.date.today().isoformat()
            print(json.dumps(row))
            if path is not None:
                path.mkdir(parents=True, exist_ok=True)
                append_row(path / "peers.jsonl", row)
    if path is not None:
        _report(path, _machine(core))


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    file = path / "peers.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _report(path, machine):
    from benchmarks.peers import table

    latest = {(row["case"], row["peer"]): row for row in _rows(path)}
    rows = list(latest.values())
    (path / "peers.md").write_text(table.markdown(rows, machine), encoding="utf-8")
    if any("ratio" in row for row in rows):
        table.plot(rows, path / "peers.png")


def _machine(core):
    import jax

    return {
        "core": core,
        "jax": jax.__version__,
        "processor": processor(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
