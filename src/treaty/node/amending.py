"""Amending: how the signatures of an amendment meet at the coordinator before it can be logged.

An amendment needs the approval keys of many members and every new key. Each party sends what it
signed; the coordinator merges it, and sequences the whole once the fold would take it: when enough
have signed, the members have decided what they must, and no study runs. The fold has the last word.

Invariants (docs/spec/governance.md, section 8):
  * Only signatures over exactly one next version are kept, each by a key that may stand under it.
  * What was collected is durable before it is acknowledged, and goes when a version takes effect.
  * A member begins one version at a time: nobody fills the store.
"""

from collections.abc import Mapping
from typing import Literal

from treaty.crypto import canonical, envelope
from treaty.crypto.canonical import DigestField, MemberName, Record, sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import PeerError, PolicyError, VerificationError, code_of
from treaty.governance.amendment import new_keys
from treaty.governance.charter import Charter, parse_charter
from treaty.governance.roles import KeyKind
from treaty.governance.validity import check
from treaty.ids import Digest, MemberId
from treaty.node.intake import Pending
from treaty.ports import Batch, EventStore, Journal
from treaty.protocol.accession import require_accepted
from treaty.protocol.consortium import Consortium
from treaty.protocol.membership import charter_entry, open_charter
from treaty.protocol.messages import CharterPublished
from treaty.protocol.statements import Body, peek
from treaty.provenance.contents import finder

__all__ = ["Amendments", "is_settled"]

COLLECTED_KEY = "amendments"
_LIMIT = 1 << 30
"""Of the kept record; what a member may add to it is bounded by the size of a frame."""


class _Collected(Record):
    """What is signed of one version: who sent it first, statement and document in base64."""

    begun_by: MemberName
    statement: str
    document: str


class _Kept(Record):
    format: Literal["treaty.amendments/v1"] = "treaty.amendments/v1"
    versions: Mapping[DigestField, _Collected]


class Amendments:
    """The amendments that are being signed, in the coordinator's store. `key` is its runner key."""

    def __init__(
        self, store: EventStore, journal: Journal, name: MemberId, key: SigningKey
    ) -> None:
        self._store = store
        self._journal = journal
        self._name = name
        self._key = key
        kept = store.get(COLLECTED_KEY)
        self._versions: dict[str, _Collected] = {}
        if kept is not None:
            self._versions = dict(canonical.decode(kept, _Kept, limit=_LIMIT).versions)
        self._tried: dict[str, tuple[Digest, int]] = {}
        self._said: dict[str, str] = {}

    def takes(self, item: Pending, body: Body, state: Consortium) -> bool:
        """Keep what a member signed of an amendment; say whether it was that, to be kept or not."""
        if not isinstance(body, CharterPublished) or state.membership is None:
            return False
        try:
            self._take(item, body, state)
        except (PeerError, PolicyError) as refusal:
            self._journal.note(f"amendment-refused.{code_of(refusal)}", f"{item.sender}: {refusal}")
        return True

    def ready(self, state: Consortium) -> list[Pending]:
        """Return the amendment that could take effect now, as the log's next entry, or nothing."""
        if not self._versions or state.membership is None or state.running is not None:
            return []
        stale = [one for one, what in self._versions.items() if _is_over(what, state)]
        if stale:
            self._keep({one: what for one, what in self._versions.items() if one not in stale})
        for version, what in self._versions.items():
            statement = envelope.decode_base64(what.statement)
            tried = (sha256(statement), state.size)
            if self._tried.get(version) == tried:
                continue
            self._tried[version] = tried
            entry, blobs = charter_entry(_document(what), statement, self._key)
            try:
                after, _ = open_charter(
                    state.membership, entry, finder(blobs), anchor=state.anchor, at=state.at
                )
                require_accepted(state.proposals.values(), state.membership, after)
            except (PeerError, PolicyError) as obstacle:
                if self._said.get(version) != str(obstacle):
                    self._said[version] = str(obstacle)
                    self._journal.note(f"amendment-waits.{code_of(obstacle)}", str(obstacle))
                continue
            return [Pending(entry, blobs, self._name)]
        return []

    def _take(self, item: Pending, body: CharterPublished, state: Consortium) -> None:
        before = state.members
        if body.version != before.charter.version + 1 or body.previous != before.history.digest:
            raise VerificationError(
                f"{item.sender} signed version {body.version} of the charter: expected the one "
                f"after version {before.charter.version}, which is in force",
                code="wrong-previous",
            )
        what = self._versions.get(body.charter)
        if what is None:
            document = item.blobs.get(Digest(body.charter))
            if document is None:
                raise VerificationError(
                    f"charter {body.charter[:16]} was not sent with its signature",
                    code="wrong-charter",
                )
        else:
            document = envelope.decode_base64(what.document)
        charter = parse_charter(document)
        check(charter)
        parsed = envelope.parse(item.statement)
        # One signature that the fold refuses would spoil all the others.
        votes = [
            key
            for key in (*before.charter.listed_keys(), *charter.listed_keys())
            if key.kind is KeyKind.APPROVAL
        ]
        may = (*votes, *new_keys(before.charter, charter))
        known = {key.public.keyid: key.public for key in may}
        if not envelope.verified_keys(parsed, known):
            raise VerificationError("nobody signed it", code="unsigned")
        kept = [] if what is None else [envelope.decode_base64(what.statement)]
        merged = envelope.merge([*kept, item.statement])
        if kept and merged == kept[0]:
            return
        begun_by = item.sender if what is None else what.begun_by
        versions = {
            one: other
            for one, other in self._versions.items()
            # Another version that the same member has begun gives way to this one.
            if one == body.charter or what is not None or other.begun_by != item.sender
        }
        versions[body.charter] = _Collected(
            begun_by=begun_by,
            statement=envelope.encode_base64(merged),
            document=envelope.encode_base64(document),
        )
        self._keep(versions)

    def _keep(self, versions: dict[str, _Collected]) -> None:
        record = canonical.encode(_Kept(versions=versions))
        self._store.commit(Batch(puts=((COLLECTED_KEY, record),), label="amendment-signature"))
        self._versions = versions
        self._tried = {one: what for one, what in self._tried.items() if one in versions}
        self._said = {one: what for one, what in self._said.items() if one in versions}


def is_settled(statement: bytes, state: Consortium) -> bool:
    """Say whether `statement` signs a version of the charter that is in force or passed over.

    A member's own signature never stands in the log by itself, so this ends its sending.
    """
    if state.membership is None:
        return False
    body = peek(statement)[1]
    return isinstance(body, CharterPublished) and body.version <= state.charter.version


def _document(what: _Collected) -> Charter:
    return parse_charter(envelope.decode_base64(what.document))


def _is_over(what: _Collected, state: Consortium) -> bool:
    return _document(what).previous != state.members.history.digest
