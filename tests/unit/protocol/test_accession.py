"""A member joins by an amendment only if the members accepted exactly that version (T-66).

Planted and caught: an amendment that adds a member nobody accepted; one accepted by name, whatever
its keys; an acceptance that still counts after another amendment; a target that is a member, the
coordinator or nobody.
"""

from collections.abc import Sequence

import msgspec
import pytest

from tests.worlds import NAMES, World, approval, digest, key, member_keys, runner, witness
from treaty.crypto.keys import SigningKey
from treaty.governance.accession import accession_terms, with_keys
from treaty.governance.charter import Charter, charter_bytes
from treaty.governance.roles import Action
from treaty.ids import Digest
from treaty.protocol.waiting import awaited

NEW = NAMES[4]
MEMBERS = NAMES[:4]


@pytest.fixture
def world() -> World:
    """Four members; accepting and amending take three."""
    return World()


def joining(world: World, name: str = NEW, **keys: SigningKey) -> Charter:
    terms = accession_terms(world.state.charter, name)
    own = member_keys(name)
    own = msgspec.structs.replace(own, **{kind: (one.public.hex,) for kind, one in keys.items()})
    return with_keys(terms, name, own)


def own_keys(name: str = NEW) -> list[SigningKey]:
    return [approval(name), runner(name), witness(name)]


def accept(world: World, charter: Charter, target: str = NEW) -> Digest:
    """Let three members accept `target` by `charter`."""
    subject = world.keep(charter_bytes(charter))
    proposal = world.propose(Action.MEMBER_ACCEPT, subject, target=target)
    world.vote(proposal, MEMBERS[:3])
    return proposal


def sign(world: World, charter: Charter, own: Sequence[SigningKey]) -> None:
    world.publish(charter, [*(approval(name) for name in MEMBERS[:3]), *own])


def test_an_accepted_newcomer_is_a_member_from_its_amendment_on(world: World) -> None:
    charter = joining(world)
    proposal = accept(world, charter)
    assert not world.state.proposals[proposal].used
    waits = awaited(world.state)
    assert waits is not None and waits.what == f"signatures that let {NEW} join"
    sign(world, charter, own_keys())
    assert set(world.state.charter.members) == {*MEMBERS, NEW}
    assert world.state.proposals[proposal].used
    assert awaited(world.state) is None
    # It votes like everybody else, and at once.
    asked = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    assert NEW in world.state.proposals[asked].proposal.electorate
    world.vote(asked, [NEW])
    assert world.replayed() == world.state


def test_nobody_joins_unaccepted(world: World) -> None:
    """Not by signatures alone, not by an open or rejected proposal."""
    charter = joining(world)
    with world.refuses("not-accepted"):
        sign(world, charter, own_keys())
    proposal = world.propose(Action.MEMBER_ACCEPT, world.keep(charter_bytes(charter)), target=NEW)
    world.vote(proposal, MEMBERS[:2])
    with world.refuses("not-accepted"):
        sign(world, charter, own_keys())
    world.vote(proposal, MEMBERS[2:], "reject")
    with world.refuses("not-accepted"):
        sign(world, charter, own_keys())


def test_only_the_keys_that_were_voted_on_can_be_listed(world: World) -> None:
    charter = joining(world)
    accept(world, charter)
    other = joining(world, runner=key("another runner"))
    with world.refuses("not-accepted"):
        sign(world, other, [approval(NEW), key("another runner"), witness(NEW)])
    with world.refuses("no-possession"):
        sign(world, charter, own_keys()[:2])
    sign(world, charter, own_keys())


def test_another_newcomer_or_two_at_once_need_their_own_acceptance(world: World) -> None:
    accept(world, joining(world))
    third = NAMES[5]
    with world.refuses("not-accepted"):
        sign(world, joining(world, third), own_keys(third))
    one = joining(world)
    more = with_keys(accession_terms(one, third), third, member_keys(third))
    more = msgspec.structs.replace(more, version=one.version, previous=one.previous)
    subject = world.keep(charter_bytes(more))
    for target in (NEW, third):
        with world.refuses("not-accepted"):
            sign(world, more, [*own_keys(), *own_keys(third)])
        proposal = world.propose(Action.MEMBER_ACCEPT, subject, target=target)
        world.vote(proposal, MEMBERS[:3])
    sign(world, more, [*own_keys(), *own_keys(third)])
    assert set(world.state.charter.members) == {*MEMBERS, NEW, third}


def test_an_acceptance_is_void_once_another_version_took_effect(world: World) -> None:
    charter = joining(world)
    proposal = accept(world, charter)
    current = world.state.charter
    other = msgspec.structs.replace(
        current, version=2, previous=world.state.members.history.digest, title="Another title"
    )
    sign(world, other, [])
    assert world.state.proposals[proposal].used
    assert awaited(world.state) is None
    with world.refuses("skipped-version"):
        sign(world, charter, own_keys())
    late = joining(world)
    with world.refuses("not-accepted"):
        sign(world, late, own_keys())


@pytest.mark.parametrize("target", [None, MEMBERS[1], "hub.example"])
def test_a_proposal_names_one_who_is_not_in_the_charter(world: World, target: str | None) -> None:
    subject = world.keep(charter_bytes(joining(world)))
    with world.refuses("wrong-target"):
        world.propose(Action.MEMBER_ACCEPT, subject, target=target)


def test_a_member_that_was_suspended_is_still_no_newcomer(world: World) -> None:
    world.propose_and_suspend(MEMBERS[3])
    with world.refuses("wrong-target"):
        world.propose(Action.MEMBER_ACCEPT, digest("x"), target=MEMBERS[3])


def test_ballots_for_something_else_accept_nobody(world: World) -> None:
    charter = joining(world)
    subject = world.keep(charter_bytes(charter))
    world.decide(Action.CONTRACT_ADOPT, subject)
    with world.refuses("not-accepted"):
        sign(world, charter, own_keys())
