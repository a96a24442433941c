"""The quorum of cosignatures is that of a bundle's policy, however few members are left.

A consortium of three that suspends one has no secure sum any more; its log goes on, and so do the
processes that keep it.

Planted and caught: the quorum taken from the parameters of a secure sum, which do not exist then.
"""

import dataclasses

import msgspec
import pytest

from tests.worlds import NAMES, NOW, World
from treaty.deployment.vitals import read_standing
from treaty.errors import PolicyError, VerificationError
from treaty.governance.template import CharterOptions
from treaty.protocol.messages import TimeStated
from treaty.provenance.bundle import policy_of


@pytest.mark.parametrize("members", [3, 4, 5, 6])
@pytest.mark.parametrize("colluders", [1, 2])
def test_the_quorum_is_that_of_the_bundles_policy(members: int, colluders: int) -> None:
    """Before and after every suspension that the charter allows."""
    if colluders > members - 2:
        return
    world = World(members, CharterOptions(max_colluders=colluders, post_quantum=False))
    left = members
    for name in reversed(NAMES[1:members]):
        [group] = policy_of(world.state.members.effective).groups
        assert world.state.members.witness_quorum == group.threshold <= left
        try:
            world.propose_and_suspend(name)
        except PolicyError:
            break
        left -= 1
    assert world.state.members.witness_quorum <= left


def test_a_log_of_two_members_is_told_like_any_other() -> None:
    world = World(members=3)
    world.propose_and_suspend(NAMES[2])
    with pytest.raises(PolicyError):
        world.state.members.effective.parameters()
    world.say(TimeStated, at=NOW)
    standing = read_standing(world.state, world.state.size)
    assert (standing.members, standing.quorum) == (2, 2)


def test_where_all_who_are_left_may_collude_there_is_no_quorum() -> None:
    """No charter lets it come to that (governance, 2.5 and 3.5); the check does not rest on it."""
    world = World(5, CharterOptions(max_colluders=3, post_quantum=False))
    members = world.state.members
    left = dict(list(members.witnesses.items())[:3])
    assert dataclasses.replace(members, witnesses=left).witness_quorum == 4
    parties = {
        name: msgspec.structs.replace(member, suspended=name not in left)
        for name, member in members.effective.members.items()
    }
    with pytest.raises(VerificationError) as caught:
        policy_of(msgspec.structs.replace(members.effective, members=parties))
    assert caught.value.code == "no-quorum"
