"""One suite for `treaty.ports.EventStore`, run on every implementation.

Planted faults that these tests caught: versions not compared; a stale batch that
stores its values; `read` with start counted from 1; limit ignored; deletes
ignored; records appended in reverse; version counted per batch instead of per
record; blobs of a batch forgotten.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, TreatyError, UsageError
from treaty.ports import Append, Batch, EventStore
from treaty.stores.memory import MemoryStore
from treaty.stores.sqlite import SMALL_BLOB_BYTES, SqliteStore

if TYPE_CHECKING:
    from treaty.stores.postgres import PostgresStore

Store: TypeAlias = "MemoryStore | SqliteStore | PostgresStore"
POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


def reopener(kind: str, request: pytest.FixtureRequest, place: Path) -> Callable[[], Store]:
    """Return what opens one durable store, again and again."""
    if kind == "sqlite":
        return lambda: SqliteStore(place / "s.db")
    from treaty.stores.postgres import PostgresStore

    server = request.getfixturevalue("postgres")
    address = server.address(server.database())
    return lambda: PostgresStore(address)


@pytest.fixture(params=["memory", "sqlite", POSTGRES])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    kind = request.param
    opened: Store = MemoryStore() if kind == "memory" else reopener(kind, request, tmp_path)()
    yield opened
    opened.close()


def append(stream: str, version: int, *records: bytes) -> Batch:
    return Batch(appends=(Append(stream, version, records),))


def test_an_unwritten_stream_has_version_zero_and_no_records(store: Store) -> None:
    assert store.version("log") == 0
    assert store.read("log") == []
    assert store.read("log", 5, 3) == []
    assert store.get("key") is None


def test_records_come_back_in_order_and_in_ranges(store: Store) -> None:
    records = tuple(bytes([number]) for number in range(10))
    store.commit(append("log", 0, *records[:4]))
    store.commit(append("other", 0, b"x"))
    store.commit(append("log", 4, *records[4:]))
    assert store.version("log") == 10
    for start in range(12):
        for limit in (None, *range(12)):
            end = None if limit is None else start + limit
            assert store.read("log", start, limit) == list(records[start:end])
    assert store.read("other") == [b"x"]


@pytest.mark.parametrize("expected", [0, 1, 3, 2**40])
def test_a_stale_batch_changes_nothing_at_all(store: Store, expected: int) -> None:
    store.commit(Batch(appends=(("log", 0, (b"a", b"b")),), puts=(("key", b"old"),)))
    small, large = b"small", b"l" * (SMALL_BLOB_BYTES + 1)
    batch = Batch(
        appends=(("fresh", 0, (b"f",)), ("log", expected, (b"c",))),
        puts=(("key", b"new"), ("second", b"2")),
        blobs=(small, large),
    )
    with pytest.raises(ResourceError, match=f"stale version .* found 2 .* expected {expected};"):
        store.commit(batch)
    assert store.read("log") == [b"a", b"b"]
    assert store.version("fresh") == 0
    assert store.get("key") == b"old"
    assert store.get("second") is None
    assert not store.blobs.has(sha256(small))
    assert not store.blobs.has(sha256(large))


def test_an_append_without_records_is_only_a_condition(store: Store) -> None:
    store.commit(Batch(appends=(("log", 0, ()),), puts=(("key", b"1"),)))
    assert store.version("log") == 0
    store.commit(append("log", 0, b"a"))
    with pytest.raises(ResourceError, match="stale version"):
        store.commit(Batch(appends=(("log", 0, ()),), puts=(("key", b"2"),)))
    assert store.get("key") == b"1"


def test_a_commit_stores_records_values_and_blobs_together(store: Store) -> None:
    blobs = (b"", b"small", b"e" * SMALL_BLOB_BYTES, b"l" * (SMALL_BLOB_BYTES + 1))
    store.commit(Batch(appends=(("log", 0, (b"",)),), puts=(("key", b""),), blobs=blobs))
    assert store.read("log") == [b""]
    assert store.get("key") == b""
    assert [store.blobs.get(sha256(blob)) for blob in blobs] == list(blobs)


def test_values_are_replaced_and_deleted(store: Store) -> None:
    store.commit(Batch(puts=(("a", b"1"), ("b", b"2"))))
    store.commit(Batch(puts=(("a", b"3"),), deletes=("b", "never")))
    assert store.get("a") == b"3"
    assert store.get("b") is None


def test_names_are_compared_by_character(store: Store) -> None:
    names = ("a", "A", "a ", "0", "00", "~/\\", "x" * 512)
    for name in names:
        store.commit(Batch(appends=((name, 0, (name.encode(),)),), puts=((name, name.encode()),)))
    for name in names:
        assert store.read(name) == [name.encode()] and store.get(name) == name.encode()


@pytest.mark.parametrize(("start", "limit"), [(-1, None), (0, -1), (-1, -1)])
def test_a_negative_range_is_the_callers_mistake(
    store: Store, start: int, limit: int | None
) -> None:
    with pytest.raises(UsageError, match="expected 0 or more"):
        store.read("log", start, limit)


@pytest.mark.parametrize("name", ["", "\ud800", "a\n", "\u00e9", "x" * 513])
def test_a_name_that_cannot_be_stored_cannot_be_asked_for(store: Store, name: str) -> None:
    for call in (lambda: store.version(name), lambda: store.read(name), lambda: store.get(name)):
        with pytest.raises(UsageError, match="printable ASCII"):
            call()


def test_a_closed_store_refuses_everything(store: Store) -> None:
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.version("log"),
        lambda: store.read("log"),
        lambda: store.get("key"),
        lambda: store.commit(Batch()),
    ]
    for call in calls:
        with pytest.raises(ResourceError, match="closed"):
            call()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Batch(appends=(("a", 0, ()), ("a", 0, ()))),
        lambda: Batch(puts=(("a", b""), ("a", b""))),
        lambda: Batch(puts=(("a", b""),), deletes=("a",)),
        lambda: Batch(deletes=("a", "a")),
        lambda: Batch(appends=(("a", -1, ()),)),
        lambda: Batch(appends=(("", 0, ()),)),
        lambda: Batch(puts=(("", b""),)),
        lambda: Batch(puts=(("\ud800", b""),)),
        lambda: Batch(deletes=("a\0",)),
        lambda: Batch(appends=(("a" * 513, 0, ()),)),
        lambda: Batch(label="a:1:after"),
        lambda: Batch(label="A"),
    ],
)
def test_a_batch_that_contradicts_itself_cannot_be_made(make: Callable[[], Batch]) -> None:
    with pytest.raises(UsageError):
        make()


LARGE = b"l" * (SMALL_BLOB_BYTES + 1)
BLOBS = {"empty": b"", "small": b"b", "large": LARGE}
_names = st.sampled_from(["log", "own", "x"])
_data = st.binary(max_size=4)


@pytest.mark.parametrize("kind", ["sqlite", POSTGRES])
def test_a_durable_store_answers_as_the_reference_does_in_every_sequence(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Commits, good and stale, reads, blobs and restarts: same results, same errors."""

    class Comparison(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.open = reopener(kind, request, tmp_path_factory.mktemp("store"))
            self.reference = MemoryStore()
            self.durable = self.open()

        def both(self, act: Callable[[Store], object]) -> None:
            assert outcome(act, self.reference) == outcome(act, self.durable)

        @rule(
            streams=st.dictionaries(
                _names, st.tuples(st.sampled_from([0, 0, 0, 1, -1]), st.lists(_data, max_size=3))
            ),
            puts=st.dictionaries(_names, _data, max_size=2),
            deletes=st.sets(_names, max_size=2),
            blobs=st.lists(st.sampled_from(sorted(BLOBS)), max_size=2),
        )
        def commit(
            self,
            streams: dict[str, tuple[int, list[bytes]]],
            puts: dict[str, bytes],
            deletes: set[str],
            blobs: list[str],
        ) -> None:
            appends = tuple(
                (name, max(0, self.reference.version(name) + shift), tuple(records))
                for name, (shift, records) in streams.items()
            )
            batch = Batch(
                appends=appends,
                puts=tuple(puts.items()),
                deletes=tuple(sorted(deletes - puts.keys())),
                blobs=tuple(BLOBS[name] for name in blobs),
            )
            self.both(lambda store: store.commit(batch))

        @rule(stream=_names, start=st.integers(-1, 9), limit=st.none() | st.integers(-1, 9))
        def read(self, stream: str, start: int, limit: int | None) -> None:
            self.both(lambda store: store.read(stream, start, limit))

        @rule(blob=st.sampled_from(sorted(BLOBS)))
        def delete_blob(self, blob: str) -> None:
            self.both(lambda store: store.blobs.delete(sha256(BLOBS[blob])))

        @rule()
        def restart(self) -> None:
            self.durable.close()
            self.durable = self.open()

        @invariant()
        def everything_readable_is_the_same(self) -> None:
            for name in ("log", "own", "x"):
                self.both(lambda store, name=name: store.version(name))  # type: ignore[misc]
                self.both(lambda store, name=name: store.read(name))  # type: ignore[misc]
                self.both(lambda store, name=name: store.get(name))  # type: ignore[misc]
            for blob in BLOBS.values():
                self.both(lambda store, blob=blob: store.blobs.has(sha256(blob)))  # type: ignore[misc]
                self.both(lambda store, blob=blob: store.blobs.get(sha256(blob)))  # type: ignore[misc]

        def teardown(self) -> None:
            self.durable.close()

    run_state_machine_as_test(
        Comparison,
        settings=settings(
            max_examples=25 if kind == "sqlite" else 12,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def outcome(act: Callable[[Store], object], store: Store) -> tuple[str, object]:
    try:
        return "value", act(store)
    except TreatyError as error:
        return type(error).__name__, str(error)


def test_every_implementation_fits_the_port() -> None:
    def accept(store: type[EventStore]) -> None:
        assert callable(store)

    accept(MemoryStore)
    accept(SqliteStore)
