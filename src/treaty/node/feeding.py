"""Feeding: what of the log goes into one feed, and which blobs its entries bring to a member.

A feed has a limit in bytes: what does not fit follows in the next one, and what is too large
travels by digest through the engine's bulk path.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from treaty.ids import Digest
from treaty.protocol.frames import Feed, encode_frame
from treaty.protocol.messages import CharterGathered, CharterPublished, ProposalOpened, StudyOpened
from treaty.protocol.secagg_messages import AuditCalled, EpochSealed, RoundResult, SumDisputed
from treaty.protocol.statements import Body

__all__ = ["FEED_LIMIT_BYTES", "Made", "Portion", "brought_by", "portion"]

FEED_LIMIT_BYTES = 4 << 20
"""Entries and blobs of one feed; what does not fit follows, or is offered by digest."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Entries up to `end`, the blobs that travel with them, and those that are offered."""

    end: int
    blobs: dict[Digest, bytes] = field(repr=False)
    large: dict[Digest, bytes] = field(repr=False)


class Made:
    """What is made for one member's feed and serves the others under the same checkpoint."""

    def __init__(self) -> None:
        self._portions: dict[int, Portion] = {}
        self._frames: dict[tuple[int | Digest, ...], bytes] = {}

    def portion(self, first: int) -> Portion | None:
        """Return what every member lacks that has `first` entries, if it was made."""
        return self._portions.get(first)

    def keep(self, first: int, part: Portion, bodies: Iterable[Body]) -> None:
        """Let `part`, of the entries `bodies`, serve others, if it is not of one member alone."""
        # See `brought_by`: the end of dealing brings each member its own columns.
        if not any(isinstance(body, EpochSealed) for body in bodies):
            self._portions[first] = part

    def frame(self, first: int, part: Portion, entries: Sequence[bytes], note: str) -> bytes:
        """Return the feed of `part`, the log's `entries` from `first` on, under `note`."""
        key: tuple[int | Digest, ...] = (first, part.end, *part.blobs)
        if key not in self._frames:
            own = tuple(entries[first : part.end])
            self._frames[key] = encode_frame(Feed(first, own, note, part.blobs))
        return self._frames[key]


def portion(
    entries: Sequence[bytes],
    first: int,
    brought: Callable[[int], Iterable[Digest]],
    get: Callable[[Digest], bytes],
) -> Portion:
    """Return what one feed from entry `first` on holds; `brought` names the blobs of an entry."""
    end, total = first, 0
    blobs: dict[Digest, bytes] = {}
    large: dict[Digest, bytes] = {}
    for index in range(first, len(entries)):
        if total + len(entries[index]) > FEED_LIMIT_BYTES:
            break
        end, total = end + 1, total + len(entries[index])
        for digest in brought(index):
            data = get(digest)
            if total + len(data) > FEED_LIMIT_BYTES:
                large[digest] = data
            else:
                blobs[digest] = data
                total += len(data)
    return Portion(end, blobs, large)


def brought_by(
    body: Body, columns: Callable[[EpochSealed], Iterable[Digest]]
) -> tuple[Digest, ...]:
    """Return the digests of the blobs that an entry brings; `columns` are those of one member.

    Nothing else is of one member alone (`Made.keep`).
    """
    match body:
        case CharterPublished():
            return (Digest(body.charter),)
        case CharterGathered():
            return (Digest(body.charter), Digest(body.signatures))
        case ProposalOpened():
            return (Digest(body.subject),)
        case StudyOpened():
            return (Digest(body.plan),)
        case RoundResult():
            return (Digest(body.sum), *(() if body.pairs is None else (Digest(body.pairs),)))
        case AuditCalled():
            return (Digest(body.chunks),)
        case SumDisputed():
            return (Digest(body.proof),)
        case EpochSealed():
            return tuple(columns(body))
        case _:
            return ()
