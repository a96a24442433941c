"""Intake: which statements a coordinator takes from members, what belongs to each, and the tray.

Pure parts of the coordinator: the closed list of kinds, the blobs that a statement names, and the
entries that one transaction will append together with the state after them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from treaty.errors import PeerError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.node.bounds import proof_bytes, sum_bytes
from treaty.ports import Engine
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Post
from treaty.protocol.messages import (
    BallotCast,
    CharterGathered,
    CharterPublished,
    DatasetRegistered,
    LedgerRebased,
    ProposalOpened,
    ReleaseProvenance,
    SiteReported,
)
from treaty.protocol.secagg_dealing import column_bytes
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secagg_messages import (
    EpochKeys,
    EpochReady,
    EpochShares,
    InputDeclined,
    MaskedInput,
    Reveal,
    ShareComplaint,
    SumDisputed,
    SumsAudited,
    SurvivorsConfirmed,
)
from treaty.protocol.statements import Body, Documents, Parsed, Verified
from treaty.tlog.checkpoint import open_checkpoint
from treaty.tlog.notes import Verifier

__all__ = [
    "MEMBER_STATEMENTS",
    "Pending",
    "Tray",
    "blobs_of",
    "check_columns",
    "is_signed",
    "kept_blobs",
    "named_blobs",
    "names_of",
    "shows_longer_log",
]

MEMBER_STATEMENTS = (
    BallotCast,
    CharterPublished,
    DatasetRegistered,
    EpochKeys,
    EpochReady,
    EpochShares,
    InputDeclined,
    LedgerRebased,
    MaskedInput,
    ProposalOpened,
    ReleaseProvenance,
    Reveal,
    ShareComplaint,
    SiteReported,
    SumDisputed,
    SumsAudited,
    SurvivorsConfirmed,
)
"""What a member may put into the log; everything else is the coordinator's own."""


def named_blobs(body: Body) -> frozenset[str]:
    """Return the digests of the blobs that travel with a statement."""
    match body:
        case CharterPublished():
            return frozenset({body.charter})
        case CharterGathered():
            return frozenset({body.charter, body.signatures})
        case ProposalOpened():
            return frozenset({body.subject})
        case MaskedInput():
            return frozenset({body.blob})
        case EpochShares():
            return frozenset(body.columns.values())
        case EpochReady():
            return frozenset() if body.wraps is None else frozenset({body.wraps})
        case SumDisputed():
            return frozenset({body.proof})
        case _:
            return frozenset()


def names_of(state: Consortium, *, active: bool = False) -> tuple[MemberId, ...]:
    """Return the members that the charter in force names, only those not suspended if `active`.

    Nobody before there is a charter.
    """
    if state.membership is None:
        return ()
    out = state.membership.history.excluded() if active else frozenset()
    return tuple(MemberId(name) for name in sorted(state.charter.members) if name not in out)


def kept_blobs(body: Body, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, bytes]:
    """Return the blobs that belong to a statement: those it names, and no others."""
    wanted = named_blobs(body)
    return {digest: data for digest, data in blobs.items() if digest in wanted}


def check_columns(
    body: EpochShares, group: Group, slots: int, blobs: Mapping[Digest, bytes]
) -> None:
    """Raise `VerificationError` unless a dealer's post brings its columns, each of its right size.

    Who signs digests and keeps the columns back would stop the epoch for everybody, and nobody
    could complain of a column that nobody has (``column-missing``, ``shares-malformed``).
    """
    size = column_bytes(group, slots)
    for name, digest in body.columns.items():
        column = blobs.get(Digest(digest))
        if column is None:
            raise VerificationError(
                f"{body.author} brings no column for {name}", code="column-missing"
            )
        if len(column) != size:
            raise VerificationError(
                f"expected a column of {size} bytes for {name}, {body.author} brings {len(column)}",
                code="shares-malformed",
            )


def blobs_of(post: Post, body: Body, state: Consortium, engine: Engine) -> Mapping[Digest, bytes]:
    """Return the blobs of a post, with the one that a statement left at the engine.

    How large that can be follows from the open round or the sums under audit, never from what
    the member says; a larger one is not read, and its statement is refused for want of it.
    Raises `ResourceError` when it cannot be had now.
    """
    named, most = _left_at_engine(body, state)
    if named is None or named in post.blobs or not most:
        return post.blobs
    try:
        return {**post.blobs, named: engine.fetch(named, most)}
    except VerificationError as error:
        if error.code != "blob-too-large":
            raise
        return post.blobs


def _left_at_engine(body: Body, state: Consortium) -> tuple[Digest | None, int]:
    """Return the digest of a blob that may be left at the engine, and its most bytes now."""
    study = state.running
    match body:
        case MaskedInput():
            record = None if study is None else study.round
            return Digest(body.blob), 0 if record is None else sum_bytes(record.opened.predicate)
        case SumDisputed():
            return Digest(body.proof), proof_bytes(() if study is None else study.unaudited)
        case _:
            return None, 0


@dataclass(frozen=True, slots=True)
class Pending:
    """A statement that waits to be sequenced.

    `parsed` is what `peek` gave for it, `signed` whether its signatures were seen to hold.
    """

    statement: bytes
    blobs: Mapping[Digest, bytes] = field(repr=False)
    sender: MemberId
    spooled: bool = False
    parsed: Parsed | None = field(default=None, repr=False)
    signed: bool = False


class Tray:
    """Entries that will be committed together, and the state after them."""

    def __init__(self, state: Consortium) -> None:
        self.state = state
        self.entries: list[bytes] = []
        self.bodies: list[Body] = []
        self.digests: set[Digest] = set()
        self.blobs: dict[Digest, bytes] = {}

    def fold(
        self,
        statement: bytes,
        digest: Digest,
        parsed: Parsed,
        find: Documents,
        *,
        signed: bool,
    ) -> tuple[Consortium, Verified[Body]]:
        """Return the state with one more statement, and what it says; the tray does not take it.

        `digest` is the statement's SHA-256, `parsed` what `peek` gave for it; with `signed` its
        signatures have been seen to hold. Raises what `Consortium.apply` does.
        """
        made = (digest,) if signed else ()
        return self.state.apply(statement, find, parsed=parsed, made=made, digest=digest)

    def add(
        self,
        state: Consortium,
        entry: bytes,
        verified: Verified[Body],
        blobs: Mapping[Digest, bytes],
    ) -> None:
        """Take one folded entry, and what it says."""
        self.state = state
        self.entries.append(entry)
        self.bodies.append(verified.predicate)
        self.digests.add(verified.digest)
        self.blobs.update(blobs)

    def finder(
        self, attached: Mapping[Digest, bytes], stored: Callable[[Digest], bytes]
    ) -> Callable[[Digest], bytes]:
        """Return what finds a document in `attached`, in this tray, or where blobs are stored."""

        def find(digest: Digest) -> bytes:
            for place in (attached, self.blobs):
                if digest in place:
                    return place[digest]
            return stored(digest)

        return find

    def copy(self) -> "Tray":
        """Return a tray that can be filled on trial."""
        other = Tray(self.state)
        other.entries, other.bodies = list(self.entries), list(self.bodies)
        other.digests, other.blobs = set(self.digests), dict(self.blobs)
        return other

    def take(self, other: "Tray") -> None:
        """Become what the trial has become."""
        self.state, self.blobs = other.state, other.blobs
        self.entries, self.bodies, self.digests = other.entries, other.bodies, other.digests


def is_signed(state: Consortium, parsed: Parsed) -> bool:
    """Say whether every signature of a statement holds that is sure to be needed.

    For who has time before it is folded; see `Membership.signatures_hold`. A sum opens with some of
    the reveals: the others are not looked at.
    """
    parts, body = parsed
    if state.membership is None or isinstance(body, Reveal):
        return False
    return state.membership.signatures_hold(parts)


def shows_longer_log(post: Post, log: Verifier, size: int) -> bool:
    """Say whether a post proves, by the log key's own signature, that entries past `size` exist.

    A number alone proves nothing: one member could stop everybody with it.
    """
    for data in post.blobs.values():
        try:
            shown = open_checkpoint(data, log)
        except PeerError:
            continue
        if shown.checkpoint.size > size:
            return True
    return False
