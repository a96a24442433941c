"""T-90 to T-93: training code that wants out, or that does not answer as it should.

What foreign code tries is one table; where bubblewrap runs, nothing of it works, and what is
harmless is tried without it too, to see that the try itself would. Whatever code does to the
pipe, the site sees a closed code within its time and goes on.

Planted and caught: the network left open, the home directory bound, no limit of time, the process
killed without its children, standard error passed on, an answer taken before the question was
read, the process kept after a bad answer, code compared by name instead of by bytes, a slow
bubblewrap taken for a missing one. Keeping
the site's environment out is done twice, at the start of the process and by bubblewrap: either
alone suffices, and taking both away is caught.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import treaty
from tests.standstill import has_ended
from treaty.errors import PolicyError, ResourceError, UsageError
from treaty.models.specification import LogisticRegression, MultilayerPerceptron, initial_model
from treaty.models.task import FailureCode, TrainerFailure, TrainingTask
from treaty.sandbox import confinement
from treaty.sandbox.confinement import Confinement, Limits
from treaty.sandbox.package import package_digest, read_package, require_code, write_copy
from treaty.sandbox.trainer import ConfinedTrainer
from treaty.wiring import WORKER, LocalTrainer, code_digest

PACKAGE = read_package(Path(treaty.__file__).parent)
SPEC = LogisticRegression()
ROWS = np.random.default_rng(8).normal(size=(60, 3))
LABEL = (ROWS[:, 0] > 0.2).astype(np.float64)
TASK = TrainingTask(SPEC, initial_model(SPEC, 3), ROWS, LABEL, bytes(32))
BIG = TrainingTask(SPEC, initial_model(SPEC, 3), np.ones((40_000, 3)), np.ones(40_000), bytes(32))
"""More than a pipe holds."""

QUICK = Limits(call_s=60.0, cpu_s=30, memory_bytes=2 << 30, file_bytes=1 << 20)

READ = (
    "import sys\nn = int.from_bytes(sys.stdin.buffer.read(8), 'little')\nsys.stdin.buffer.read(n)\n"
)
"""The beginning of a worker that takes its task."""

SAY = (
    "def say(text):\n"
    "    import json\n"
    "    data = text.encode()\n"
    "    header = json.dumps({'failure': None, 'format': 'treaty.answer/v1', 'layers': [],\n"
    "        'outcome': 'bytes', 'parts': [len(data)]}, sort_keys=True, separators=(',', ':'))\n"
    "    body = len(header).to_bytes(4, 'little') + header.encode() + data\n"
    "    sys.stdout.buffer.write(len(body).to_bytes(8, 'little') + body)\n"
    "    sys.stdout.buffer.flush()\n"
)


@pytest.fixture
def bubblewrap() -> Confinement:
    """The full confinement, or a skip that says what is missing."""
    if confinement.available() is not Confinement.BUBBLEWRAP:
        pytest.skip("needs bubblewrap, with namespaces that this machine lets it make")
    return Confinement.BUBBLEWRAP


def _trainer(
    statement: str, how: Confinement = Confinement.PROCESS, limits: Limits = QUICK
) -> ConfinedTrainer:
    return ConfinedTrainer({}, statement, confinement=how, limits=limits)


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """A server on loopback that foreign code would like to reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# --- what it computes ---------------------------------------------------------------------------


@pytest.mark.sandbox
def test_confined_code_computes_what_local_code_computes(bubblewrap: Confinement) -> None:
    confined, local = ConfinedTrainer(PACKAGE, WORKER, confinement=bubblewrap), LocalTrainer()
    try:
        perceptron = MultilayerPerceptron()
        other = TrainingTask(perceptron, initial_model(perceptron, 3), ROWS, LABEL, bytes(32))
        for task in (TASK, other):
            assert confined.compute(task) == local.compute(task)
            state = local.site_state(task)
            assert confined.site_state(task) == state
            assert confined.alone(task) == local.alone(task)
            spec, model = task.specification, task.model
            assert np.array_equal(
                confined.predict(spec, model, ROWS, state), local.predict(spec, model, ROWS, state)
            )
        plain = LogisticRegression(site_intercepts=False, unit_rows=True)
        task = TrainingTask(plain, initial_model(plain, 3), ROWS, LABEL, bytes(32))
        for mine, theirs in zip(confined.layers(task), local.layers(task), strict=True):
            assert np.array_equal(mine.layer.errors, theirs.layer.errors)
            assert np.array_equal(mine.layer.inputs, theirs.layer.inputs)
        with pytest.raises(TrainerFailure) as declined:
            confined.compute(
                TrainingTask(SPEC, initial_model(SPEC, 3), ROWS, LABEL + 5.0, bytes(32))
            )
        assert declined.value.reason is FailureCode.LABEL_OUT_OF_RANGE
    finally:
        confined.close()


# --- what it tries ------------------------------------------------------------------------------

TRIES = {
    "a socket to this machine": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 2)",
    "a name looked up": "import socket\nsocket.getaddrinfo('example.org', 80)",
    "the site's rows": "open(SECRET).read()",
    "a file beside its code": "open('/code/more.py', 'w').write('x')",
    "a file among the system's": "open('/usr/planted', 'w').write('x')",
    "a file in its packages": "import sys\nopen(sys.prefix + '/planted', 'w').write('x')",
    "the machine's passwords": "open('/etc/shadow').read()",
    "another process' memory": "open('/proc/PARENT/environ').read()",
    "a signal to the site": "import os\nos.kill(PARENT, 0)",
    "a file beyond its limit": "open('/tmp/f', 'wb').write(bytes(8 << 20))",
    "memory beyond its limit": "bytearray(4 << 30)",
    "a mount": (
        "import ctypes\nassert ctypes.CDLL(None, use_errno=True).mount(b'none', b'/tmp', b'tmpfs',"
        " 0, None) == 0"
    ),
}


HARMLESS = (
    "a socket to this machine",
    "the site's rows",
    "another process' memory",
    "a signal to the site",
)
"""Tries that succeed without confinement and change nothing."""


def _outcome(what: str, how: Confinement, listener: int, secret: Path) -> bytes:
    """Say on the pipe whether the try raised inside."""
    tried = TRIES[what].replace("PORT", str(listener)).replace("SECRET", repr(str(secret)))
    tried = tried.replace("PARENT", str(os.getpid()))
    inner = "".join(f"    {line}\n" for line in tried.splitlines())
    caught = "except BaseException:\n    say('kept in')\nelse:\n    say('out')\n"
    trainer = _trainer(f"{READ}{SAY}try:\n{inner}{caught}", how)
    try:
        return trainer.site_state(TASK)
    finally:
        trainer.close()


@pytest.mark.sandbox
@pytest.mark.parametrize("what", TRIES)
def test_confined_code_cannot_reach(
    what: str, bubblewrap: Confinement, listener: int, tmp_path: Path
) -> None:
    secret = tmp_path / "data.csv"
    secret.write_text("row")
    assert _outcome(what, bubblewrap, listener, secret) == b"kept in"
    assert sorted(tmp_path.iterdir()) == [secret]


@pytest.mark.parametrize("what", HARMLESS)
def test_code_that_is_not_confined_reaches(what: str, listener: int, tmp_path: Path) -> None:
    """The control: it is confinement that keeps it in, not a mistake in the try."""
    secret = tmp_path / "data.csv"
    secret.write_text("row")
    assert _outcome(what, Confinement.PROCESS, listener, secret) == b"out"


@pytest.mark.sandbox
def test_a_datagram_does_not_leave_the_namespace(bubblewrap: Confinement) -> None:
    """Inside there is a loopback of its own, so sending works and reaches nobody."""
    for how, arrives in ((Confinement.PROCESS, True), (bubblewrap, False)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.settimeout(0.5)
            port = server.getsockname()[1]
            trainer = _trainer(
                f"{READ}{SAY}import socket\n"
                "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                f"s.sendto(b'row', ('127.0.0.1', {port}))\nsay('sent')\n",
                how,
            )
            assert trainer.site_state(TASK) == b"sent"
            trainer.close()
            try:
                assert server.recv(8) == b"row" and arrives
            except TimeoutError:
                assert not arrives


@pytest.mark.sandbox
def test_confined_code_inherits_neither_environment_nor_handles(
    bubblewrap: Confinement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE_PASSWORD", "hunter2")
    with (tmp_path / "open").open("w"):
        worker = (
            f"{READ}{SAY}import os\n"
            "say(','.join(sorted(os.listdir('/proc/self/fd'))) + ' ' + ' '.join(os.environ))\n"
        )
        trainer = _trainer(worker, bubblewrap)
        try:
            handles, *names = trainer.site_state(TASK).decode().split(" ")
        finally:
            trainer.close()
    assert "SITE_PASSWORD" not in names
    # Input, output, errors, and the one that lists them.
    assert len(handles.split(",")) == 4


# --- what it does to the pipe -------------------------------------------------------------------

ANSWERS = {
    "dies": ("raise SystemExit(1)", FailureCode.WORKER_DIED),
    "dies over its task": ("sys.stdin.buffer.read(8)", FailureCode.WORKER_DIED),
    "says nothing": (READ + "import time\ntime.sleep(60)", FailureCode.WORKER_TIME),
    "never reads": ("import time\ntime.sleep(60)", FailureCode.WORKER_TIME),
    "spins": (READ + "while True: pass", FailureCode.WORKER_TIME),
    "drips": (
        READ + "import time\nwhile True:\n    sys.stdout.buffer.write(b'\\x00')\n"
        "    sys.stdout.buffer.flush()\n    time.sleep(.05)",
        FailureCode.WORKER_GARBLED,
    ),
    "talks nonsense": (READ + "print('rows: 1,2,3', flush=True)", FailureCode.WORKER_GARBLED),
    "announces an exabyte": (
        READ + "sys.stdout.buffer.write((2**60).to_bytes(8, 'little'))",
        FailureCode.WORKER_GARBLED,
    ),
    "breaks off": (
        READ + "sys.stdout.buffer.write((99).to_bytes(8, 'little') + b'half')",
        FailureCode.WORKER_DIED,
    ),
    "answers another question": (READ + SAY + "say('state')", FailureCode.WORKER_GARBLED),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_whatever_a_process_does_the_site_sees_a_closed_code_in_time(what: str) -> None:
    statement, reason = ANSWERS[what]
    patience = 1.0 if reason is FailureCode.WORKER_TIME else 60.0
    trainer = _trainer("import sys\n" + statement, limits=Limits(call_s=patience))
    began = time.monotonic()
    try:
        with pytest.raises(TrainerFailure) as failed:
            trainer.compute(BIG)
    finally:
        trainer.close()
    assert failed.value.reason is reason
    # Far from the minute that it would take by itself.
    assert time.monotonic() - began < patience + 30.0
    assert "1,2,3" not in str(failed.value)


def test_after_a_failure_the_next_call_has_a_process_of_its_own(tmp_path: Path) -> None:
    """The first process fails and leaves a mark; the second sees it and answers."""
    mark = tmp_path / "mark"
    worker = (
        f"{READ}{SAY}import os\nmark = {str(mark)!r}\nif not os.path.exists(mark):\n"
        "    open(mark, 'w').close()\n    raise SystemExit(1)\nsay('second')\n"
    )
    trainer = _trainer(worker)
    try:
        with pytest.raises(TrainerFailure):
            trainer.site_state(TASK)
        assert trainer.site_state(TASK) == b"second"
    finally:
        trainer.close()


def test_an_answer_before_the_question_was_read_is_none() -> None:
    """It is of the right kind and whole, and answers nothing that was asked."""
    trainer = _trainer("import sys\n" + SAY + "say('early')\nimport time\ntime.sleep(60)")
    try:
        with pytest.raises(TrainerFailure) as failed:
            trainer.site_state(BIG)
    finally:
        trainer.close()
    assert failed.value.reason is FailureCode.WORKER_GARBLED


def test_a_process_that_answered_badly_is_not_asked_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    worker = (
        "import sys, os\n" + SAY + f"mark = {str(mark)!r}\nfirst = not os.path.exists(mark)\n"
        "open(mark, 'w').close()\n"
        "while head := sys.stdin.buffer.read(8):\n"
        "    sys.stdin.buffer.read(int.from_bytes(head, 'little'))\n"
        "    if first:\n"
        "        sys.stdout.buffer.write(bytes(8))\n        sys.stdout.buffer.flush()\n"
        "    say('first' if first else 'second')\n"
    )
    trainer = _trainer(worker)
    try:
        with pytest.raises(TrainerFailure):
            trainer.site_state(TASK)
        assert trainer.site_state(TASK) == b"second"
    finally:
        trainer.close()


def test_what_code_starts_ends_with_it() -> None:
    worker = (
        f"{READ}{SAY}import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\nsay(str(child.pid))\nsys.stdin.buffer.read()\n"
    )
    trainer = _trainer(worker)
    child = int(trainer.site_state(TASK))
    assert not has_ended(child)
    trainer.close()
    until = time.monotonic() + 30.0
    while not has_ended(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert has_ended(child)


def test_calls_from_several_threads_do_not_meet() -> None:
    """Each gets the answer to its own question: the length of its rows."""
    worker = (
        "import sys\n" + SAY + "while head := sys.stdin.buffer.read(8):\n"
        "    n = int.from_bytes(head, 'little')\n    sys.stdin.buffer.read(n)\n"
        "    import time\n    time.sleep(.2)\n    say(str(n))\n"
    )
    trainer = _trainer(worker)
    found: dict[int, bytes] = {}

    def ask(rows: int) -> None:
        task = TrainingTask(
            SPEC, initial_model(SPEC, 3), np.ones((rows, 3)), np.ones(rows), bytes(32)
        )
        found[rows] = trainer.site_state(task)

    ask(50)
    threads = [threading.Thread(target=ask, args=(rows,)) for rows in (100, 200, 300, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    trainer.close()
    sizes = [int(found[rows]) for rows in sorted(found)]
    assert len(sizes) == 5 and sizes == sorted(set(sizes))


# --- which code runs ----------------------------------------------------------------------------


def test_other_bytes_than_the_approved_ones_are_refused() -> None:
    approved = package_digest(PACKAGE)
    require_code(PACKAGE, approved)
    assert approved == code_digest()
    for changed in (
        PACKAGE | {"trainers/numpy_trainer.py": b"import os\n"},
        PACKAGE | {"more.py": b""},
        {name: data for name, data in PACKAGE.items() if name != "errors.py"},
    ):
        with pytest.raises(PolicyError) as refused:
            require_code(changed, approved)
        assert refused.value.code == "wrong-code"


def test_the_copy_that_runs_is_of_the_bytes_that_were_compared(tmp_path: Path) -> None:
    """Files that change after they were read change nothing."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "one.py").write_bytes(b"approved = True\n")
    files = read_package(source)
    (source / "one.py").write_bytes(b"approved = False\n")
    write_copy(files, tmp_path / "code")
    assert (tmp_path / "code" / "treaty" / "one.py").read_bytes() == b"approved = True\n"
    with pytest.raises(UsageError, match="not empty"):
        write_copy(files, tmp_path / "code")


# --- where there is no bubblewrap ---------------------------------------------------------------


def test_a_machine_without_bubblewrap_says_what_is_not_limited(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    confinement.available.cache_clear()
    try:
        assert confinement.chosen(required=False) is Confinement.PROCESS
        assert "NOT limited" in Confinement.PROCESS.words
        with pytest.raises(PolicyError) as refused:
            confinement.chosen(required=True)
        assert refused.value.code == "not-confined"
    finally:
        confinement.available.cache_clear()


def test_bubblewrap_that_does_not_answer_is_not_taken_for_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under load code would run unconfined where the policy only prefers that it is confined."""
    slow = tmp_path / "bwrap"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(confinement, "_PROBE_S", 0.2)
    confinement.available.cache_clear()
    try:
        for required in (False, True):
            with pytest.raises(ResourceError, match="did not answer within"):
                confinement.chosen(required)
    finally:
        confinement.available.cache_clear()


@pytest.mark.parametrize(
    "change", [{"call_s": 0.0}, {"memory_bytes": 0}, {"file_bytes": -1}, {"cpu_s": 0}]
)
def test_limits_that_are_none_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Limits(**change)  # type: ignore[arg-type]
