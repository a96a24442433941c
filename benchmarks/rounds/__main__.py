"""Rounds per second, time to the first round and memory, ours and the peers'.

Run: python -m benchmarks.rounds [--own-only] [--environments DIRECTORY] [--quick] [--processes N]

Everything runs here, one after another. `--environments` keeps the peers' environments for the next
run; without it they go to a temporary directory. `--processes` host our parties in the runs that
the gates are on, by default as many as there are processors. Writes benchmarks/results/rounds.json
and .md unless `--quick` or `--own-only`. Exit code 1 when a gate does not hold.
"""

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.rounds.measure import run_bounded
from benchmarks.rounds.peers import PEERS, Peer, install
from benchmarks.rounds.primitives import Costs, measure_costs
from benchmarks.rounds.sites import dealt, write_arrays
from treaty.errors import TreatyError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SITES = (10, 4)
OWN_ROUNDS = 200
REPEATS = 5
"""Studies of ours a row, with those of the other rows between them, so that they lie minutes apart:
the machine may be busy with other things, and the middle one counts."""
RATE_GATE_TEN_SITES = 20.0
MILLISECONDS_GATE_FOUR_SITES = 20.0
FIRST_GATE_SECONDS = 2.0
PEAK_GATE_MEBIBYTES = 300.0
LIMIT_SECONDS = 240.0
PROCESSORS = len(os.sched_getaffinity(0))
ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One system at one number of sites.

    `first` is seconds from the start of the process to the end of the first training round; `peak`
    the memory of all its processes in MiB. `counts` and `processor_ms` are per round, all parties
    together; `bound` is the rate that the counted operations alone would allow, one after another.
    `processes` host the parties. `rates` are those of all studies of the row, in rising order.
    """

    system: str
    sites: int
    rounds: int
    rate: float | None
    first: float | None
    peak: float | None
    note: str
    counts: Mapping[str, float] | None = None
    processor_ms: float | None = None
    bound: float | None = None
    processes: int = 1
    rates: tuple[float, ...] = ()


def main() -> int:
    """Run, print and store; return the exit code."""
    parser = argparse.ArgumentParser(description="protected rounds beside unprotected ones")
    parser.add_argument("--own-only", action="store_true", help="leave the peers out")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rounds")
    parser.add_argument("--environments", type=Path, help="keep the peers' environments here")
    parser.add_argument("--processes", type=int, default=PROCESSORS, help="host our parties")
    arguments = parser.parse_args()
    processes = arguments.processes
    if processes < 1:
        parser.error("expected at least one process")
    share = 4 if arguments.quick else 1
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        costs = measure_costs(work)
        studies: dict[tuple[int, int, int], list[Row]] = {}
        for _ in range(1 if arguments.quick else REPEATS):
            for rounds, sites in itertools.product((OWN_ROUNDS // share, 0), SITES):
                alone = _own(sites, rounds, 1, work, costs)
                studies.setdefault((rounds, sites, 1), []).append(alone)
                if processes > 1:
                    shared = _own(sites, rounds, processes, work, costs, alone)
                    studies.setdefault((rounds, sites, processes), []).append(shared)
        rows = [_median(found) for found in studies.values()]
        if not arguments.own_only:
            folder = (arguments.environments or work / "peers").absolute()
            for peer in PEERS:
                rows += _peer(peer, folder, work, share)
    found = _gates(rows, processes)
    stored = {
        "machine": {
            "processors": os.cpu_count(),
            "kind": platform.machine(),
            "python": f"{platform.python_version()} ({platform.python_compiler()})",
            "load_before": load,
        },
        "costs_microseconds": {
            name: round(value * 1e6, 1) for name, value in asdict(costs).items()
        },
        "rows": [asdict(row) for row in rows],
        "gates": [
            {"gate": name, "asked": asked, "found": got, "holds": holds}
            for name, asked, got, holds in found
        ],
    }
    page = _page(stored)
    print(page)
    if not (arguments.quick or arguments.own_only):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "rounds.json").write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        (RESULTS / "rounds.md").write_text(page)
    return 0 if all(holds for *_, holds in found) else 1


def _median(rows: list[Row]) -> Row:
    """Return the study of the middle rate, whole; one without a figure counts as the slowest."""
    rising = sorted(rows, key=lambda row: row.rate or 0.0)
    rates = tuple(row.rate or 0.0 for row in rising)
    return replace(rising[len(rows) // 2], rates=rates)


def _own(
    sites: int, rounds: int, processes: int, work: Path, costs: Costs, alone: Row | None = None
) -> Row:
    """Run ours; `alone` is the run in one process, in which every call could be counted."""
    place = Path(tempfile.mkdtemp(dir=work))
    out = place / "out.json"
    ran = run_bounded(
        [
            sys.executable,
            "-m",
            "benchmarks.rounds.own",
            *(str(sites), str(rounds), str(processes), str(out), str(time.time())),
            str(place / "consortium"),
        ],
        directory=ROOT,
        log=place / "output.log",
        limit_seconds=LIMIT_SECONDS,
    )
    kind = "averaging" if rounds else "Newton"
    name = f"treaty, {kind}" if processes == 1 else f"treaty, {kind}, {processes} processes"
    if ran.failure is not None:
        return Row(
            name,
            sites,
            rounds,
            None,
            None,
            None,
            f"no figure: {ran.failure}",
            processes=processes,
        )
    told = json.loads(out.read_text())
    ends, counts = told["ends"], told["counts"]
    spans = len(ends) - 1
    per_round = {key: (counts[-1][key] - counts[0][key]) / spans for key in counts[0]}
    if processes > 1:
        per_round = {} if alone is None or alone.counts is None else dict(alone.counts)
    seconds = (
        per_round.get("signatures", 0.0) * costs.sign
        + per_round.get("verifications", 0.0) * costs.verify
        + per_round.get("commits", 0.0) * costs.commit
    )
    return Row(
        name,
        sites,
        len(ends),
        rate=round(spans / (ends[-1] - ends[0]), 2),
        first=round(told["first"], 2),
        peak=round(ran.peak_mebibytes, 1),
        note="masked, signed, logged, mirrored, on disk",
        counts={key: round(value, 1) for key, value in per_round.items()} or None,
        processor_ms=round(1000 * (told["processor"][-1] - told["processor"][0]) / spans, 1),
        bound=round(1 / seconds, 1) if seconds else None,
        processes=processes,
    )


def _peer(peer: Peer, folder: Path, work: Path, share: int) -> list[Row]:
    python, note = install(peer, folder)
    if python is None:
        return [
            Row(peer.name, sites, 0, None, None, None, f"not compared: {note}") for sites in SITES
        ]
    rounds = max(peer.rounds // share, 4)
    return [_peer_run(peer, python, note, sites, work, rounds) for sites in SITES]


def _peer_run(peer: Peer, python: Path, installed: str, sites: int, work: Path, rounds: int) -> Row:
    data = work / f"heart-{sites}.npz"
    write_arrays(dealt(sites), data)
    failure = ""
    for attempt in range(ATTEMPTS):
        place = work / f"{peer.name}-{sites}-{attempt}"
        place.mkdir()
        out = place / "out.json"
        arguments = (data, sites, rounds, out, time.time(), place / "workspace")
        ran = run_bounded(
            [
                str(python),
                str(python.parents[2] / "scripts" / peer.script),
                *(str(one) for one in arguments),
            ],
            directory=place,
            limit_seconds=LIMIT_SECONDS,
            environment=peer.environment,
        )
        # A peer that did all its rounds and then failed to shut down has been measured.
        if out.exists():
            told = json.loads(out.read_text())
            ends = told["ends"]
            again = "" if attempt == 0 else f"; first attempt: {failure}"
            return Row(
                peer.name,
                sites,
                len(ends),
                rate=round((len(ends) - 1) / (ends[-1] - ends[0]), 2),
                first=round(told["first"], 2),
                peak=round(ran.peak_mebibytes, 1),
                note=f"{installed}; unprotected{again}",
            )
        failure = ran.failure or "no result written"
    return Row(peer.name, sites, rounds, None, None, None, f"not compared: {installed}: {failure}")


def _gates(rows: list[Row], processes: int) -> list[tuple[str, str, str, bool]]:
    found = []
    for row in rows:
        if not row.system.startswith("treaty") or row.processes != processes:
            continue
        name = f"{row.system}, {row.sites} sites"
        took = None if row.rate is None else round(1000 / row.rate, 1)
        if row.sites == 10:
            holds = row.rate is not None and row.rate >= RATE_GATE_TEN_SITES
            asked = f">= {RATE_GATE_TEN_SITES:.0f}"
            found.append((f"{name}: rounds per second", asked, str(row.rate), holds))
        else:
            found.append(
                _below(f"{name}: milliseconds a round", took, MILLISECONDS_GATE_FOUR_SITES)
            )
        found.append(_below(f"{name}: seconds to the first round", row.first, FIRST_GATE_SECONDS))
        found.append(_below(f"{name}: peak memory, MiB", row.peak, PEAK_GATE_MEBIBYTES))
    return found


def _below(name: str, found: float | None, limit: float) -> tuple[str, str, str, bool]:
    return name, f"< {limit:.0f}", str(found), found is not None and found < limit


def _page(stored: dict[str, Any]) -> str:
    costs = stored["costs_microseconds"]
    lines = [
        "# Rounds: protected beside unprotected",
        "",
        "Written by `python -m benchmarks.rounds`; the README says what is compared.",
        "",
        f"{stored['machine']['processors']} processors, {stored['machine']['kind']},",
        f"Python {stored['machine']['python']}; when it began",
        f"{stored['machine']['load_before']:.1f} other processes ran or waited to run.",
        f"Medians of this run: one signature {costs['sign']:.0f} us, one verification",
        f"{costs['verify']:.0f} us, one durable commit {costs['commit']:.0f} us.",
        "",
        (
            "| system | sites | rounds | rounds/s | slowest to fastest study | ms a round "
            "| first round, s | peak MiB | note |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in stored["rows"]:
        if row["rate"] is None:
            lines.append(f"| {row['system']} | {row['sites']} | | | | | | | {row['note']} |")
            continue
        several = len(row["rates"]) > 1
        spread = f"{row['rates'][0]:.2f} to {row['rates'][-1]:.2f}" if several else ""
        lines.append(
            f"| {row['system']} | {row['sites']} | {row['rounds']} | {row['rate']:.2f} | {spread} "
            f"| {1000 / row['rate']:.1f} | {row['first']:.2f} | {row['peak']:.0f} | {row['note']} |"
        )
    lines += [
        "",
        "Per round, all parties together, and the rate that signatures, verifications and commits",
        "alone would allow, one after another in one process:",
        "",
        (
            "| system | sites | signatures | verifications | commits | file syncs "
            "| processor ms | bound, rounds/s | reached |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in stored["rows"]:
        if row["counts"] is not None:
            counts = row["counts"]
            lines.append(
                f"| {row['system']} | {row['sites']} | {counts['signatures']:.1f} "
                f"| {counts['verifications']:.1f} | {counts['commits']:.1f} "
                f"| {counts['syncs']:.1f} | {row['processor_ms']:.1f} "
                f"| {row['bound']:.1f} | {row['rate'] / row['bound']:.0%} |"
            )
    lines += ["", "| gate | asked | found | holds |", "|---|---|---|---|"]
    lines += [
        f"| {gate['gate']} | {gate['asked']} | {gate['found']} "
        f"| {'yes' if gate['holds'] else 'NO'} |"
        for gate in stored["gates"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TreatyError as error:
        print(f"not measured: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
