"""Serving: one party as a process of its own, which lives in real time.

Frames are delivered as they come. When nothing has come for a while the node sends again what may
be lost (`remind`); when a phase of a study has lasted as long as the plan's deadline allows, the
node goes on without those who are late (`expire`). A phase's time begins when it does, and anew
when the process does: whatever members send meanwhile does not prolong it.

A `ResourceError` ends the loop: a store that failed may or may not hold what it was given, and the
next start finds out. This is the outermost loop of a live party.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from treaty.node.runtime import Node, handle
from treaty.ports import Delivery
from treaty.protocol.consortium import Consortium
from treaty.protocol.waiting import phase_of

__all__ = ["LiveNode", "Pace", "serve"]

DEFAULT_DEADLINE_MS = 60_000
"""How long a restarted coordinator asks for log sizes where no plan says how long to wait."""


class LiveNode(Node, Protocol):
    """A node that can be reminded, and whose phases end."""

    @property
    def state(self) -> Consortium:
        """Return the folded log."""

    def remind(self) -> bool:
        """Send again what may have been lost; say whether anything was sent."""

    def expire(self) -> bool:
        """End the present phase; say whether anything followed."""

    def expects_more(self) -> bool:
        """Say whether `flush` would soon have more to do at once than now."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a quiet node is reminded, how long it waits at a time, how often it is ticked.

    `gather_ms` is how long the next of the frames that belong together is waited for, `gathered_ms`
    how long all of them: what several members say about one phase then costs one transaction and
    one feed to each. With many members answers come for as long as they all compute; were those of
    each instant passed on at once, every member would be fed and answer anew for each of them.
    """

    remind_ms: int = 500
    gather_ms: int = 25
    gathered_ms: int = 2000
    wait_ms: int = 100
    tick_ms: int = 200


def serve(
    node: LiveNode,
    *,
    wait: Callable[[float], object],
    stop: Callable[[], bool],
    now_ms: Callable[[], int],
    tick: Callable[[], None] = lambda: None,
    pace: Pace | None = None,
) -> None:
    """Run `node` until `stop` says so. `now_ms` never goes back; `wait` takes seconds.

    `tick` is called every now and then, for what else the process has to do.
    """
    pace = pace or Pace()
    reminded = ticked = began = now_ms()
    phase: tuple[object, ...] = ()
    while not stop():
        moved = _deliver(node, wait, now_ms, pace)
        now = now_ms()
        if now - ticked >= pace.tick_ms:
            ticked = now
            tick()
        found = phase_of(node.state)
        if found != phase:
            phase, began = found, now
        if now - began >= deadline_ms(node.state):
            # Also while frames arrive: whoever floods the coordinator must not stop its clock.
            began = now
            moved = node.expire() or moved
        if moved:
            reminded = now
            continue
        if now - reminded >= pace.remind_ms:
            reminded = now
            if node.remind():
                continue
        wait(pace.wait_ms / 1000)


def _deliver(
    node: LiveNode,
    wait: Callable[[float], object],
    now_ms: Callable[[], int],
    pace: Pace,
) -> bool:
    """Deliver what waits and what follows closely; acknowledge after it has become durable."""
    taken: list[Delivery] = []
    latest = now_ms()
    # Whoever sends without an end must not keep the others waiting.
    end = latest + pace.gathered_ms
    while True:
        while (delivery := node.engine.receive()) is not None:
            handle(node, delivery)
            taken.append(delivery)
            latest = now_ms()
            if latest >= end:
                break
        if not taken or not node.expects_more():
            break
        if (left := min(latest + pace.gather_ms, end) - now_ms()) <= 0:
            break
        wait(left / 1000)
    moved = node.flush() or bool(taken)
    for delivery in taken:
        delivery.ack()
    return moved


def deadline_ms(state: Consortium) -> int:
    """Return how long the present phase may last, by the running study's plan."""
    study = state.running if state.membership is not None else None
    return DEFAULT_DEADLINE_MS if study is None else study.plan.aggregation.deadline_s * 1000
