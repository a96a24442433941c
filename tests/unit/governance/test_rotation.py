"""A rotation changes the keys of one member and nothing else.

Planted and caught: another change beside the keys; two members' keys; no change; a version that
does not follow; a suspension that a rotation would take back; keys of a suspended member.
"""

import msgspec
import pytest

from tests.worlds import HUB, NAMES, key, member_keys, small_charter
from treaty.errors import PolicyError
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.roles import Role
from treaty.governance.rotation import rotated, rotated_member
from treaty.governance.terms import MemberKeys
from treaty.ids import MemberId

A, B = MemberId(NAMES[0]), MemberId(NAMES[1])
NOBODY: frozenset[MemberId] = frozenset()


def fresh(name: str, *roles: str) -> MemberKeys:
    new = {role: (key(f"{name} new {role}").public.hex,) for role in roles}
    return msgspec.structs.replace(member_keys(name), **new)


@pytest.fixture(scope="module")
def current() -> Charter:
    return small_charter()


@pytest.mark.parametrize("roles", [("runner",), ("approval", "witness", "runner")])
def test_a_rotation_names_its_member(current: Charter, roles: tuple[str, ...]) -> None:
    made = rotated(current, B, fresh(B, *roles), suspended=NOBODY)
    assert rotated_member(current, made, suspended=NOBODY) == B
    assert (made.version, made.previous) == (2, charter_digest(current))
    assert made.members[A] == current.members[A]


def test_whoever_is_suspended_stays_so(current: Charter) -> None:
    out = frozenset({A})
    made = rotated(current, B, fresh(B, "runner"), suspended=out)
    assert made.members[A].suspended and not made.members[B].suspended
    assert rotated_member(current, made, suspended=out) == B
    for suspended, version in ((NOBODY, made), (out, rotated(current, B, fresh(B), suspended=out))):
        refused("not-a-rotation", current, version, suspended)


def test_the_keys_of_whoever_is_suspended_are_not_exchanged(current: Charter) -> None:
    out = frozenset({B})
    made = rotated(current, B, fresh(B, "runner"), suspended=out)
    assert made.members[B].suspended
    refused("suspended", current, made, out)


def refused(
    code: str, current: Charter, following: Charter, suspended: frozenset[MemberId] = NOBODY
) -> None:
    with pytest.raises(PolicyError) as caught:
        rotated_member(current, following, suspended=suspended)
    assert caught.value.code == code


def test_what_changes_more_or_nothing_is_no_rotation(current: Charter) -> None:
    made = rotated(current, B, fresh(B, "runner"), suspended=NOBODY)
    members = dict(made.members)
    members[A] = msgspec.structs.replace(members[A], keys=fresh(A, "runner"))
    two = msgspec.structs.replace(made, members=members)
    members = dict(made.members)
    members[B] = msgspec.structs.replace(members[B], roles=(Role.MEMBER, Role.WITNESS))
    other = msgspec.structs.replace(made, members=members)
    hub = msgspec.structs.replace(made.coordinator, runner=key("another hub").public.hex)
    assert hub.name == HUB
    for wrong in (
        two,
        other,
        msgspec.structs.replace(made, coordinator=hub),
        msgspec.structs.replace(made, title="Second"),
        msgspec.structs.replace(made, expires=made.expires + 1),
        msgspec.structs.replace(made, decisions={}),
        rotated(current, B, member_keys(B), suspended=NOBODY),
    ):
        refused("not-a-rotation", current, wrong)


def test_what_follows_another_version_is_stale(current: Charter) -> None:
    made = rotated(current, B, fresh(B, "runner"), suspended=NOBODY)
    refused("stale-rotation", current, msgspec.structs.replace(made, version=3))
    refused("stale-rotation", current, msgspec.structs.replace(made, previous="0" * 64))
    refused("stale-rotation", made, made)
