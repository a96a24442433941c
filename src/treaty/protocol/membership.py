"""Membership: which charter is in force, whose keys count, and who is suspended.

A fold over charter versions and ratified suspensions. The rules themselves are
`treaty.governance.amendment`'s; this module opens the statements that carry them and keeps the
directory of keys by which all other statements are opened.

Invariants (docs/spec/governance.md, sections 1 and 3):
  * The first statement of a log is the founding charter, whose digest is the anchor.
  * A charter takes effect at its entry; statements under another version are refused.
  * Signatures that outgrow an entry stand in a blob that the entry names. The rules are the same,
    and signatures that fit stand in the entry: there is one spelling.
  * A suspension takes effect at its entry and rests on a ratified proposal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from treaty.crypto import canonical, envelope
from treaty.crypto.keys import SigningKey
from treaty.errors import VerificationError
from treaty.governance.amendment import CharterHistory, found
from treaty.governance.charter import (
    Charter,
    charter_bytes,
    charter_digest,
    parse_charter,
    witness_name,
)
from treaty.governance.exposure import ExposureMatrix
from treaty.governance.roles import KeyKind
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.messages import CharterGathered, CharterPublished
from treaty.protocol.statements import (
    MAX_ENTRY_BYTES,
    Body,
    Directory,
    Documents,
    KeyHolder,
    Parsed,
    Verified,
    peek,
    seal_statement,
)
from treaty.tlog.notes import Algorithm, Verifier
from treaty.tlog.policy import witness_quorum

__all__ = [
    "Membership",
    "charter_entry",
    "charter_statement",
    "directory_of",
    "log_verifier",
    "open_charter",
    "witness_verifiers",
]


@dataclass(frozen=True, slots=True)
class Membership:
    """The charter's history and what follows from it, derived once for each change.

    `effective` is the charter with decided suspensions and grants written in, `active` its
    unsuspended members in order of name, `matrix` its exposure rows, `log` and `witnesses` the keys
    under which checkpoints are read.
    """

    history: CharterHistory
    directory: Directory
    effective: Charter
    active: tuple[MemberId, ...]
    matrix: ExposureMatrix
    log: Verifier
    witnesses: Mapping[MemberId, Verifier]

    @property
    def charter(self) -> Charter:
        """Return the version in force."""
        return self.history.current

    @property
    def witness_quorum(self) -> int:
        """Return how many cosignatures fix a checkpoint, as the C2SP policy of a bundle asks.

        Also where too few members are left for a secure sum, so that a suspension stops studies and
        not the log; where so few are left that no number suffices, one more than there are.
        """
        members, colluders = len(self.witnesses), self.charter.secure_aggregation.max_colluders
        return witness_quorum(members, colluders) if colluders < members else members + 1

    def signatures_hold(self, parts: envelope.Envelope) -> bool:
        """Say whether every signature of an envelope is by a key known now, and verifies.

        For who looks before a statement's turn. A key id is the hash of its key, so that this stays
        true whatever changes until then; whether the key is one of the charter's then, and may sign
        this, is asked in turn.
        """
        try:
            envelope.verified_keys(parts, self.directory.keys)
        except VerificationError:
            return False
        return True

    def suspend(self, member: MemberId, keyids: Iterable[Digest], *, at: Timestamp) -> "Membership":
        """Return the state with `member` suspended by the approvers' `keyids`."""
        return _membership(self.history.suspend(member, keyids, at=at))


def charter_statement(charter: Charter) -> CharterPublished:
    """Return what everybody signs who lets `charter` take effect."""
    return CharterPublished(
        charter=charter_digest(charter),
        author=charter.coordinator.name,
        version=charter.version,
        previous=charter.previous,
    )


def charter_entry(
    charter: Charter, statement: bytes, coordinator: SigningKey
) -> tuple[bytes, dict[Digest, bytes]]:
    """Return the log entry by which `charter` takes effect, and the blobs that it names.

    `statement` is its `CharterPublished` with every signature. Where that outgrows an entry, it
    becomes a blob and the entry names it, signed by the `coordinator`'s key that the charter lists.
    """
    document = charter_bytes(charter)
    blobs = {canonical.sha256(document): document}
    if len(statement) <= MAX_ENTRY_BYTES:
        return statement, blobs
    digest = canonical.sha256(statement)
    body = CharterGathered(
        charter=canonical.sha256(document), author=charter.coordinator.name, signatures=digest
    )
    return seal_statement(body, coordinator), {**blobs, digest: statement}


def open_charter(
    before: Membership | None,
    data: bytes,
    documents: Documents,
    *,
    anchor: Digest,
    at: Timestamp,
) -> tuple[Membership, Verified[Body]]:
    """Return the membership after the charter statement `data`; `documents` are by digest.

    Checks: 1 a charter statement; 2 the document has the digest it names and says the same
    version; 3 a founding charter is the anchor; 4 signatures in a blob could not stand in the
    entry, and the coordinator's one signature names them; 5 every signature is by a key of the
    old or new version; 6 the rules of `CharterHistory`. Raises `FormatError`,
    `VerificationError`, `PolicyError`, and `ResourceError` for a document that is not at hand.
    """
    entry = peek(data)
    named = entry[1]
    if not isinstance(named, CharterPublished | CharterGathered):  # 1
        raise VerificationError(
            f"expected the founding charter first, got {type(named).__name__}", code="no-charter"
        )
    charter = parse_charter(documents(Digest(named.charter)))
    digest = charter_digest(charter)
    if digest != named.charter:  # 2
        raise VerificationError(
            f"charter statement names {named.charter[:16]}, the document is {digest[:16]}",
            code="wrong-charter",
        )
    if before is None and digest != anchor:  # 3
        raise VerificationError(
            f"the founding charter is {digest}, the anchor is {anchor}", code="wrong-anchor"
        )
    parsed, body = entry
    if isinstance(named, CharterGathered):  # 4
        parsed, body = _gathered(named, entry, charter, documents)
    if not isinstance(body, CharterPublished) or body.charter != digest:
        raise VerificationError(
            f"the signatures are under {type(body).__name__} about {body.charter[:16]}, expected "
            f"them under the charter {digest[:16]}",
            code="wrong-charter",
        )
    if charter.version != body.version:  # 2
        raise VerificationError(
            f"charter statement names version {body.version}, the document is {charter.version}",
            code="wrong-charter",
        )
    if charter.previous != body.previous:
        raise VerificationError(
            "charter statement names another previous version", code="wrong-previous"
        )
    known = {key.public.keyid: key.public for key in charter.listed_keys()}
    if before is not None:
        known |= before.directory.keys
    keyids = envelope.verified_keys(parsed, known)  # 5
    if before is None:  # 6
        history = found(charter, keyids, at=at)
    else:
        history = before.history.amend(charter, keyids, at=at)
    return _membership(history), Verified(named, canonical.sha256(data), keyids)


def _gathered(
    named: CharterGathered,
    entry: Parsed,
    charter: Charter,
    documents: Documents,
) -> Parsed:
    """Return the statement with all signatures that `named`, which `entry` holds, names."""
    if named.author != charter.coordinator.name:
        raise VerificationError(
            f"expected a statement of {charter.coordinator.name}, got one of {named.author}",
            code="wrong-author",
        )
    own = [key.public for key in charter.listed_keys() if key.kind is KeyKind.COORDINATOR]
    envelope.verified_keys(entry[0], {key.keyid: key for key in own})
    statement = documents(Digest(named.signatures))
    if len(statement) <= MAX_ENTRY_BYTES:
        # Prevents two logs that say the same in different bytes.
        raise VerificationError(
            f"the charter's statement has {len(statement)} bytes: expected it in the log itself",
            code="wrong-signatures",
        )
    return peek(statement, limit=envelope.MAX_GATHERED_BYTES)


def directory_of(history: CharterHistory) -> Directory:
    """Return the keys of the version in force, by key id."""
    return Directory.of(
        history.digest,
        [KeyHolder(key.owner, key.kind, key.public) for key in history.current.listed_keys()],
        history.excluded(),
    )


def _membership(history: CharterHistory) -> Membership:
    effective = history.effective()
    return Membership(
        history,
        directory_of(history),
        effective,
        effective.active_members(),
        history.matrix(),
        log_verifier(effective),
        MappingProxyType(dict(witness_verifiers(effective))),
    )


def log_verifier(charter: Charter) -> Verifier:
    """Return the log's key as a note verifier; its name is the log's origin."""
    [key] = [key for key in charter.listed_keys() if key.kind is KeyKind.LOG]
    return Verifier(charter.log.origin, Algorithm.ED25519, key.public)


def witness_verifiers(charter: Charter) -> Mapping[MemberId, Verifier]:
    """Return the cosignature key of every unsuspended member, in order of name."""
    return {
        member: Verifier(witness_name(member), Algorithm.COSIGNATURE, public)
        for member, public in sorted(charter.witness_keys().items())
    }
