"""Membership: which charter is in force, and whose keys count.

Planted and caught: the anchor not compared; the document's digest not compared; version numbers not
compared; the previous version named by the statement not compared; keys of the old version
unknown to an amendment; suspended members left in the directory.
"""

from collections.abc import Sequence

import msgspec
import pytest

from tests.worlds import (
    COORDINATOR,
    HUB,
    LOG_KEY,
    NAMES,
    NOW,
    World,
    approval,
    digest,
    founders,
    key,
    member_keys,
    refused,
    runner,
    small_charter,
    witness,
)
from treaty.crypto.keys import SigningKey
from treaty.errors import FormatError
from treaty.governance.charter import Charter, charter_bytes, charter_digest
from treaty.governance.terms import MemberKeys
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.membership import Membership, open_charter
from treaty.protocol.messages import CharterPublished, TimeStated
from treaty.protocol.statements import SignerKind, seal_statement

FIRST = small_charter()
ANCHOR = charter_digest(FIRST)
ALL = founders(NAMES[:4])


def published(charter: Charter, signers: Sequence[SigningKey], **changes: object) -> bytes:
    fields = {
        "charter": charter_digest(charter),
        "author": HUB,
        "version": charter.version,
        "previous": charter.previous,
    } | changes
    return seal_statement(msgspec.convert(fields, CharterPublished), *signers)


def opened(
    before: Membership | None,
    charter: Charter,
    signers: Sequence[SigningKey],
    *,
    anchor: Digest = ANCHOR,
    at: Timestamp = NOW,
    **changes: object,
) -> Membership:
    data = published(charter, signers, **changes)
    return open_charter(before, data, lambda _: charter_bytes(charter), anchor=anchor, at=at)[0]


def after(charter: Charter, **changes: object) -> Charter:
    following = {"version": charter.version + 1, "previous": charter_digest(charter)}
    return msgspec.structs.replace(charter, **(following | changes))


def with_keys(charter: Charter, name: str, keys: MemberKeys) -> Charter:
    members = dict(charter.members)
    members[name] = msgspec.structs.replace(members[name], keys=keys)
    return msgspec.structs.replace(charter, members=members)


FOUNDED = opened(None, FIRST, ALL)
VOTERS = tuple(approval(name) for name in NAMES[1:4])


def test_a_founding_charter_gives_the_directory_of_its_keys() -> None:
    assert FOUNDED.charter == FIRST
    assert FOUNDED.directory.charter == ANCHOR
    assert len(FOUNDED.directory.keys) == 4 * 3 + 2
    holder = FOUNDED.directory.holders[runner(NAMES[2]).public.keyid]
    assert (holder.owner, holder.kind) == (NAMES[2], SignerKind.RUNNER)
    assert FOUNDED.directory.holders[COORDINATOR.public.keyid].owner == HUB
    assert FOUNDED.directory.suspended == frozenset()


def test_a_log_does_not_begin_with_anything_else() -> None:
    data = seal_statement(TimeStated(charter=ANCHOR, author=HUB, at=1), COORDINATOR)
    with refused("no-charter"):
        open_charter(None, data, lambda _: charter_bytes(FIRST), anchor=ANCHOR, at=NOW)


def test_another_founding_charter_is_not_the_anchor() -> None:
    with refused("wrong-anchor"):
        opened(None, FIRST, ALL, anchor=digest("another"))


def test_the_document_is_the_one_named() -> None:
    data = published(FIRST, ALL)
    with refused("wrong-charter"):
        other = msgspec.structs.replace(FIRST, title="Another")
        open_charter(None, data, lambda _: charter_bytes(other), anchor=ANCHOR, at=NOW)
    with refused("wrong-charter"):
        opened(None, FIRST, ALL, version=2)
    with refused("wrong-previous"):
        opened(None, FIRST, ALL, previous=digest("something before"))
    with pytest.raises(FormatError):
        open_charter(None, data, lambda _: b"{}", anchor=ANCHOR, at=NOW)


@pytest.mark.parametrize("place", range(len(ALL)))
def test_every_listed_key_signs_the_founding(place: int) -> None:
    with refused("no-possession"):
        opened(None, FIRST, ALL[:place] + ALL[place + 1 :])


def test_a_strange_signature_is_refused() -> None:
    with refused("unknown-key"):
        opened(None, FIRST, (*ALL, key("stranger")))
    with refused("unknown-key"):
        opened(FOUNDED, after(FIRST, title="Second"), (*VOTERS, runner(NAMES[0])))


def test_an_amendment_takes_the_threshold_and_keeps_the_chain() -> None:
    second = after(FIRST, title="Second")
    changed = opened(FOUNDED, second, VOTERS)
    assert changed.charter == second
    assert changed.history.versions == (FIRST, second)
    assert changed.directory.charter == charter_digest(second)
    with refused("sub-quorum"):
        opened(FOUNDED, second, VOTERS[:2])
    third = after(second, title="Third")
    with refused("skipped-version"):
        opened(FOUNDED, third, VOTERS)
    with refused("skipped-version"):
        opened(changed, second, VOTERS)
    with refused("wrong-previous"):
        opened(changed, msgspec.structs.replace(third, previous=ANCHOR), VOTERS)
    with refused("unchangeable"):
        opened(FOUNDED, after(FIRST, simulation=True), VOTERS)


def test_a_new_key_proves_possession_and_an_old_one_still_opens_the_amendment() -> None:
    fresh = key("fresh approval of aare")
    keys = msgspec.structs.replace(member_keys(NAMES[0]), approval=(fresh.public.hex,))
    second = after(FIRST, members=with_keys(FIRST, NAMES[0], keys).members)
    with refused("no-possession"):
        opened(FOUNDED, second, VOTERS)
    changed = opened(FOUNDED, second, (*VOTERS, fresh))
    mixed = (approval(NAMES[0]), *VOTERS[:2], fresh)
    assert opened(FOUNDED, second, mixed).directory == changed.directory
    assert fresh.public.keyid in changed.directory.keys
    assert approval(NAMES[0]).public.keyid not in changed.directory.keys


def test_a_key_is_listed_once() -> None:
    keys = msgspec.structs.replace(member_keys(NAMES[0]), approval=member_keys(NAMES[1]).approval)
    with refused("key-counted-twice"):
        opened(FOUNDED, after(FIRST, members=with_keys(FIRST, NAMES[0], keys).members), VOTERS)


def test_an_expired_version_does_not_take_effect() -> None:
    with refused("expired"):
        opened(None, FIRST, ALL, at=Timestamp(FIRST.expires))
    with refused("expired"):
        opened(FOUNDED, after(FIRST, expires=NOW), VOTERS)


def test_a_suspension_shows_in_the_directory() -> None:
    keyids = [approval(name).public.keyid for name in NAMES[:2]]
    changed = FOUNDED.suspend(MemberId(NAMES[3]), keyids, at=NOW)
    assert changed.directory.suspended == {NAMES[3]}
    assert changed.directory.charter == ANCHOR
    with refused("sub-quorum"):
        FOUNDED.suspend(MemberId(NAMES[3]), keyids[:1], at=NOW)


def test_a_suspended_member_is_silent_at_once() -> None:
    world = World()
    with refused("sub-quorum"):
        world.propose_and_suspend(NAMES[3], voters=())
    assert world.state.members.directory.suspended == frozenset()
    world.propose_and_suspend(NAMES[3])
    assert world.state.members.directory.suspended == {NAMES[3]}
    with world.refuses("suspended"):
        world.vote(digest("anything"), [NAMES[3]])
    assert witness(NAMES[3]).public.keyid in world.state.members.directory.keys
    assert LOG_KEY.public.keyid in world.state.members.directory.keys
