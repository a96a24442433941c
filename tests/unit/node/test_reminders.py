"""When a member is sent again what it does not answer.

Planted and caught: a member asked at once, never, or without a pause that grows; one asked that
lacks entries; an answer that does not begin the pause anew; slow answers that are reminded as fast
ones. Found by the delivery campaign: a post that arrives with its size and without its statement
was waited for until the deadline.
"""

from treaty.ids import MemberId, Timestamp
from treaty.node.reminders import FIRST_MS, LONGEST_MS, SLOW_FIRST_MS, Reminders

A, B = MemberId("a"), MemberId("b")


def asked(reminders: Reminders, at: int, sizes: dict[MemberId, int], size: int = 9) -> list[str]:
    return list(map(str, reminders.silent((A, B), sizes, size, Timestamp(at))))


def test_who_owes_an_answer_and_holds_the_whole_log_is_asked_after_a_pause_that_doubles() -> None:
    reminders = Reminders()
    whole = {A: 9, B: 9}
    assert asked(reminders, 0, whole) == []
    assert asked(reminders, FIRST_MS - 1, whole) == []
    assert asked(reminders, FIRST_MS, whole) == ["a", "b"]
    assert asked(reminders, 3 * FIRST_MS - 1, whole) == []
    assert asked(reminders, 3 * FIRST_MS, whole) == ["a", "b"]
    at, pauses = 3 * FIRST_MS, []
    for _ in range(9):
        before = at
        while not asked(reminders, at, whole):
            at += 1000
        pauses.append(at - before)
    assert pauses[-1] == LONGEST_MS == max(pauses)


def test_who_lacks_entries_is_fed_and_not_asked() -> None:
    reminders = Reminders()
    sizes = {A: 8, B: 9}
    assert asked(reminders, 0, sizes) == []
    assert asked(reminders, FIRST_MS, sizes) == ["b"]
    assert asked(reminders, FIRST_MS, {B: 9}) == []


def test_another_entry_begins_the_pause_anew() -> None:
    reminders = Reminders()
    assert asked(reminders, 0, {A: 9, B: 9}) == []
    assert asked(reminders, 1000, {A: 10, B: 10}, 10) == []
    assert asked(reminders, 1000 + FIRST_MS - 1, {A: 10, B: 10}, 10) == []
    assert asked(reminders, 1000 + FIRST_MS, {A: 10, B: 10}, 10) == ["a", "b"]


def test_who_takes_long_is_reminded_later() -> None:
    """Twice as long as the last answer took, within bounds: a slow phase is not made slower."""
    for took, pause in ((40, FIRST_MS), (4_000, 8_000), (60_000, SLOW_FIRST_MS)):
        reminders = Reminders()
        reminders.fed(A, (8, 9), Timestamp(0))
        reminders.fed(A, (9, 12), Timestamp(took))
        assert not reminders.due(A, (9, 12), Timestamp(took + pause - 1))
        assert reminders.due(A, (9, 12), Timestamp(took + pause))
