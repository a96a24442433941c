"""Coordinator, sites and message server are killed while a study runs between processes.

Every durable write has a name (docs/spec/storage.md, section 5). A clean run of a consortium of
processes lists those of each party. Then, in every run, the coordinator and each site are killed
with SIGKILL right before or right after one of their writes, the server at some size of the log,
each is started again at once, and the study goes on. It must end with the model of the clean run;
the bundle must verify; all mirrors must be one history; no member may have two inputs in one
context, or say a thing twice; nothing may last longer than `RUN_LIMIT_S`.

``ci`` takes a seeded slice of 30 kills; ``full`` takes the first, middle and last occurrence of
every name of every party, before and after, and stores a table under ``tests/campaign/results``.

Faults that this campaign found when it was written: a link that does not notice that its connection
has ended; an outbox that reads files which are still being written.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.restartable_federation import ONCE, subject_of
from tests.small_federation import SITES, contract, site_files
from treaty.errors import ResourceError
from treaty.models.specification import LogisticRegression
from treaty.protocol.statements import peek
from treaty.stores.kill_points import KILL_VARIABLE, TRACE_VARIABLE
from treaty.wiring import stored_log

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.network_rig import HUB, Rig

pytestmark = pytest.mark.nats

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
RESULTS = Path(__file__).parent / "results"
SEED = 20_261_129
CI_RUNS = 3
POINTS_OF_A_RUN = 2
RUN_LIMIT_S = 120
MODEL = LogisticRegression(site_intercepts=True)
_rows: list[dict[str, object]] = []


@dataclass(frozen=True)
class Clean:
    """A founded consortium, and what an undisturbed study in a copy of it did."""

    rig: Rig
    model: str
    size: int
    points: dict[str, Counter[str]]


@dataclass
class Killer:
    """Starts parties that die at their points, starts them again, and kills the server."""

    rig: Rig
    orders: dict[str, list[str]]
    server_at: list[int]
    done: list[str] = field(default_factory=list)

    def start_all(self) -> None:
        for name in (HUB, *SITES):
            self._start(name)

    def _start(self, name: str) -> None:
        left = self.orders.get(name, [])
        self.rig.start(name, **({KILL_VARIABLE: left[0]} if left else {}))

    def watch(self) -> None:
        for name, child in list(self.rig.children.items()):
            code = child.process.poll()
            if code is None:
                continue
            if name != HUB and code == ResourceError.exit_code:
                # It was started while the server was down, and said so: whoever supervises it
                # starts it again, as the units in deploy/ do.
                self._start(name)
                continue
            assert code == -signal.SIGKILL, f"{name} ended with {code}\n{self.rig.words()}"
            self.done.append(f"{name} {self.orders[name].pop(0)}")
            self._start(name)
        if self.server_at and self.rig.size(HUB) >= self.server_at[0] and self.rig.kill_server():
            self.done.append(f"server at {self.server_at.pop(0)}")


def run_study(rig: Rig, bundle: Path) -> str:
    """Decide on a study, run it to its end, verify the bundle, and return the model."""
    digest = rig.decide(rig.plan(contract(), MODEL), contract())
    rig.until(lambda: rig.finished(digest), "the study does not end", RUN_LIMIT_S)
    rig.export(bundle, RUN_LIMIT_S)
    return str(rig.state(HUB).studies[digest].final_model)  # type: ignore[index]  # a digest


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    place = tmp_path_factory.mktemp("clean")
    sites = {name: (site_files(name).data, site_files(name).adapter) for name in SITES}
    founded = Rig(place / "founded", sites)
    founded.root.mkdir()
    founded.found()
    rig = founded.copy(place / "run")
    traces = {name: place / f"{name}.trace" for name in (HUB, *SITES)}
    try:
        for name, trace in traces.items():
            rig.start(name, **{TRACE_VARIABLE: str(trace)})
        model = run_study(rig, place / "bundle")
        size = rig.size(HUB)
    finally:
        rig.stop()
    points = {name: Counter(trace.read_text().splitlines()) for name, trace in traces.items()}
    assert all({"participant-mirror"} <= set(points[name]) for name in SITES), points
    return Clean(founded, model, size, points)


@pytest.fixture(scope="module", autouse=True)
def results() -> Iterator[None]:
    """Store the table of a full run."""
    yield
    if FULL and _rows:
        RESULTS.mkdir(exist_ok=True)
        table = {
            "campaign": "network kills",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": SEED,
            "runs": len(_rows),
            "kills": sum(len(row["kills"]) for row in _rows),  # type: ignore[arg-type]  # a list
            "failed": sum(row["outcome"] != "same model" for row in _rows),
            "rows": _rows,
        }
        text = json.dumps(table, indent=1, sort_keys=True) + "\n"
        (RESULTS / "network_kills.json").write_text(text)


def orders_of(clean: Clean) -> Iterator[tuple[dict[str, list[str]], list[int]]]:
    """Yield the orders of each run: one point a party, and a size of the log for the server."""
    draw = random.Random(SEED)
    queues: dict[str, list[str]] = {}
    for name, counts in clean.points.items():
        points = [
            f"{label}:{number}:{moment}"
            for label, count in sorted(counts.items())
            # Names that only the start writes cannot be met again, and would kill every start.
            if label and label not in ("server-config", "founded", "outbox")
            for number in sorted({1, (count + 1) // 2, count})
            for moment in ("before", "after")
        ]
        draw.shuffle(points)
        queues[name] = points
    longest = max(len(points) for points in queues.values())
    runs = -(-longest // POINTS_OF_A_RUN) if FULL else CI_RUNS
    for number in range(runs):
        at = number * POINTS_OF_A_RUN
        orders = {name: points[at : at + POINTS_OF_A_RUN] for name, points in queues.items()}
        yield orders, sorted(draw.randrange(5, clean.size - 5) for _ in range(POINTS_OF_A_RUN))


def test_every_run_ends_with_the_model_of_the_clean_one(clean: Clean, tmp_path: Path) -> None:
    kills = 0
    for number, (orders, server_at) in enumerate(orders_of(clean)):
        began = time.monotonic()
        rig = clean.rig.copy(tmp_path / f"run-{number}")
        killer = Killer(rig, orders, server_at)
        rig.watch = killer.watch
        row: dict[str, object] = {
            "kills": killer.done,
            "planned": [f"{name} {one}" for name, ones in sorted(orders.items()) for one in ones],
            "outcome": "failed",
        }
        _rows.append(row)
        try:
            killer.start_all()
            model = run_study(rig, tmp_path / f"bundle-{number}")
            rig.until(
                lambda rig=rig: all(rig.size(name) == rig.size(HUB) for name in SITES),  # type: ignore[misc]  # bound now
                "a mirror does not catch up",
            )
            assert model == clean.model, killer.done
            assert_one_history(rig)
        finally:
            rig.watch = lambda: None
            rig.stop()
        row |= {"outcome": "same model", "seconds": round(time.monotonic() - began, 1)}
        kills += len(killer.done)
    # Some points belong to what only a first run does; most are met.
    assert kills >= (0 if FULL else 24), [row["kills"] for row in _rows]


def assert_one_history(rig: Rig) -> None:
    """All mirrors are the coordinator's log, in which nobody has said a thing twice."""
    with stored_log(rig.place(HUB)) as log:
        entries = log.entries
    for name in SITES:
        with stored_log(rig.place(name)) as log:
            assert log.entries == entries, name
    said = Counter(
        (body.author, type(body).__name__, subject_of(body))
        for body in (peek(entry)[1] for entry in entries)
        if isinstance(body, ONCE)
    )
    assert [key for key, times in said.items() if times > 1] == []
