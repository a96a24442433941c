"""Page: everything that binds is on it; every difference is named.

Planted faults seen to fail: an exposure row, a decision, a suspended mark or a problem left off the
page; a changed row that the difference does not name; empty places of terms called a fault; other
faults of terms left out.
"""

import msgspec
import pytest

from tests.unit.governance.consortia import (
    NAMES,
    founding,
    member_keys,
    successor,
    with_member,
)
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.exposure import Artefact, HowOften
from treaty.governance.page import charter_diff, charter_page
from treaty.governance.roles import Action, Role
from treaty.governance.template import CharterOptions
from treaty.governance.terms import Contact, DecisionRule, Document, Member, MemberKeys

A, D = NAMES[0], NAMES[3]


def test_the_page_holds_everything_that_binds() -> None:
    document = Document(name="agreement", title="Consortium agreement", sha256="ab" * 32)
    contact = Contact(name="R. Weber", duty="data protection", address="r.weber@aare.example")
    charter = msgspec.structs.replace(
        with_member(founding(), A, contacts=(contact,), region="CH"), documents=(document,)
    )
    page = charter_page(charter)
    for rule in charter.exposure:
        assert f"({rule.artefact.value})" in page
        assert rule.remediation in page
    for action in Action:
        assert action.value in page
    for one in charter.listed_keys():
        assert one.public.hex in page
    for text in (
        charter_digest(charter),
        "2031-01-01T00:00:00Z",
        "R. Weber",
        "ab" * 32,
        "What is not protected",
        "exact sums can tell",
        "No sum over fewer than 3",
        "DUO:0000006",
    ):
        assert text in page
    assert "DOES NOT HOLD" not in page
    assert "FOR SIMULATION ONLY" not in page


def test_the_page_says_what_is_special() -> None:
    private = charter_page(
        founding(4, CharterOptions(epsilon_budget_milli=1500, delta="1e-5", simulation=True))
    )
    assert "epsilon at most 1.500" in private
    assert "FOR SIMULATION ONLY" in private
    assert "exact sums can tell" not in private
    suspended = charter_page(with_member(founding(5), A, suspended=True))
    assert "SUSPENDED" in suspended
    broken = charter_page(msgspec.structs.replace(founding(), escalation=()))
    assert "THIS CHARTER DOES NOT HOLD: no contact for escalation" in broken


def test_terms_say_that_keys_are_to_come_and_show_every_other_problem() -> None:
    """An officer agrees to this page: that no keys are there yet is as it must be."""
    whole = founding(3)
    empty = {
        name: msgspec.structs.replace(one, keys=MemberKeys()) for name, one in whole.members.items()
    }
    terms = msgspec.structs.replace(whole, members=empty)
    page = charter_page(terms, as_terms=True)
    assert "DOES NOT HOLD" not in page
    assert "members' keys are filled in as they join" in page
    assert "THIS CHARTER DOES NOT HOLD: " in charter_page(terms)
    broken = charter_page(msgspec.structs.replace(terms, escalation=()), as_terms=True)
    assert broken.count("DOES NOT HOLD") == 1
    assert "THIS CHARTER DOES NOT HOLD: no contact for escalation" in broken


def test_every_change_of_a_field_changes_page_or_digest_and_is_named() -> None:
    old = founding()
    assert charter_diff(old, old).fields == ()
    assert charter_diff(old, old).sentences == ()
    new = successor(old, purpose="something else", least_support=4)
    difference = charter_diff(old, new)
    assert difference.fields == ("least_support", "previous", "purpose", "version")
    assert charter_page(old) != charter_page(new)


def _joined(charter: Charter) -> Charter:
    members = dict(charter.members)
    del members[D]
    members[NAMES[4]] = Member(
        title="New hospital",
        roles=(Role.MEMBER, Role.WITNESS),
        keys=member_keys(NAMES[4]),
    )
    return msgspec.structs.replace(charter, members=members)


def _rows(charter: Charter, which: Artefact, **changes: object) -> Charter:
    rows = tuple(
        msgspec.structs.replace(rule, **changes) if rule.artefact is which else rule
        for rule in charter.exposure
    )
    return msgspec.structs.replace(charter, exposure=rows)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (_joined(founding()), f"New hospital ({NAMES[4]}) joins"),
        (_joined(founding()), f"{D} ({D}) leaves"),
        (with_member(founding(), A, suspended=True), f"{A} is suspended"),
        (with_member(founding(), A, keys=member_keys(A, 2)), f"{A} has a new approval key"),
        (with_member(founding(), A, keys=member_keys(A, 2)), f"{A} gives up its witness key"),
        (with_member(founding(), A, roles=(Role.MEMBER, Role.WITNESS)), f"{A} holds"),
        (_rows(founding(), Artefact.SITE_METRIC, allow=True), "MORE MAY LEAVE: site-metric"),
        (_rows(founding(), Artefact.MODEL, allow=False), "no longer leaves: model as exact"),
        (
            _rows(founding(), Artefact.MODEL, how_often=HowOften.ALWAYS),
            "the conditions change for model",
        ),
        (msgspec.structs.replace(founding(), expires=1), "in force until 1970"),
        (
            msgspec.structs.replace(
                founding(),
                decisions=dict(founding().decisions)
                | {Action.STUDY_HALT: DecisionRule(role=Role.STEWARD, threshold=2)},
            ),
            "to halt a study: at least 2 of the 4 stewards, formerly any one of the 4 members",
        ),
    ],
)
def test_what_changes_is_said_in_a_sentence(new: Charter, expected: str) -> None:
    sentences = charter_diff(founding(), new).sentences
    assert any(sentence.startswith(expected) for sentence in sentences), sentences


def test_the_difference_says_who_must_sign() -> None:
    old = founding()
    new = successor(with_member(old, A, keys=member_keys(A, 2)))
    signers = charter_diff(old, new).signers
    assert signers[0].startswith("at least 3 members of the version in force")
    assert signers[1].startswith("at least 3 members of the new version")
    assert {line.split(" key ")[0] for line in signers[2:]} == {
        f"{A} with its new {kind}" for kind in ("approval", "runner", "witness")
    }
