"""Membership: which charter is in force, whose keys count, and who is suspended.

A fold over charter versions and ratified suspensions. The rules themselves are
`treaty.governance.amendment`'s; this module opens the statements that carry them and keeps the
directory of keys by which all other statements are opened.

Invariants (docs/spec/governance.md, sections 1 and 3):
  * The first statement of a log is the founding charter, whose digest is the anchor.
  * A charter takes effect at its entry; statements under another version are refused.
  * A suspension takes effect at its entry and rests on a ratified proposal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from treaty.crypto import canonical, envelope
from treaty.errors import VerificationError
from treaty.governance.amendment import CharterHistory, found
from treaty.governance.charter import Charter, charter_digest, parse_charter, witness_name
from treaty.governance.exposure import ExposureMatrix
from treaty.governance.roles import KeyKind
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.messages import CharterPublished
from treaty.protocol.statements import Directory, KeyHolder, Verified, peek
from treaty.tlog.notes import Algorithm, Verifier

__all__ = ["Membership", "directory_of", "log_verifier", "open_charter", "witness_verifiers"]


@dataclass(frozen=True, slots=True)
class Membership:
    """The charter's history and what follows from it, derived once for each change.

    `effective` is the charter with decided suspensions and grants written in, `matrix` its exposure
    rows, `log` and `witnesses` the keys under which checkpoints are read.
    """

    history: CharterHistory
    directory: Directory
    effective: Charter
    matrix: ExposureMatrix
    log: Verifier
    witnesses: Mapping[MemberId, Verifier]

    @property
    def charter(self) -> Charter:
        """Return the version in force."""
        return self.history.current

    def suspend(self, member: MemberId, keyids: Iterable[Digest], *, at: Timestamp) -> "Membership":
        """Return the state with `member` suspended by the approvers' `keyids`."""
        return _membership(self.history.suspend(member, keyids, at=at))


def open_charter(
    before: Membership | None,
    data: bytes,
    document: bytes,
    *,
    anchor: Digest,
    at: Timestamp,
) -> tuple[Membership, Verified[CharterPublished]]:
    """Return the membership after the charter statement `data` about `document`.

    Checks: 1 a charter statement; 2 the document has the digest it names and says the same
    version; 3 a founding charter is the anchor; 4 every signature is by a key of the old or new
    version; 5 the rules of `CharterHistory`. Raises `FormatError`, `VerificationError` or
    `PolicyError`.
    """
    parsed, body = peek(data)
    if not isinstance(body, CharterPublished):  # 1
        raise VerificationError(
            f"expected a charter first, got {type(body).__name__}", code="no-charter"
        )
    charter = parse_charter(document)
    digest = charter_digest(charter)
    if digest != body.charter or charter.version != body.version:  # 2
        raise VerificationError(
            f"charter statement names {body.charter[:16]}, the document is {digest[:16]}",
            code="wrong-charter",
        )
    if charter.previous != body.previous:
        raise VerificationError(
            "charter statement names another previous version", code="wrong-previous"
        )
    if before is None and digest != anchor:  # 3
        raise VerificationError(
            f"the founding charter is {digest}, the anchor is {anchor}", code="wrong-anchor"
        )
    known = {key.public.keyid: key.public for key in charter.listed_keys()}
    if before is not None:
        known |= before.directory.keys
    keyids = envelope.verified_keys(parsed, known)  # 4
    if before is None:  # 5
        history = found(charter, keyids, at=at)
    else:
        history = before.history.amend(charter, keyids, at=at)
    return _membership(history), Verified(body, canonical.sha256(data), data, keyids)


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
