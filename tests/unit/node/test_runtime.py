"""Turns: who is asked when, with members here and in other processes.

Planted and caught: the coordinator's turn taken whole while hosts are at work; what waits for it
left until its turn; taken in when hosts have finished.
"""

from collections import deque
from collections.abc import Callable

from treaty.ids import MemberId
from treaty.node.runtime import run
from treaty.ports import Delivery, Journal


class _Box:
    """The end of an engine: frames that wait. Bodies are never called but for `receive`."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[str, bytes]] = deque()

    def receive(self) -> Delivery | None:
        if not self.waiting:
            return None
        sender, frame = self.waiting.popleft()
        return Delivery(MemberId(sender), frame, lambda: None)


class _Party:
    """A party that writes down what is asked of it, and may send one frame when it gets one."""

    journal: Journal

    def __init__(self, name: str, told: list[str], answers: "_Party | None" = None) -> None:
        self.name = MemberId(name)
        self.engine = _Box()
        self._told = told
        self._answers = answers
        self._kept = 0

    def handle(self, sender: MemberId, frame: bytes) -> None:
        self._told.append(f"{self.name} gets {frame.decode()} of {sender}")
        self._kept += 1
        if self._answers is not None:
            self._answers.engine.waiting.append((self.name, b"answer"))

    def flush(self) -> bool:
        moved, self._kept = self._kept > 0, 0
        self._told.append(f"{self.name} does its work" if moved else f"{self.name} rests")
        return moved

    def on_quiet(self) -> bool:
        self._told.append(f"{self.name} sees time pass")
        return False


class _Host:
    """A host of one member, whose answer is let go when it finishes."""

    def __init__(self, hub: _Party, told: list[str]) -> None:
        self._hub = hub
        self._told = told
        self.waiting = 1

    def begin(self) -> None:
        self._told.append("host begins")

    def finish(self) -> bool:
        self._told.append("host finishes")
        moved, self.waiting = self.waiting > 0, 0
        if moved:
            self._hub.engine.waiting.append(("there", b"answer"))
        return moved

    def on_quiet(self) -> bool:
        return False


def _turns(hosted: bool, until: Callable[[], bool] = lambda: False) -> list[str]:
    told: list[str] = []
    hub = _Party("hub", told)
    here = _Party("here", told, hub)
    here.engine.waiting.append(("hub", b"feed"))
    hosts = [_Host(hub, told)] if hosted else []
    assert run([hub, here], until=until, hosts=hosts) is False  # type: ignore[list-item]  # enough
    return told


def test_with_one_process_every_party_has_its_turn_whole() -> None:
    assert _turns(hosted=False) == [
        "hub rests",
        "here gets feed of hub",
        "here does its work",
        "hub gets answer of here",
        "hub does its work",
        "here rests",
        "hub rests",
        "here rests",
        "hub sees time pass",
        "here sees time pass",
    ]


def test_while_hosts_are_at_work_the_coordinator_takes_in_what_is_said_here() -> None:
    """In the order of one process, and it works on both answers together."""
    assert _turns(hosted=True) == [
        "hub rests",
        "host begins",
        "here gets feed of hub",
        "here does its work",
        "hub gets answer of here",
        "host finishes",
        "hub gets answer of there",
        "hub does its work",
        "host begins",
        "here rests",
        "host finishes",
        "hub rests",
        "host begins",
        "here rests",
        "host finishes",
        "hub sees time pass",
        "here sees time pass",
    ]
