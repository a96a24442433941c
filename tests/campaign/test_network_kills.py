"""Coordinator, sites and message server are killed while a study runs between processes.

Every durable write has a name (docs/spec/storage.md, section 5). A clean run of a consortium of
processes lists those of each party in order. Then, in every run, the coordinator and each site are
killed with SIGKILL right before or right after their writes, again and again, the server at some
sizes of the log; each is started again at once, and the study goes on. It must end with the model
of the clean run; the bundle must verify; all mirrors must be one history; no member may have two
inputs in one context, or say a thing twice; nothing may last longer than `RUN_LIMIT_S`.

``ci`` takes a seeded slice of at least 30 kills: which points a run meets depends on how the
parties overtake each other, so runs are added until there are as many. ``full`` does at least
`FULL_KILLS`. It can be cut off and goes on where it ended: each run is kept under
``TREATY_CAMPAIGN_STATE`` as it ends (by default in a directory of the system's temporary one), and
processes with ``TREATY_CAMPAIGN_SHARD=0/2`` and ``1/2`` share the work. What has been run when a
process ends is stored under ``tests/campaign/results``, with the writes that no kill met.

Faults that this campaign found when it was written: a link that does not notice that its connection
has ended; an outbox that reads files which are still being written.

Planted, and what the slice showed: a coordinator that logs what stands in the log already is caught
by the check of one history; with a member that forgets its open slot when it starts again, or a
coordinator whose driver does not replay the log, the study does not end in time. A slot's secret
that is erased before the answer is stored, and an outbox that forgets a ballot before it is logged,
leave the model as it is, because others answer and vote: `assert_nothing_lost` looks for them, and
the first run kills every site where they show (`LEADS`). Without a process and for every pair of
writes they are caught by `tests/crash/test_ends_at_every_write.py` and `test_outbox_kills.py`.
"""

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from tests.small_federation import SITES, contract
from treaty.errors import ResourceError
from treaty.models.specification import LogisticRegression
from treaty.stores.kill_points import KILL_VARIABLE, TRACE_VARIABLE

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.network_rig import HUB, Rig, assert_nothing_lost, assert_one_history

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
pytestmark = [pytest.mark.nats, pytest.mark.timeout(7200 if FULL else 400)]
RESULTS = Path(__file__).parent / "results"
SEED = 20_261_129
CI_RUNS, CI_POINTS, CI_SERVER, CI_KILLS = 2, 3, 2, 30
FULL_RUNS, FULL_POINTS, FULL_SERVER = 26, 8, 3
FULL_KILLS = 1000
WITHOUT_SERVER = ("nats-server", "listen", "reached", "connection")
"""What a party says of a message server that is not there, one of them."""

RUN_LIMIT_S = 300 if FULL else 120
MODEL = LogisticRegression(site_intercepts=True)
SLOTS = 3
"""Few rounds an epoch: a study then sets up several, and every write of one is met often."""

_ONLY_AT_START = frozenset({"", "server-config", "founded", "outbox"})
"""Names that only the start writes cannot be met again, and would kill every start."""


LEADS = (("participant-slot-answer-persisting", "before"), ("outbox-done", "after"))
"""Points at which faults show that most places hide; every site meets them in the first run."""

Point = tuple[str, str]
"""The name of a write, and the moment: before it or after it."""


@dataclass(frozen=True)
class Clean:
    """A founded consortium, and what an undisturbed study in a copy of it did."""

    rig: Rig
    model: str
    size: int
    points: dict[str, list[str]]
    """The names of each party's writes, in order."""


@dataclass
class Killer:
    """Starts parties that die at their points, starts them again, and kills the server."""

    rig: Rig
    orders: dict[str, list[str]]
    server_at: list[int]
    done: list[str] = field(default_factory=list)
    restarts: int = 0

    def start_all(self) -> None:
        for name in (HUB, *SITES):
            self.start(name)

    def start(self, name: str) -> None:
        """Start a party that dies at its next point, if there is one left."""
        left = self.orders.get(name, [])
        self.rig.start(name, **({KILL_VARIABLE: left[0]} if left else {}))

    def watch(self) -> None:
        for name, child in list(self.rig.children.items()):
            code = child.process.poll()
            if code is None:
                continue
            if code == ResourceError.exit_code:
                # It was started while the server was down, or the server did not come up in time,
                # and said so: whoever supervises it starts it again, as the units in deploy/ do.
                error = last_error(child.said)
                assert any(word in error for word in WITHOUT_SERVER), error
                self.restarts += 1
                self.start(name)
                continue
            assert code == -signal.SIGKILL, f"{name} ended with {code}\n{self.rig.words()}"
            self.done.append(f"{name} {self.orders[name].pop(0)}")
            self.start(name)
        if self.server_at and self.rig.size(HUB) >= self.server_at[0] and self.rig.kill_server():
            self.done.append(f"server at {self.server_at.pop(0)}")


def last_error(said: str) -> str:
    """Return the last line by which a process said why it ended."""
    return [line for line in said.splitlines() if line.startswith("error: ")][-1]


def run_study(rig: Rig, bundle: Path) -> str:
    """Decide on a study, run it to its end, verify the bundle, and return the model."""
    digest = rig.decide(rig.plan(contract(), MODEL, slots_per_epoch=SLOTS), contract())
    rig.until(lambda: rig.finished(digest), "the study does not end", RUN_LIMIT_S)
    rig.export(bundle, RUN_LIMIT_S)
    return str(rig.state(HUB).studies[digest].final_model)  # type: ignore[index]  # a digest


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    place = tmp_path_factory.mktemp("clean")
    founded = Rig.founded_in(place / "founded")
    rig = founded.copy(place / "run")
    traces = {name: place / f"{name}.trace" for name in (HUB, *SITES)}
    try:
        for name, trace in traces.items():
            rig.start(name, **{TRACE_VARIABLE: str(trace)})
        model = run_study(rig, place / "bundle")
        size = rig.size(HUB)
    finally:
        rig.stop()
    points = {
        name: [label for label in trace.read_text().splitlines() if label not in _ONLY_AT_START]
        for name, trace in traces.items()
    }
    assert all({"participant-mirror"} <= set(points[name]) for name in SITES), points
    return Clean(founded, model, size, points)


def deck_of(name: str, trace: Iterable[str]) -> list[Point]:
    """Return every name of a party's writes before and after it, in an order of its own.

    Those of `LEADS` come first.
    """
    deck = sorted({(label, moment) for label in set(trace) for moment in ("before", "after")})
    random.Random(f"{SEED}/{name}").shuffle(deck)
    return sorted(deck, key=lambda point: point not in LEADS)


def orders_of(
    clean: Clean,
    number: int,
    kills: Iterable[str] | None = None,
    *,
    barred: Callable[[str, Point], bool] = lambda name, point: False,
) -> tuple[dict[str, list[str]], list[int]]:
    """Return where each party is killed in run `number`, in order, and at which sizes the server.

    Runs take a party's points in turn, so that all are met equally often, rare ones too; each at
    one of the places of its name in the clean run. How many writes lie between two places is how
    many the party does, after its start, until it dies again. With `kills`, those that were done,
    a run takes points that none of them met, as far as there are any. What is `barred` for a
    party, by its name and the point, is left out of this run.
    """
    points, servers = (FULL_POINTS, FULL_SERVER) if FULL else (CI_POINTS, CI_SERVER)
    draw = random.Random(f"{SEED}/{number}")
    missed = None if kills is None else set(points_not_met(clean, kills))
    orders: dict[str, list[str]] = {}
    for name, trace in sorted(clean.points.items()):
        deck = [point for point in deck_of(name, trace) if not barred(name, point)]
        if missed is not None:
            deck.sort(key=lambda point: f"{name} {point[0]} {point[1]}" not in missed)
        first = 0 if missed is not None else number * points
        turn = [deck[(first + n) % len(deck)] for n in range(points)]
        places: dict[int, str] = {}
        for label, moment in turn:
            free = [n for n, one in enumerate(trace) if one == label and n not in places]
            if free:
                places[draw.choice(free)] = moment
        orders[name] = []
        before = 0
        for place, moment in sorted(places.items()):
            label = trace[place]
            # What a party does again after its start brings it there sooner than the first time.
            count = 1 if missed is not None else min(trace[before : place + 1].count(label), 3)
            orders[name].append(f"{label}:{count}:{moment}")
            before = place + 1
    return orders, sorted(draw.randrange(5, clean.size - 5) for _ in range(servers))


def state_directory() -> Path:
    """Return where finished runs of a full campaign are kept."""
    named = os.environ.get("TREATY_CAMPAIGN_STATE")
    return Path(named) if named else Path(tempfile.gettempdir()) / "treaty-network-kills"


def kept_rows() -> list[dict[str, object]]:
    """Return the rows of the full campaign that are done, in order."""
    return [json.loads(path.read_text()) for path in sorted(state_directory().glob("run-*.json"))]


def kills_of(rows: list[dict[str, object]]) -> int:
    """Return how many kills `rows` hold."""
    return sum(len(row["kills"]) for row in rows)  # type: ignore[arg-type]  # a list


def rows_until(
    kills: int, runs: int, run: Callable[[int], dict[str, object]]
) -> list[dict[str, object]]:
    """Do `runs` runs, and up to two more until there were `kills`; return their rows."""
    rows = [run(number) for number in range(runs)]
    while kills_of(rows) < kills and len(rows) < runs + 2:
        rows.append(run(len(rows)))
    return rows


def points_not_met(clean: Clean, kills: Iterable[str]) -> list[str]:
    """Return the names of writes, each before and after it, that none of `kills` met."""
    met = set()
    for one in kills:
        if not one.startswith("server "):
            place, _, moment = one.rsplit(":", 2)
            met.add(f"{place} {moment}")
    wanted = {
        f"{name} {label} {moment}"
        for name, trace in clean.points.items()
        for label in set(trace)
        for moment in ("before", "after")
    }
    return sorted(wanted - met)


def kept_row(kept: Path, run: Callable[[], dict[str, object]], number: int) -> bool:
    """Keep in `kept` what run `number` returns or what failed in it; say whether it held."""
    holds = True
    try:
        row = run()
    except AssertionError as error:
        holds = False
        row = {"run": number, "kills": [], "outcome": "failed", "why": str(error)[-4000:]}
    kept.with_suffix(".new").write_text(json.dumps(row))
    kept.with_suffix(".new").rename(kept)
    return holds


def store_table(clean: Clean) -> None:
    """Store what has been run so far."""
    rows = kept_rows()
    table = {
        "campaign": "network kills",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": SEED,
        "runs": len(rows),
        "kills": kills_of(rows),
        "kills_of": dict(sorted(Counter(one.split()[0] for one in _all_kills(rows)).items())),
        "failed": sum(row["outcome"] != "same model" for row in rows),
        "longest_run_s": max((row.get("seconds", 0) for row in rows), default=0),  # type: ignore[type-var]  # numbers
        "points_not_met": points_not_met(clean, _all_kills(rows)),
        "rows": rows,
    }
    text = json.dumps(table, indent=1, sort_keys=True) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"network-kills-{datetime.now(UTC).date()}.json").write_text(text)


def _all_kills(rows: list[dict[str, object]]) -> Iterator[str]:
    for row in rows:
        yield from row["kills"]  # type: ignore[misc]  # a list


def one_run(clean: Clean, number: int, place: Path) -> dict[str, object]:
    """Do one run and return its row; raise what did not hold."""
    began = time.monotonic()
    orders, server_at = orders_of(clean, number)
    rig = clean.rig.copy(place / f"run-{number}")
    killer = Killer(rig, orders, server_at)
    rig.watch = killer.watch
    planned = [f"{name} {one}" for name, ones in sorted(orders.items()) for one in ones]
    try:
        killer.start_all()
        model = run_study(rig, place / f"bundle-{number}")
        rig.until_mirrored()
        assert model == clean.model, killer.done
        assert_one_history(rig)
        assert_nothing_lost(rig)
    finally:
        rig.watch = lambda: None
        rig.stop()
    shutil.rmtree(rig.root)
    return {
        "run": number,
        "planned": planned,
        "kills": killer.done,
        "starts_without_server": killer.restarts,
        "outcome": "same model",
        "seconds": round(time.monotonic() - began, 1),
    }


@pytest.mark.short_form
def test_every_run_of_the_slice_ends_with_the_model_of_the_clean_one(
    clean: Clean, tmp_path: Path
) -> None:
    rows = rows_until(CI_KILLS, CI_RUNS, partial(one_run, clean, place=tmp_path))
    assert kills_of(rows) >= CI_KILLS, [row["kills"] for row in rows]


@pytest.mark.long_form
def test_every_run_ends_with_the_model_of_the_clean_one(clean: Clean, tmp_path: Path) -> None:
    part, parts = map(int, os.environ.get("TREATY_CAMPAIGN_SHARD", "0/1").split("/"))
    place = state_directory()
    place.mkdir(exist_ok=True, parents=True)
    failed = []
    try:
        for number in range(part, FULL_RUNS, parts):
            kept = place / f"run-{number:03}.json"
            if kept.exists():
                continue
            if not kept_row(kept, partial(one_run, clean, number, tmp_path), number):
                failed.append(number)
    finally:
        store_table(clean)
    assert failed == []
    if len(kept_rows()) >= FULL_RUNS:
        assert kills_of(kept_rows()) >= FULL_KILLS
