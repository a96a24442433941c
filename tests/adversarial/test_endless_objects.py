"""T-50: a coordinator serves endless bytes; a member reads no more than what the log implies.

One member's engine takes every blob out of the feeds that it hands on and serves it on request, as
an engine does with large ones, and notes how many bytes the node was ready to read. In a whole
audited study every bound is held against the size of what is honestly there and against what plan,
charter and statement imply. Then the same objects are endless: the feed is refused or put off,
nothing is read, and the member goes on when the coordinator is honest again.

Planted faults, each seen to fail here: a fixed bound for documents, sums, lists, columns or chunks
of 2 GiB each; a bound of a sum that is too small by one byte; one of a list for the longest of its
sums alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.passing_engine import PassingEngine
from tests.small_federation import SITES, contract, site_files, small_plan
from treaty.contracts.schema import contract_bytes, contract_digest
from treaty.engines.object_checks import check_size
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId
from treaty.node.bounds import COLUMN_BYTES, DOCUMENT_BYTES
from treaty.ports import Delivery, Engine
from treaty.protocol.frames import Feed, decode_feed, encode_frame
from treaty.protocol.messages import CharterPublished, ProposalOpened, StudyOpened
from treaty.protocol.secagg_messages import (
    AuditCalled,
    EpochShares,
    RoundOpened,
    RoundResult,
)
from treaty.protocol.statements import peek
from treaty.simulation.federation import Federation
from treaty.studies.plan import (
    AggregationSettings,
    EvaluationSettings,
    Plan,
    plan_bytes,
    plan_digest,
)

READER = SITES[0]
ENDLESS = 1 << 60


class Stripped(PassingEngine):
    """An engine whose feeds bring no blobs: they are served by digest, or are endless."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.served: dict[Digest, bytes] = {}
        self.asked: dict[Digest, int] = {}
        self.endless: Callable[[], frozenset[Digest]] = frozenset
        self.refused = 0

    def receive(self) -> Delivery | None:
        """Return the next frame, its blobs kept back."""
        found = super().receive()
        if found is None:
            return None
        feed = decode_feed(found.frame)
        self.served |= feed.blobs
        bare = encode_frame(Feed(feed.first, feed.entries, feed.checkpoint, {}))
        return Delivery(found.sender, bare, found.ack)

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """Serve what was kept back, or what others offer, or bytes without end."""
        self.asked[digest] = max(most_bytes, self.asked.get(digest, 0))
        if digest in self.endless():
            self.refused += 1
            check_size(digest, ENDLESS, most_bytes)
            raise AssertionError("an endless object was read")
        if digest in self.served:
            data = self.served[digest]
            check_size(digest, len(data), most_bytes)
            return data
        return super().fetch(digest, most_bytes)


class Strict(Federation):
    """A federation of which one member's engine is stripped."""

    engine: Stripped

    def _endpoint(self, name: MemberId) -> Engine:
        if name != READER:
            return super()._endpoint(name)
        self.engine = Stripped(super()._endpoint(name))
        return self.engine

    def journal(self) -> str:
        """Return what the reader noted."""
        path = self.directory / "parties" / READER / "journal.jsonl"
        return path.read_text() if path.exists() else ""


def founded(directory: Path, *, post_quantum: bool = True) -> Strict:
    Federation.found(
        directory,
        {name: site_files(name) for name in SITES},
        consortium="rivers.example",
        post_quantum=post_quantum,
    )
    federation = Strict(directory, in_memory=True)
    federation.establish()
    return federation


def audited(federation: Strict) -> Plan:
    settings = AggregationSettings(
        max_persons_per_site=256, slots_per_epoch=4, support_rows=1, audited=True
    )
    return small_plan(federation, aggregation=settings, evaluation=EvaluationSettings(bins=8))


def named(federation: Strict) -> Mapping[str, set[Digest]]:
    """Return by kind of object the digests that the log names."""
    bodies = [peek(entry)[1] for entry in federation.coordinator.entries]
    found: dict[str, set[Digest]] = {
        "document": set(),
        "sum": set(),
        "list": set(),
        "column": set(),
    }
    for body in bodies:
        match body:
            case CharterPublished():
                found["document"].add(Digest(body.charter))
            case ProposalOpened():
                found["document"].add(Digest(body.subject))
            case RoundResult():
                found["sum"].add(Digest(body.sum))
            case AuditCalled():
                found["list"].add(Digest(body.chunks))
            case EpochShares() if READER in body.columns:
                found["column"].add(Digest(body.columns[READER]))
            case _:
                pass
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Strict:
    federation = founded(tmp_path_factory.mktemp("whole"))
    done = federation.run_study(audited(federation), contract())
    assert done.final_model is not None and done.audited == len(done.rounds) > 4
    federation.settle()
    federation.close()
    return federation


def test_every_bound_follows_from_the_log(study: Strict) -> None:
    """And none is smaller than what is honestly there: the study went through."""
    asked, kinds = study.engine.asked, named(study)
    assert set().union(*kinds.values()) <= set(asked)
    bodies = [peek(entry)[1] for entry in study.coordinator.entries]
    rounds = [body for body in bodies if isinstance(body, RoundOpened)]
    results = [body for body in bodies if isinstance(body, RoundResult)]
    for opened, result in zip(rounds, results, strict=True):
        words = opened.length * opened.ring_bits // 8
        assert asked[Digest(result.sum)] == words == len(study.engine.served[Digest(result.sum)])
    for digest in kinds["document"]:
        assert asked[digest] == DOCUMENT_BYTES
    for digest in kinds["column"]:
        assert asked[digest] == COLUMN_BYTES
    for digest in kinds["list"]:
        assert (
            len(study.engine.served[digest])
            <= asked[digest]
            <= 8 * len(study.engine.served[digest])
        )
    chunks = set(asked) - set().union(*kinds.values())
    longest = max(opened.length * opened.ring_bits // 8 for opened in rounds)
    assert chunks and all(asked[digest] <= longest for digest in chunks)
    # What it made itself, its masked vectors among them, it asks of nobody.
    own = {body.blob for body in bodies if getattr(body, "blob", None) and body.author == READER}
    assert len(own) == len(rounds)


def test_an_endless_document_is_not_read(tmp_path: Path) -> None:
    """The feed that needs it is refused; an honest one is taken later."""
    federation = founded(tmp_path, post_quantum=False)
    reader = federation.participants[READER]
    before = reader.size
    federation.engine.endless = lambda: frozenset({contract_digest(contract())})
    federation.decide(
        Action.CONTRACT_ADOPT,
        contract_digest(contract()),
        contract_bytes(contract()),
        voters=SITES[1:],
    )
    plan = audited(federation)
    federation.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan), voters=SITES[1:])
    federation.run(lambda _: False)
    # The contract is folded where the study opens: no further than to that entry.
    opened = [type(peek(entry)[1]) for entry in federation.coordinator.entries].index(StudyOpened)
    assert before < reader.size <= opened < federation.coordinator.size
    assert "refused.blob-too-large" in federation.journal()
    federation.engine.endless = frozenset
    federation.settle()
    assert reader.size == federation.coordinator.size
    federation.close()


@pytest.mark.parametrize("kind", ["sum", "list", "column"])
def test_an_endless_object_is_not_read_and_an_honest_one_is(tmp_path: Path, kind: str) -> None:
    """The member is as good as lost meanwhile, and takes part again."""
    federation = founded(tmp_path, post_quantum=False)
    engine, plan = federation.engine, audited(federation)
    federation.adopt(contract())
    engine.endless = lambda: frozenset(named(federation)[kind])
    federation.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan))
    federation.run(lambda _: bool(engine.refused))
    assert engine.refused
    engine.endless = frozenset
    done = federation.run_study(plan, contract())
    assert done.final_model is not None and done.audited == len(done.rounds)
    federation.settle()
    assert federation.participants[READER].size == federation.coordinator.size
    federation.close()
