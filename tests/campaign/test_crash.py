"""The demonstration is killed at its durable writes and taken up again, until it ends well.

Every durable write has a name (docs/spec/storage.md, section 5). A clean run lists them; then a
process of the whole consortium is killed with SIGKILL right before or right after one of them, all
parties at once, started again in the same directory, perhaps killed once more, and run to its end.
Then the model must be that of the clean run, the bundle must verify, every member must have sent
one input for each round, the one that its store held when it died, and all mirrors must be one
history.

``ci`` takes a seeded slice; ``full`` takes the first, middle and last occurrence of every name,
before and after, and stores a table under ``tests/campaign/results``.

Planted faults that this campaign caught: epochs that a restarted member does not take up again; a
report of a site's figures that is forgotten with the process.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from treaty.crypto import canonical
from treaty.datasets.registry import load
from treaty.errors import ResourceError
from treaty.protocol import messages
from treaty.protocol.secagg_lifecycle import SLOT_KEY, SlotState
from treaty.protocol.secagg_messages import MaskedInput, RoundOpened
from treaty.protocol.statements import peek
from treaty.stores.kill_points import KILL_VARIABLE, TRACE_VARIABLE
from treaty.stores.sqlite import SqliteStore

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
SOURCE = Path(__file__).parents[2] / "src"
RESULTS = Path(__file__).parent / "results"
SEED = 20_240_607
SLICE = 12
PROCESS_LIMIT_S = 120

SCRIPT = """
import sys
from pathlib import Path
from treaty.cli.demo import run_demo
result = run_demo(Path(sys.argv[1]), data=sys.argv[2], exact=True)
sys.exit(0 if result.verified else 3)
"""

_rows: list[dict[str, object]] = []


@dataclass(frozen=True)
class Clean:
    """A run that nobody disturbed: its data set, its model, and how often each name was written."""

    data: str
    model: str
    reports: list[str]
    points: Counter[str]


def start(out: Path, data: str, **variables: str) -> int:
    """Run the demonstration in a process of its own and return its exit code."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "TREATY_DATA") if name in os.environ
    }
    environment = {**kept, "PYTHONPATH": str(SOURCE), **variables}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(out), data],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PROCESS_LIMIT_S,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    data = "heart"
    try:
        load(data, cache=None)
    except ResourceError:
        data = "breast-cancer"
        pytest.importorskip("sklearn")
    place = tmp_path_factory.mktemp("clean")
    trace = place / "trace"
    assert start(place / "demo", data, **{TRACE_VARIABLE: str(trace)}) == 0
    record = json.loads((place / "demo" / "result.json").read_text())
    points = Counter(trace.read_text().splitlines())
    return Clean(data, record["model"], sorted(record["per_site"]), points)


@pytest.fixture(scope="module", autouse=True)
def results() -> Iterator[None]:
    """Store the table of a full run."""
    yield
    if FULL and _rows:
        RESULTS.mkdir(exist_ok=True)
        at = datetime.now(UTC)
        table = {
            "campaign": "crash",
            "at": at.isoformat(timespec="seconds"),
            "seed": SEED,
            "kills": sum(len(str(row["kills"]).split()) for row in _rows),
            "runs": len(_rows),
            "failed": sum(row["outcome"] != "same model" for row in _rows),
            "rows": _rows,
        }
        text = json.dumps(table, indent=1, sort_keys=True) + "\n"
        (RESULTS / f"crash-{at:%Y-%m-%d}.json").write_text(text)


def occurrences(count: int) -> list[int]:
    """Return the first, the middle and the last of `count` occurrences, from 1."""
    return sorted({1, (count + 1) // 2, count})


def orders(points: Counter[str]) -> list[tuple[str, ...]]:
    """Return the kills of each run: one at every point, or a seeded slice, some killed twice."""
    every = [
        f"{label}:{number}:{moment}"
        for label, count in sorted(points.items())
        for number in occurrences(count)
        for moment in ("before", "after")
    ]
    draw = random.Random(SEED)
    chosen = every if FULL else draw.sample(every, SLICE - 3)
    again = draw.sample(every, 12 if FULL else 3)
    # The second process has fewer writes before it, so early occurrences are drawn for it.
    second = [
        f"{label}:{draw.randint(1, 2)}:after"
        for label in draw.choices(
            [name for name in sorted(points) if name.startswith(("participant", "coordinator"))],
            k=len(again),
        )
    ]
    return [(one,) for one in chosen] + list(zip(again, second, strict=True))


class Evidence:
    """What the parties' stores held when they died: the input of each member and round."""

    def __init__(self) -> None:
        self.inputs: dict[tuple[str, str], MaskedInput] = {}

    def collect(self, directory: Path) -> None:
        """Read the slots of all parties; a member must never have held two inputs of a round."""
        for store in sorted((directory / "parties").glob("*/store.db")):
            opened = SqliteStore(store)
            opened.check()
            data = opened.get(SLOT_KEY)
            opened.close()
            if data is None:
                continue
            slot = canonical.decode(data, SlotState, limit=1 << 24)
            if slot.input is not None:
                key = (store.parent.name, slot.context)
                assert self.inputs.setdefault(key, slot.input) == slot.input, key

    def check(self, directory: Path) -> None:
        """Compare with the log: one history, one input of a member for each round and slot."""
        logs = {}
        for store in sorted((directory / "parties").glob("*/store.db")):
            opened = SqliteStore(store)
            logs[store.parent.name] = opened.read("log")
            opened.close()
        log = logs.pop("coordinator")
        for name, mirror in logs.items():
            assert mirror == log[: len(mirror)], f"{name} holds another history"
        assert isinstance(peek(log[0])[1], messages.CharterPublished)
        slots: Counter[tuple[str, int]] = Counter()
        seen: set[tuple[str, str]] = set()
        for entry in log:
            body = peek(entry)[1]
            if isinstance(body, RoundOpened):
                slots[body.epoch_hash, body.slot] += 1
            if isinstance(body, MaskedInput):
                key = (body.author, body.context)
                assert key not in seen, f"two inputs of {key}"
                seen.add(key)
                assert self.inputs.get(key, body) == body, f"another input than the stored: {key}"
        assert max(slots.values()) == 1, "a slot was opened twice"


def play(out: Path, clean: Clean, kills: tuple[str, ...]) -> str:
    """Kill, restart, finish; return what came out and raise where it is not the clean run's."""
    evidence = Evidence()
    happened = []
    for kill in kills:
        died = start(out, clean.data, **{KILL_VARIABLE: kill}) != 0
        happened.append("killed" if died else "not reached")
        if not died:
            break
        evidence.collect(out)
    if not (out / "bundle").exists():
        assert start(out, clean.data) == 0, "the run was not taken up"
    record = json.loads((out / "result.json").read_text())
    assert record["model"] == clean.model, "another model"
    assert record["verdict"] == "holds"
    assert sorted(record["per_site"]) == clean.reports, "a report is missing"
    evidence.check(out)
    return ", ".join(happened)


def test_a_killed_consortium_ends_with_the_model_of_a_clean_run(
    clean: Clean, tmp_path: Path
) -> None:
    """Whatever the moment: the same model, one input for each round, one history."""
    failures = []
    for number, kills in enumerate(orders(clean.points)):
        began = time.monotonic()
        outcome, happened = "same model", ""
        try:
            happened = play(tmp_path / f"run-{number}", clean, kills)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            outcome = f"{type(error).__name__}: {str(error)[:300]}"
            failures.append(f"{' '.join(kills)}: {outcome}")
        _rows.append(
            {
                "kills": " ".join(kills),
                "happened": happened,
                "outcome": outcome,
                "seconds": round(time.monotonic() - began, 1),
            }
        )
    assert not failures, "\n".join(failures)
    assert all(str(row["happened"]).startswith("killed") for row in _rows), _rows


def test_every_named_write_of_a_party_was_a_point(clean: Clean) -> None:
    """The clean run passes the points that the specification and the nodes name."""
    expected = {
        "key",
        "founded",
        "secret-write",
        "secret-erase",
        "coordinator-append",
        "participant-mirror",
        "participant-epoch-init",
        "participant-epoch-dealing",
        "participant-epoch-opening",
        "participant-epoch-closed",
        "participant-slot-input-persisting",
        "participant-slot-answer-persisting",
        "participant-report",
    }
    assert expected <= set(clean.points)
