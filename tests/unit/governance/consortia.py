"""Small consortia for the tests of governance: keys by label, a founding charter, amendments."""

import hashlib
from collections.abc import Iterable

import msgspec

from treaty.crypto.keys import SigningKey
from treaty.governance.amendment import CharterHistory, found
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.roles import KeyKind
from treaty.governance.template import CharterOptions, build_charter
from treaty.governance.terms import Coordinator, MemberKeys
from treaty.ids import Digest, Timestamp

NOW = Timestamp(1_800_000_000_000)
NAMES = ("aare.example", "birs.example", "emme.example", "reuss.example", "thur.example")


def key(label: str) -> SigningKey:
    return SigningKey.generate(hashlib.sha256(label.encode()).digest())


def hex_of(label: str) -> str:
    return key(label).public.hex


def member_keys(name: str, generation: int = 1) -> MemberKeys:
    return MemberKeys(
        approval=(hex_of(f"{name} approval {generation}"),),
        runner=(hex_of(f"{name} runner {generation}"),),
        witness=(hex_of(f"{name} witness {generation}"),),
    )


def coordinator() -> Coordinator:
    return Coordinator(
        name="aar-gau.example",
        title="Coordinating centre",
        runner=hex_of("coordinator runner"),
        log=hex_of("coordinator log"),
    )


def founding(members: int = 4, options: CharterOptions | None = None) -> Charter:
    keys = {name: member_keys(name) for name in NAMES[:members]}
    return build_charter("hearts.example", keys, coordinator(), options)


def keyids(
    charter: Charter, kinds: Iterable[KeyKind] = tuple(KeyKind), owners: Iterable[str] | None = None
) -> frozenset[Digest]:
    """Return the ids of the listed keys of these kinds and owners."""
    wanted, who = set(kinds), None if owners is None else set(owners)
    return frozenset(
        one.public.keyid
        for one in charter.listed_keys()
        if one.kind in wanted and (who is None or one.owner in who)
    )


def approvals(charter: Charter, owners: Iterable[str] | None = None) -> frozenset[Digest]:
    return keyids(charter, (KeyKind.APPROVAL,), owners)


def history(members: int = 4, options: CharterOptions | None = None) -> CharterHistory:
    charter = founding(members, options)
    return found(charter, keyids(charter), at=NOW)


def successor(charter: Charter, **changes: object) -> Charter:
    """Return the next version with `changes`, pointing at `charter`."""
    base = msgspec.structs.replace(
        charter, version=charter.version + 1, previous=charter_digest(charter), readmits=()
    )
    return msgspec.structs.replace(base, **changes)


def follow(old: Charter, changed: Charter) -> Charter:
    """Return `changed` as the version after `old`."""
    return msgspec.structs.replace(changed, version=old.version + 1, previous=charter_digest(old))


def with_member(charter: Charter, name: str, **changes: object) -> Charter:
    """Return `charter` with fields of one member replaced."""
    members = dict(charter.members)
    members[name] = msgspec.structs.replace(members[name], **changes)
    return msgspec.structs.replace(charter, members=members)
