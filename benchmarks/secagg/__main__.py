"""Secure aggregation in bulk, beside SecAgg+, CKKS and the machine's own limit.

Run: python -m benchmarks.secagg [--own-only] [--environments DIRECTORY] [--quick]

Everything runs here, each measurement in a process of its own, one after another. With `--quick`
the peers get a tenth of the words, and there are fewer repeats. Writes
benchmarks/results/secagg.json and .md unless `--quick` or `--own-only`. Exit code 1 when a gate
does not hold.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

from benchmarks.rounds.measure import run_bounded
from benchmarks.rounds.peers import Peer, install
from benchmarks.secagg.page import page
from treaty.errors import ResourceError, TreatyError
from treaty.protocol.secagg_degree import degree_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
LIMIT_SECONDS = 900.0
MILLION = 1_000_000
LARGE, COLLUDERS, LOST = 1000, 100, 50

FLWR = Peer(
    "flwr-secagg",
    ("flwr==1.42.0", "flwr==1.41.0"),
    "flwr_secagg.py",
    rounds=1,
    environment={"FLWR_TELEMETRY_ENABLED": "0"},
)
TENSEAL = Peer("tenseal", ("tenseal==0.3.18",), "tenseal_ckks.py", rounds=1)


@dataclass(frozen=True, slots=True)
class Setting:
    """One size of the problem. `members` - 1 is the number of pair masks of an input."""

    name: str
    members: int
    words: int
    bits: int = 32
    lost: int = 0
    cases: tuple[str, ...] = ("client", "server")
    peers: tuple[str, ...] = ()


SETTINGS = (
    Setting("10 members, 10 M words", 10, 10 * MILLION, peers=("flwr",)),
    Setting("10 members, 10 M words", 10, 10 * MILLION, lost=2, cases=("server",), peers=("flwr",)),
    Setting("10 members, 10 M words", 10, 10 * MILLION, bits=16),
    Setting("10 members, 10 M words", 10, 10 * MILLION, bits=64),
    Setting("10 members, 10 M words", 10, 10 * MILLION, bits=64, lost=2, cases=("server",)),
    Setting("10 members, 1 M words", 10, MILLION, peers=("flwr", "tenseal")),
    Setting("100 members, 1 M words", 100, MILLION, lost=15),
)


def _large() -> Setting:
    """Return the setting of a large group: masks as its graph of share holders gives them."""
    degree = degree_of(LARGE, COLLUDERS, LARGE - LOST)
    if degree is None:
        raise ResourceError(f"{LARGE} members have no graph of holders")
    # Two members share a mask where one holds the other's shares (docs/spec/secagg.md, 10.3).
    partners = 2 * degree.holders - degree.holders**2 // LARGE
    name = f"{LARGE:,} members, 1 M words, {degree.holders} holders"
    return Setting(name, partners + 1, MILLION, lost=LOST, cases=("client", "streamed"))


@dataclass(frozen=True, slots=True)
class Gate:
    """What is asked of one figure."""

    setting: int
    case: str
    figure: str
    most: float
    unit: str = "s"


GATES = (
    Gate(0, "client", "kernel", 0.15),
    Gate(0, "server", "kernel", 0.12),
    Gate(1, "server", "kernel", 0.25),
    Gate(0, "client", "with root", 0.18),
    Gate(0, "server", "with roots", 0.42),
    Gate(1, "server", "with roots", 0.55),
    Gate(0, "client", "with root", 100, "MB"),
    Gate(1, "server", "with roots", 60, "MB"),
    Gate(1, "server", "from the blob store, verified", 60, "MB"),
    Gate(6, "server", "kernel", 0.8),
    Gate(7, "client", "kernel", 0.15),
)
ROUND_GATES = (
    ("a member's processor time in a round, ms", "milliseconds", 3.0),
    ("durable transactions of a member in a round", "commits", 2),
    ("upload beyond 4 bytes a word, bytes", "beyond", 1024),
)


@dataclass(slots=True)
class Run:
    """Where this run keeps its files, and what it has found."""

    work: Path
    repeats: int
    quick: bool
    environments: Path
    python: dict[str, tuple[Path | None, str]] = field(default_factory=dict)
    number: int = 0

    def own(self, module: str, *arguments: object) -> Any:
        """Return what a module of this package wrote; `ResourceError` when it failed."""
        self.number += 1
        out = self.work / f"own-{self.number}.json"
        words = [str(one) for one in (*arguments, out)]
        if module == "nodes":
            words.append(str(self.work / f"consortium-{self.number}"))
        ran = run_bounded(
            [sys.executable, "-m", f"benchmarks.secagg.{module}", *words],
            directory=ROOT,
            log=self.work / f"own-{self.number}.log",
            limit_seconds=LIMIT_SECONDS,
        )
        if ran.failure is not None:
            raise ResourceError(f"{module} {' '.join(words[:-1])}: {ran.failure}")
        return json.loads(out.read_text())

    def peer(self, peer: Peer, *arguments: object) -> dict[str, Any]:
        """Return what a peer's script wrote, or the reason why there is nothing."""
        if peer.name not in self.python:
            self.python[peer.name] = install(peer, self.environments)
        python, note = self.python[peer.name]
        if python is None:
            return {"failure": note}
        self.number += 1
        place = self.work / f"{peer.name}-{self.number}"
        copytree(ROOT / "benchmarks" / "peers", place)
        ran = run_bounded(
            [str(python), peer.script, *map(str, arguments), "out.json"],
            directory=place,
            limit_seconds=LIMIT_SECONDS,
            environment=peer.environment,
        )
        if ran.failure is not None:
            return {"failure": f"{note}: {ran.failure}"}
        return {"note": note, **json.loads((place / "out.json").read_text())}


def main() -> int:
    """Run, print and store; return the exit code."""
    parser = argparse.ArgumentParser(description="secure aggregation beside peers and limits")
    parser.add_argument("--own-only", action="store_true", help="leave the peers out")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, smaller peers")
    parser.add_argument("--environments", type=Path, help="keep the peers' environments here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        run = Run(
            work,
            repeats=2 if arguments.quick else 3,
            quick=arguments.quick,
            environments=(arguments.environments or work / "environments").absolute(),
        )
        rows = [
            _measure(run, setting, peers=not arguments.own_only)
            for setting in (*SETTINGS, _large())
        ]
        round_ = _round(run)
    found = _gates(rows, round_)
    stored = {
        "machine": {"processors": os.cpu_count(), "kind": platform.machine()},
        "rows": rows,
        "round": round_,
        "gates": found,
    }
    text = page(stored)
    print(text)
    if not (arguments.quick or arguments.own_only):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "secagg.json").write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        (RESULTS / "secagg.md").write_text(text)
    return 0 if all(one["holds"] for one in found) else 1


def _measure(run: Run, setting: Setting, *, peers: bool) -> dict[str, Any]:
    sizes = (setting.words, setting.bits, setting.members, setting.lost)
    row: dict[str, Any] = {
        "setting": asdict(setting),
        "limit": run.own("cases", "limit", *sizes, run.repeats),
        "own": {},
        "peers": {},
    }
    for case in setting.cases:
        repeats = 1 if case == "streamed" else run.repeats
        row["own"][case] = run.own("cases", case, *sizes, repeats)
    if not peers:
        return row
    words = setting.words // 10 if run.quick else setting.words
    for name in setting.peers:
        told = (
            run.peer(FLWR, words, setting.members, setting.lost)
            if name == "flwr"
            else run.peer(TENSEAL, words, setting.members)
        )
        # Proportional: nearly all of it is spent per word.
        if run.quick and "failure" not in told:
            for key in ("client_seconds", "server_seconds", "upload"):
                told[key] *= 10
        row["peers"][name] = told
    return row


def _round(run: Run) -> dict[str, Any]:
    rounds = 10 if run.quick else 30
    told: dict[str, Any] = run.own("nodes", 10, 67, rounds, 0)
    told["profile"] = run.own("nodes", 10, 67, 8, 1)["profile"]
    told["milliseconds"] = 1000 * told["seconds"]
    return told


def _gates(rows: list[dict[str, Any]], round_: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for gate in GATES:
        setting = rows[gate.setting]["setting"]
        figure = rows[gate.setting]["own"][gate.case][gate.figure]
        got = figure["seconds"] if gate.unit == "s" else figure["mebibytes"] * 1.048576
        lost = f", {setting['lost']} lost" if setting["lost"] else ""
        found.append(
            {
                "gate": f"{setting['name']}{lost}: {gate.case}, {gate.figure}, {gate.unit}",
                "asked": gate.most,
                "found": round(got, 3 if gate.unit == "s" else 1),
                "holds": got <= gate.most,
            }
        )
    for name, key, most in ROUND_GATES:
        got = round_[key]
        found.append(
            {
                "gate": f"10 members, {round_['length']:,} words: {name}",
                "asked": most,
                "found": round(got, 2),
                "holds": got <= most,
            }
        )
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TreatyError as error:
        print(f"not measured: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
