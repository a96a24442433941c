"""A party of a network whose engine loses, repeats, reorders and delays what it sends.

`python -m tests.faulty_party coordinator up ...` and ``site up ...`` take the words of the
product's commands; ``TREATY_FAULT_SEED`` decides what happens to which frame. The frames travel
through the real server: a repeated one has a key of its own there, so that the server does not take
it for the same message.
"""

import os
import signal
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

from treaty.deployment.agent import SiteProcess
from treaty.deployment.hub import HubProcess
from treaty.engines.faults import Fault, FaultRule, Occasion, SeededFaults
from treaty.engines.jetstream import JetStreamEngine, NatsParty
from treaty.errors import ResourceError, TreatyError
from treaty.ids import MemberId
from treaty.ports import Journal

SEED_VARIABLE = "TREATY_FAULT_SEED"
TALLY_VARIABLE = "TREATY_FAULT_TALLY"
"""A file to which the name of each fault that struck is appended."""

STEP_S = 0.05
RULES = (
    FaultRule(Fault.DROP, 60),
    FaultRule(Fault.LOSE_REPLY, 60),
    FaultRule(Fault.DUPLICATE, 150),
    FaultRule(Fault.DELAY, 150, most=8),
    FaultRule(Fault.REORDER, 150),
    FaultRule(Fault.CORRUPT, 40),
)


class FaultyEngine(JetStreamEngine):
    """An end of the engine that does to every frame it sends what `SeededFaults` say."""

    def __init__(self, party: NatsParty, journal: Journal) -> None:
        self._name = party.name
        self._plan = SeededFaults(int(os.environ[SEED_VARIABLE]), RULES)
        self._attempts: Counter[tuple[MemberId, str]] = Counter()
        self._overtaken: dict[MemberId, list[tuple[bytes, str]]] = {}
        super().__init__(party, journal)

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """Send `frame` as the plan of faults has it."""
        self._attempts[recipient, key] += 1
        # Keys hold the time, so the number of the send stands in for them: a run has the same
        # faults in the same places as far as the parties do the same.
        place = f"{sum(self._attempts.values())}"
        occasion = Occasion(
            self._name, recipient, place, self._attempts[recipient, key], len(frame)
        )
        strikes = {one.fault: one.amount for one in self._plan.faults(occasion)}
        _tally(strikes)
        if Fault.DROP in strikes:
            return
        if Fault.CORRUPT in strikes and frame:
            bit = strikes[Fault.CORRUPT] % (8 * len(frame))
            changed = bytearray(frame)
            changed[bit // 8] ^= 1 << bit % 8
            frame = bytes(changed)
        if Fault.DELAY in strikes:
            self._later(strikes[Fault.DELAY] * STEP_S, recipient, frame, key)
        elif Fault.REORDER in strikes:
            # Whatever goes to this recipient next overtakes it; if nothing does, it goes soon.
            self._overtaken.setdefault(recipient, []).append((frame, key))
            self._later(STEP_S * 4, recipient, frame, key)
        else:
            super().send(recipient, frame, key)
        for number in range(strikes.get(Fault.DUPLICATE, 0)):
            super().send(recipient, frame, f"{key}~{number}")
        for held, name in self._overtaken.pop(recipient, []) if not strikes else []:
            super().send(recipient, held, name)
        if Fault.LOSE_REPLY in strikes:
            raise ResourceError("the engine did not answer in time: try again")

    def _later(self, seconds: float, recipient: MemberId, frame: bytes, key: str) -> None:
        def go() -> None:
            # An engine that has closed meanwhile has lost the frame.
            with suppress(TreatyError):
                JetStreamEngine.send(self, recipient, frame, key)

        timer = threading.Timer(seconds, go)
        timer.daemon = True
        timer.start()


def _tally(strikes: dict[Fault, int]) -> None:
    path = os.environ.get(TALLY_VARIABLE)
    if path and strikes:
        with Path(path).open("a") as file:
            file.writelines(f"{fault.value}\n" for fault in strikes)


def _main(words: list[str]) -> int:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    place = Path(words[words.index("--dir") + 1])

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        if words[0] == "coordinator":
            HubProcess(place, say, engine=FaultyEngine).run(stopped.is_set)
        else:
            anchor = words[words.index("--anchor") + 1]
            SiteProcess(place, anchor, say, engine=FaultyEngine).run(stopped.is_set)
    except TreatyError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
