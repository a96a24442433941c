"""Small worlds for tests: a consortium with keys, its folded log, and a study that can be driven.

A `World` holds every key of a founding charter and says things in the parties' names; what it
says goes through `Consortium.apply`, so a world is always a log that the fold accepts. The
statements of secure aggregation are stubs: they satisfy the public rules, and the sums are
computed in the clear. Nothing here draws entropy or reads a clock.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from treaty.aggregation.quantization import RING_TYPES, Layout, RingVector, encode
from treaty.contracts.design import design_columns
from treaty.contracts.schema import Contract, contract_bytes, contract_digest, parse_contract
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import PolicyError, ResourceError, VerificationError
from treaty.governance.charter import Charter, charter_bytes, charter_digest
from treaty.governance.roles import Action
from treaty.governance.template import CharterOptions, build_charter
from treaty.governance.terms import Coordinator, MemberKeys
from treaty.ids import Digest, MemberId, Timestamp
from treaty.models.specification import LogisticRegression
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import (
    BallotCast,
    CharterPublished,
    MemberSuspended,
    ProposalOpened,
    StudyCompleted,
    StudyOpened,
    TimeStated,
)
from treaty.protocol.secagg_keys import epoch_hash_of
from treaty.protocol.secagg_messages import (
    EpochKeys,
    EpochOpened,
    EpochReady,
    EpochRoster,
    EpochSealed,
    EpochShares,
    MaskedInput,
    Reveal,
    RoundOpened,
    RoundResult,
    Survivor,
    SurvivorsConfirmed,
    SurvivorsSealed,
)
from treaty.protocol.statements import Body, Predicate, Verified, seal_statement
from treaty.protocol.study import Study
from treaty.studies.plan import AggregationSettings, Plan, plan_bytes, plan_digest
from treaty.studies.queries import Query, QueryKind

NAMES = tuple(f"{river}.example" for river in ("aare", "birs", "emme", "reuss", "thur", "wigger"))
HUB = "hub.example"
NOW = Timestamp(1_800_000_000_000)

CONTRACT = """
format = "treaty.contract/v1"
name = "small"
version = "1.0.0"

[label]
name = "outcome"
positive = [1]
negative = [0]
meaning = "died"

[[features]]
kind = "number"
name = "age"
unit = "a"
range = [0, 100]
centre = 50
spread = 25
meaning = "age"

[[features]]
kind = "category"
name = "sex"
levels = [{ code = "m", meaning = "male" }, { code = "f", meaning = "female" }]
meaning = "sex"
"""

P = TypeVar("P", bound=Predicate)


def digest(label: str) -> Digest:
    """Return the digest of a label: a stand-in for any 32 bytes."""
    return sha256(label.encode())


def key(label: str) -> SigningKey:
    """Return the signing key of a label."""
    return SigningKey.generate(hashlib.sha256(label.encode()).digest())


def approval(name: str) -> SigningKey:
    """Return the approval key of a member."""
    return key(f"{name} approval")


def runner(name: str) -> SigningKey:
    """Return the runner key of a member."""
    return key(f"{name} runner")


def witness(name: str) -> SigningKey:
    """Return the witness key of a member."""
    return key(f"{name} witness")


COORDINATOR = key("hub runner")
LOG_KEY = key("hub log")


def member_keys(name: str) -> MemberKeys:
    """Return the public keys of a member."""
    return MemberKeys(
        approval=(approval(name).public.hex,),
        runner=(runner(name).public.hex,),
        witness=(witness(name).public.hex,),
    )


def small_charter(
    members: int = 4,
    options: CharterOptions | None = None,
    edit: Callable[[Charter], Charter] | None = None,
) -> Charter:
    """Return a founding charter of the classical suite, changed by `edit`."""
    charter = build_charter(
        "rivers.example",
        {name: member_keys(name) for name in NAMES[:members]},
        Coordinator(name=HUB, title="Hub", runner=COORDINATOR.public.hex, log=LOG_KEY.public.hex),
        options or CharterOptions(post_quantum=False),
    )
    return charter if edit is None else edit(charter)


def founders(names: Iterable[str]) -> tuple[SigningKey, ...]:
    """Return every key that a founding charter of `names` lists."""
    each = [make(name) for name in names for make in (approval, runner, witness)]
    return (*each, COORDINATOR, LOG_KEY)


def small_contract(text: str = CONTRACT) -> Contract:
    """Return the contract of the small worlds: columns ``age`` and ``sex=f``."""
    return parse_contract(text)


def small_plan(charter: Charter, contract: Contract, **changes: object) -> Plan:
    """Return a plan that lint has nothing against, with `changes`."""
    plan = Plan(
        study="small",
        title="A small study",
        purpose="to see the machines move",
        charter=charter_digest(charter),
        contract=contract_digest(contract),
        code=digest("code"),
        model=LogisticRegression(site_intercepts=False, max_rounds=8),
        aggregation=AggregationSettings(max_persons_per_site=256, slots_per_epoch=16),
        data_use=tuple(term.code for term in charter.data_use.terms),
    )
    return msgspec.structs.replace(plan, **changes)


@contextmanager
def refused(code: str) -> Iterator[None]:
    """Expect a `VerificationError` or `PolicyError` with exactly `code`."""
    with pytest.raises((VerificationError, PolicyError)) as caught:
        yield
    assert getattr(caught.value, "code", None) == code, caught.value


class Site:
    """A site's rows: `features` (n, 2) in the units of the design, `labels` (n,) of 0 and 1."""

    def __init__(self, name: str, rows: int = 40) -> None:
        stream = hashlib.shake_256(name.encode()).digest(rows * 3)
        raw = np.frombuffer(stream, np.uint8).reshape(rows, 3).astype(np.float64)
        age = 20.0 + raw[:, 0] * 60 / 255
        sex = (raw[:, 1] > 127).astype(np.float64)
        chance = 1 / (1 + np.exp(-((age - 50) / 15 + 0.7 * sex - 0.3)))
        self.features = np.column_stack([age, sex])
        self.labels = (raw[:, 2] / 255 < chance).astype(np.float64)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.labels)


Vector = NDArray[np.float64]


def newton_terms(features: Vector, labels: Vector, model: Vector) -> tuple[Vector, Vector, Vector]:
    """Return gradient, upper triangle of the Hessian and loss with a common intercept last."""
    design = np.column_stack([features, np.ones(len(labels))])
    score = design @ model
    chance = 1 / (1 + np.exp(-score))
    hessian = (design * (chance * (1 - chance))[:, None]).T @ design
    loss = np.sum(np.logaddexp(0, score) - labels * score)
    return design.T @ (labels - chance), hessian[np.triu_indices(len(model))], np.array([loss])


def answer(query: Query, study: Study, site: Site) -> RingVector:
    """Return what an honest site contributes to `query`, unmasked."""
    columns = len(design_columns(study.contract))
    if query.kind is QueryKind.SUPPORT:
        words = [1.0] * columns + [0.0, 1.0]
        return encode(np.array(words), query.layout)
    count = [float(site.rows), 1.0]
    if query.kind is QueryKind.STATISTICS:
        units = (site.features - [50.0, 0.0]) / [25.0, 1.0]
        parts = [units.sum(axis=0), (units**2).sum(axis=0), count]
        return encode(np.concatenate(parts), query.layout)
    if study.progress.normaliser is None:
        raise AssertionError("a study has a normaliser before it trains")
    scaled = study.progress.normaliser.apply(site.features)
    model = study.progress.model.flat()
    if query.kind is QueryKind.NEWTON:
        return encode(
            np.concatenate([*newton_terms(scaled, site.labels, model), [0.0, 1.0]]), query.layout
        )
    return evaluation_words(scaled @ model[:2] + model[2], site.labels, query.layout)


def evaluation_words(score: Vector, labels: Vector, layout: Layout) -> RingVector:
    """Return the evaluation of one model, written twice: as federated and as alone."""
    bins = layout.segments[0].length
    chance = 1 / (1 + np.exp(-score))
    place = np.minimum((chance * bins).astype(int), bins - 1)
    positive = labels == 1
    decided = place >= bins // 2
    part = np.concatenate(
        [
            np.bincount(place[~positive], minlength=bins),
            np.bincount(place[positive], minlength=bins),
            [np.count_nonzero(decided == positive), np.sum((chance - labels) ** 2)],
        ]
    )
    return encode(np.concatenate([part, part, [float(len(labels)), 1.0]]), layout)


class World:
    """A consortium and everybody's keys; `say` signs, folds and keeps an entry."""

    def __init__(
        self,
        members: int = 4,
        options: CharterOptions | None = None,
        edit: Callable[[Charter], Charter] | None = None,
    ) -> None:
        self.names = tuple(MemberId(name) for name in NAMES[:members])
        self.first = small_charter(members, options, edit)
        self.entries: list[bytes] = []
        self.documents: dict[Digest, bytes] = {}
        self.state = Consortium(charter_digest(self.first))
        self.contract = small_contract()
        self.keep(contract_bytes(self.contract))
        self.publish(self.first, founders(self.names))
        self.say(TimeStated, at=NOW)

    # --- saying -------------------------------------------------------------------------------

    @property
    def under(self) -> Digest:
        """The digest of the charter in force."""
        return self.state.members.directory.charter

    def keep(self, data: bytes) -> Digest:
        """Store a document and return its digest."""
        name = sha256(data)
        self.documents[name] = data
        return name

    def find(self, name: Digest) -> bytes:
        """Return a stored document, as a party's blob store would."""
        if name not in self.documents:
            raise ResourceError(f"no document {name[:16]}")
        return self.documents[name]

    def write(self, kind: type[P], author: str = HUB, /, **fields: object) -> P:
        """Return a predicate under the charter in force."""
        return msgspec.convert(
            {"charter": self.under, "author": author}
            | {name: msgspec.to_builtins(value) for name, value in fields.items()},
            kind,
        )

    def offer(self, entry: bytes) -> Verified[Body]:
        """Fold an entry and keep it; a refusal leaves the world as it was."""
        self.state, verified = self.state.apply(entry, self.find)
        self.entries.append(entry)
        return verified

    def say(self, kind: type[P], author: str = HUB, /, **fields: object) -> Verified[Body]:
        """Sign with the key that the author uses for this, fold and keep."""
        body = self.write(kind, author, **fields)
        usual = approval if issubclass(kind, ProposalOpened | BallotCast) else runner
        signer = COORDINATOR if author == HUB else usual(author)
        return self.offer(seal_statement(body, signer))

    def publish(self, charter: Charter, signers: Sequence[SigningKey]) -> Verified[Body]:
        """Publish a charter version, signed by `signers`."""
        name = self.keep(charter_bytes(charter))
        body = CharterPublished(
            charter=name, author=HUB, version=charter.version, previous=charter.previous
        )
        return self.offer(seal_statement(body, *signers))

    @contextmanager
    def refuses(self, code: str) -> Iterator[None]:
        """Expect a refusal with `code` that leaves the state as it was."""
        before = self.state
        with refused(code):
            yield
        assert self.state is before

    def replayed(self) -> Consortium:
        """Return the state that the entries alone give."""
        state = Consortium(self.state.anchor)
        for entry in self.entries:
            state, _ = state.apply(entry, self.find)
        return state

    # --- deciding -----------------------------------------------------------------------------

    def propose(self, action: Action, subject: Digest, *, target: str | None = None) -> Digest:
        """Open a proposal of the first member that is neither its target nor suspended."""
        out = {*self.state.members.directory.suspended, target}
        author = next(name for name in self.names if name not in out)
        said = self.say(
            ProposalOpened,
            author,
            action=action.value,
            subject=subject,
            target=target,
            nonce=len(self.entries),
        )
        return said.digest

    def vote(self, proposal: Digest, voters: Iterable[str], choice: str = "approve") -> None:
        """Cast the same ballot for each of `voters`."""
        for name in voters:
            self.say(BallotCast, name, proposal=proposal, choice=choice)

    def decide(self, action: Action, subject: Digest, *, target: str | None = None) -> Digest:
        """Open a proposal and vote until it is ratified."""
        proposal = self.propose(action, subject, target=target)
        for name in self.names:
            record = self.state.proposals[proposal].proposal
            if name in record.electorate and not record.settled:
                self.vote(proposal, [name])
        return proposal

    def propose_and_suspend(self, name: str, voters: Sequence[str] | None = None) -> Digest:
        """Ask for the suspension of `name`, vote with `voters` (all that it takes), and act."""
        subject = digest(f"suspend {name}")
        if voters is None:
            proposal = self.decide(Action.MEMBER_SUSPEND, subject, target=name)
        else:
            proposal = self.propose(Action.MEMBER_SUSPEND, subject, target=name)
            self.vote(proposal, voters)
        self.say(MemberSuspended, proposal=proposal, target=name)
        return proposal

    # --- a study ------------------------------------------------------------------------------

    @property
    def study(self) -> Study:
        """The newest study."""
        return list(self.state.studies.values())[-1]

    def start(self, plan: Plan | None = None) -> Plan:
        """Adopt the contract, ratify `plan` and open its study."""
        made = small_plan(self.state.charter, self.contract) if plan is None else plan
        self.keep(plan_bytes(made))
        self.decide(Action.CONTRACT_ADOPT, Digest(made.contract))
        proposal = self.decide(Action.STUDY_APPROVE, plan_digest(made))
        self.say(StudyOpened, plan=plan_digest(made), proposal=proposal)
        return made

    def begin_epoch(self, **changes: object) -> Verified[Body]:
        """Open an epoch; nothing else of it happens yet."""
        group = self.study.group
        fields: dict[str, object] = {
            "epoch": self.study.epochs + 1,
            "plan": self.study.identity,
            "slots": 16,
            "suite": group.suite,
            "max_colluders": group.max_colluders,
            "min_survivors": group.min_survivors,
        }
        return self.say(EpochOpened, **(fields | changes))

    def send_keys(self, name: str, **changes: object) -> Verified[Body]:
        """Send a member's stub keys of the open epoch."""
        epoch = self.study.epoch
        if epoch is None:
            raise AssertionError("no epoch is open")
        label = f"{name} {epoch.number}"
        fields: dict[str, object] = {
            "epoch": epoch.number,
            "opened": epoch.opened.digest,
            "transport": digest(label),
            "kem": None,
            "round_keys": [digest(f"{label} {slot}") for slot in range(16)],
            "commitments": [digest(f"{label} com {slot}") for slot in range(16)],
        }
        return self.say(EpochKeys, name, **(fields | changes))

    def fix_roster(self, keys: Sequence[str] | None = None) -> Verified[Body]:
        """Fix the roster to all logged keys in the charter's order, or to `keys`."""
        epoch = self.study.epoch
        if epoch is None:
            raise AssertionError("no epoch is open")
        if keys is None:
            keys = [epoch.keys[name].digest for name in self.study.group.members]
        return self.say(EpochRoster, epoch=epoch.number, opened=epoch.opened.digest, keys=keys)

    @property
    def epoch_hash(self) -> Digest:
        """The hash of the present roster."""
        epoch = self.study.epoch
        if epoch is None or epoch.roster is None:
            raise AssertionError("no roster is fixed")
        return epoch_hash_of(self.under, epoch.number, epoch.roster.predicate.keys)

    def deal(self, name: str) -> Verified[Body]:
        """Send a member's stub shares."""
        columns = {peer: digest(f"{name} {peer}") for peer in self.study.group.members}
        del columns[MemberId(name)]
        return self.say(EpochShares, name, epoch_hash=self.epoch_hash, columns=columns)

    def ready(self, name: str) -> Verified[Body]:
        """Say that a member is ready."""
        return self.say(
            EpochReady, name, epoch_hash=self.epoch_hash, pair_commitments=(), wraps=None
        )

    def open_epoch(self) -> None:
        """Open an epoch with all members of the group, ready for rounds."""
        self.begin_epoch()
        members = self.study.group.members
        for name in members:
            self.send_keys(name)
        self.fix_roster()
        for name in members:
            self.deal(name)
        self.say(EpochSealed, epoch_hash=self.epoch_hash, dealers=members)
        for name in members:
            self.ready(name)

    def open_round(self, **changes: object) -> Verified[Body]:
        """Open the round that the study expects, with `changes`."""
        study = self.study
        query = study.progress.expected_query()
        fields: dict[str, object] = {
            "epoch_hash": changes.get("epoch_hash") or self.epoch_hash,
            "slot": (study.epoch.last_slot if study.epoch else -1) + 1,
            "round": study.progress.index,
            "attempt": study.attempts,
            "participants": study.group.members,
            "plan": study.identity,
            "query": query.digest,
            "code": study.plan.code,
            "model": query.model,
            "length": query.layout.length,
            "ring_bits": query.layout.ring_bits,
            "previous": study.last_result,
        }
        return self.say(RoundOpened, **(fields | changes))

    @property
    def context(self) -> Digest:
        """The context of the open round."""
        if self.study.round is None:
            raise AssertionError("no round is open")
        return self.study.round.context

    def send_input(self, name: str, **changes: object) -> Verified[Body]:
        """Send a member's masked input (a stub)."""
        label = f"{name} {self.context}"
        fields: dict[str, object] = {
            "context": self.context,
            "length": self.study.progress.expected_query().layout.length,
            "root": digest(f"{label} root"),
            "blob": digest(f"{label} blob"),
        }
        return self.say(MaskedInput, name, **(fields | changes))

    def survivors(self) -> list[Survivor]:
        """Return the survivors that the logged inputs make, in the charter's order."""
        record = self.study.round
        if record is None:
            raise AssertionError("no round is open")
        return [
            Survivor(
                member=name,
                header=record.inputs[name].digest,
                root=record.inputs[name].predicate.root,
            )
            for name in sorted(record.inputs)
        ]

    def seal(self, survivors: Sequence[Survivor] | None = None) -> Verified[Body]:
        """Seal the survivors."""
        chosen = self.survivors() if survivors is None else survivors
        return self.say(SurvivorsSealed, context=self.context, survivors=chosen)

    def confirm(self, name: str) -> Verified[Body]:
        """Confirm the sealed survivors."""
        record = self.study.round
        return self.say(
            SurvivorsConfirmed,
            name,
            context=self.context,
            survivors=record.survivors if record else None,
        )

    def reveal(self, name: str, **changes: object) -> Verified[Body]:
        """Answer for the sealed survivors."""
        record = self.study.round
        if record is None:
            raise AssertionError("no round is open")
        inside = record.members_in
        fields: dict[str, object] = {
            "context": record.context,
            "survivors": record.survivors,
            "self_shares": {peer: digest(f"{name} z {peer}") for peer in inside},
            "round_shares": {
                peer: digest(f"{name} u {peer}")
                for peer in record.participants
                if peer not in inside
            },
        }
        return self.say(Reveal, name, **(fields | changes))

    def result(self, total: RingVector, **changes: object) -> Verified[Body]:
        """Publish a sum."""
        record = self.study.round
        if record is None:
            raise AssertionError("no round is open")
        inside = record.members_in
        fields: dict[str, object] = {
            "context": record.context,
            "survivors": record.survivors,
            "sum": self.keep(total.tobytes()),
            "self_seeds": {peer: digest(f"z {peer}") for peer in inside},
            "round_seeds": {
                peer: digest(f"u {peer}") for peer in record.participants if peer not in inside
            },
            "pair_seeds": {},
        }
        return self.say(RoundResult, **(fields | changes))

    def state_digest(self) -> Digest:
        """Return the digest of the newest entry."""
        return sha256(self.entries[-1])

    def total(self, sites: Mapping[str, Site] | None = None) -> RingVector:
        """Return the honest sum of the open round's survivors."""
        query = self.study.progress.expected_query()
        record = self.study.round
        inside = self.names if record is None else record.members_in
        total = np.zeros(query.layout.length, RING_TYPES[query.layout.ring_bits])
        for name in inside:
            site = Site(name) if sites is None else sites[name]
            total += answer(query, self.study, site)
        return total

    def collect(self, names: Iterable[str] | None = None) -> None:
        """Send the inputs of `names` (all participants) and seal them, confirmed if need be."""
        record = self.study.round
        if record is None:
            raise AssertionError("no round is open")
        chosen = tuple(record.participants if names is None else names)
        for name in chosen:
            self.send_input(name)
        self.seal()
        if len(chosen) < self.study.group.fast_survivors(len(record.participants)):
            for name in chosen:
                self.confirm(name)

    def run_round(self, names: Iterable[str] | None = None, **changes: object) -> None:
        """Run one round honestly from opening to result."""
        self.open_round()
        self.collect(names)
        record = self.study.round
        for name in record.members_in if record else ():
            self.reveal(name)
        self.result(self.total(), **changes)

    def run_study(self) -> None:
        """Run every round that the study asks, but do not complete it."""
        if self.study.epoch is None:
            self.open_epoch()
        while not self.study.progress.finished:
            self.run_round()

    def completion(self) -> dict[str, object]:
        """Return the fields of the statement that completes the study."""
        progress = self.study.progress
        if progress.evaluation is None:
            raise AssertionError("the study has no evaluation")
        return {
            "plan": self.study.identity,
            "model": progress.model_digest,
            "normaliser": progress.normaliser_digest,
            "evaluation": progress.evaluation.digest(),
            "rounds": len(progress.trace),
        }

    def complete(self) -> Verified[Body]:
        """Complete the study."""
        return self.say(StudyCompleted, **self.completion())

    def say_completed(self, **changes: object) -> Verified[Body]:
        """Say that the study is complete, with `changes` or with nothing but them."""
        known = {} if self.study.progress.evaluation is None else self.completion()
        return self.say(StudyCompleted, **(known | changes))

    def open_round_anyway(self) -> Verified[Body]:
        """Open a round although the study asks nothing."""
        return self.say(
            RoundOpened,
            epoch_hash=self.epoch_hash,
            slot=15,
            round=self.study.progress.index,
            attempt=0,
            participants=self.names,
            plan=self.study.identity,
            query=digest("query"),
            code=self.study.plan.code,
            model=self.study.progress.model_digest,
            length=1,
            ring_bits=64,
            previous=self.study.last_result,
        )
