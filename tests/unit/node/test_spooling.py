"""Large inputs wait in the store, and the sum reads them a piece at a time.

The blob store of the coordinator is a fake that counts the pieces alive at once, and who asks for a
whole masked vector. One member more must not mean one vector more.

Planted faults that these tests caught: all inputs looked up before the first is added; pieces kept
in a list; an input spooled before it was compared with its header; a refused input left behind; a
refused input removed although an entry names it, or although it was there before; the same after a
commit that failed; a large input kept with its statement as well; an object of any size read
because a header claims it.
"""

import weakref
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.small_federation import SITES, SmallFederation, contract, found, small_plan
from treaty.contracts.schema import contract_bytes
from treaty.crypto.keys import SigningKey
from treaty.engines.embedded import Passage
from treaty.governance.roles import Action
from treaty.ids import Digest
from treaty.models.specification import MultilayerPerceptron
from treaty.node.intake import blobs_of
from treaty.node.spooling import SPOOL_BYTES, Spool
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Post, decode_post, encode_frame
from treaty.protocol.messages import BallotCast
from treaty.protocol.secagg_messages import MaskedInput, SumDisputed
from treaty.protocol.statements import peek, seal_statement
from treaty.simulation.federation import COORDINATOR
from treaty.stores.memory import MemoryBlobs, MemoryStore
from treaty.studies.plan import plan_bytes, plan_digest
from treaty.wiring import Storage, load_key

PIECE = 1 << 16
LARGE = bytes(SPOOL_BYTES + 1)
WIDE = MultilayerPerceptron(hidden=(4_096, 16), rounds=1)
"""Gives vectors of more than `SPOOL_BYTES`."""


class Piece(bytearray):
    """Bytes that can be watched."""


class CountingBlobs(MemoryBlobs):
    """Counts pieces alive, and remembers which objects were read whole."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.most = 0
        self.whole: list[Digest] = []
        self.streamed: list[Digest] = []

    def get(self, digest: Digest) -> bytes:
        """Remember that the object was read whole."""
        self.whole.append(digest)
        return super().get(digest)

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """Yield small pieces, each counted while somebody holds it."""
        data = super().get(digest)
        self.streamed.append(digest)
        for at in range(0, len(data), PIECE):
            piece = Piece(data[at : at + PIECE])
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(piece, self._gone)
            yield piece

    def _gone(self) -> None:
        self.alive -= 1


class Watched(SmallFederation):
    """A federation whose coordinator has the counting store."""

    def _storage(self, place: Path) -> Storage:
        storage = super()._storage(place)
        if place.name != COORDINATOR:
            return storage
        assert isinstance(storage.store, MemoryStore)
        storage.store.blobs = CountingBlobs()
        self._storages[-1] = Storage(storage.store, storage.store.blobs, storage.secrets)
        return self._storages[-1]

    @property
    def blobs(self) -> CountingBlobs:
        """Return the coordinator's blobs."""
        blobs = self._storages[0].blobs
        assert isinstance(blobs, CountingBlobs)
        return blobs


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found(tmp_path / "rivers", in_memory=True).close()
    federation = Watched(tmp_path / "rivers", in_memory=True)
    federation.establish()
    yield federation
    federation.close()


def test_a_sum_holds_one_piece_of_one_input_at_a_time(watched: Watched) -> None:
    plan = small_plan(watched, model=WIDE)
    study = watched.run_study(plan, contract())
    assert study.final_model is not None
    large = {
        Digest(body.blob)
        for entry in watched.coordinator.entries
        if isinstance(body := peek(entry)[1], MaskedInput) and 4 * body.length > SPOOL_BYTES
    }
    assert len(large) == len(SITES)
    assert large <= set(watched.blobs.streamed)
    assert not large & set(watched.blobs.whole)
    # One in the hands of the sum, one on its way to it.
    assert watched.blobs.most <= 2
    assert watched.blobs.alive == 0


def test_large_inputs_wait_in_the_store_and_only_when_they_are_right(watched: Watched) -> None:
    """A wrong root is refused on arrival; a vector of a header that nobody signed is removed."""
    plan = small_plan(watched, model=WIDE)
    watched.decide(Action.CONTRACT_ADOPT, Digest(plan.contract), contract_bytes(contract()))
    watched.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan))
    assert watched.run(asks_for_updates)
    posts = waiting_posts(watched)
    assert {post.member for post in posts} == set(SITES)
    coordinator, blobs = watched.coordinator, watched.blobs
    first, *others = posts
    (statement,), (data,) = first.statements, first.blobs.values()
    header = peek(statement)[1]
    assert isinstance(header, MaskedInput)
    runner = load_key(watched.directory / "parties" / first.member, "runner")

    def arrives(made: bytes) -> None:
        forged = Post(first.member, first.size, "", (made,), first.blobs)
        coordinator.handle(first.member, encode_frame(forged))

    arrives(seal_statement(msgspec.structs.replace(header, root="0" * 64), runner))
    assert "statement-refused.root-mismatch" in watched.journal_of(COORDINATOR)
    assert not blobs.has(Digest(header.blob)) and not coordinator._pending
    stranger = SigningKey.generate(bytes(range(32)))
    arrives(seal_statement(header, stranger))
    assert blobs.has(Digest(header.blob))
    coordinator.flush()
    assert "statement-refused" in watched.journal_of(COORDINATOR).splitlines()[-1]
    assert not blobs.has(Digest(header.blob))
    # The forgery comes first and brings the vector; the genuine statement needs it.
    arrives(seal_statement(header, stranger))
    for post in posts:
        coordinator.handle(post.member, encode_frame(post))
    assert len(coordinator._pending) == len(SITES) + 1
    assert not any(item.blobs for item in coordinator._pending)
    coordinator.flush()
    assert blobs.get(Digest(header.blob)) == data
    assert len(others) == len(SITES) - 1
    watched.run(lambda state: state.studies[plan_digest(plan)].finished)
    assert coordinator.state.studies[plan_digest(plan)].final_model is not None


def test_the_round_says_how_much_of_a_members_object_is_read(watched: Watched) -> None:
    """Not the member: its header may claim any length, and name any object that it offers."""
    plan = small_plan(watched, model=WIDE)
    watched.decide(Action.CONTRACT_ADOPT, Digest(plan.contract), contract_bytes(contract()))
    watched.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan))
    early, endpoint = Post(SITES[0], 0, ""), watched.network.endpoint(COORDINATOR)
    state, member = watched.coordinator.state, watched.network.endpoint(SITES[0])
    claimed = body_of(MemoryBlobs().put(LARGE), SITES[0])
    member.offer(Digest(claimed.blob), LARGE)
    assert state.running is not None and state.running.round is None
    assert blobs_of(early, claimed, state, endpoint) == {}
    assert watched.run(asks_for_updates)
    state = watched.coordinator.state
    assert state.running is not None and state.running.round is not None
    right = bytes(4 * state.running.round.opened.predicate.length)
    network = watched.network
    for data, read in ((right, True), (right + b"x", False)):
        digest = MemoryBlobs().put(data)
        network.clear_egress()
        member.offer(digest, data)
        found = blobs_of(early, body_of(digest, SITES[0]), state, endpoint)
        assert found == ({digest: data} if read else {})
        assert [one.passage for one in network.egress].count(Passage.FETCH) == read
    # A dispute of a sum in a study that is not audited has no place either.
    proof = MemoryBlobs().put(LARGE)
    member.offer(proof, LARGE)
    dispute = SumDisputed(charter="0" * 64, author=SITES[0], result="1" * 64, proof=proof)
    assert blobs_of(early, dispute, state, endpoint) == {}


def asks_for_updates(state: Consortium) -> bool:
    """Say whether the round is open whose inputs are large."""
    if state.running is None or state.running.round is None:
        return False
    return 4 * state.running.round.opened.predicate.length > SPOOL_BYTES


def waiting_posts(watched: Watched) -> list[Post]:
    """Take what waits for the coordinator."""
    endpoint = watched.network.endpoint(COORDINATOR)
    posts = []
    while (delivery := endpoint.receive()) is not None:
        posts.append(decode_post(delivery.frame))
        delivery.ack()
    return posts


def body_of(blob: str, author: str = "aare") -> MaskedInput:
    return MaskedInput(
        charter="0" * 64,
        author=author,
        context="1" * 64,
        length=len(LARGE) // 4,
        root="2" * 64,
        blob=blob,
    )


def test_only_large_inputs_are_taken() -> None:
    blobs = MemoryBlobs()
    digest = MemoryBlobs().put(LARGE)
    small = MemoryBlobs().put(LARGE[1:])
    ballot = BallotCast(charter="0" * 64, author="aare", proposal="1" * 64, choice="approve")
    assert Spool.takes(body_of(digest), {digest: LARGE})
    assert not Spool.takes(body_of(digest), {})
    assert not Spool.takes(body_of(small), {small: LARGE[1:]})
    assert not Spool.takes(ballot, {digest: LARGE})
    spool = Spool(blobs)
    assert spool.store(body_of(digest), {digest: LARGE, small: b"other"}) == {small: b"other"}
    assert blobs.get(digest) == LARGE


def test_what_no_entry_names_is_removed() -> None:
    blobs = MemoryBlobs()
    kept, refused = (MemoryBlobs().put(LARGE + tail) for tail in (b"a", b"b"))
    before = blobs.put(LARGE + b"c")
    spool = Spool(blobs)
    for digest, tail in ((kept, b"a"), (refused, b"b"), (before, b"c")):
        spool.store(body_of(digest), {digest: LARGE + tail})
    # Another statement names the same vector, and only that one enters the log.
    spool.store(body_of(kept, "birs"), {kept: LARGE + b"a"})
    stored = spool.release()
    assert stored == {kept, refused}
    spool.settle(stored, [body_of(kept, "birs")])
    assert blobs.has(kept) and blobs.has(before) and not blobs.has(refused)


def test_after_a_commit_that_failed_nothing_is_removed() -> None:
    """It may have been stored all the same: what was released and not settled stays."""
    blobs, digest = MemoryBlobs(), MemoryBlobs().put(LARGE)
    spool = Spool(blobs)
    spool.store(body_of(digest), {digest: LARGE})
    spool.release()
    spool.settle(spool.release(), [])
    assert blobs.has(digest)
