"""Consortia of many agents on this machine: founded, a study in each, the sums as they come.

Agents are processes, each with its own directory, keys, connection and store, hosted by one program
for each consortium, or started by themselves. Whoever waits does so through a `Course`, so that it
ends in time; every process that was started is ended on the way out.
"""

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.engine.course import Course
from tests.network_rig import HUB, Rig, small_sites
from tests.small_federation import contract
from treaty.cli.network_files import Proposed, propose_study
from treaty.contracts.schema import contract_bytes
from treaty.deployment.desk import Desk
from treaty.ids import Digest
from treaty.models.specification import LogisticRegression, MultilayerPerceptron
from treaty.protocol.messages import StudyCompleted, StudyHalted
from treaty.protocol.secagg_messages import (
    EpochKeys,
    EpochOpened,
    EpochReady,
    EpochRoster,
    EpochSealed,
    EpochShares,
    MaskedInput,
    Reveal,
    RoundOpened,
    RoundResult,
)
from treaty.protocol.statements import peek
from treaty.stores.sqlite import SqliteStore
from treaty.studies.plan import plan_bytes

__all__ = ["MemberRig", "StudyLog", "consortia", "start_studies"]

FOUND_PAUSE_S = 1.0
VOTE_PAUSE_S = 0.5
LEFT_S = 5.0
MARKED: dict[type, str] = {
    EpochOpened: "epoch_opened",
    EpochRoster: "keys_exchanged",
    EpochSealed: "shares_dealt",
    RoundOpened: "round_opened",
    RoundResult: "first_sum",
}
"""What the first statement of a kind means for the course."""


class MemberRig(Rig):
    """A rig whose preparation can be cut off, and that says what keeps it from going on."""

    def join(self, name: str, terms: str) -> None:
        """See `Rig.join`."""
        self.watch()
        super().join(name, terms)

    def require_running(self) -> None:
        """Raise `AssertionError` with its words when one of its programs has ended."""
        for name, child in self.children.items():
            code = child.process.poll()
            if code is not None:
                raise AssertionError(f"{name} has ended with exit code {code}\n{self.words()}")

    def standing(self) -> str:
        """Say how far the founding is."""
        there = sum((self.place(name) / "store.db").exists() for name in self.sites)
        done = sum(bool(self.size(name)) for name in self.sites)
        return f"{there} of {len(self.sites)} have the charter, {done} the founding entry"


@contextmanager
def consortia(
    count: int, agents: int, course: Course, *, hosted: bool = True
) -> Iterator[list[MemberRig]]:
    """Yield `count` founded consortia of `agents` sites each, whose processes run."""
    names = [f"site-{number:03}" for number in range(agents)]
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="treaty-agents-"))
        rigs: list[MemberRig] = []
        # What is entered last is left first: all are told before one is waited for, and what is
        # left then (the agents of a host that was killed) is killed.
        stack.callback(_end_left, place)
        for number in range(count):
            rig = MemberRig(Path(place) / f"rig-{number}", small_sites(names))
            rig.watch = course.check
            rig.root.mkdir()
            rigs.append(rig)
            stack.callback(rig.stop)
        stack.callback(_tell_to_end, rigs)
        for number, rig in enumerate(rigs):
            rig.prepare()
            rig.start(HUB)
            if hosted:
                rig.start_hosted(names)
            else:
                for name in names:
                    rig.start(name)
            course.awaits(lambda number=number: f"{number + 1} of {count} prepared and started")  # type: ignore[misc]  # bound now
            course.check()
        course.reached("started")
        wait_for(rigs, course, lambda rig: bool(rig.size(HUB)), MemberRig.standing)
        course.reached("charter_signed")
        wait_for(rigs, course, Rig.founded, MemberRig.standing)
        course.reached("founded")
        yield rigs


def _tell_to_end(rigs: Sequence[MemberRig]) -> None:
    """Tell every program of agents to end, without waiting for any."""
    for rig in rigs:
        for name, child in rig.children.items():
            if name != HUB and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)


def _end_left(place: str) -> None:
    """Kill every process that names `place` and has not ended by itself in a while."""
    end = time.monotonic() + LEFT_S
    while left := _naming(place):
        if time.monotonic() > end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.1)


def _naming(place: str) -> list[int]:
    """Return the processes, this one apart, whose words name `place`, a directory of ours."""
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdigit() and int(one.name) != os.getpid():
            # Gone meanwhile, or another user's.
            with suppress(OSError):
                if place.encode() in (one / "cmdline").read_bytes():
                    found.append(int(one.name))
    return found


def wait_for(
    rigs: Sequence[MemberRig],
    course: Course,
    condition: Callable[[MemberRig], bool],
    look: Callable[[MemberRig], str],
    pause_s: float = FOUND_PAUSE_S,
) -> None:
    """Wait until `condition` holds of every rig; `look` says where the first one stands."""
    rest = list(rigs)
    course.awaits(
        lambda: "; ".join(
            (f"{len(rigs) - len(rest)} of {len(rigs)} consortia", *map(look, rest[:1]))
        )
    )
    while True:
        # In place: what is said counts them.
        rest[:] = [rig for rig in rest if not condition(rig)]
        if not rest:
            return
        for rig in rest:
            rig.require_running()
        course.check()
        time.sleep(pause_s)


def start_studies(
    rigs: Sequence[MemberRig],
    course: Course,
    model: LogisticRegression | MultilayerPerceptron,
    slots: int,
    deadline_s: int = 60,
) -> list[str]:
    """Let as many members of every rig as are needed approve one study; return the plans' digests.

    The last ballots are cast together, so that all studies begin at about once.
    """
    made = {id(rig): _propose(rig, model, slots, deadline_s) for rig in rigs}

    def asked(rig: MemberRig) -> list[Digest]:
        one = made[id(rig)]
        return [each for each in (one.contract_proposal, one.proposal) if each is not None]

    def arrived(rig: MemberRig) -> bool:
        return set(asked(rig)) <= set(rig.state(HUB).proposals)

    def missing(rig: MemberRig) -> int:
        records = [rig.state(HUB).proposals[one].proposal for one in asked(rig)]
        return sum(one.approvals - len(one.ballots) for one in records if not one.settled)

    def ballots(rig: MemberRig) -> str:
        return f"{missing(rig)} ballots missing" if arrived(rig) else "no proposal yet"

    wait_for(rigs, course, arrived, ballots, VOTE_PAUSE_S)
    course.reached("proposed")
    last = []
    for rig in rigs:
        state = rig.state(HUB)
        study = made[id(rig)].proposal
        needed = {one: state.proposals[one].proposal.approvals for one in asked(rig)}
        last.append((rig, list(rig.sites)[needed[study] - 1], study))
        needed[study] -= 1
        for number, name in enumerate(rig.sites):
            course.check()
            # The coordinator's log stands in for each member's own, which has the same entries.
            # Both ballots at once: what is logged together costs every member one feed.
            desk = Desk(rig.place(name), state)
            for proposal in (one for one in asked(rig) if number < needed[one]):
                desk.vote(proposal, "approve")
    wait_for(rigs, course, lambda rig: missing(rig) <= 1, ballots, VOTE_PAUSE_S)
    course.reached("all but one approve")
    for rig, name, proposal in last:
        Desk(rig.place(name), rig.state(HUB)).vote(proposal, "approve")
    wait_for(rigs, course, lambda rig: not missing(rig), ballots, VOTE_PAUSE_S)
    course.reached("approved")
    return [str(one.plan) for one in made.values()]


def _propose(
    rig: MemberRig, model: LogisticRegression | MultilayerPerceptron, slots: int, deadline_s: int
) -> Proposed:
    plan = rig.plan(contract(), model, slots_per_epoch=slots, deadline_s=deadline_s)
    files = (rig.root / "plan.json", rig.root / "contract.json")
    for path, data in zip(files, (plan_bytes(plan), contract_bytes(contract())), strict=True):
        path.write_bytes(data)
    return propose_study(rig.place(next(iter(rig.sites))), *files, None)


class StudyLog:
    """The study of one rig as its coordinator's store shows it, entry by entry."""

    def __init__(self, rig: MemberRig) -> None:
        self.rig = rig
        self._store = SqliteStore(rig.place(HUB) / "store.db", read_only=True)
        self._size = 0
        self.kinds: Counter[type] = Counter()
        self.sums: list[float] = []
        """When each sum was published, on the clock `time.monotonic`."""
        self.ended = 0.0
        """When the study was completed or halted; 0 while it runs."""

    def look(self, course: Course) -> bool:
        """Read what is new; say whether a sum was published."""
        now = self._store.version("log")
        bodies = [peek(entry)[1] for entry in self._store.read("log", self._size)]
        self._size = max(self._size, now)
        for body in bodies:
            kind = type(body)
            if kind in MARKED and not self.kinds[kind]:
                course.reached(MARKED[kind])
            self.kinds[kind] += 1
            if isinstance(body, RoundResult):
                self.sums.append(time.monotonic())
            if isinstance(body, StudyCompleted | StudyHalted):
                self.ended = time.monotonic()
        return any(isinstance(body, RoundResult) for body in bodies)

    def standing(self) -> str:
        """Say what has come so far."""
        counts = [
            f"{self.kinds[kind]} {words}"
            for kind, words in (
                (EpochKeys, "keys"),
                (EpochShares, "shares"),
                (EpochReady, "ready"),
                (MaskedInput, "inputs"),
                (Reveal, "answers"),
                (RoundResult, "sums"),
            )
        ]
        return ", ".join(counts)

    def close(self) -> None:
        """Stop reading."""
        self._store.close()
