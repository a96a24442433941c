"""Real SIGKILL right before and right after every durable write of the stores.

A child process runs one script over all stores; `TREATY_KILL_AT` names where it
dies. Afterwards the directory must hold exactly what was written before the
point, the next process must open it, and running the script again must end in
the same state as a run that was never killed.

Planted faults that these tests caught: the point placed after the commit or
the erasure it names; the n-th write not counted; a secret under its name before
its point; the checkpoint before its tiles; a failed write in the trace.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, UsageError
from treaty.stores.files import write_file
from treaty.stores.kill_points import KILL_VARIABLE, TRACE_VARIABLE
from treaty.stores.secret_files import SecretDirectory
from treaty.stores.sqlite import SMALL_BLOB_BYTES, SqliteStore
from treaty.stores.tiles import PublicationDirectory

SOURCE = Path(__file__).parents[2] / "src"
LARGE = b"l" * (SMALL_BLOB_BYTES + 1)
SCRIPT = """
import sys
from pathlib import Path
from treaty.errors import ResourceError
from treaty.ports import Batch
from treaty.stores.secret_files import SecretDirectory
from treaty.stores.sqlite import SMALL_BLOB_BYTES, SqliteStore
from treaty.stores.tiles import PublicationDirectory

root = Path(sys.argv[1])
store = SqliteStore(root / "s.db")
secrets = SecretDirectory(root / "epoch")
log = PublicationDirectory(root / "public")

def commit(batch):
    try:
        store.commit(batch)
    except ResourceError as error:
        if "stale version" not in str(error):
            raise

secrets.write("slot", b"seed" * 8)
commit(Batch(appends=(("log", 0, (b"a", b"b")),), puts=(("k", b"1"),), label="round"))
large = b"l" * (SMALL_BLOB_BYTES + 1)
commit(Batch(appends=(("log", 2, (b"c",)),), puts=(("k", b"2"),), blobs=(large,), label="round"))
log.publish({"tile/0/000.p/3": b"hashes", "tile/entries/000.p/3": b"entries"}, b"o\\n3\\nr\\n")
secrets.erase("slot")
"""
# Point, then what must be there if the process died at it: records in the log, value
# of k, large blob stored, tiles published, checkpoint published, secret present.
STATES: dict[str, tuple[int, bytes | None, bool, bool, bool, bool]] = {
    "secret-write:1:before": (0, None, False, False, False, False),
    "secret-write:1:after": (0, None, False, False, False, True),
    "round:1:before": (0, None, False, False, False, True),
    "round:1:after": (2, b"1", False, False, False, True),
    "blob:1:before": (2, b"1", False, False, False, True),
    "blob:1:after": (2, b"1", True, False, False, True),
    "round:2:before": (2, b"1", True, False, False, True),
    "round:2:after": (3, b"2", True, False, False, True),
    "tiles:1:before": (3, b"2", True, False, False, True),
    "tiles:1:after": (3, b"2", True, True, False, True),
    "checkpoint:1:before": (3, b"2", True, True, False, True),
    "checkpoint:1:after": (3, b"2", True, True, True, True),
    "secret-erase:1:before": (3, b"2", True, True, True, True),
    "secret-erase:1:after": (3, b"2", True, True, True, False),
}


def run(root: Path, **variables: str) -> int:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**kept, "PYTHONPATH": str(SOURCE), **variables}
    command = [sys.executable, "-c", SCRIPT, str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def observe(root: Path) -> tuple[int, bytes | None, bool, bool, bool, bool]:
    store = SqliteStore(root / "s.db")
    store.check()
    secrets = SecretDirectory(root / "epoch")
    log = PublicationDirectory(root / "public")
    tiles = sorted(p.name for p in (root / "public").rglob("*") if p.is_file())
    found = (
        store.version("log"),
        store.get("k"),
        store.blobs.has(sha256(LARGE)),
        [name for name in tiles if name != "checkpoint"] == ["3", "3"],
        log.checkpoint() is not None,
        secrets.names() == ("slot",),
    )
    assert store.read("log") == [b"a", b"b", b"c"][: found[0]]
    assert not found[2] or store.blobs.get(sha256(LARGE)) == LARGE
    assert not found[5] or secrets.read("slot") == b"seed" * 8
    store.close()
    return found


@pytest.mark.parametrize("point", STATES)
def test_a_process_killed_at_a_persist_point_goes_on_from_there(tmp_path: Path, point: str) -> None:
    assert run(tmp_path, TREATY_KILL_AT=point) == -signal.SIGKILL
    assert observe(tmp_path) == STATES[point]


def test_a_killed_run_that_is_repeated_ends_as_one_that_was_not(tmp_path: Path) -> None:
    for point in ("round:2:before", "tiles:1:before", "checkpoint:1:after"):
        assert run(tmp_path, TREATY_KILL_AT=point) in (0, -signal.SIGKILL)
    assert run(tmp_path) == 0
    assert observe(tmp_path) == STATES["secret-erase:1:after"]


def test_the_trace_lists_every_point_of_a_clean_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert run(tmp_path, TREATY_KILL_TRACE=str(trace)) == 0
    points = trace.read_text().split()
    expected = ["secret-write", "round", "blob", "round", "tiles", "checkpoint", "secret-erase"]
    assert points == expected
    assert {point.split(":")[0] for point in STATES} == set(expected)


@pytest.mark.parametrize("order", ["x", "x:1", "x:0:before", "x:-1:after", "x:1:now", "x:²:after"])
def test_a_malformed_order_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setenv(KILL_VARIABLE, order)
    with pytest.raises(UsageError, match="expected label:n:before"):
        write_file(tmp_path / "file", b"data", label="x")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_is_not_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACE_VARIABLE, str(tmp_path / "trace"))
    with pytest.raises(ResourceError):
        write_file(tmp_path / "missing" / "file", b"data", label="lost")
    write_file(tmp_path / "file", b"data", label="kept")
    assert (tmp_path / "trace").read_text() == "kept\n"
