"""Sites that are hosted together: each lives, fails and ends by itself.

`host` forks, so each case runs in an interpreter of its own, which prints what happened.

Planted and caught: a failed site that ends the others, one that is started again whatever it ended
with, one that is not started again, sites that outlive their host, an exit code that is lost, of a
site that ends before the host, with it, or while it waits to be started again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from treaty.deployment.hosting import host
place = Path(sys.argv[1])
# As the program does it: whom the signal reaches comes to its own end, if it is not there yet.
signal.signal(signal.SIGTERM, lambda *_: None)

def say(line):
    print(line, flush=True)

def lives(name):
    def run(stop):
        (place / f"{name}.pid").write_text(str(os.getpid()))
        while not stop():
            time.sleep(0.02)
        (place / f"{name}.ended").write_text("")
        return 0
    return run

def ends(name, *codes):
    def run(stop):
        with (place / name).open("a") as file:
            file.write("x")
        number = len((place / name).read_text())
        return codes[min(number, len(codes)) - 1]
    return run

def until(*names):
    return lambda: all((place / name).exists() for name in names)
"""


def hosted(place: Path, body: str) -> tuple[int, str]:
    """Run `body` after the prelude in another interpreter; return its exit code and words."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + body, str(place)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_sites_have_processes_of_their_own_and_end_with_the_host(tmp_path: Path) -> None:
    code, _ = hosted(
        tmp_path,
        "sys.exit(host({'a': lives('a'), 'b': lives('b')}, until('a.pid', 'b.pid'), say))",
    )
    pids = [int((tmp_path / f"{name}.pid").read_text()) for name in "ab"]
    assert code == 0
    assert len({os.getpid(), *pids}) == 3
    # What `stop` says is true in the sites too; they came to their own end.
    assert (tmp_path / "a.ended").exists() and (tmp_path / "b.ended").exists()


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_failure_that_stays_ends_that_site_alone_and_is_the_exit_code(
    tmp_path: Path, code: int
) -> None:
    found, said = hosted(
        tmp_path,
        f"sys.exit(host({{'a': ends('a', {code}), 'b': ends('b', 0, 9)}}, lambda: False, say, "
        "restart_s=0.1))",
    )
    assert found == code
    assert f"a has ended with exit code {code}; the others go on" in said
    assert "b has ended\n" in said
    assert (tmp_path / "a").read_text() == "x" and (tmp_path / "b").read_text() == "x"


def test_a_failure_while_the_host_ends_is_the_exit_code(tmp_path: Path) -> None:
    body = """
def fails(stop):
    return lives('a')(stop) + 5
sys.exit(host({'a': fails, 'b': lives('b')}, until('a.pid', 'b.pid'), say))
"""
    assert hosted(tmp_path, body)[0] == 5


def test_a_failure_that_was_to_be_started_again_is_the_exit_code(tmp_path: Path) -> None:
    body = """
sys.exit(host({'a': ends('a', 5), 'b': lives('b')}, until('a.seen'), lambda line: (
    say(line), (place / 'a.seen').write_text(''))))
"""
    code, said = hosted(tmp_path, body)
    assert code == 5
    assert "a has ended with exit code 5: started again" in said
    assert (tmp_path / "a").read_text() == "x"


def test_what_starting_again_may_mend_is_started_again(tmp_path: Path) -> None:
    body = "sys.exit(host({'a': ends('a', 5, 1, 0)}, lambda: False, say, restart_s=0.1))"
    code, said = hosted(tmp_path, body)
    assert code == 0
    assert (tmp_path / "a").read_text() == "xxx"
    assert said.count("started again in 0.1 s") == 2


def test_a_bug_of_one_site_is_an_exit_code(tmp_path: Path) -> None:
    body = """
def broken(stop):
    if (place / "once").exists():
        return 3
    (place / "once").write_text("")
    raise RuntimeError("planted")
sys.exit(host({'a': broken}, lambda: False, say, restart_s=0.1))
"""
    code, said = hosted(tmp_path, body)
    assert code == 3
    assert "a has ended with exit code 1: started again" in said


def test_sites_do_not_outlive_a_host_that_is_killed(tmp_path: Path) -> None:
    body = "host({'a': lives('a')}, lambda: False, say)"
    process = subprocess.Popen([sys.executable, "-c", PRELUDE + body, str(tmp_path)])
    try:
        until(lambda: (tmp_path / "a.pid").exists())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    until(lambda: (tmp_path / "a.ended").exists())


def test_threads_are_refused(tmp_path: Path) -> None:
    body = """
import threading
from treaty.errors import UsageError
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
try:
    host({'a': lives('a')}, lambda: True, say)
except UsageError:
    print("refused")
"""
    assert hosted(tmp_path, body) == (0, "refused\n")


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
