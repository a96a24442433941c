"""Founding and a private study between processes, while coordinator, sites and server are killed.

As `test_network_kills`, from the first start on: the members found a differentially private
consortium, decide on a study whose sums are noised, and run it to its end. Every party is killed
right before or right after its durable writes, those of the founding and of its privacy ledger
among them, and started again at once.

After each run (`tests.charges`): one charge for each release and no release without one; at most
one input in a context; the ledger of a site that released all it paid for has the events of the
certificate, partition by partition, and no site paid in vain more often than it was killed; all
mirrors are one history; nobody has said a thing twice; the bundle verifies. A study may not halt.
Noise differs from run to run, so models are not compared.

LIMIT: a site that is killed between its charge and the transaction that keeps the vector has paid
for a vector that is lost. Its reservation has no spare, so it sits out one question of that kind.

``ci`` takes a seeded slice of at least 10 kills, ``full`` at least `FULL_KILLS`; it is cut off and
taken up as the other campaign is, with ``TREATY_CAMPAIGN_STATE`` naming another directory.
"""

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from tests.charges import assert_charges
from tests.private_federation import MAX_ROWS, ROUNDS, private_contract
from tests.small_federation import SITES
from treaty.governance.charter import charter_to_toml
from treaty.governance.template import CharterOptions, terms_charter
from treaty.ids import Digest
from treaty.models.specification import LogisticRegression
from treaty.stores.kill_points import TRACE_VARIABLE
from treaty.studies.calibrating import Privacy, private_model, terms_for
from treaty.wiring import stored_log

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.campaign.test_network_kills import (
    Clean,
    Killer,
    kept_row,
    kills_of,
    orders_of,
    points_not_met,
)
from tests.network_rig import HUB, Rig, assert_nothing_lost, assert_one_history

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
pytestmark = [pytest.mark.nats, pytest.mark.timeout(7200 if FULL else 400)]
RESULTS = Path(__file__).parent / "results"
CI_RUNS, FULL_RUNS, FULL_KILLS = 1, 6, 150
RUN_LIMIT_S = 300 if FULL else 150
ONLY_IN_COMMANDS = frozenset({"", "outbox", "terms"})
SLOTS = 3


def prepared(root: Path) -> Rig:
    """Return a private consortium up to the anchor; nothing has been started."""
    made = Rig(root)
    root.mkdir(parents=True)
    options = CharterOptions(epsilon_budget_milli=3000, delta="1e-5", post_quantum=False)
    text = charter_to_toml(terms_charter("hearts.example", tuple(map(str, SITES)), options))
    (root / "charter.toml").write_text(text)
    made.prepare(charter=root / "charter.toml")
    made.register("rows")
    return made


def run_private(rig: Rig, bundle: Path) -> dict[str, dict[str, int]]:
    """Found, decide, train and check; return what each site was charged."""
    rig.until(rig.founded, "the consortium is not founded", RUN_LIMIT_S)
    model = private_model(LogisticRegression())
    terms = terms_for(
        Privacy(rounds=ROUNDS),
        model,
        private_contract(),
        rig.state(HUB).charter.privacy,
        members=len(SITES),
        max_persons_per_site=MAX_ROWS,
    )
    plan = rig.plan(
        private_contract(),
        model,
        privacy=terms,
        max_persons_per_site=MAX_ROWS,
        slots_per_epoch=SLOTS,
    )
    digest = Digest(rig.decide(plan, private_contract()))
    rig.until(lambda: rig.finished(digest), "the study does not end", RUN_LIMIT_S)
    study = rig.state(HUB).studies[digest]
    assert study.final_model is not None, study.halt_code
    rig.export(bundle, RUN_LIMIT_S)
    rig.until_mirrored()
    rig.watch()
    with stored_log(rig.place(HUB)) as log:
        entries = log.entries
    found = {
        str(name): assert_charges(rig.place(name), name, digest, entries, rig.state(HUB))
        for name in SITES
    }
    assert_one_history(rig)
    assert_nothing_lost(rig)
    return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """What an undisturbed run writes, from the first start on."""
    place = tmp_path_factory.mktemp("clean")
    first = prepared(place / "prepared")
    rig = first.copy(place / "run")
    traces = {name: place / f"{name}.trace" for name in (HUB, *SITES)}
    try:
        for name, trace in traces.items():
            rig.start(name, **{TRACE_VARIABLE: str(trace)})
        charges = run_private(rig, place / "bundle")
        size = rig.size(HUB)
    finally:
        rig.stop()
    assert all(one["charges"] == 4 and one["equals_certificate"] for one in charges.values())
    points = {
        name: [one for one in trace.read_text().splitlines() if one not in ONLY_IN_COMMANDS]
        for name, trace in traces.items()
    }
    assert {"founding-signature", "founded", "coordinator-append"} <= set().union(
        *map(set, points.values())
    )
    assert all("ledger-charge" in points[name] for name in SITES), points
    return Clean(first, "", size, points)


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
        charges = run_private(rig, place / f"bundle-{number}")
        for name, one in charges.items():
            # Nothing is paid for in vain but where its process was killed in between.
            kills = sum(kill.split()[0] == name for kill in killer.done)
            assert one["unreleased"] <= kills and one["lost"] <= kills, (name, one, killer.done)
    finally:
        rig.watch = lambda: None
        rig.stop()
    shutil.rmtree(rig.root)
    return {
        "run": number,
        "planned": planned,
        "kills": killer.done,
        "charges": charges,
        "starts_without_server": killer.restarts,
        "outcome": "holds",
        "seconds": round(time.monotonic() - began, 1),
    }


@pytest.mark.skipif(FULL, reason="the slice; the full form takes its place")
def test_every_run_of_the_slice_charges_each_release_once(clean: Clean, tmp_path: Path) -> None:
    rows = [one_run(clean, number, tmp_path) for number in range(CI_RUNS)]
    assert kills_of(rows) >= 10, [row["kills"] for row in rows]


@pytest.mark.skipif(not FULL, reason="long: TREATY_CAMPAIGN=full")
def test_every_run_charges_each_release_once(clean: Clean, tmp_path: Path) -> None:
    named = os.environ.get("TREATY_CAMPAIGN_STATE")
    place = Path(named or tempfile.gettempdir()) / "treaty-private-network-kills"
    place.mkdir(exist_ok=True, parents=True)
    failed = []
    for number in range(FULL_RUNS):
        kept = place / f"run-{number:03}.json"
        if kept.exists():
            continue
        if not kept_row(kept, partial(one_run, clean, number, tmp_path), number):
            failed.append(number)
        store_table(clean, [json.loads(path.read_text()) for path in sorted(place.glob("run-*"))])
    assert failed == []
    rows = [json.loads(path.read_text()) for path in sorted(place.glob("run-*.json"))]
    if len(rows) >= FULL_RUNS:
        assert kills_of(rows) >= FULL_KILLS


def store_table(clean: Clean, rows: list[dict[str, object]]) -> None:
    """Store what has been run so far."""
    kills = [one for row in rows for one in row["kills"]]  # type: ignore[attr-defined]  # a list
    charges = [one for row in rows for one in row.get("charges", {}).values()]  # type: ignore[attr-defined]  # a table
    table = {
        "campaign": "private network kills",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": len(rows),
        "kills": len(kills),
        "kills_of": dict(sorted(Counter(str(one).split()[0] for one in kills).items())),
        "failed": sum(row["outcome"] != "holds" for row in rows),
        "releases": sum(one["releases"] for one in charges),
        "charges": sum(one["charges"] for one in charges),
        "charges_of_questions_asked_anew": sum(one["again"] for one in charges),
        "charges_lost_with_their_process": sum(one["unreleased"] for one in charges),
        "ledgers_that_equal_the_certificate": sum(one["equals_certificate"] for one in charges),
        "longest_run_s": max((row.get("seconds", 0) for row in rows), default=0),  # type: ignore[type-var]  # numbers
        "points_not_met": points_not_met(clean, kills),
        "rows": rows,
    }
    text = json.dumps(table, indent=1, sort_keys=True) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"private-network-kills-{datetime.now(UTC).date()}.json").write_text(text)
