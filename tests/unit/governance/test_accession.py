"""The version by which one more member joins holds for every size, and changes nothing unasked.

Planted and caught: a majority that does not grow; a sum's least number that does not; a suspension
by decision that the version takes back; the keys of an old member emptied; two newcomers at once.
"""

import msgspec
import pytest

from tests.worlds import NAMES, World, key, member_keys, small_charter
from treaty.errors import PolicyError, UsageError
from treaty.governance.accession import accession_terms, newcomer_of, with_keys, without_keys
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.exposure import SUMS
from treaty.governance.page import charter_diff
from treaty.governance.roles import Action
from treaty.governance.template import CharterOptions, build_charter
from treaty.governance.terms import MemberKeys
from treaty.governance.validity import check

NEW = "wye.example"


def charter_of(members: int, **options: object) -> Charter:
    """Return a charter of so many members, each with keys of its own."""
    first = small_charter(3)
    return build_charter(
        "small.example",
        {f"m{n:03}.example": member_keys(f"m{n:03}.example") for n in range(members)},
        first.coordinator,
        CharterOptions(post_quantum=False, **options),  # type: ignore[arg-type]  # passed through
    )


@pytest.mark.parametrize("members", [3, 4, 5, 6, 7, 10, 25, 60])
def test_the_terms_hold_with_any_keys_for_every_size(members: int) -> None:
    """What the number of members forces is raised; all else stays."""
    current = charter_of(members)
    terms = accession_terms(current, NEW)
    assert terms.members[NEW].keys == MemberKeys()
    check(with_keys(terms, NEW, member_keys(NEW)))
    assert (terms.version, terms.previous) == (current.version + 1, charter_digest(current))
    least = terms.parameters().min_survivors
    for before, after in zip(current.exposure, terms.exposure, strict=True):
        raised = (
            max(before.least_members, least) if before.artefact in SUMS else before.least_members
        )
        assert after == msgspec.structs.replace(before, least_members=raised)
    amend = terms.decisions[Action.CHARTER_AMEND].threshold
    assert amend == max(current.decisions[Action.CHARTER_AMEND].threshold, (members + 1) // 2 + 1)
    assert terms.decisions[Action.EXPOSURE_GRANT].threshold >= amend
    same = {
        action: rule
        for action, rule in terms.decisions.items()
        if action not in (Action.CHARTER_AMEND, Action.EXPOSURE_GRANT)
    }
    assert same.items() <= current.decisions.items()
    assert {name: one for name, one in terms.members.items() if name != NEW} == current.members
    assert f"{NEW} ({NEW}) joins" in charter_diff(current, terms).sentences


def test_a_raised_number_of_survivors_stays_what_it_is() -> None:
    current = charter_of(5, min_survivors=5, least_support=4)
    terms = accession_terms(current, NEW)
    check(with_keys(terms, NEW, member_keys(NEW)))
    assert terms.secure_aggregation == current.secure_aggregation
    assert terms.parameters().min_survivors == 5


def test_a_suspension_by_decision_is_not_taken_back() -> None:
    world = World(members=6)
    world.propose_and_suspend(NAMES[1])
    history = world.state.members.history
    terms = accession_terms(history.current, NEW, suspended=history.suspended)
    assert terms.suspended_members() == {NAMES[1]}
    assert terms.readmits == ()


def test_a_name_that_is_taken_is_refused() -> None:
    current = charter_of(4)
    for name in ("m001.example", current.coordinator.name):
        with pytest.raises(UsageError, match="in the charter already"):
            accession_terms(current, name)


def test_exactly_one_newcomer_is_found_and_its_keys_come_off_again() -> None:
    current = charter_of(4)
    terms = accession_terms(current, NEW)
    whole = with_keys(terms, NEW, member_keys(NEW))
    assert newcomer_of(current, whole) == NEW
    assert without_keys(whole, NEW) == terms
    for other in (current, accession_terms(whole, "usk.example")):
        with pytest.raises(PolicyError) as caught:
            newcomer_of(current, other)
        assert caught.value.code == "not-an-accession"
    assert key(NEW).public.hex not in str(terms)
