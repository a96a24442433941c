"""A site's process is killed around every write by which a signed ballot travels to the log.

A child takes the ballot from the outbox, sends it, sees it in the log and removes it; the log is a
file, written a while after the sending. Killed by SIGKILL at each named point, and started again:
the ballot is in the outbox or in the log at every moment from the command on, and in the end in the
log, once.

Planted and caught: an outbox that removes a file before it hands it over, after it, or at its next
look.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from treaty.deployment.outbox import Outbox

SOURCE = Path(__file__).parents[2] / "src"
SCRIPT = """
import sys
from pathlib import Path
from treaty.crypto.canonical import sha256
from treaty.deployment.outbox import Outbox
from treaty.stores.files import write_file

root = Path(sys.argv[1])

class Site:
    sent = []

    @property
    def log(self):
        path = root / "log"
        return path.read_bytes().split() if path.exists() else []

    def holds(self, statement):
        return statement in self.log

    def is_over(self, statement):
        return False

    def unlogged(self):
        return frozenset(sha256(one) for one in self.sent if one not in self.log)

    def submit(self, statement, documents):
        self.sent.append(statement)

    def turn(self):
        new = [one for one in self.sent if one not in self.log]
        if new:
            write_file(root / "log", b" ".join([*self.log, *new]), label="logged")

outbox, site = Outbox(root), Site()
if not (root / "voted").exists():
    outbox.put(b"ballot")
    write_file(root / "voted", b"")
for look in range(4):
    outbox.submit(site)
    if look:
        # The coordinator takes a while to answer.
        site.turn()
"""
POINTS = [
    f"{label}:1:{moment}"
    for label in ("outbox", "logged", "outbox-done")
    for moment in ("before", "after")
]


def run(root: Path, **variables: str) -> int:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**kept, "PYTHONPATH": str(SOURCE), **variables}
    command = [sys.executable, "-c", SCRIPT, str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def logged(root: Path) -> list[bytes]:
    path = root / "log"
    return path.read_bytes().split() if path.exists() else []


@pytest.mark.parametrize("point", POINTS)
def test_a_ballot_is_in_the_outbox_or_in_the_log(tmp_path: Path, point: str) -> None:
    assert run(tmp_path, TREATY_KILL_AT=point) == -signal.SIGKILL
    known = Outbox(tmp_path).waiting() or logged(tmp_path)
    assert known or point == "outbox:1:before"
    assert run(tmp_path) == 0
    assert logged(tmp_path) == [b"ballot"] and Outbox(tmp_path).waiting() == ()
