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

There are two scenarios (`SCENARIOS`): the evaluation is exact, and every site is there; or it is
noised and paid for from the holdout's envelope, while one site goes away when the study is decided
on, stays away until sums were published, and takes part from the next epoch on. When all runs of
a scenario are over, further ones take the points that no kill met.

Not reached: a confirmation of survivors (`participant-slot-confirm-persisting`), which four sites
never need; a lost ledger's re-base, which takes an officer. In one process the first is run with
ends between its writes (`tests/crash/test_ends_at_every_write.py`), the second on files
(`tests/campaign/test_ledger_crash.py`). A question that is asked anew with fresh noise, which takes
two sites lost between an answer and its sum, comes by chance alone; through nodes it is
`tests/adversarial/test_fresh_releases.py`. Reports of a site's own figures are never sent in a
private study, so `participant-report` is met by `test_network_kills` alone.

LIMIT: a site that is killed between its charge and the transaction that keeps the vector has paid
for a vector that is lost. Its reservation has no spare, so it sits out one question of that kind.
Were two of four to sit out one question, the study would halt: only one site a run dies there.

``ci`` takes a seeded slice of at least 10 kills (runs are added until there are as many), ``full``
at least `FULL_KILLS`; it is cut off and taken up as the other campaign is, with
``TREATY_CAMPAIGN_STATE`` naming another directory.
"""

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    rows_until,
)
from tests.network_rig import HUB, Rig, assert_nothing_lost, assert_one_history

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
pytestmark = [pytest.mark.nats, pytest.mark.timeout(7200 if FULL else 400)]
RESULTS = Path(__file__).parent / "results"
SCENARIOS = ("exact evaluation", "noised evaluation, a site away")
CI_RUNS, CI_KILLS, FULL_RUNS, FULL_KILLS = 1, 10, 4, 150
MOP_UPS = 4
"""Runs of each scenario beyond `FULL_RUNS`, for points that no kill has met."""

PAID = frozenset(
    {
        ("ledger-charge", "after"),
        ("secret-write", "before"),
        ("secret-write", "after"),
        ("participant-slot-input-persisting", "before"),
    }
)
"""Points at which a vector may be lost that is paid for."""

RUN_LIMIT_S = 300 if FULL else 150
ONLY_IN_COMMANDS = frozenset({"", "outbox", "terms"})
SLOTS = 3
DEADLINE_S = 15
AWAY = SITES[-1]
AWAY_SUMS = 2
"""How many sums are published before the site that stays away is there."""


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


@dataclass(frozen=True)
class PrivateClean(Clean):
    """What an undisturbed run of a scenario did."""

    scenario: str = SCENARIOS[0]


def run_private(
    rig: Rig, bundle: Path, scenario: str, start: Callable[[str], object]
) -> dict[str, dict[str, int]]:
    """Found, decide, train and check; return what each site was charged.

    `start` starts the process of the site that stays away.
    """
    noised = scenario != SCENARIOS[0]
    rig.until(rig.founded, "the consortium is not founded", RUN_LIMIT_S)
    model = private_model(LogisticRegression())
    terms = terms_for(
        Privacy(rounds=ROUNDS, holdout_epsilon=0.9 if noised else None),
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
        deadline_s=DEADLINE_S if noised else 60,
    )
    digest = Digest(rig.decide(plan, private_contract()))
    if noised:
        # Not before: without a plan a restarted coordinator waits for every site for a minute.
        away(rig)
        rig.until(
            lambda: (
                digest in rig.state(HUB).studies
                and len(rig.state(HUB).studies[digest].rounds) >= AWAY_SUMS
            ),
            "no sum without the site that is away",
            RUN_LIMIT_S,
        )
        start(AWAY)
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


def away(rig: Rig) -> None:
    """Let the site that is away end its process; nobody starts it meanwhile."""
    rig.children.pop(AWAY).end()


def undisturbed(place: Path, scenario: str) -> PrivateClean:
    """Do an undisturbed run and return what it wrote, from the first start on."""
    first = prepared(place / "prepared")
    rig = first.copy(place / "run")
    traces = {name: place / f"{name}.trace" for name in (HUB, *SITES)}

    def start(name: str) -> None:
        rig.start(name, **{TRACE_VARIABLE: str(traces[name])})

    try:
        for name in traces:
            start(name)
        charges = run_private(rig, place / "bundle", scenario, start)
        size = rig.size(HUB)
    finally:
        rig.stop()
    full = 4 if scenario == SCENARIOS[0] else 5
    for name, one in charges.items():
        assert one["charges"] == full or (name == AWAY and scenario != SCENARIOS[0]), charges
        assert one["equals_certificate"] or one["charges"] < full, charges
    points = {
        name: [one for one in trace.read_text().splitlines() if one not in ONLY_IN_COMMANDS]
        for name, trace in traces.items()
    }
    assert {"founding-signature", "founded", "coordinator-append"} <= set().union(
        *map(set, points.values())
    )
    assert all("ledger-charge" in points[name] for name in SITES), points
    return PrivateClean(first, "", size, points, scenario)


def one_run(
    clean: PrivateClean, number: int, place: Path, kills: Iterable[str] | None = None
) -> dict[str, object]:
    """Do one run and return its row; raise what did not hold. For `kills` see `orders_of`."""
    began = time.monotonic()
    payer = SITES[number % len(SITES)]
    orders, server_at = orders_of(
        clean, number, kills, barred=lambda name, point: point in PAID and name != payer
    )
    rig = clean.rig.copy(place / f"run-{number}")
    killer = Killer(rig, orders, server_at)
    rig.watch = killer.watch
    planned = [f"{name} {one}" for name, ones in sorted(orders.items()) for one in ones]
    try:
        killer.start_all()
        charges = run_private(rig, place / f"bundle-{number}", clean.scenario, killer.start)
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
        "scenario": clean.scenario,
        "planned": planned,
        "kills": killer.done,
        "charges": charges,
        "starts_without_server": killer.restarts,
        "outcome": "holds",
        "seconds": round(time.monotonic() - began, 1),
    }


@pytest.mark.short_form
def test_every_run_of_the_slice_charges_each_release_once(tmp_path: Path) -> None:
    clean = undisturbed(tmp_path, SCENARIOS[0])
    rows = rows_until(CI_KILLS, CI_RUNS, partial(one_run, clean, place=tmp_path))
    assert kills_of(rows) >= CI_KILLS, [row["kills"] for row in rows]


@pytest.mark.long_form
def test_every_run_charges_each_release_once(tmp_path: Path) -> None:
    named = os.environ.get("TREATY_CAMPAIGN_STATE")
    place = Path(named or tempfile.gettempdir()) / "treaty-private-network-kills"
    part, parts = map(int, os.environ.get("TREATY_CAMPAIGN_SHARD", "0/1").split("/"))
    failed = []
    for at, scenario in enumerate(SCENARIOS):
        if at % parts != part:
            continue
        kept_in = place / str(at)
        kept_in.mkdir(exist_ok=True, parents=True)
        clean = undisturbed(tmp_path / str(at), scenario)
        for number in range(FULL_RUNS + MOP_UPS):
            met = kills_in(rows_in(kept_in))
            not_met = points_not_met(clean, met)
            (kept_in / "not-met").write_text(json.dumps({scenario: not_met}))
            kept = kept_in / f"run-{number:03}.json"
            if kept.exists() or (number >= FULL_RUNS and not not_met):
                continue
            run = partial(one_run, clean, number, tmp_path / str(at))
            if number >= FULL_RUNS:
                run = partial(run, kills=met)
            if not kept_row(kept, run, number):
                failed.append(f"{scenario} {number}")
            not_met = points_not_met(clean, kills_in(rows_in(kept_in)))
            (kept_in / "not-met").write_text(json.dumps({scenario: not_met}))
            store_table(place)
    assert failed == []
    rows = [row for at in range(len(SCENARIOS)) for row in rows_in(place / str(at))]
    if parts == 1:
        assert kills_of(rows) >= FULL_KILLS


def kills_in(rows: list[dict[str, object]]) -> list[str]:
    """Return every kill of `rows`."""
    return [str(one) for row in rows for one in row["kills"]]  # type: ignore[attr-defined]  # a list


def rows_in(place: Path) -> list[dict[str, object]]:
    """Return the rows that are kept, in order."""
    return [json.loads(path.read_text()) for path in sorted(place.glob("run-*.json"))]


def store_table(place: Path) -> None:
    """Store what has been run so far of all scenarios."""
    rows, not_met = [], dict[str, list[str]]()
    for at in range(len(SCENARIOS)):
        rows += rows_in(place / str(at))
        if (kept := place / str(at) / "not-met").exists():
            not_met |= json.loads(kept.read_text())
    kills = kills_in(rows)
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
        "points_not_met": not_met,
        "rows": rows,
    }
    text = json.dumps(table, indent=1, sort_keys=True) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"private-network-kills-{datetime.now(UTC).date()}.json").write_text(text)
