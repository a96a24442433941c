"""One suite for `treaty.ports.Ledger`, run on every implementation; then what a file must do alone.

A write is cut off at every byte: nothing that was confirmed is lost, and what was not is cut away.
Any other change of the file is refused and leaves it as it is. A model of the disk keeps only what
was confirmed: what a call returned for must be in it.

Planted and caught in the file: a record appended without fdatasync, or confirmed before its bytes
are written; a new file without fsync, or without that of its directory; a line of another process
taken up unconfirmed; a digest that is not compared; damage in the middle taken for a torn end; a
torn end left in place; a name that is not compared; a count that is not; a lock not taken; a record
that no reader would take; a directory that another user owns; a file that others may use read, or
used on; a file gone; a lock waited for without end; records appended before the first. (Swapped
and repeated records keep their digests: the chain refuses them, tests/unit/privacy/test_ledger.py;
an older file is whole: the log's head refuses it, tests/unit/node/test_budget.py.)
"""

import fcntl
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disk_model import Disk
from treaty.errors import ResourceError, UsageError
from treaty.ports import Ledger
from treaty.stores import ledger_file
from treaty.stores.ledger_file import LEDGER_HEADER, LedgerFile, parse_ledger
from treaty.stores.memory import MemoryLedger

PATIENT_S = 100.0
"""How long a file is waited for where its holder, or the disk, may be slow."""

RECORDS = [f'{{"entry":{number}}}'.encode() for number in range(4)]


@pytest.fixture(params=["memory", "file"])
def again(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Ledger]:
    """Return a way to open one and the same ledger, as another process would."""
    records: list[bytes] = []
    place = tmp_path / "home" / "a.ledger"
    return lambda: MemoryLedger(records) if request.param == "memory" else LedgerFile(place)


def test_records_come_back_in_order_and_across_openings(again: Callable[[], Ledger]) -> None:
    ledger = again()
    assert ledger.read() == []
    ledger.append(0, RECORDS[:1])
    ledger.append(1, RECORDS[1:3])
    ledger.append(3, ())
    assert ledger.read() == RECORDS[:3]
    assert ledger.read(2) == RECORDS[2:3]
    assert ledger.read(9) == []
    ledger.close()
    ledger.close()
    assert again().read() == RECORDS[:3]


def test_whoever_is_behind_stores_nothing_and_learns_of_it(again: Callable[[], Ledger]) -> None:
    one = again()
    with pytest.raises(ResourceError, match="found 0 records, expected 1"):
        one.append(1, RECORDS[:1])
    assert again().read() == []
    one.append(0, RECORDS[:1])
    two = again()
    two.append(1, RECORDS[1:2])
    with pytest.raises(ResourceError, match="stale count"):
        one.append(1, RECORDS[2:3])
    assert one.read(1) == RECORDS[1:2]
    one.append(2, RECORDS[2:3])
    assert two.read() == RECORDS[:3]


def test_a_ledger_that_exists_is_not_begun_again(again: Callable[[], Ledger]) -> None:
    one, two = again(), again()
    one.append(0, RECORDS[:1])
    with pytest.raises(ResourceError):
        two.append(0, RECORDS[1:2])
    assert again().read() == RECORDS[:1]


@pytest.mark.parametrize(
    "record",
    [b"", b"a\nb", b"a\0b", bytes(2), b"x" * ((1 << 20) + 1)],
    ids=["nothing", "newline", "zero", "zeros", "too long"],
)
def test_records_that_no_line_can_hold_are_refused(
    again: Callable[[], Ledger], record: bytes
) -> None:
    ledger = again()
    with pytest.raises(UsageError):
        ledger.append(0, (record,))
    with pytest.raises(UsageError):
        ledger.read(-1)
    assert ledger.read() == []


def test_a_closed_ledger_is_not_used(again: Callable[[], Ledger]) -> None:
    ledger = again()
    ledger.append(0, RECORDS[:1])
    ledger.close()
    for call in (lambda: ledger.read(), lambda: ledger.append(1, RECORDS[1:2])):
        with pytest.raises(ResourceError, match="closed"):
            call()


# --- the file alone ---------------------------------------------------------------------------


def written(tmp_path: Path, count: int = 3) -> Path:
    path = tmp_path / "home" / "a.ledger"
    ledger = LedgerFile(path)
    for number in range(count):
        ledger.append(number, RECORDS[number : number + 1])
    ledger.close()
    return path


def test_what_an_append_returned_for_survives_a_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    path = tmp_path / "home" / "a.ledger"
    ledger = LedgerFile(path)
    for number in range(4):
        ledger.append(number, RECORDS[number : number + 1])
        found = disk.after_power_loss(path)
        assert found is not None, f"the file has no name on the disk after record {number}"
        assert parse_ledger(found, first=True, name="disk")[0] == RECORDS[: number + 1]
    assert disk.after_power_loss(path) == path.read_bytes()


def test_what_another_process_left_unconfirmed_counts_once_it_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    opened = LedgerFile(path)
    other = LedgerFile(path)
    other.append(3, RECORDS[3:])
    other.close()
    disk = Disk(monkeypatch)
    assert opened.read() == RECORDS
    inode = path.stat().st_ino
    assert disk.content[inode] == path.read_bytes()
    disk.content.clear()
    assert LedgerFile(path).read() == RECORDS
    assert disk.content[inode] == path.read_bytes()
    assert path.name in disk.names[path.parent.stat().st_ino]


def test_the_file_is_private_and_its_directory_too(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_write_cut_off_at_any_byte_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    before = path.read_bytes()
    ledger = LedgerFile(path)
    ledger.append(3, RECORDS[3:])
    ledger.close()
    after = path.read_bytes()
    for end in range(len(before), len(after) + 1):
        for hole in (False, True):
            torn = after[:end]
            if hole and end < len(after):
                # Length and data reach the disk in any order: the missing part reads as zeros.
                torn += bytes(len(after) - end)
            path.write_bytes(torn)
            opened = LedgerFile(path)
            whole = RECORDS if end == len(after) else RECORDS[:3]
            assert path.read_bytes() == (after if end == len(after) else before)
            assert opened.read() == whole
            opened.append(len(whole), (b"next",))
            opened.close()
            assert LedgerFile(path, read_only=True).read() == [*whole, b"next"]


def test_a_reader_leaves_a_torn_end_alone(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"ent')
    reader = LedgerFile(path, read_only=True)
    assert reader.read() == RECORDS[:3]
    with pytest.raises(UsageError, match="reading only"):
        reader.append(3, RECORDS[3:])
    assert path.read_bytes().endswith(b'{"ent')


def test_every_other_change_of_the_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    good = path.read_bytes()
    lines = good.split(b"\n")
    changed = [
        b"",
        good[1:],
        LEDGER_HEADER,
        good.replace(b'"entry":2', b'"entry":3'),
        good.replace(b'"entry":0', b'"entry":9'),
        b"\n".join([lines[0], lines[1], lines[2][:-3], lines[3], b""]),
        b"\n".join([lines[0], lines[1], bytes(len(lines[2])), lines[3], b""]),
        good + b"\n",
        good + RECORDS[3] + b"\n",
    ]
    for data in changed:
        path.write_bytes(data)
        with pytest.raises(ResourceError, match="re-base"):
            LedgerFile(path)
        assert path.read_bytes() == data


def test_every_flipped_bit_of_a_confirmed_record_is_noticed_or_is_torn(tmp_path: Path) -> None:
    """Only the last line's end may turn into a torn write; the log's last head shows that."""
    path = written(tmp_path)
    good = path.read_bytes()
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= 1
        path.write_bytes(data)
        try:
            found = LedgerFile(path, read_only=True).read()
        except ResourceError:
            continue
        assert position == len(good) - 1 and found == RECORDS[:2]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o640, 0o604, 0o666])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path)
    open_before = LedgerFile(path)
    path.chmod(mode)
    for read_only in (False, True):
        with pytest.raises(ResourceError, match="chmod 600"):
            LedgerFile(path, read_only=read_only)
    with pytest.raises(ResourceError, match="chmod 600"):
        open_before.append(3, RECORDS[3:])


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.parent.chmod(0o770)
    with pytest.raises(ResourceError, match="chmod 700"):
        LedgerFile(path)


def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns it may exchange the file. Root gives it away, anybody else becomes another."""
    path = written(tmp_path)
    if os.geteuid() == 0:
        os.chown(path.parent, 12_345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(ResourceError, match="written by others"):
        LedgerFile(path)


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    moved = path.rename(path.with_name("b.ledger"))
    path.symlink_to(moved)
    with pytest.raises(ResourceError):
        LedgerFile(path)
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))
    with pytest.raises(ResourceError):
        LedgerFile(path)


def test_a_file_that_is_exchanged_while_open_takes_no_more_records(tmp_path: Path) -> None:
    path = written(tmp_path)
    ledger = LedgerFile(path)
    copy = path.read_bytes()
    path.unlink()
    path.write_bytes(copy)
    path.chmod(0o600)
    with pytest.raises(ResourceError, match="took its name"):
        ledger.append(3, RECORDS[3:])
    with pytest.raises(ResourceError):
        ledger.read()
    assert path.read_bytes() == copy


def test_a_file_that_is_taken_away_while_open_takes_no_more_records(tmp_path: Path) -> None:
    path = written(tmp_path)
    ledger = LedgerFile(path)
    path.unlink()
    with pytest.raises(ResourceError, match="took its name"):
        ledger.append(3, RECORDS[3:])
    assert not path.exists()


def test_a_file_that_is_shortened_while_open_takes_no_more_records(tmp_path: Path) -> None:
    path = written(tmp_path)
    ledger = LedgerFile(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ResourceError, match="shorter"):
        ledger.append(3, RECORDS[3:])


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path)
    good = path.read_bytes()
    ledger = LedgerFile(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) + 10, limits[1]))
    try:
        with pytest.raises(ResourceError, match="limit"):
            ledger.append(3, RECORDS[3:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == good
    ledger.append(3, RECORDS[3:])
    assert ledger.read() == RECORDS


def test_a_record_waits_while_another_process_holds_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote between reading the end and writing there would be overwritten."""
    monkeypatch.setattr(ledger_file, "_WAIT_S", PATIENT_S)
    path = written(tmp_path)
    ledger = LedgerFile(path)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: ledger.append(3, RECORDS[3:]))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive() and len(LedgerFile(path, read_only=True).read()) == 3
    waiting.join(60)
    assert not waiting.is_alive() and ledger.read() == RECORDS


def test_a_file_that_another_process_keeps_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_file, "_WAIT_S", 0.05)
    path = written(tmp_path)
    ledger = LedgerFile(path)
    refused: list[str] = []

    def append() -> None:
        try:
            ledger.append(3, RECORDS[3:])
        except ResourceError as error:
            refused.append(str(error))

    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=append)
        waiting.start()
        waiting.join(60)
        assert refused == [f"{path} is held by another process: stop it, or wait for its end"]
    waiting.join(60)
    assert ledger.read() == RECORDS[:3]


def _writer(path: str, mine: int, rounds: int) -> None:
    ledger_file._WAIT_S = PATIENT_S
    ledger = LedgerFile(Path(path))
    done = 0
    while done < rounds:
        count = len(ledger.read())
        try:
            ledger.append(count, (b"%d-%d" % (mine, done),))
            done += 1
        except ResourceError as error:
            assert "stale count" in str(error), error


def test_processes_take_turns_and_lose_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writer, args=(str(path), mine, 15)) for mine in range(2)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(100)
        assert one.exitcode == 0
    found = LedgerFile(path).read()[1:]
    for mine in range(2):
        own = [record for record in found if record.startswith(b"%d-" % mine)]
        assert own == [b"%d-%d" % (mine, number) for number in range(15)]
    assert len(found) == 30
