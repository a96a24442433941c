"""T-26, T-45: what a verdict says of a whole log, where the last study alone tells less.

A consortium released the model of one study and completed another one afterwards. What it had
released is said, before and after it is taken back; an exact study whose answers were kept back
counts beside an epsilon, and every sum that can have been opened unpublished is counted.

Planted faults, each seen to fail: releases of the last completed study alone; withdrawn models
among those released; the report silent about another study's release; exact sums counted by logged
answers, or without the open round; unpublished sums counted in rounds that are over alone, or once
they are published, or not at all.
"""

import msgspec
import pytest

from tests.forgery import Forge, genuine_of
from tests.small_federation import SITES, contract, found, small_plan
from tests.violations import asking, ballot, under
from treaty.crypto.canonical import sha256
from treaty.governance.roles import Action
from treaty.protocol.messages import ReleaseProvenance, StudyCompleted
from treaty.protocol.secagg_messages import RoundAbandoned, RoundCode, SurvivorsSealed
from treaty.provenance.privacy import log_privacy
from treaty.provenance.verify import Status, Verdict, verify_bundle
from treaty.reports.summary import report_data
from treaty.simulation.federation import COORDINATOR


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    federation = found(tmp_path_factory.mktemp("two"), in_memory=True, capture=False)
    first = small_plan(federation)
    federation.release(federation.run_study(first, contract()))
    second = msgspec.structs.replace(
        first, study="second", model=msgspec.structs.replace(first.model, max_rounds=2)
    )
    federation.run_study(second, contract())
    return genuine_of(federation).forge


def verdict(forge: Forge) -> Verdict:
    return verify_bundle(forge.exported(), forge.anchor)


def of_release(found: Verdict) -> tuple[Status, str]:
    [one] = [one for one in found.record.guarantees if one.name == "release"]
    return one.status, one.statement


def withdrawn(forge: Forge, plan: str) -> Forge:
    forge = asking(forge, Action.RELEASE_ROLLBACK, plan)
    proposal = sha256(forge.entries[-1])
    for name in SITES:
        if not forge.state().proposals[proposal].proposal.settled:
            forge = forge.saying(ballot(forge, name, proposal))
    return forge


def test_a_later_study_hides_no_release(forge: Forge) -> None:
    """A verdict on the last model never says that nothing is released."""
    [entry] = forge.places(ReleaseProvenance)
    files, found = forge.exported(), verdict(forge)
    assert not found.record.released
    status, said = of_release(found)
    assert status is Status.NOT_COVERED
    assert said == (
        "the last completed model is not released; models of other studies are released, in "
        f"entries {entry}"
    )
    [told] = [
        one.value
        for one in report_data(found, files).terms
        if one.label == "Another study in this log"
    ]
    assert told.endswith(f"completed, released in entry {entry}")


def test_what_was_taken_back_is_not_among_what_is_released(forge: Forge) -> None:
    plan = forge.said(forge.places(StudyCompleted)[0], StudyCompleted).plan
    assert of_release(verdict(withdrawn(forge, plan)))[1] == (
        "the last completed model is not released"
    )
    alone = forge.until(forge.places(ReleaseProvenance)[0] + 1)
    assert of_release(verdict(alone))[0] is Status.PROVED
    taken = withdrawn(alone, plan)
    assert of_release(verdict(taken)) == (
        Status.NOT_COVERED,
        f"released, and taken back by its stewards in entry {len(taken.entries) - 1}",
    )
    before = forge.until(forge.places(ReleaseProvenance)[0])
    assert of_release(verdict(before)) == (Status.NOT_COVERED, "no release in this log")


def said(forge: Forge) -> dict[str, str]:
    return {one.name: one.statement for one in verdict(forge).record.guarantees}


def test_a_sum_that_can_have_been_opened_and_was_not_published_is_counted(forge: Forge) -> None:
    """Also while its round is open; no more once it is published, in whichever round."""
    assert "unpublished" not in said(forge)
    at = forge.places(SurvivorsSealed)[2]
    assert "unpublished" not in said(forge.until(at))
    open_round = forge.until(at + 1)
    assert said(open_round)["unpublished"].startswith("the survivors of 1 question(s)")
    over = RoundAbandoned(
        charter=under(open_round),
        author=COORDINATOR,
        context=forge.said(at, SurvivorsSealed).context,
        code=RoundCode.TOO_FEW_REVEALS,
    )
    assert said(open_round.saying(over))["unpublished"].startswith("the survivors of 1 question(s)")


def test_an_exact_sum_counts_once_its_survivors_are_named(forge: Forge) -> None:
    """Answers that the coordinator keeps back open it all the same."""
    at = forge.places(SurvivorsSealed)[0]
    assert log_privacy(forge.state(at)).exact == 0
    sealed = forge.until(at + 1)
    assert log_privacy(sealed.state()).exact == 1
    context = forge.said(at, SurvivorsSealed).context
    dropped = sealed.saying(
        RoundAbandoned(
            charter=under(sealed),
            author=COORDINATOR,
            context=context,
            code=RoundCode.TOO_FEW_REVEALS,
        )
    )
    assert log_privacy(dropped.state()).exact == 1
    assert log_privacy(forge.state()).exact == 2
