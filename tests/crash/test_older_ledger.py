"""A member comes back with an older ledger, in the middle of a round that waits for its input.

Its own store shows a charge that the ledger lacks: the first thing it does in its new life is to
find that out. Nothing is charged to the older ledger, and no input shows it.

Planted and caught: a member that compares its ledger with the log where it takes up a study and
never again; one that compares it with nothing.
"""

from pathlib import Path

from tests.private_federation import private_contract, private_plan
from tests.restartable_federation import (
    Cuts,
    RestartableFederation,
    Story,
    in_round,
    write_federation,
)
from tests.small_federation import SITES
from treaty.crypto.canonical import decode
from treaty.ids import MemberId
from treaty.privacy.ledger_entries import Closed, Entry
from treaty.protocol.study import Phase
from treaty.studies.calibrating import Privacy

MEMBER = MemberId(SITES[1])


def test_an_older_ledger_is_found_out_before_anything_is_charged_to_it(tmp_path: Path) -> None:
    write_federation(
        tmp_path / "federation",
        site_figures=False,
        epsilon_budget_milli=3000,
        delta="1e-5",
        max_sites_per_person=2,
    )
    federation = RestartableFederation(tmp_path / "federation", cuts=Cuts(ledgers=True))
    federation.establish()
    older: list[bytes] = []

    def keep() -> None:
        older.extend(federation._ledger(MEMBER).read())

    def put_back() -> None:
        federation._ledger(MEMBER).records[:] = older
        federation.end(MEMBER)

    plan = private_plan(federation, Privacy(rounds=2), surplus=True)
    # Before the first sum is paid for, and when the second waits for inputs.
    story = Story(federation, (in_round(0), keep), (in_round(1), put_back))
    study = federation.run_study(plan, private_contract(), story)
    assert story.told and study.phase is Phase.COMPLETED
    entries = federation._ledger(MEMBER).read()
    assert entries[: len(older)] == older
    # What the plan had reserved is given up at its end; that charges nothing.
    kinds = [type(decode(one, Entry).action) for one in entries[len(older) :]]
    assert kinds == [Closed]
    assert '"declined.ledger-behind"' in federation.journal_of(MEMBER)
    assert [MEMBER in one.inputs for one in study.rounds] == [True, False, False, False]
