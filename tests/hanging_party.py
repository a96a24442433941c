"""A coordinator whose loop hangs for as long as a file is there.

`python -m tests.hanging_party coordinator up --dir DIR` takes the words of the product's command.
The file is named by ``TREATY_HANG``; how long it may stand still, in seconds, by ``TREATY_STILL``.
Only the loop hangs: the threads that renew the lease and hold the connection live on.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from treaty.deployment.hub import HubProcess
from treaty.engines.jetstream import JetStreamEngine
from treaty.errors import TreatyError
from treaty.ports import Delivery

HANG_VARIABLE = "TREATY_HANG"
STILL_VARIABLE = "TREATY_STILL"


class HangingEngine(JetStreamEngine):
    """An end of the engine that does not return while the file is there."""

    def receive(self) -> Delivery | None:
        """See `treaty.ports.Engine.receive`."""
        while Path(os.environ[HANG_VARIABLE]).exists():
            time.sleep(0.05)
        return super().receive()


def _main(words: list[str]) -> int:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    place = Path(words[words.index("--dir") + 1])

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        still_s = float(os.environ[STILL_VARIABLE])
        HubProcess(place, say, engine=HangingEngine, still_s=still_s).run(stopped.is_set)
    except TreatyError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
