"""T-12, T-27, T-40: without its row in the matrix a class of content does not leave the site.

One of four sites narrows the charter by one row after another. The study goes on without what that
row allowed; the frames of the site hold no statement with a field of that class, and its own
journal names the row. The shared log holds a closed code at most.

Planted faults that these tests caught: the gate of statements, or of sums, always open; the
site's rows not applied; a site without a policy admitted; rounds, rows, or the officer's approval
not asked; lint without exposure; a ratified plan that the fold refuses stops the coordinator; a
proposal sequenced without its document.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.small_federation import (
    SITES,
    SmallFederation,
    contract,
    found,
    small_plan,
)
from treaty.crypto.canonical import sha256
from treaty.errors import PolicyError, ResourceError
from treaty.governance.charter import Charter, charter_bytes, charter_digest
from treaty.governance.exposure import Artefact, Form, Narrowing
from treaty.governance.roles import Action
from treaty.governance.site_policy import SitePolicy, site_policy_from_toml
from treaty.protocol.frames import decode_post
from treaty.protocol.messages import SiteReported
from treaty.protocol.secagg_messages import InputDeclined, MaskedInput, Reveal
from treaty.protocol.statements import Body, SignerKind, holds_something, peek, registered
from treaty.protocol.study import Phase
from treaty.provenance.verify import verify_bundle
from treaty.studies.lint import lint_plan
from treaty.studies.plan import plan_bytes, plan_digest

NARROW = SITES[0]


def policy(**changes: object) -> SitePolicy:
    """Return the policy of the narrow site: everything but what `changes` say."""
    return (
        site_policy_from_toml(
            f"""
format = "treaty.site-policy/v1"
site = "{NARROW}"
studies = ["*"]
purposes = ["*"]
model_kinds = ["*"]
max_rounds_per_study = 1000
min_rows = 20
site_metrics = true
[auto_approve]
any_ratified = true
max_rounds = 1000
"""
        )
        if not changes
        else msgspec.structs.replace(policy(), **changes)
    )


def spoken(federation: SmallFederation, site: str = NARROW) -> list[Body]:
    """Return what the software of `site` said in its frames, whoever received them."""
    bodies = []
    for record in federation.network.egress:
        if record.sender == site and record.content is not None and record.recipient != "*":
            bodies += [peek(one)[1] for one in decode_post(record.content).statements]
    return [body for body in bodies if registered(type(body)).signer is SignerKind.RUNNER]


def classes(bodies: list[Body]) -> set[tuple[Artefact, Form]]:
    """Return the classes of the fields that hold something."""
    return {
        shown
        for body in bodies
        for name, shown in registered(type(body)).classes.items()
        if holds_something(body, name)
    }


def run(directory: Path, given: SitePolicy | None) -> SmallFederation:
    """Run one study in which the narrow site has the policy `given`."""
    federation = found(directory, policies={NARROW: given}, in_memory=True)
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.COMPLETED
    return federation


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> SmallFederation:
    return run(tmp_path_factory.mktemp("ordinary"), policy())


def test_the_control_takes_part_and_reports(ordinary: SmallFederation) -> None:
    kinds = {type(body) for body in spoken(ordinary)}
    assert {MaskedInput, Reveal, SiteReported} <= kinds
    assert ordinary.journal_of(NARROW) == ""


def test_the_rows_below_are_all_that_a_site_uses(ordinary: SmallFederation) -> None:
    """A class that is used and not tried below would go untested."""
    used = classes([body for name in SITES for body in spoken(ordinary, name)])
    assert used == {row for row in ROWS if row[0] not in SUMS_AND_CODES}


SUMS_AND_CODES = {
    Artefact.SUPPORT_SUM,
    Artefact.STATISTICS_SUM,
    Artefact.GRADIENT_HESSIAN_SUM,
    Artefact.EVALUATION_HISTOGRAM,
}
ROWS = (
    (Artefact.PROTOCOL_KEY, Form.PLAIN),
    (Artefact.COMMITMENT, Form.DIGEST),
    (Artefact.IDENTIFIER, Form.PLAIN),
    (Artefact.LOG_POSITION, Form.PLAIN),
    (Artefact.MASKED_INPUT, Form.MASKED),
    (Artefact.SECRET_SHARE, Form.PLAIN),
    (Artefact.SITE_METRIC, Form.EXACT),
    (Artefact.SUPPORT_SUM, Form.EXACT),
    (Artefact.STATISTICS_SUM, Form.EXACT),
    (Artefact.GRADIENT_HESSIAN_SUM, Form.EXACT),
    (Artefact.EVALUATION_HISTOGRAM, Form.EXACT),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].value)
def test_what_has_no_row_does_not_leave(tmp_path: Path, row: tuple[Artefact, Form]) -> None:
    artefact, form = row
    federation = run(tmp_path, policy(exposure=(Narrowing(artefact=artefact, form=form),)))
    study = list(federation.coordinator.state.studies.values())[-1]
    said = spoken(federation)
    assert (artefact, form) not in classes(said)
    # The journal names class and form, so that the officer knows which row to ask about.
    journal = federation.journal_of(NARROW)
    assert f"an exposure row forbids {artefact.value} to" in journal
    assert f"as {form.value}" in journal
    if artefact in SUMS_AND_CODES:
        kept_out = [one for one in study.rounds if NARROW not in one.members_in]
        assert kept_out
        asked = {one.round for one in kept_out}
        declined = [body for body in said if isinstance(body, InputDeclined)]
        assert len(declined) == len(asked)
        assert {body.code.value for body in declined} == {"site-declined"}
    if artefact is Artefact.SITE_METRIC:
        assert NARROW not in study.reports
        assert all(NARROW in one.members_in for one in study.rounds)


def test_a_site_that_may_not_even_decline_is_silent(tmp_path: Path) -> None:
    """The code of a refusal is content too: without its row the site says nothing at all."""
    rows = (
        Narrowing(artefact=Artefact.STATISTICS_SUM, form=Form.EXACT),
        Narrowing(artefact=Artefact.REFUSAL_CODE, form=Form.CODE),
    )
    federation = run(tmp_path, policy(exposure=rows))
    assert not [body for body in spoken(federation) if isinstance(body, InputDeclined)]
    assert "refusal-code" in federation.journal_of(NARROW)


def test_t40_a_row_over_more_members_than_a_sum_may_have_is_kept(tmp_path: Path) -> None:
    """A sum may be opened over three of four; a site that asks for four declines."""
    row = Narrowing(artefact=Artefact.STATISTICS_SUM, form=Form.EXACT, allow=True, least_members=4)
    federation = run(tmp_path, policy(exposure=(row,)))
    assert "needs at least 4 members behind it, got 3" in federation.journal_of(NARROW)
    study = list(federation.coordinator.state.studies.values())[-1]
    assert NARROW not in study.rounds[1].members_in


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"studies": ("another",)}, "site-study"),
        ({"purposes": ()}, "site-purpose"),
        ({"model_kinds": ("multilayer-perceptron",)}, "site-model"),
        ({"max_rounds_per_study": 5}, "site-rounds"),
        ({"min_rows": 61}, "site-rows"),
        ({"site": "elsewhere"}, "wrong-site"),
    ],
)
def test_t40_a_study_outside_the_policy_gets_nothing(
    tmp_path: Path, changes: dict[str, object], code: str
) -> None:
    federation = run(tmp_path, policy(**changes))
    assert spoken(federation) == []
    assert f"study-refused.{code}" in federation.journal_of(NARROW)


def test_t40_a_site_without_a_policy_takes_no_part(tmp_path: Path) -> None:
    def remove(directory: Path) -> None:
        (directory / "parties" / NARROW / "policy.toml").unlink()

    federation = found(tmp_path, edit=remove, in_memory=True)
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.COMPLETED
    assert all(NARROW not in one.participants for one in study.rounds)
    assert spoken(federation) == []
    assert "study-refused.no-policy" in federation.journal_of(NARROW)
    # It still watches: a witness needs no policy, and shows nothing of its data.
    assert f"{NARROW}/witness" in federation.coordinator.witnesses()


def test_t40_a_site_that_waits_for_its_officer_sends_nothing(tmp_path: Path) -> None:
    waiting = policy()
    waiting = msgspec.structs.replace(
        waiting, auto_approve=msgspec.structs.replace(waiting.auto_approve, any_ratified=False)
    )
    federation = run(tmp_path, waiting)
    assert spoken(federation) == []
    assert "study-waits" in federation.journal_of(NARROW)


# --- the charter itself -----------------------------------------------------------------------


def without(artefact: Artefact) -> Callable[[Charter], Charter]:
    """Return the edit that takes the rows of a class from the charter."""
    return lambda charter: msgspec.structs.replace(
        charter, exposure=tuple(row for row in charter.exposure if row.artefact is not artefact)
    )


@pytest.mark.parametrize("artefact", [row[0] for row in ROWS if row[0] in SUMS_AND_CODES])
def test_t40_lint_refuses_a_plan_whose_sums_the_charter_does_not_accept(
    ordinary: SmallFederation, artefact: Artefact
) -> None:
    charter = without(artefact)(ordinary.charter)
    plan = msgspec.structs.replace(small_plan(ordinary), charter=charter_digest(charter))
    assert {one.code for one in lint_plan(plan, contract(), charter)} == {"exposure"}


def test_t40_a_plan_with_site_figures_needs_the_row(ordinary: SmallFederation) -> None:
    charter = without(Artefact.SITE_METRIC)(ordinary.charter)
    plan = msgspec.structs.replace(small_plan(ordinary), charter=charter_digest(charter))
    assert {one.code for one in lint_plan(plan, contract(), charter)} == {"exposure"}


def test_t40_a_ratified_plan_that_lint_refuses_is_not_opened(tmp_path: Path) -> None:
    """Members vote on digests: whatever they ratify, the fold looks at the plan itself."""
    federation = found(tmp_path, in_memory=True, site_figures=False)
    plan = small_plan(federation)
    assert plan.evaluation.site_figures
    with pytest.raises(PolicyError):
        federation.run_study(plan, contract())
    federation.adopt(contract())
    federation.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan))
    assert federation.coordinator.state.studies == {}
    assert all(spoken(federation, name) == [] for name in SITES)


def test_t35_a_proposal_without_its_document_is_not_sequenced(tmp_path: Path) -> None:
    """Otherwise one member could make every later bundle incomplete."""
    federation = found(tmp_path, in_memory=True)
    before = federation.coordinator.size
    with pytest.raises(ResourceError):
        federation.decide(Action.STUDY_APPROVE, sha256(b"a plan that nobody has"), None)
    assert federation.coordinator.size == before


def test_t50_what_the_fold_refuses_although_it_is_ratified_stops_nobody(tmp_path: Path) -> None:
    """A plan that is no plan, and one suspension too many: held back, and the service goes on."""
    federation = found(tmp_path, in_memory=True)
    for document in (b"no plan at all", charter_bytes(federation.charter)):
        federation.decide(Action.STUDY_APPROVE, sha256(document), document)
    assert "held-back.format" in federation.journal_of("coordinator")
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.COMPLETED
    for target in SITES[1:3]:
        voters = (SITES[0], SITES[3])
        federation.decide(
            Action.MEMBER_SUSPEND, sha256(target.encode()), None, target=target, voters=voters
        )
    federation.run(lambda state: bool(state.members.directory.suspended))
    assert federation.coordinator.state.members.directory.suspended == {SITES[1]}
    assert "held-back.deadlock" in federation.journal_of("coordinator")
    federation.settle()
    verify_bundle(federation.bundle(), federation.anchor)
