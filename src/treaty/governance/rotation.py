"""Rotation: the charter version by which a member exchanges its keys.

It differs from the version in force in the keys of one member and in nothing else, so that officers
who approve it decide on these keys alone.

Guarantee (docs/spec/governance.md, section 10): `rotated_member` accepts exactly the versions that
`rotated` makes for members in good standing.
"""

from treaty.errors import PolicyError
from treaty.governance.accession import next_version, with_keys
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.terms import MemberKeys
from treaty.ids import MemberId

__all__ = ["rotated", "rotated_member"]


def rotated(
    current: Charter, name: str, keys: MemberKeys, *, suspended: frozenset[MemberId]
) -> Charter:
    """Return the version after `current` that lists `keys` for `name`.

    Members `suspended` by decision stay so.
    """
    return with_keys(next_version(current, suspended=suspended), name, keys)


def rotated_member(
    current: Charter, following: Charter, *, suspended: frozenset[MemberId]
) -> MemberId:
    """Return the one member whose keys `following` exchanges, and nothing else.

    Raises `PolicyError`: ``stale-rotation`` for a version that does not follow `current`,
    ``not-a-rotation`` for one that changes more, or nothing, and ``suspended`` for one about a
    member that is suspended.
    """
    if following.version != current.version + 1 or following.previous != charter_digest(current):
        raise PolicyError(
            f"the new keys are in version {following.version} after "
            f"{str(following.previous)[:16]}, in force is version {current.version}: rotate anew",
            code="stale-rotation",
        )
    changed = [
        name
        for name, member in following.members.items()
        if name in current.members and member.keys != current.members[name].keys
    ]
    made = None
    if len(changed) == 1:
        keys = following.members[changed[0]].keys
        made = rotated(current, changed[0], keys, suspended=suspended)
    if made != following:
        raise PolicyError(
            f"version {following.version} changes more than the keys of one member: expected a "
            "rotation of keys; another amendment is signed as files (treaty charter sign)",
            code="not-a-rotation",
        )
    if following.members[changed[0]].suspended:
        raise PolicyError(
            f"{changed[0]} is suspended: its keys are exchanged by the amendment that readmits it",
            code="suspended",
        )
    return MemberId(changed[0])
