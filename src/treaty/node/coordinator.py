"""Coordinator: sequences statements and drives studies, trusted for availability alone.

The order is the law: fold, append, publish. A statement enters the log only if the fold accepts it;
entries and their checkpoint are one durable transaction; feeds leave afterwards. What to do
next follows from the folded log, so a restart continues where the log ends.

Invariants (docs/spec/protocol.md, section 3):
  * After a restart nothing is appended before enough members have said how long their logs are:
    a store restored from a backup finds out, and refuses to sign (``restored-backup``).
  * Statements wait until the mailbox is drained, so that a round costs two commits.
  * A refused statement changes nothing and is journalled; its author is not answered with detail.
  * Large masked inputs wait in the store, so memory does not grow with the number of members.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from treaty.aggregation.masking import Spread
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import PeerError, PolicyError, ResourceError, VerificationError, code_of
from treaty.ids import Digest, MemberId
from treaty.node.cosignatures import Cosignatures
from treaty.node.feeding import Made, brought_by, portion
from treaty.node.intake import (
    MEMBER_STATEMENTS,
    Pending,
    Tray,
    blobs_of,
    is_signed,
    kept_blobs,
    names_of,
    shows_longer_log,
)
from treaty.node.joint_statements import JointStatements
from treaty.node.log_keeper import LogKeeper
from treaty.node.mirror import CHECKPOINT_KEY, LOG_STREAM
from treaty.node.phase_clock import SINCE_KEY, PhaseClock
from treaty.node.reminders import ASK_AGAIN_MS, Reminders
from treaty.node.rounds import RoundDriver
from treaty.node.spooling import Spool
from treaty.ports import Batch, BlobStore, Clock, Engine, EventStore, Journal
from treaty.protocol.consortium import DOCUMENTED, Consortium
from treaty.protocol.frames import Feed, decode_post, encode_frame
from treaty.protocol.messages import ProposalOpened
from treaty.protocol.secagg_messages import MaskedInput, Reveal
from treaty.protocol.statements import Body, Parsed, Predicate, peek, sealed_and_parsed
from treaty.protocol.waiting import owing

__all__ = ["Coordinator", "CoordinatorKeys"]

KEPT_BODIES = 1024
"""Parsed statements kept at hand, newest; members that lag further have them parsed again."""


@dataclass(frozen=True, slots=True)
class CoordinatorKeys:
    """The coordinator's two keys: one signs statements, one signs checkpoints."""

    runner: SigningKey = field(repr=False)
    log: SigningKey = field(repr=False)


class Coordinator:
    """The consortium's coordinator. `members` are the engine's names of the sites.

    `spread` shares the bulk work of a sum out to threads (`treaty.aggregation.masking`).
    """

    def __init__(
        self,
        *,
        name: MemberId,
        members: Iterable[MemberId],
        keys: CoordinatorKeys,
        anchor: Digest,
        store: EventStore,
        blobs: BlobStore,
        engine: Engine,
        journal: Journal,
        clock: Clock,
        slots_per_epoch: int | None = None,
        on_change: Callable[[Consortium], None] | None = None,
        spread: Spread = map,
    ) -> None:
        self.name = name
        self.engine = engine
        self.journal = journal
        self._members = tuple(members)
        self._keys = keys
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._on_change = on_change
        self._pending: list[Pending] = []
        self._sizes: dict[MemberId, int] = {}
        self._state = Consortium(anchor)
        self._log = LogKeeper()
        self._entries: list[bytes] = []
        self._known: set[Digest] = set()
        self._bodies: dict[int, Body] = {}
        self._fresh: Mapping[Digest, bytes] = {}
        self._cosignatures = Cosignatures(journal)
        self._driver = RoundDriver(self._blobs, journal, slots_per_epoch, spread)
        self._spool = Spool(self._blobs)
        self._joint = JointStatements(store, journal, name, keys.runner)
        self._note = self._held_back = ""
        self._asked = self._asked_sizes = self._confirmed = False
        # Engines forget keys in time; a new life of this process must not repeat old ones.
        self._sent = int(clock.now()) * 1000
        self._recovered_size = self._ask_again_at = 0
        self._reminders = Reminders()
        self._phase_clock = PhaseClock(store.get(SINCE_KEY))
        self._outdated = False
        self._recover()

    @property
    def state(self) -> Consortium:
        """Return the folded log."""
        return self._state

    @property
    def size(self) -> int:
        """Return the number of log entries."""
        return self._log.size

    @property
    def entries(self) -> tuple[bytes, ...]:
        """Return the log's entries, in order."""
        return tuple(self._entries)

    def checkpoint(self) -> str:
        """Return the newest checkpoint note with every cosignature at hand."""
        if not self._log.size:
            raise ResourceError("expected a log with entries, it is empty")
        lines = self._cosignatures.verified(self._log, self._state.membership)
        return self._log.cosigned(self._note, lines.values())

    def witnesses(self) -> frozenset[str]:
        """Return who has cosigned the newest checkpoint."""
        return frozenset(self._cosignatures.verified(self._log, self._state.membership))

    # --- reacting -----------------------------------------------------------------------------

    def handle(self, sender: MemberId, frame: bytes) -> None:
        """Take one post: note the sender's log size and cosignature, queue its statements."""
        post = decode_post(frame)
        if post.member != sender or sender not in (names_of(self._state) or self._members):
            raise VerificationError(
                f"a post of {post.member} came from {sender}", code="wrong-author"
            )
        if post.size > self._log.size:
            self._outdated = self._outdated or (
                self._state.membership is not None
                and shows_longer_log(post, self._state.members.log, self._log.size)
            )
            # What it said before, perhaps while it caught up, confirms this log no longer.
            self._sizes.pop(sender, None)
            # Prevents a fork: a member holds entries that this store has lost.
            raise VerificationError(
                f"{sender} holds {post.size} entries, this log {self._log.size}: the store was "
                "restored from a backup, rebuild it from a member's mirror before signing again",
                code="restored-backup",
            )
        try:
            parsed = [p or peek(s) for p, s in zip(post.parsed, post.statements, strict=True)]
            fetched = [blobs_of(post, body, self._state, self.engine) for _, body in parsed]
        except ResourceError as error:
            # A large input did not arrive. The size is not noted, so the member is asked again.
            self.journal.note("input-missing", f"{sender}: {error}")
            return
        self._sizes[sender] = post.size
        self._cosignatures.shown.discard(sender)
        if post.cosignature and post.size == self._log.size and self._state.membership:
            self._cosignatures.add(sender, post.cosignature)
        for statement, blobs, known in zip(post.statements, fetched, parsed, strict=True):
            self._queue(sender, statement, blobs, known)

    def flush(self) -> bool:
        """Sequence what waits and what follows from it; say whether anything moved."""
        if not self._is_current():
            return False
        moved = False
        while self._sequence():
            moved = True
        return moved

    def on_quiet(self) -> bool:
        """Nothing more arrives: ask who lags or has not cosigned, then let a deadline pass."""
        if not self._is_current():
            return self._confirm()
        if self.flush():
            return True
        lagging = [m for m in self._active() if self._sizes.get(m, 0) < self._log.size]
        unsigned = self._cosignatures.missing(self._active(), self._log, self._state.membership)
        if (lagging or unsigned) and not self._asked:
            self._asked = True
            for member in lagging:
                self._feed(member)
            self._ask(unsigned)
            return True
        self._asked = False
        # A deadline may order nothing and still let the next step follow.
        return self.expire() or self._driver.is_patient

    # --- living in time -----------------------------------------------------------------------

    def remind(self) -> bool:
        """Send again what may be lost (`Reminders`), give nothing up; say whether anything was."""
        now = self._clock.now()
        if not self._is_current():
            if self._outdated or (self._asked_sizes and now < self._ask_again_at):
                return False
            self._ask_again_at = now + ASK_AGAIN_MS
            if self._asked_sizes:
                self._ask(member for member in self._active() if member not in self._sizes)
                return True
            return self._confirm()
        if self.flush():
            return True
        lagging = [
            member
            for member in self._active()
            if (size := self._sizes.get(member, 0)) < self._log.size
            and self._reminders.due(member, (size, self._log.size), now)
        ]
        for member in lagging:
            self._feed(member)
        owed = owing(self._state, self.name) or self._cosignatures.missing(
            self._active(), self._log, self._state.membership
        )
        self._ask(silent := self._reminders.silent(owed, self._sizes, self._log.size, now))
        return bool(lagging or silent) or self._show()

    def expects_more(self) -> bool:
        """Say whether some members have said what the present phase asks, and others not yet."""
        heard = {one.sender for one in self._pending}
        return bool(heard) and not owing(self._state, self.name) <= heard

    def expire(self) -> bool:
        """Let the present phase go on without those who are late; say whether anything followed."""
        if not self._is_current():
            return self._confirm()
        return self._publish(self._driver.deadline(), "deadline") or self.flush()

    def submit(self, statement: bytes, blobs: Mapping[Digest, bytes] | None = None) -> None:
        """Queue a statement made at the coordinator itself (a founding charter, a comparison)."""
        self._pending.append(Pending(statement, dict(blobs or {}), self.name))

    def sign(self, predicate: Predicate) -> bytes:
        """Return the envelope of one of the coordinator's own statements."""
        return sealed_and_parsed(predicate, self._keys.runner)[0]

    # --- sequencing ---------------------------------------------------------------------------

    def _queue(
        self, sender: MemberId, statement: bytes, blobs: Mapping[Digest, bytes], parsed: Parsed
    ) -> None:
        """Let a statement of a post wait; a large masked input is checked and stored at once."""
        body = parsed[1]
        if self._joint.takes(Pending(statement, blobs, sender), body, self._state):
            return
        spooled = self._spool.takes(body, blobs)
        if isinstance(body, MaskedInput) and spooled:
            try:
                self._driver.check_input(body, blobs)
            except PeerError as refusal:
                self.journal.note(f"statement-refused.{code_of(refusal)}", f"{sender}: {refusal}")
                return
            blobs = self._spool.store(body, blobs)
        signed = is_signed(self._state, parsed)
        self._pending.append(Pending(statement, blobs, sender, spooled, parsed, signed))

    def _sequence(self) -> bool:
        """Append what waits, then what the driver asks for, until nothing follows; one commit."""
        turns, self._pending = [self._pending, *filter(None, [self._joint.ready(self._state)])], []
        stored = self._spool.release()
        batch = Tray(self._state)
        # Another charter comes last: it voids what was decided and is not carried out.
        for turn in turns:
            for item in turn:
                self._admit(batch, item)
            self._follow(batch)
        moved = self._commit(batch, "coordinator-append")
        self._spool.settle(stored, batch.bodies)
        return moved

    def _follow(self, batch: Tray) -> None:
        find = batch.finder({}, self._blobs.get)
        while orders := self._driver.next(batch.state, self._clock.now(), find):
            trial = batch.copy()
            try:
                for predicate, blobs in orders:
                    self._append_own(trial, predicate, blobs)
            except (PeerError, PolicyError) as refusal:
                # Members may ratify what the fold refuses (a plan that lint does not pass, one
                # suspension too many), and charters expire: the service goes on without it.
                self._hold_back(batch.state, orders, refusal)
                if not self._driver.put_off(batch.state, orders[-1][0]):
                    return
            else:
                batch.take(trial)

    def _publish(self, orders: list[tuple[Predicate, tuple[bytes, ...]]], label: str) -> bool:
        if not orders:
            return False
        batch = Tray(self._state)
        for predicate, blobs in orders:
            self._append_own(batch, predicate, blobs)
        self._follow(batch)
        return self._commit(batch, f"coordinator-{label}")

    def _admit(self, batch: Tray, item: Pending) -> None:
        """Fold one statement of a member; a refusal is journalled and changes nothing."""
        try:
            if (digest := sha256(item.statement)) in self._known or digest in batch.digests:
                # A fold may bear a repetition, but nobody shall lengthen the log with it.
                raise VerificationError("this statement stands in the log", code="replayed")
            parsed = item.parsed or peek(item.statement)
            body = parsed[1]
            if item.sender != self.name and not isinstance(body, MEMBER_STATEMENTS):
                raise VerificationError(
                    f"{type(body).__name__} is not a member's to say", code="wrong-author"
                )
            if isinstance(body, Reveal) and self._driver.has_enough(body):
                return
            if not item.spooled:
                self._driver.check_blobs(body, item.blobs)
            find = batch.finder(item.blobs, self._blobs.get)
            if isinstance(body, ProposalOpened) and body.action in DOCUMENTED:
                # A bundle holds what was voted on, so it must exist before the vote.
                find(Digest(body.subject))
            state, verified = batch.fold(item.statement, digest, parsed, find, signed=item.signed)
            self._driver.logged(state, verified, find)
        except (PeerError, PolicyError, ResourceError) as refusal:
            self.journal.note(f"statement-refused.{code_of(refusal)}", f"{item.sender}: {refusal}")
            return
        batch.add(state, item.statement, verified, kept_blobs(body, item.blobs))

    def _append_own(self, batch: Tray, predicate: Predicate, blobs: tuple[bytes, ...]) -> None:
        statement, parsed = sealed_and_parsed(predicate, self._keys.runner)
        attached = {sha256(data): data for data in blobs}
        find = batch.finder(attached, self._blobs.get)
        state, verified = batch.fold(statement, sha256(statement), parsed, find, signed=True)
        self._driver.logged(state, verified, find)
        batch.add(state, statement, verified, attached)

    def _hold_back(
        self,
        state: Consortium,
        orders: list[tuple[Predicate, tuple[bytes, ...]]],
        refusal: PeerError | PolicyError,
    ) -> None:
        """Note once why a statement of the coordinator's own does not enter the log."""
        cause = f"{type(orders[-1][0]).__name__}: {refusal}"
        if cause != self._held_back:
            self._held_back = cause
            self.journal.note(
                f"held-back.{code_of(refusal)}", f"after {state.size} entries, {cause}"
            )

    def _commit(self, batch: Tray, label: str) -> bool:
        if not batch.entries:
            return False
        log = self._log.extended(batch.entries)
        note = log.note(batch.state.members, self._keys.log)
        since = self._phase_clock.puts(batch.state, self._clock.now())
        self._store.commit(
            Batch(
                appends=((LOG_STREAM, self._log.size, tuple(batch.entries)),),
                puts=((CHECKPOINT_KEY, note.encode()), *since),
                blobs=tuple(batch.blobs.values()),
                label=label,
            )
        )
        self._log, self._note, self._state = log, note, batch.state
        self._entries.extend(batch.entries)
        self._known.update(batch.digests)
        self._bodies.update(enumerate(batch.bodies, self._log.size - len(batch.entries)))
        for index in list(self._bodies)[: max(len(self._bodies) - KEPT_BODIES, 0)]:
            del self._bodies[index]
        self._cosignatures.clear()
        self._asked = False
        made, self._fresh = Made(), batch.blobs
        for member in self._active():
            self._feed(member, made)
        self._fresh = {}
        if self._on_change is not None:
            self._on_change(self._state)
        return True

    # --- sending ------------------------------------------------------------------------------

    def _active(self) -> tuple[MemberId, ...]:
        return names_of(self._state, active=True) or self._members

    def _feed(self, member: MemberId, made: Made | None = None) -> None:
        """Send `member` the entries it lacks, with the blobs that they bring it.

        `made` is what was made under the present checkpoint: most members lack the same.
        """
        first, made = self._sizes.get(member, 0), made or Made()
        part = made.portion(first)
        if part is None:
            part = portion(
                self._entries,
                first,
                lambda index: self._brought(index, member),
                lambda digest: self._fresh.get(digest) or self._blobs.get(digest),
            )
            bodies = [self._parsed(index) for index in range(first, part.end)]
            for body in bodies:
                self._driver.offer_pieces(self._state, body, self.engine)
            made.keep(first, part, bodies)
        note = self._note
        if part.end < len(self._entries):
            # A long way to catch up: in pieces, each under a checkpoint of its own size.
            prefix = LogKeeper().extended(self._entries[: part.end])
            note = prefix.note(self._state.members, self._keys.log)
        if self._send(member, made.frame(first, part, self._entries, note), part.large):
            self._reminders.fed(member, (first, self._log.size), self._clock.now())
        else:
            self._reminders.lost(member)

    def _show(self) -> bool:
        """Send what a quorum has cosigned to those who hold it all, once; say whether it was."""
        # While a study runs the next entry follows at once, and brings another checkpoint.
        if self._state.running is not None or not self._log.size:
            return False
        current = [member for member in self._active() if self._sizes.get(member) == self._log.size]
        due = self._cosignatures.to_show(current, self._log, self._state.members)
        frame = encode_frame(Feed(self._log.size, (), self.checkpoint())) if due else b""
        self._cosignatures.shown.update(member for member in due if self._send(member, frame))
        return bool(due)

    def _confirm(self) -> bool:
        """Ask every member how long its log is; after a deadline settle for a quorum of answers.

        What came before the question does not count: it may be older than this store.
        """
        if self._outdated:
            return False
        if not self._asked_sizes:
            self._sizes.clear()
        else:
            self._confirmed = len(self._sizes) >= self._state.members.witness_quorum
        if not self._confirmed:
            self._ask(names_of(self._state) or self._members)
        asked, self._asked_sizes = self._asked_sizes, True
        return self._confirmed or not asked

    def _ask(self, members: Iterable[MemberId]) -> None:
        for member in members:
            self._send(member, encode_frame(Feed(self._log.size, (), "", {})))

    def _send(
        self, member: MemberId, frame: bytes, large: Mapping[Digest, bytes] | None = None
    ) -> bool:
        try:
            for digest, data in (large or {}).items():
                self.engine.offer(digest, data)
            # Feeds may repeat: a member that lost one asks again with the same size.
            self._sent += 1
            self.engine.send(member, frame, f"{self._sent}")
        except ResourceError as error:
            self.journal.note("unreachable", f"{member}: {error}")
            return False
        return True

    def _brought(self, index: int, member: MemberId) -> tuple[Digest, ...]:
        """Return the digests of the blobs that an entry brings to `member`, as far as here."""
        named = brought_by(self._parsed(index), lambda one: self._driver.columns_for(one, member))
        return tuple(one for one in named if one in self._fresh or self._blobs.has(one))

    def _parsed(self, index: int) -> Body:
        return self._bodies.get(index) or peek(self._entries[index])[1]

    # --- starting -----------------------------------------------------------------------------

    def _is_current(self) -> bool:
        """Say whether the members have confirmed that this log is the longest they know."""
        if self._outdated:
            return False
        if self._asked_sizes and set(self._active()) <= set(self._sizes):
            self._confirmed = True
        return self._confirmed or not self._recovered_size

    def _recover(self) -> None:
        self._note = (self._store.get(CHECKPOINT_KEY) or b"").decode()
        tray = Tray(self._state)
        for entry in self._store.read(LOG_STREAM):
            state, verified = tray.state.apply(entry, tray.finder({}, self._blobs.get))
            tray.add(state, entry, verified, {})
            self._driver.replayed(state, verified)
        self._state, self._entries = tray.state, tray.entries
        self._known.update(tray.digests)
        self._log = self._log.extended(tray.entries)
        self._recovered_size = self._log.size
        if self._note:
            self._log.check_note(self._note, self._state.members)
