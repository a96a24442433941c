"""A full disk: one clear error, the old state whole, and work goes on once there is room.

The disk is filled in two ways: SQLite's own page limit (it reports a full disk),
and a file size limit of the operating system in a child process (every write of
the database, of blobs, secrets and files meets it).

Planted faults that these tests caught: the error of the system passed on as it
is; a transaction left open after the failure; temporary files left behind.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from treaty.errors import ResourceError
from treaty.ports import Batch
from treaty.stores.sqlite import SqliteStore

SOURCE = Path(__file__).parents[2] / "src"
SCRIPT = """
import resource, sys
from pathlib import Path
from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError
from treaty.ports import Batch
from treaty.stores.files import read_file, write_file
from treaty.stores.secret_files import SecretDirectory
from treaty.stores.sqlite import SqliteStore
from treaty.stores.tiles import PublicationDirectory

root = Path(sys.argv[1])
store = SqliteStore(root / "s.db")
store.commit(Batch(appends=(("log", 0, (b"a",)),), puts=(("k", b"1"),)))
secrets = SecretDirectory(root / "epoch")
secrets.write("slot", b"old")
log = PublicationDirectory(root / "public")
log.publish({}, b"o\\n1\\nr\\n")
write_file(root / "file", b"old")
big = b"x" * 2_000_000
new = Batch(appends=(("log", 1, (big,)),), puts=(("k", b"2"),))

acts = {
    "commit": lambda: store.commit(new),
    "blob": lambda: store.blobs.put(big),
    "pieces": lambda: store.blobs.put_chunks([big[:500_000]] * 4),
    "blob in a batch": lambda: store.commit(Batch(puts=(("k", b"2"),), blobs=(big,))),
    "secret": lambda: secrets.write("slot", big),
    "tile": lambda: log.publish({"tile/0/000": big}, b"o\\n2\\nr\\n"),
    "file": lambda: write_file(root / "file", big),
}

def state():
    files = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    return (store.read("log"), store.get("k"), store.blobs.has(sha256(big)), log.checkpoint(),
            secrets.names(), secrets.read("slot"), read_file(root / "file"), files)

before = state()
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
for name, act in acts.items():
    try:
        act()
    except ResourceError as error:
        assert "file size limit" in str(error), (name, error)
    else:
        raise AssertionError(f"{name} succeeded")
    assert state() == before, (name, state()[1:], before[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
for act in acts.values():
    act()
assert store.version("log") == 2 and store.get("k") == b"2"
assert store.blobs.get(sha256(big)) == big and secrets.read("slot") == big
assert log.checkpoint() == b"o\\n2\\nr\\n" and read_file(root / "file") == big
store.check()
print("held")
"""


def test_no_store_breaks_when_the_system_takes_no_more_bytes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"held\n"), done.stderr.decode()


@pytest.mark.parametrize("restarts", [False, True])
def test_a_full_database_says_so_and_takes_no_part_of_a_batch(
    tmp_path: Path, restarts: bool
) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.commit(Batch(appends=(("log", 0, (b"a",)),), puts=(("k", b"1"),)))
    # Reaches inside: the page limit belongs to the connection.
    (pages,) = store._database.connection.execute("PRAGMA page_count").fetchone()
    store._database.connection.execute(f"PRAGMA max_page_count={pages + 1}")
    batch = Batch(appends=(("log", 1, (bytes(20_000),)),), puts=(("k", b"2"),))
    with pytest.raises(ResourceError, match="the disk is full: free some space and try again"):
        store.commit(batch)
    assert (store.read("log"), store.get("k")) == ([b"a"], b"1")
    if restarts:
        store.close()
        store = SqliteStore(tmp_path / "s.db")
    else:
        store._database.connection.execute("PRAGMA max_page_count=100000")
    store.commit(batch)
    assert (store.version("log"), store.get("k")) == (2, b"2")
    store.close()
