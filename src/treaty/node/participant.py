"""Participant: one member's own software. It mirrors the log, enforces the charter, contributes.

Everything a member does follows from the folded log and its own durable state: after every feed
the duties are derived anew (`_duties`), so a restart, a repeated feed or a lost answer all end in
the same place. The order is the law: check, fold, persist, send.

`Mirror` holds the verified log, `Admission` the site's policy and rows, `Spending` its privacy
ledger, `Performer` its part in epochs and rounds; this module takes feeds and sends posts.

Invariants (docs/spec/protocol.md, section 3):
  * A feed counts only from the coordinator, and changes nothing before all of it is verified.
  * Nothing leaves without the gate's consent: every field of every statement, and the class of the
    sum that a masked input will be part of.
  * Causes of a refusal stay in the journal; the log sees a code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from treaty.aggregation.masking import Spread
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import PeerError, PolicyError, ResourceError, VerificationError, code_of
from treaty.governance.site_policy import SitePolicy
from treaty.ids import Digest, MemberId
from treaty.node.admission import Admission
from treaty.node.auditing import Auditor
from treaty.node.budget import BudgetKeeper
from treaty.node.contribution import LocalStudy
from treaty.node.joint_statements import is_settled
from treaty.node.mirror import LOG_STREAM, Mirror
from treaty.node.performing import Performer
from treaty.node.spending import Spending
from treaty.ports import (
    BlobStore,
    Clock,
    DataSource,
    Engine,
    Entropy,
    EventStore,
    Journal,
    SecretFile,
    Trainer,
)
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Feed, Post, decode_feed, encode_frame
from treaty.protocol.gate import check_statement
from treaty.protocol.messages import Figures, SiteReported
from treaty.protocol.statements import Parsed, Predicate, sealed_and_parsed
from treaty.protocol.study import Study
from treaty.studies.progress import Stage

__all__ = ["Participant", "ParticipantKeys"]

ATTACH_LIMIT_BYTES = 4 << 20
REPORT_KEY = "report/"

MADE_KEPT = 16
"""Own statements remembered until they stand in the log; an older one is read like any other."""

MAX_RETRIES = 5
"""How often a statement that the log does not show is sent again while the log stands still."""

_Outgoing = tuple[bytes, Parsed | None, dict[Digest, bytes]]
"""A statement for the next post, what `peek` gives for it where that is known, and its blobs."""


@dataclass(frozen=True, slots=True)
class ParticipantKeys:
    """The member's unattended keys: one signs its statements in rounds, one cosigns checkpoints."""

    runner: SigningKey = field(repr=False)
    witness: SigningKey = field(repr=False)


class Participant:
    """A member's node over its ports.

    `code` is the digest of the training code that is installed here: a plan that names another is
    refused. Without it the site trusts whoever runs it to have compared. `assessments` are the
    signed records that count where the policy asks for one. `consents` returns the officer's signed
    decisions on plans as they are now. `budget` keeps the ledger of the registered data set, where
    the site has one; `rebase` is the officer's statement on its loss, which is sent until it stands
    in the log. `spread` shares the bulk work of masking out to threads
    (`treaty.aggregation.masking`).
    """

    def __init__(
        self,
        *,
        name: MemberId,
        coordinator: MemberId,
        keys: ParticipantKeys,
        anchor: Digest,
        store: EventStore,
        blobs: BlobStore,
        secrets: SecretFile,
        engine: Engine,
        journal: Journal,
        clock: Clock,
        entropy: Entropy,
        source: DataSource,
        trainer: Trainer,
        policy: SitePolicy | None,
        code: Digest | None = None,
        assessments: Sequence[bytes] = (),
        consents: Callable[[], Sequence[bytes]] = tuple,
        budget: BudgetKeeper | None = None,
        rebase: bytes | None = None,
        on_change: Callable[[Consortium], None] | None = None,
        spread: Spread = map,
    ) -> None:
        self.name = name
        self.engine = engine
        self.journal = journal
        self._coordinator = coordinator
        self._keys = keys
        self._clock = clock
        self._entropy = entropy
        self._on_change = on_change
        self._store = store
        self._reported: set[Digest] = set()
        self._outgoing: list[_Outgoing] = []
        self._submitted: dict[Digest, _Outgoing] = {}
        self._made: dict[Digest, Parsed] = {}
        self._retries = 0
        self._unsent = False
        self._mirror = Mirror(anchor=anchor, store=store, blobs=blobs, engine=engine, clock=clock)
        self._admission = Admission(
            store=store,
            journal=journal,
            source=source,
            trainer=trainer,
            policy=policy,
            code=code,
            assessments=assessments,
            assessor=keys.runner.public,
            consents=consents,
            budget=budget,
        )
        self._spending = Spending(name, budget, store)
        self._rebase = rebase
        self._closed: set[Digest] = set()
        self._locked = ""
        self._performer = Performer(
            name=name,
            mirror=self._mirror,
            admission=self._admission,
            spending=self._spending,
            store=store,
            secrets=secrets,
            entropy=entropy,
            journal=journal,
            send=self._send,
            spread=spread,
        )
        self._auditor = Auditor(name, self._mirror, store, journal, self._send)
        # Engines forget keys in time; a new life of this process must not repeat old ones.
        self._sent = clock.now() * 1000

    @property
    def state(self) -> Consortium:
        """Return the folded log as this member has verified it."""
        return self._mirror.state

    @property
    def size(self) -> int:
        """Return how many entries of the log this member holds."""
        return self._mirror.size

    @property
    def budget(self) -> BudgetKeeper | None:
        """Return the keeper of this site's ledger, None where no data set is registered."""
        return self._spending.keeper

    def local_study(self, study: Study) -> LocalStudy:
        """Return this site's own side of `study`. For the site itself, never for peers."""
        return self._admission.prepared(study)

    # --- reacting -----------------------------------------------------------------------------

    def handle(self, sender: MemberId, frame: bytes) -> None:
        """Take one feed: verify, fold, do what follows, persist, answer."""
        if sender != self._coordinator:
            raise VerificationError(
                f"a feed came from {sender}, expected {self._coordinator}", code="wrong-author"
            )
        feed = decode_feed(frame)
        if feed.checkpoint and not feed.entries:
            if self.state.membership is not None:
                self._mirror.keep_cosigned(feed)
            return
        if feed.first > self._mirror.size or not feed.entries:
            # A gap, or a question for our size: say where we are.
            self._repeat(feed)
            return
        try:
            accepted = self._mirror.check(feed, self._made)
        except ResourceError as error:
            # A document did not arrive: nothing has changed, and the coordinator sends it again.
            self.journal.note("document-missing", str(error))
            self._post()
            return
        if accepted is None:
            self._repeat(feed)
            return
        self._mirror.take(accepted)
        self._retries = 0
        for digest in accepted.digests:
            self._made.pop(digest, None)
            self._submitted.pop(digest, None)
        for digest in [d for d, one in self._submitted.items() if is_settled(one[0], self.state)]:
            del self._submitted[digest]
            said = "in effect, or made under a charter that is over: not sent again"
            self.journal.note("officer-settled", f"statement {digest[:16]} is {said}")
        self._duties()
        self._mirror.write((), (), "participant-mirror", besides=self._performer.masked)
        self._post()
        if self._on_change is not None:
            self._on_change(self.state)

    def flush(self) -> bool:
        """Nothing waits here."""
        return False

    def on_quiet(self) -> bool:
        """A member waits for the coordinator; only what its officer signed is sent again."""
        if not self._submitted or self._retries >= MAX_RETRIES:
            return False
        self._retries += 1
        self._outgoing.extend(self._submitted.values())
        self._post()
        return True

    def remind(self) -> bool:
        """Send again what did not leave, and what its officer signed; see `on_quiet`."""
        if self._unsent:
            self.start()
            return True
        return self.on_quiet()

    def expire(self) -> bool:
        """A member has no deadlines of its own."""
        return False

    def expects_more(self) -> bool:
        """A member answers each feed by itself."""
        return False

    def unlogged(self) -> frozenset[Digest]:
        """Return the officer's statements that were submitted and do not stand in the log."""
        return frozenset(self._submitted)

    def holds(self, statement: bytes) -> bool:
        """Say whether `statement` stands in the log that this member holds."""
        return statement in self._store.read(LOG_STREAM)

    def is_over(self, statement: bytes) -> bool:
        """Say whether what `statement` signs took effect or never can; then it is not sent."""
        return is_settled(statement, self.state)

    def start(self) -> None:
        """Say where this member's log ends, and do again what may have been lost."""
        self._performer.repeat()
        if self.state.membership is not None:
            self._duties()
        if self._rebase is not None and self._spending.awaits(self.state, sha256(self._rebase)):
            self.submit(self._rebase)
        self._post()

    def submit(self, statement: bytes, blobs: Mapping[Digest, bytes] | None = None) -> None:
        """Send a statement that an officer of this member signed, with its documents.

        It is sent again until it stands in the log, a few times while the log does not move, as
        long as this process lives.
        """
        self._retries = 0
        outgoing = (statement, None, dict(blobs or {}))
        self._submitted[sha256(statement)] = outgoing
        self._outgoing.append(outgoing)
        self._post()

    def approve_plan(self, plan: Digest) -> None:
        """Record the officer's approval of a plan that the policy does not approve by itself."""
        self._admission.approve(plan)
        self._duties()
        self._post()

    # --- duties -------------------------------------------------------------------------------

    def _duties(self) -> None:
        """Do everything that the folded log asks of this member and that it may do."""
        study = self.state.running
        self._follow_ledger()
        try:
            if study is not None and self._auditor.disputes(study):
                # It proved a sum of this study false: what follows from that sum is not its own.
                study = None
            elif study is not None and study.audit is not None:
                self._auditor.follow(study, self._performer.masked)
            self._performer.follow_epoch(study)
            if study is not None:
                self._performer.follow_round(study)
            self._report_duty()
        except (PeerError, PolicyError) as refusal:
            self.journal.note(f"refused.{code_of(refusal)}", str(refusal))

    def _follow_ledger(self) -> None:
        """Compare the site's ledger with the log; a lock is noted once and stands in the way."""
        code, text = "", ""
        try:
            self._spending.follow(self.state)
            for past in self.state.studies.values():
                if past.finished and past.identity not in self._closed:
                    self._spending.finish(past)
                    self._closed.add(past.identity)
        except PolicyError as refusal:
            code, text = refusal.code, str(refusal)
        if code and code != self._locked:
            self.journal.note(f"ledger.{code}", text)
        self._locked = code

    def _report_duty(self) -> None:
        """Send this site's own figures where plan, charter and site policy all say so."""
        for study in self.state.studies.values():
            if (
                not study.plan.evaluation.site_figures
                or study.progress.stage is not Stage.COMPLETED
                or self.name in study.reports
                or study.identity in self._reported
                # A site that sent no histogram takes no part: its policy may have said so.
                or self.name not in study.rounds[-1].members_in
            ):
                continue
            self._reported.add(study.identity)
            report = self._report(study)
            if report is not None:
                self._send(report, ())

    def _report(self, study: Study) -> SiteReported | None:
        """Return this site's one report on `study`: computed once, then kept."""
        key = REPORT_KEY + study.identity
        kept = self._store.get(key)
        if kept is not None:
            return canonical.decode(kept, SiteReported)
        figures = self.local_study(study).figures(study.progress, self._entropy.bytes(32))
        if figures is None:
            return None
        federated, alone = (
            Figures(accuracy=one.accuracy, auc=one.auc, brier=one.brier) for one in figures
        )
        report = SiteReported(
            charter=study.group.charter,
            author=self.name,
            plan=study.identity,
            model=study.progress.model_digest,
            federated=federated,
            alone=alone,
        )
        self._check_exposure(report)
        self._spending.report(study)
        # Training alone may draw entropy: another report would be a second look at the holdout.
        self._mirror.write(
            ((key, canonical.encode(report)),),
            (),
            "participant-report",
            besides=self._performer.masked,
        )
        return report

    # --- sending ------------------------------------------------------------------------------

    def _send(self, predicate: Predicate, blobs: tuple[tuple[Digest, bytes], ...]) -> None:
        """Put a statement into the next post, if the gate lets every field of it leave."""
        self._check_exposure(predicate)
        statement, parsed = sealed_and_parsed(predicate, self._keys.runner)
        self._made[sha256(statement)] = parsed
        if len(self._made) > MADE_KEPT:
            # Oldest first: an answer that came late is never logged, and would stay for ever.
            del self._made[next(iter(self._made))]
        self._outgoing.append((statement, parsed, dict(blobs)))

    def _check_exposure(self, predicate: Predicate) -> None:
        members = len(self.state.members.active)
        check_statement(self._admission.matrix(self.state), predicate, members=members)

    def _repeat(self, feed: Feed) -> None:
        """Answer a feed that brought nothing: what was sent before may be lost."""
        self._performer.repeat()
        self._auditor.forget()
        self._reported.clear()
        if self.state.membership is not None:
            self._duties()
        self._outgoing.extend(self._submitted.values())
        self._post(self._mirror.evidence(feed))

    def _post(self, evidence: bytes = b"") -> None:
        """Send what is due, with this member's size and cosignature of the newest checkpoint."""
        outgoing, self._outgoing = self._outgoing, []
        attached: dict[Digest, bytes] = {sha256(evidence): evidence} if evidence else {}
        large: dict[Digest, bytes] = {}
        for _, _, blobs in outgoing:
            for digest, data in blobs.items():
                (large if len(data) > ATTACH_LIMIT_BYTES else attached)[digest] = data
        frame = encode_frame(
            Post(
                self.name,
                self._mirror.size,
                self._mirror.cosignature(self._keys.witness, self.name),
                tuple(statement for statement, _, _ in outgoing),
                attached,
                tuple(parsed for _, parsed, _ in outgoing),
            )
        )
        self._sent += 1
        self._unsent = False
        try:
            for digest, data in large.items():
                self.engine.offer(digest, data)
            self.engine.send(self._coordinator, frame, f"{self._sent}")
        except ResourceError as error:
            # What it held is derived again from durable state, by `remind` or the next start.
            self._unsent = True
            self.journal.note("unreachable", str(error))
