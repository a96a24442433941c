"""What a coordinator does with a member's statement before its turn, and what is left for then.

What a member leaves at the engine is read as far as it can be large, and no further. Signatures are
looked at when a statement arrives; who may sign it is asked when it is folded.

Planted and caught: whatever an engine does wrong taken for a vector that is too large; a signature
that does not hold taken for one that does; reveals looked at though they may not be needed; each
statement folded as if its signatures had been seen to hold.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_federation import contract, found
from tests.unit.node.test_mirror import NEW, _flipped, _proposal, _resigned, _rotated_world
from tests.worlds import NAMES, World, approval, digest, key, refused
from treaty.contracts.schema import contract_bytes
from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, TreatyError, VerificationError
from treaty.governance.charter import charter_digest
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId
from treaty.node.intake import Tray, blobs_of, is_signed
from treaty.ports import Delivery
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Post, encode_frame
from treaty.protocol.messages import ProposalOpened
from treaty.protocol.secagg_messages import MaskedInput
from treaty.protocol.statements import peek, seal_statement
from treaty.simulation.federation import COORDINATOR


class _Engine:
    """An engine that does one thing with every object, and remembers what it was asked."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        self._answer = answer
        self.asked: list[tuple[Digest, int]] = []

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """Lose the frame."""

    def receive(self) -> Delivery | None:
        """Return nothing."""
        return None

    def offer(self, digest: Digest, data: bytes) -> None:
        """Lose the object."""

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """Remember, and answer."""
        self.asked.append((digest, most_bytes))
        return self._answer()

    def peers(self) -> tuple[MemberId, ...]:
        """Know nobody."""
        return ()


def _raising(error: Exception) -> Callable[[], bytes]:
    def answer() -> bytes:
        raise error

    return answer


def _asked(answer: Callable[[], bytes]) -> tuple[_Engine, dict[Digest, bytes]]:
    """Ask for the vector of an input in an open round; return the engine and what came."""
    world = World()
    world.start()
    world.open_epoch()
    world.open_round()
    name = world.names[0]
    body = world.write(
        MaskedInput,
        name,
        context=world.context,
        length=world.study.progress.expected_query().layout.length,
        root=digest("root"),
        blob=digest("blob"),
    )
    engine = _Engine(answer)
    post = Post(MemberId(name), 0, "")
    return engine, dict(blobs_of(post, body, world.state, engine))


def test_a_vector_is_read_up_to_the_size_that_the_round_asks_for() -> None:
    engine, found = _asked(lambda: b"vector")
    [(asked, most)] = engine.asked
    assert found == {asked: b"vector"} == {digest("blob"): b"vector"}
    assert 0 < most < 1 << 20


def test_a_vector_that_is_too_large_is_left_where_it_is() -> None:
    """Its statement is refused for want of it, like that of a member that sent none."""
    _, found = _asked(_raising(VerificationError("too large", code="blob-too-large")))
    assert found == {}


@pytest.mark.parametrize(
    "error",
    [VerificationError("other bytes", code="blob-mismatch"), ResourceError("not at hand now")],
    ids=["other bytes", "not at hand"],
)
def test_what_else_an_engine_does_is_no_fault_of_the_member(error: TreatyError) -> None:
    """Its statement is not refused for good: the engine may have the vector later."""
    with pytest.raises(type(error), match=str(error)):
        _asked(_raising(error))


def _fold(world: World, statement: bytes, *, signed: bool) -> Consortium:
    parsed = peek(statement)
    tray = Tray(world.state)
    state, verified = tray.fold(statement, sha256(statement), parsed, world.find, signed=signed)
    assert (verified.predicate, verified.digest) == (parsed[1], sha256(statement))
    assert tray.state is world.state
    return state


def test_signatures_are_seen_to_hold_or_not() -> None:
    world = World()
    statement = _proposal(world, NAMES[0], approval(NAMES[0]))
    assert is_signed(world.state, peek(statement))
    assert not is_signed(world.state, peek(_flipped(statement)))
    assert not is_signed(world.state, peek(_resigned(statement, key("stranger"))))
    assert not is_signed(Consortium(world.state.anchor), peek(statement))
    assert _fold(world, statement, signed=True) == _fold(world, statement, signed=False)


def test_a_reveal_is_looked_at_when_it_is_needed() -> None:
    """A sum opens with some of them: to verify the others would be for nothing."""
    world = World()
    world.start()
    world.open_epoch()
    world.open_round()
    for name in world.names:
        world.send_input(name)
    world.seal()
    world.reveal(world.names[0])
    assert not is_signed(world.state, peek(world.entries[-1]))


def test_who_may_sign_is_asked_in_the_statements_turn() -> None:
    """Its signature held when it arrived; since then its author was suspended, or its key went."""
    world = World()
    statement = _proposal(world, NAMES[3], approval(NAMES[3]))
    assert is_signed(world.state, peek(statement))
    world.propose_and_suspend(NAMES[3])
    with refused("suspended"):
        _fold(world, statement, signed=True)
    before, world = World(), _rotated_world()
    old, new = (_proposal(world, NAMES[0], one) for one in (approval(NAMES[0]), NEW))
    assert is_signed(before.state, peek(old))
    assert not is_signed(before.state, peek(new))
    with refused("wrong-charter"):
        _fold(world, _proposal(before, NAMES[0], approval(NAMES[0])), signed=True)
    with refused("unknown-key"):
        _fold(world, old, signed=True)
    assert is_signed(world.state, peek(new))


def test_a_statement_that_does_not_hold_when_it_arrives_does_not_enter_the_log(
    tmp_path: Path,
) -> None:
    federation = found(tmp_path / "f")
    federation.settle()
    coordinator, name = federation.coordinator, federation.members[0]
    genuine = seal_statement(
        ProposalOpened(
            charter=charter_digest(coordinator.state.charter),
            author=name,
            action=Action.CONTRACT_ADOPT.value,
            subject=sha256(contract_bytes(contract())),
        ),
        federation.officer(name),
    )
    documents = {sha256(contract_bytes(contract())): contract_bytes(contract())}
    before = coordinator.entries
    for statement, after in ((_flipped(genuine), before), (genuine, (*before, genuine))):
        post = Post(name, coordinator.size, "", (statement,), documents)
        coordinator.handle(name, encode_frame(post))
        assert coordinator.entries == before
        coordinator.flush()
        assert coordinator.entries == after
    assert "statement-refused.bad-signature" in federation.journal_of(COORDINATOR)
    federation.close()
