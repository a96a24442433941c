"""Runtime: deliver frames to nodes until nothing moves, then let time pass.

The embedded engine runs every party in one process. The loop is deterministic: parties take
turns in a fixed order, and a deadline passes only when no frame is left to deliver.

This is the outermost loop of a party: what a frame causes is either done, or refused with an
error of ours that goes into the party's journal. Anything else is a bug and stops the run.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from treaty.errors import PeerError, PolicyError, code_of
from treaty.ids import MemberId
from treaty.ports import Delivery, Engine, Journal

__all__ = ["Host", "Node", "deliver", "handle", "run", "take_in"]


class Node(Protocol):
    """A party: it reacts to frames, and to time."""

    @property
    def name(self) -> MemberId:
        """Return the party's name in the engine."""

    @property
    def engine(self) -> Engine:
        """Return the party's end of the engine."""

    @property
    def journal(self) -> Journal:
        """Return the party's own log."""

    def handle(self, sender: MemberId, frame: bytes) -> None:
        """React to one frame. Raises `PeerError` or `PolicyError` when it is refused."""

    def flush(self) -> bool:
        """Do what was put off until the mailbox is drained; say whether anything was done."""

    def on_quiet(self) -> bool:
        """React to the passing of a deadline; say whether anything was done."""


class Host(Protocol):
    """Parties that take their turn elsewhere while others take theirs here."""

    def begin(self) -> None:
        """Hand the parties what waits for them now."""

    def finish(self) -> bool:
        """Wait for them, and let go what they sent; say whether there was a frame."""

    def on_quiet(self) -> bool:
        """React to the passing of a deadline; say whether anything was done."""


def handle(node: Node, delivery: Delivery) -> None:
    """Let `node` react to one frame; a refusal is noted. Left to do are `flush`, then `ack`."""
    try:
        node.handle(delivery.sender, delivery.frame)
    except (PeerError, PolicyError) as refusal:
        # A refusal changes nothing; the reason stays with the party.
        node.journal.note(f"refused.{code_of(refusal)}", str(refusal))


def deliver(node: Node) -> bool:
    """Deliver every waiting frame of `node`; say whether there was one."""
    moved = take_in(node)
    return node.flush() or moved


def take_in(node: Node) -> bool:
    """Deliver what waits for `node`, and leave what it puts off to `deliver`."""
    moved = False
    while (delivery := node.engine.receive()) is not None:
        moved = True
        handle(node, delivery)
        delivery.ack()
    return moved


def run(
    nodes: Sequence[Node],
    *,
    until: Callable[[], bool],
    progress: Callable[[], None] | None = None,
    hosts: Sequence[Host] = (),
) -> bool:
    """Run `nodes` until `until` says so; return False when nothing moves any more before that.

    The parties of `hosts` come after `nodes`. They begin once the first node, the coordinator, has
    had its turn, and what they send is let go after the last one's: nothing but the coordinator
    may be spoken to, then every mailbox is filled as if they had waited.
    """
    while not until():
        moved = False
        for place, node in enumerate(nodes):
            moved = deliver(node) or moved
            if place == 0:
                for host in hosts:
                    host.begin()
            if progress is not None:
                progress()
        if hosts:
            # While parties elsewhere are at work the coordinator takes in what those here have
            # said, which stands before what will come from there.
            moved = take_in(nodes[0]) or moved
        for host in hosts:
            moved = host.finish() or moved
            if progress is not None:
                progress()
        if moved:
            continue
        # Lists: time passes for every party, also after one has moved.
        quiet = [node.on_quiet() for node in nodes] + [host.on_quiet() for host in hosts]
        if not any(quiet):
            return until()
    return True
