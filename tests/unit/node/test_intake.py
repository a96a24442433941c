"""What a member leaves at the engine for the coordinator: as large as it can be, and no more.

Planted and caught: whatever an engine does wrong taken for a vector that is too large.
"""

from collections.abc import Callable

import pytest

from tests.worlds import World, digest
from treaty.errors import ResourceError, TreatyError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.node.intake import blobs_of
from treaty.ports import Delivery
from treaty.protocol.frames import Post
from treaty.protocol.secagg_messages import MaskedInput


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
