"""How long a coordinator waits for answers that belong together, and when it acknowledges them.

Planted and caught: a wait that ends a moment after the first answer, one that a member who sends
without an end prolongs, one for answers that nobody owes; frames acknowledged before what they
brought is flushed, before they are handled, or although the flush failed.
"""

from itertools import pairwise

import pytest

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError
from treaty.ids import MemberId
from treaty.node.serving import Pace, serve
from treaty.ports import Delivery
from treaty.protocol.consortium import Consortium
from treaty.stores.system import MemoryJournal

A = MemberId("a")
PACE = Pace(gather_ms=25, gathered_ms=2000, wait_ms=100)


class Hub:
    """A coordinator to which frames arrive at times; it notes what each of its flushes holds."""

    def __init__(self, arrivals: list[int], expected: int) -> None:
        self.name = A
        self.now = 0
        self.arrivals = sorted(arrivals)
        self.expected = expected
        self.state = Consortium(sha256(b""))
        self.journal = MemoryJournal()
        self.taken = 0
        self.flushed: list[tuple[int, int]] = []
        self.happened: list[str] = []

    @property
    def engine(self) -> "Hub":
        return self

    def receive(self) -> Delivery | None:
        if not self.arrivals or self.arrivals[0] > self.now:
            return None
        del self.arrivals[0]
        return Delivery(A, b"", lambda: self.happened.append("acknowledged"))

    def handle(self, sender: MemberId, frame: bytes) -> None:
        self.happened.append("handled")
        self.taken += 1
        self.now += 1

    def expects_more(self) -> bool:
        return self.taken < self.expected

    def flush(self) -> bool:
        if self.taken:
            self.happened.append("flushed")
            self.flushed.append((self.now, self.taken))
            self.expected -= self.taken
            self.taken = 0
        return False

    def remind(self) -> bool:
        return False

    def expire(self) -> bool:
        return False

    def wait(self, seconds: float) -> None:
        following = self.now + round(seconds * 1000)
        self.now = max(self.now, min(following, *self.arrivals[:1], following))

    def live(self, until: int) -> list[tuple[int, int]]:
        serve(
            self,  # type: ignore[arg-type]  # as much of a node as the loop looks at
            wait=self.wait,
            stop=lambda: self.now >= until,
            now_ms=lambda: self.now,
            pace=PACE,
        )
        return self.flushed


def test_answers_that_follow_one_another_closely_are_passed_on_together() -> None:
    """Forty members compute one after another, for most of a second."""
    found = Hub([20 * number for number in range(40)], expected=40).live(3000)
    assert [taken for _, taken in found] == [40]
    # The last answer ends the wait.
    assert found[0][0] < 20 * 39 + 10


def test_one_who_is_late_is_not_waited_for_long() -> None:
    found = Hub([0, 5, 10, 500], expected=4).live(3000)
    assert [taken for _, taken in found] == [3, 1]
    assert found[0][0] < 60


def test_nobody_waits_for_what_is_not_owed() -> None:
    found = Hub([0], expected=1).live(1000)
    assert found == [(1, 1)]


def test_who_sends_without_an_end_does_not_keep_the_others_waiting() -> None:
    found = Hub(list(range(9000)), expected=100_000).live(8000)
    assert len(found) >= 3
    gaps = [after[0] - before[0] for before, after in pairwise(found)]
    assert max(gaps) <= PACE.gathered_ms + PACE.gather_ms + 10


def test_frames_are_acknowledged_when_what_they_brought_is_durable() -> None:
    """docs/spec/storage.md, 6.1: what was not acknowledged comes again after a restart."""
    hub = Hub([0, 5, 10], expected=3)
    hub.live(1000)
    assert hub.happened == [*["handled"] * 3, "flushed", *["acknowledged"] * 3]


def test_what_could_not_be_stored_is_not_acknowledged() -> None:
    class Full(Hub):
        def flush(self) -> bool:
            raise ResourceError("the disk is full")

    hub = Full([0, 5], expected=2)
    with pytest.raises(ResourceError, match="the disk is full"):
        hub.live(1000)
    assert hub.happened == ["handled"] * 2
