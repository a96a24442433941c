"""Reminders: when a member is sent again what it does not answer.

What was sent waits for the member at the engine, so it is sent again only where it may be lost: at
once when the member stands elsewhere than the last feed left it, else after a pause that doubles.
A member that holds the whole log and owes an answer is at work, or its answer was lost on the way:
it is asked after the same pauses. Where answers take long, with many members on slow machines, the
first pause grows with them: reminders of what is only slow would make it slower.
"""

from collections.abc import Iterable, Mapping

from treaty.ids import MemberId, Timestamp

__all__ = ["ASK_AGAIN_MS", "Reminders"]

ASK_AGAIN_MS = 15_000
"""After how long a restarted coordinator asks those again who have not said their log's size."""

FIRST_MS = 3_000
SLOW_FIRST_MS = 15_000
LONGEST_MS = 15 * 60_000


class Reminders:
    """For each member: where it stood at its last feed, when the next is due, and the pause."""

    def __init__(self) -> None:
        self._fed: dict[MemberId, tuple[tuple[int, int], int, int]] = {}

    def fed(self, member: MemberId, stands: tuple[int, int], now: Timestamp) -> None:
        """Remember a feed: `stands` is the member's log size and the log's."""
        known = self._fed.get(member)
        pause = FIRST_MS
        if known is not None and known[0] == stands:
            pause = min(2 * known[2], LONGEST_MS)
        elif known is not None:
            # It answered the last one, no later than now.
            answered_in = int(now) - (known[1] - known[2])
            pause = min(max(2 * answered_in, FIRST_MS), SLOW_FIRST_MS)
        self._fed[member] = (stands, now + pause, pause)

    def lost(self, member: MemberId) -> None:
        """Forget a feed that did not leave: the next is due at once."""
        self._fed.pop(member, None)

    def due(self, member: MemberId, stands: tuple[int, int], now: Timestamp) -> bool:
        """Say whether a member that stands there is to be fed now."""
        known = self._fed.get(member)
        return known is None or known[0] != stands or now >= known[1]

    def silent(
        self,
        owing: Iterable[MemberId],
        sizes: Mapping[MemberId, int],
        size: int,
        now: Timestamp,
    ) -> list[MemberId]:
        """Return those of `owing` that hold the whole log of `size` and are to be asked now.

        A member's pause begins when it is first seen so; each answer here counts as a question.
        """
        stands = (size, size)
        found = []
        for member in owing:
            if sizes.get(member) != size or not self.due(member, stands, now):
                continue
            known = self._fed.get(member)
            if known is not None and known[0] == stands:
                found.append(member)
            self.fed(member, stands, now)
        return found
