"""Mirror: a member's own copy of the log, verified before it is believed, durable before it acts.

Invariants (docs/spec/protocol.md, section 3):
  * New entries are accepted only if they lead from this member's own tree to a checkpoint that the
    log key signed; otherwise the mirror keeps what it has and cosigns nothing (``split-view``).
  * Of what an entry names no more is read than the log says that it can be (`treaty.node.bounds`).
  * Of what a feed brings nothing is kept that no entry names, and what the fold had to ask for is
    kept with the entries, as far as a feed could have brought it: without it they cannot be read
    again, and whoever served it need not do so for ever.
  * What is cosigned is what is stored: no cosignature while entries wait for their transaction.

Left to its callers: who may send a feed, and what the entries ask of this member.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import FormatError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.node.bounds import DOCUMENT_BYTES, bounds_of
from treaty.node.cosignatures import open_cosigned
from treaty.node.feeding import FEED_LIMIT_BYTES, brought_by
from treaty.node.log_keeper import LogKeeper
from treaty.node.phase_clock import SINCE_KEY, PhaseClock
from treaty.ports import Batch, BlobStore, Clock, Engine, EventStore
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Feed
from treaty.protocol.messages import TimeStated
from treaty.protocol.secagg_messages import EpochSealed
from treaty.protocol.statements import Body, Parsed, peek

__all__ = ["CHECKPOINT_KEY", "COSIGNED_KEY", "LOG_STREAM", "Accepted", "Mirror"]

LOG_STREAM = "log"
CHECKPOINT_KEY = "checkpoint"
COSIGNED_KEY = "cosigned"
"""The newest checkpoint that a quorum has cosigned, as far as this member was shown it."""

CLOCK_TOLERANCE_MS = 24 * 3600 * 1000
"""How far ahead of this member's clock a stated time may be, and how far behind when it acts."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A feed that was checked: the state and log after its new entries, which `take` adopts."""

    state: Consortium
    log: LogKeeper = field(repr=False)
    note: str
    entries: tuple[bytes, ...] = field(repr=False)
    digests: tuple[Digest, ...]
    blobs: Mapping[Digest, bytes] = field(repr=False)


class Mirror:
    """The log as this member has verified it, over its store."""

    def __init__(
        self, *, anchor: Digest, store: EventStore, blobs: BlobStore, engine: Engine, clock: Clock
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._engine = engine
        self._clock = clock
        self._state = Consortium(anchor)
        self._log = LogKeeper()
        self._note = ""
        self._unwritten: list[bytes] = []
        self._fresh: dict[Digest, bytes] = {}
        self._phase_clock = PhaseClock(store.get(SINCE_KEY))
        self._recover()

    @property
    def state(self) -> Consortium:
        """Return the folded log."""
        return self._state

    @property
    def size(self) -> int:
        """Return how many entries of the log this member holds."""
        return self._log.size

    def check(self, feed: Feed, made: Mapping[Digest, Parsed] | None = None) -> Accepted | None:
        """Return what `feed` adds, all verified, or None when it adds nothing; changes nothing.

        `feed` begins at or before the end of this log; `made` are the parsed statements that
        this member has signed in this life, by digest. Raises `VerificationError` with code
        ``split-view`` or ``clock-skew``, and what the fold raises.
        """
        known = self._log.size - feed.first
        if known:
            mine = self._store.read(LOG_STREAM, feed.first, min(known, len(feed.entries)))
            if tuple(mine) != feed.entries[:known]:
                raise VerificationError(
                    f"entry {feed.first} or later differs from this member's copy: keep both as "
                    "evidence of a fork and call the other members",
                    code="split-view",
                )
        entries = feed.entries[known:]
        if not entries:
            return None
        state, made = self._state, made or {}
        digests = tuple(map(sha256, entries))
        asked: dict[Digest, bytes] = {}
        bodies: list[Body] = []
        known_parts = _parsed(entries, digests, made)
        signed = made.keys() | _signed(state, digests, known_parts, made)
        for place, (entry, digest) in enumerate(zip(entries, digests, strict=True)):
            parsed = known_parts[place] if place < len(known_parts) else peek(entry)
            documents = self._finder(feed.blobs, bounds_of(parsed[1], state), asked)
            state, verified = state.apply(
                entry, documents, parsed=parsed, made=signed, digest=digest
            )
            body = verified.predicate
            bodies.append(body)
            if isinstance(body, TimeStated) and body.at - self._clock.now() > CLOCK_TOLERANCE_MS:
                # Only ahead: whoever was away for days must be able to catch up.
                raise VerificationError(
                    f"the log's clock says {body.at}, this member's {self._clock.now()}",
                    code="clock-skew",
                )
        log = self._log.extended(entries)
        log.check_note(feed.checkpoint, state.members)
        return Accepted(
            state, log, feed.checkpoint, entries, digests, {**_named(feed, bodies, state), **asked}
        )

    def evidence(self, feed: Feed) -> bytes:
        """Return the newest checkpoint if `feed` shows that the coordinator has lost entries of it.

        It bears the log key's signature, so that the coordinator need not believe a number.
        """
        if feed.first + len(feed.entries) >= self._log.size or self._unwritten:
            return b""
        return self._note.encode()

    def require_present(self) -> None:
        """Raise `VerificationError` (code ``clock-skew``) if the log's last time is long past.

        Prevents an expired charter from living on in a log whose clock stands still.
        """
        behind = self._clock.now() - self._state.at
        if behind > CLOCK_TOLERANCE_MS:
            raise VerificationError(
                f"the log's clock is {behind // 1000} s behind this member's: expected the "
                "coordinator to state the time before it opens an epoch",
                code="clock-skew",
            )

    def take(self, accepted: Accepted) -> None:
        """Adopt what was checked. It becomes durable with the next `write`."""
        self._state, self._log, self._note = accepted.state, accepted.log, accepted.note
        self._unwritten = list(accepted.entries)
        self._fresh = dict(accepted.blobs)

    def keep(self, data: bytes) -> Digest:
        """Hold `data` for the statements of this turn, and return its digest."""
        digest = sha256(data)
        self._fresh[digest] = data
        return digest

    def document(self, digest: Digest, most_bytes: int) -> bytes:
        """Return a blob of this turn, of the store, or of the engine; `ResourceError` if none.

        From the engine at most `most_bytes` are read; see `treaty.ports.Engine.fetch`.
        """
        return self._finder(self._fresh, {digest: most_bytes})(digest)

    def held(self, digest: Digest) -> bytes:
        """Return a blob of this turn or of the store; `ResourceError` if there is none here."""
        return self._fresh[digest] if digest in self._fresh else self._blobs.get(digest)

    def write(
        self,
        puts: Iterable[tuple[str, bytes]],
        blobs: Iterable[bytes],
        label: str,
        *,
        besides: str | None = None,
    ) -> None:
        """One durable transaction: the new entries with their documents, and whatever else is due.

        `besides` is the digest of a masked vector, which is not among the documents.
        """
        puts, blobs = tuple(puts), tuple(blobs)
        if not self._unwritten and not puts and not blobs:
            return
        appends: tuple[tuple[str, int, tuple[bytes, ...]], ...] = ()
        if self._unwritten:
            start = self._log.size - len(self._unwritten)
            appends = ((LOG_STREAM, start, tuple(self._unwritten)),)
            since = self._phase_clock.puts(self._state, self._clock.now())
            puts = (*puts, (CHECKPOINT_KEY, self._note.encode()), *since)
            kept = (data for digest, data in self._fresh.items() if digest != besides)
            blobs = (*blobs, *kept)
        self._store.commit(Batch(appends=appends, puts=puts, blobs=blobs, label=label))
        self._unwritten = []

    def keep_cosigned(self, feed: Feed) -> None:
        """Keep a checkpoint of this log that a quorum has cosigned: bundles are made from it.

        One of another size is passed over, for the entries come by other feeds. Raises
        `VerificationError`: ``split-view`` for another tree, ``no-quorum`` for too few.
        """
        if feed.first != self._log.size or self._unwritten:
            return
        self._log.check_note(feed.checkpoint, self._state.members)
        open_cosigned(feed.checkpoint, self._state.members)
        kept = self._store.get(COSIGNED_KEY)
        if kept != feed.checkpoint.encode():
            puts = ((COSIGNED_KEY, feed.checkpoint.encode()),)
            self._store.commit(Batch(puts=puts, label="participant-cosigned"))

    def cosignature(self, key: SigningKey, member: MemberId) -> str:
        """Return this member's cosignature line of the newest checkpoint; empty if not durable."""
        if not self._note or self._unwritten:
            return ""
        return self._log.cosign(self._note, key, member, self._clock.now())

    def _finder(
        self,
        attached: Mapping[Digest, bytes],
        bounds: Mapping[Digest, int],
        asked: dict[Digest, bytes] | None = None,
    ) -> Callable[[Digest], bytes]:
        """Return what finds a document; into `asked` goes what only the engine had."""

        def find(digest: Digest) -> bytes:
            for known in (attached, asked or {}):
                if digest in known:
                    return known[digest]
            if self._blobs.has(digest):
                return self._blobs.get(digest)
            data = self._engine.fetch(digest, bounds.get(digest, DOCUMENT_BYTES))
            if asked is not None and len(data) <= FEED_LIMIT_BYTES:
                asked[digest] = data
            return data

        return find

    def _recover(self) -> None:
        entries = self._store.read(LOG_STREAM)
        state = self._state
        for entry in entries:
            parsed = peek(entry)
            find = self._finder({}, bounds_of(parsed[1], state))
            state, _ = state.apply(entry, find, parsed=parsed)
        self._state = state
        self._log = self._log.extended(entries)
        self._note = (self._store.get(CHECKPOINT_KEY) or b"").decode()


def _named(feed: Feed, bodies: Sequence[Body], state: Consortium) -> Mapping[Digest, bytes]:
    """Return the blobs of `feed` that its entries bring; `bodies` are the new ones, folded."""
    if not feed.blobs:
        return {}
    study = state.running
    epoch = None if study is None else study.epoch
    dealt = () if epoch is None else epoch.shares.values()

    def columns(_: EpochSealed) -> Iterable[Digest]:
        return (Digest(one) for shares in dealt for one in shares.predicate.columns.values())

    named = {one for body in bodies for one in brought_by(body, columns)}
    if not feed.blobs.keys() <= named:
        # Entries that this member has already may bring what it missed.
        before = feed.entries[: len(feed.entries) - len(bodies)]
        named |= {one for entry in before for one in brought_by(peek(entry)[1], columns)}
    return {digest: data for digest, data in feed.blobs.items() if digest in named}


def _parsed(
    entries: Sequence[bytes], digests: Sequence[Digest], made: Mapping[Digest, Parsed]
) -> list[Parsed]:
    """Return what `peek` gives for `entries`, up to the first that it refuses.

    All of a feed are parsed, then their signatures checked, then they are folded: each is another
    program, and turn by turn they drive one another out of the processor's caches.
    """
    found: list[Parsed] = []
    for entry, digest in zip(entries, digests, strict=True):
        try:
            found.append(made.get(digest) or peek(entry))
        except FormatError:
            # Its place in the order of refusals is that of its turn: there it is parsed again.
            break
    return found


def _signed(
    state: Consortium,
    digests: Sequence[Digest],
    parsed: Sequence[Parsed],
    made: Mapping[Digest, Parsed],
) -> set[Digest]:
    """Return the digests of the leading entries whose every signature holds, looked at early."""
    found: set[Digest] = set()
    if state.membership is None:
        return found
    for digest, (parts, _) in zip(digests, parsed, strict=False):
        if digest not in made:
            if not state.membership.signatures_hold(parts):
                break
            found.add(digest)
    return found
