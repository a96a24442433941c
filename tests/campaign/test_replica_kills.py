"""Two replicas of a coordinator are killed and paused while a study runs, also at a takeover.

As `test_network_kills`, with a coordinator that runs twice over one database. Whenever a replica is
started it is given, in turn, what befalls it once it is active:

  * ``a write``: it is killed right before or right after one of its durable writes;
  * ``taking over``: it is killed right before or right after it takes the lease;
  * ``first write``: it is killed right before or right after its first write under its lease;
  * ``pause``: it stands still for longer than the lease, in the middle of whatever it does, and
    wakes up when the other is active.

Whoever ends is started again at once. The study must end with the model of an undisturbed run, the
bundle must verify, both replicas and all mirrors have one history, nobody has said a thing twice; a
replica ends by the kill, or with exit code 5 because its lease is lost. The founding is part of it.
Sites are left alone here: `test_network_kills` has them.

``ci`` takes one run of `CI_ROUNDS` disturbances, ``full`` `FULL_RUNS` of `FULL_ROUNDS`.
"""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.small_federation import SITES, contract
from treaty.errors import ResourceError
from treaty.ids import Digest
from treaty.models.specification import LogisticRegression
from treaty.stores.kill_points import KILL_VARIABLE

pytest.importorskip("nats", reason="nats: nats-py is not installed")
pytest.importorskip("psycopg", reason="postgres: psycopg is not installed")

from tests.campaign.test_network_kills import last_error
from tests.network_rig import HUB, assert_nothing_lost, assert_one_history, embedded_model
from tests.postgres_server import PostgresServer
from tests.replica_rig import LEASE_S, REPLICAS, SECOND, ReplicaRig

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
pytestmark = [
    pytest.mark.nats,
    pytest.mark.postgres,
    pytest.mark.timeout(7200 if FULL else 400),
]
RESULTS = Path(__file__).parent / "results"
SEED = 20_261_129
CI_ROUNDS, FULL_ROUNDS, FULL_RUNS = 4, 6, 6
RUN_LIMIT_S = 400 if FULL else 250
MODEL = LogisticRegression(site_intercepts=True)
WRITES = ("coordinator-append", "coordinator-append", "cosigned")
TAKEOVERS = ("a write", "taking over", "first write", "pause")
SLOTS = 2
"""Few rounds an epoch: a study then has many entries, and lasts longer than the disturbances."""


@dataclass
class Story:
    """What happens to the replicas of one run, in order, and what has happened."""

    rig: ReplicaRig
    draw: random.Random
    rounds: int
    first: int
    """Which disturbance comes first: runs begin with different ones."""
    done: list[str] = field(default_factory=list)
    ends: Counter[int] = field(default_factory=Counter)
    turn: int = 0
    to_pause: dict[str, int] = field(default_factory=dict)
    """Replicas to be paused once active, and after how many entries."""
    since: dict[str, int] = field(default_factory=dict)
    paused: tuple[str, float] | None = None

    def start(self, name: str) -> None:
        """Start a replica, with the next disturbance for when it becomes active."""
        variables: dict[str, str] = {}
        self.to_pause.pop(name, None)
        self.since.pop(name, None)
        if self.turn < self.rounds:
            how = TAKEOVERS[(self.first + self.turn) % len(TAKEOVERS)]
            moment = self.draw.choice(("before", "after"))
            order = {
                "a write": f"{self.draw.choice(WRITES)}:{self.draw.randrange(2, 9)}:{moment}",
                "taking over": f"lease-take:1:{moment}",
                "first write": f"coordinator-append:1:{moment}",
                "pause": "",
            }[how]
            self.turn += 1
            if order:
                variables = {KILL_VARIABLE: order}
            else:
                self.to_pause[name] = self.draw.randrange(1, 9)
            self.done.append(f"{name} {how} {order or 'for longer than the lease'}")
        self.rig.start(name, **variables)

    def watch(self) -> None:
        """Start again whoever has ended; pause and wake as the story says."""
        for name in REPLICAS:
            child = self.rig.children.get(name)
            code = None if child is None else child.process.poll()
            if child is None or code is None:
                continue
            self.ends[code] += 1
            if code == ResourceError.exit_code:
                error = last_error(child.said)
                assert "lease" in error, error
            else:
                assert code == -signal.SIGKILL, f"{name} ended with {code}\n{self.rig.words()}"
            self.start(name)
        if self.paused is not None:
            name, began = self.paused
            taken = self.rig.is_active(next(one for one in REPLICAS if one != name))
            # Where the other was killed meanwhile, nobody may be there to take over for a while.
            if taken or time.monotonic() - began > 3 * LEASE_S + 10:
                self.rig.wake(name)
                self.paused = None
            return
        for name, entries in list(self.to_pause.items()):
            if not self.rig.is_active(name):
                continue
            if self.rig.size(HUB) >= self.since.setdefault(name, self.rig.size(HUB)) + entries:
                del self.to_pause[name]
                self.rig.pause(name)
                self.paused = (name, time.monotonic())
                return

    def finish(self) -> None:
        """Let whoever is paused go on."""
        if self.paused is not None:
            self.rig.wake(self.paused[0])
            self.paused = None


def one_run(
    postgres: PostgresServer, number: int, rounds: int, model: str, place: Path
) -> dict[str, object]:
    """Do one run and return its row; raise what did not hold."""
    began = time.monotonic()
    rig = ReplicaRig(place / f"run-{number}", database=postgres)
    rig.root.mkdir(parents=True)
    story = Story(rig, random.Random(f"{SEED}/{number}"), rounds, number)
    try:
        rig.prepare_replicas()
        story.start(HUB)
        rig.watch = story.watch
        rig.until(lambda: (rig.root / "server" / "server.conf").exists(), "no configuration")
        rig.serve()
        story.start(SECOND)
        for name in SITES:
            rig.start(name)
        rig.until(rig.founded, "the consortium is not founded", RUN_LIMIT_S)
        digest = rig.decide(rig.plan(contract(), MODEL, slots_per_epoch=SLOTS), contract())
        rig.until(lambda: rig.finished(digest), "the study does not end", RUN_LIMIT_S)
        # What is left of the story finds a consortium at rest.
        rig.watch = lambda: None
        story.finish()
        rig.until(lambda: any(map(alive_and_active(rig), REPLICAS)), "nobody is active", 60)
        [active] = [name for name in REPLICAS if alive_and_active(rig)(name)][:1]
        rig.export(place / f"bundle-{number}", RUN_LIMIT_S, hub=active)
        rig.until_mirrored()
        assert rig.state(HUB).studies[Digest(digest)].final_model == model, story.done
        assert_one_history(rig, SECOND)
        assert_nothing_lost(rig)
    finally:
        rig.watch = lambda: None
        rig.close()
    shutil.rmtree(rig.root)
    return {
        "run": number,
        "story": story.done,
        "ends": {str(code): times for code, times in sorted(story.ends.items())},
        "outcome": "same model",
        "seconds": round(time.monotonic() - began, 1),
    }


def alive_and_active(rig: ReplicaRig) -> Callable[[str], bool]:
    """Return what says whether a replica's present process runs and has the lease."""
    return lambda name: rig.children[name].process.poll() is None and rig.is_active(name)


def kills_of(rows: list[dict[str, object]]) -> int:
    """Return how many replicas ended by a kill or for a lost lease."""
    return sum(sum(row["ends"].values()) for row in rows)  # type: ignore[attr-defined]  # a table


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of the same study, trained with the embedded engine."""
    return embedded_model(tmp_path_factory.mktemp("embedded"), MODEL)


@pytest.mark.short_form
def test_the_slice_ends_with_the_embedded_engines_model(
    postgres: PostgresServer, embedded: str, tmp_path: Path
) -> None:
    row = one_run(postgres, 0, CI_ROUNDS, embedded, tmp_path)
    assert kills_of([row]) >= 3, row


@pytest.mark.long_form
def test_every_run_ends_with_the_embedded_engines_model(
    postgres: PostgresServer, embedded: str, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = []
    for number in range(FULL_RUNS):
        try:
            rows.append(one_run(postgres, number, FULL_ROUNDS, embedded, tmp_path))
        except AssertionError as error:
            why = str(error)[-4000:]
            rows.append({"run": number, "ends": {}, "outcome": "failed", "why": why})
        store_table(rows)
    assert [row["run"] for row in rows if row["outcome"] != "same model"] == []


def store_table(rows: list[dict[str, object]]) -> None:
    """Store what has been run so far."""
    table = {
        "campaign": "replica kills",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": SEED,
        "lease_s": LEASE_S,
        "runs": len(rows),
        "ends": kills_of(rows),
        "failed": sum(row["outcome"] != "same model" for row in rows),
        "longest_run_s": max((row.get("seconds", 0) for row in rows), default=0),  # type: ignore[type-var]  # numbers
        "rows": rows,
    }
    text = json.dumps(table, indent=1, sort_keys=True) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"replica-kills-{datetime.now(UTC).date()}.json").write_text(text)
