"""What only the PostgreSQL store promises: refusals, bounded waits, secrecy of the password.

Planted faults that these tests caught: a server without fsync accepted; a schema of another
program adopted; a newer schema adopted; the version compared outside the lock; the library's text
in a message; a password accepted in the address; no limit for an answer; a lost
connection kept; a write through a reader.
"""

import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("psycopg", reason="postgres: psycopg is not installed")

from tests.nats_network import free_port
from tests.postgres_server import PASSWORD, PostgresServer
from tests.standstill import go_on, stand_still
from treaty.crypto.canonical import sha256
from treaty.errors import ResourceError, UsageError, VerificationError
from treaty.ports import Batch
from treaty.stores.postgres import PostgresStore
from treaty.stores.postgres_link import CALL_S

pytestmark = pytest.mark.postgres

DENIED = "refuses the password"


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.fixture
def store(postgres: PostgresServer, database: str) -> Iterator[PostgresStore]:
    opened = PostgresStore(postgres.address(database))
    yield opened
    opened.close()


def append(version: int, *records: bytes) -> Batch:
    return Batch(appends=(("log", version, records),))


def raising(code: str) -> str:
    """Let the next record fail as the server would with this code, when it is committed."""
    return (
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'secret row' USING ERRCODE = '{code}'; END $$;"
        "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON treaty.records "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fail()"
    )


def test_the_session_is_durable_and_bounded_whatever_the_database_says(
    postgres: PostgresServer, database: str
) -> None:
    postgres.sql(f"ALTER DATABASE {database} SET synchronous_commit = off")
    store = PostgresStore(postgres.address(database))
    connection = store._link.connection
    for setting, expected in (
        ("synchronous_commit", "on"),
        ("search_path", "pg_catalog"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("default_transaction_isolation", "read committed"),
    ):
        found = connection.execute("SELECT current_setting(%s)", (setting,)).fetchone()
        assert found == (expected,), setting
    store.close()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("53100", "disk is full: free some space there"),
        ("53200", "out of memory"),
        ("25006", "read-only: connect to the one that takes writes"),
        ("42501", "permission denied"),
        ("57014", "did not finish in time"),
        ("40001", "gave the transaction up: try again"),
        ("58030", "disk reported an error"),
        ("XX001", "damaged: restore the newest backup"),
        ("P0001", "the error P0001: look into its log"),
    ],
)
def test_a_failed_commit_stores_nothing_and_says_what_to_do(
    postgres: PostgresServer, database: str, store: PostgresStore, code: str, words: str
) -> None:
    store.commit(append(0, b"a"))
    postgres.sql(raising(code), database)
    batch = Batch(appends=(("log", 1, (b"b",)),), puts=(("key", b"v"),), blobs=(b"blob",))
    with pytest.raises(ResourceError, match=words) as caught:
        store.commit(batch)
    assert "secret row" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert (store.read("log"), store.get("key")) == ([b"a"], None)
    assert not store.blobs.has(sha256(b"blob"))
    postgres.sql("DROP TRIGGER fail ON treaty.records", database)
    store.commit(batch)
    assert store.read("log") == [b"a", b"b"]


def test_a_wrong_password_is_refused_and_stands_in_no_message(postgres: PostgresServer) -> None:
    database = postgres.database()
    store = PostgresStore(postgres.loopback(database), PASSWORD)
    assert PASSWORD not in repr(vars(store)) + repr(store._link)
    store.close()
    for wrong, words in (("hunter two", DENIED), (None, DENIED)):
        with pytest.raises(ResourceError, match=words) as caught:
            PostgresStore(postgres.loopback(database), wrong)
        assert "hunter" not in str(caught.value) and caught.value.__cause__ is None
        assert f"database {database} at 127.0.0.1" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("dbname=x password=hunter2", "holds a password: put it into the file"),
        ("postgresql://u:hunter2@h/x", "holds a password"),
        ("dbname=x sslpassword=hunter2", "holds a password"),
        ("hunter2", "cannot be read"),
        ("dbname", "cannot be read"),
        ("host=h hunter2", "cannot be read"),
        ("host=h user=u", "names no database"),
        ("", "names no database"),
    ],
)
def test_an_address_with_a_password_or_without_a_database_is_refused(
    address: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        PostgresStore(address)
    assert "hunter2" not in str(caught.value)


def test_no_server_no_database_and_no_user_are_told_apart(postgres: PostgresServer) -> None:
    nobody = f"host=127.0.0.1 port={free_port()} dbname=x user=treaty"
    with pytest.raises(ResourceError, match="no server answers"):
        PostgresStore(nobody)
    with pytest.raises(ResourceError, match="no server answers"):
        PostgresStore("host=nowhere.invalid dbname=x user=treaty")
    with pytest.raises(ResourceError, match="no such database: create it"):
        PostgresStore(postgres.address("absent"))
    with pytest.raises(ResourceError, match="refuses this user"):
        PostgresStore(postgres.address().replace("user=treaty", "user=stranger"))


def test_a_read_only_database_is_refused_and_unchanged(
    postgres: PostgresServer, database: str
) -> None:
    postgres.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with pytest.raises(ResourceError, match="read-only: connect to the one that takes writes"):
        PostgresStore(postgres.address(database))
    assert postgres.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'treaty'", database) == []


def test_a_schema_of_another_program_or_a_newer_one_is_refused_and_left_alone(
    postgres: PostgresServer,
) -> None:
    other = postgres.database()
    postgres.sql("CREATE SCHEMA treaty", other)
    postgres.sql("CREATE TABLE treaty.records (a int)", other)
    with pytest.raises(ResourceError, match=r"another program \(1 of 6 tables\): choose another"):
        PostgresStore(postgres.address(other))
    assert postgres.sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'treaty'::regnamespace",
                        other) == [(1,)]  # fmt: skip
    newer = postgres.database()
    PostgresStore(postgres.address(newer)).close()
    postgres.sql("UPDATE treaty.control SET version = 2", newer)
    with pytest.raises(ResourceError, match=r"schema 2, expected 1.*newer version of Treaty"):
        PostgresStore(postgres.address(newer))


def test_a_reader_sees_everything_and_changes_nothing(
    postgres: PostgresServer, database: str
) -> None:
    address = postgres.address(database)
    with pytest.raises(ResourceError, match="is empty"):
        PostgresStore(address, read_only=True)
    assert postgres.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'treaty'", database) == []
    store = PostgresStore(address)
    large = bytes(range(256)) * 9000
    store.commit(Batch(appends=(("log", 0, (b"a",)),), puts=(("k", b"v"),), blobs=(large,)))
    reader = PostgresStore(address, read_only=True)
    assert (reader.read("log"), reader.get("k")) == ([b"a"], b"v")
    assert reader.blobs.get(sha256(large)) == large
    for write in (
        lambda: reader.commit(append(1, b"b")),
        lambda: reader.blobs.put(b"new"),
        lambda: reader.blobs.delete(sha256(large)),
    ):
        with pytest.raises(ResourceError, match="opened for reading"):
            write()
    with pytest.raises(ResourceError, match="read-only"), reader._link.errors("write"):
        reader._link.connection.execute("DELETE FROM treaty.records")
    reader.close()
    assert store.read("log") == [b"a"]
    store.close()


def test_a_missing_record_and_a_damaged_blob_are_damage(
    postgres: PostgresServer, database: str, store: PostgresStore
) -> None:
    large = bytes(range(256)) * 9000
    store.commit(Batch(appends=(("log", 0, (b"a", b"b", b"c")),), blobs=(large,)))
    postgres.sql("DELETE FROM treaty.records WHERE place = 1", database)
    assert store.read("log", 0, 1) == [b"a"]
    with pytest.raises(ResourceError, match=r"found 2 records, expected 3.*damaged"):
        store.read("log")
    for change in (
        "UPDATE treaty.pieces SET data = 'x' WHERE place = 1",
        "DELETE FROM treaty.pieces WHERE place = 0",
    ):
        postgres.sql(change, database)
        for call in (store.blobs.get, store.blobs.chunks):
            with pytest.raises(VerificationError, match="fetch it again"):
                call(sha256(large))
        assert store.blobs.put(large) == sha256(large)
        assert store.blobs.get(sha256(large)) == large
    # What a new put replaced is not kept beside it.
    assert postgres.sql("SELECT count(*) FROM treaty.blobs", database) == [(1,)]
    assert postgres.sql("SELECT count(*) FROM treaty.pieces", database) == [(3,)]


def test_the_version_is_compared_under_the_lock(postgres: PostgresServer, database: str) -> None:
    """Sixty appends by two threads with their own connections: each version is won once."""
    address = postgres.address(database)
    won: list[int] = []

    def run() -> None:
        # Both also find the database empty at once: one makes the tables, the other waits.
        store = PostgresStore(address)
        while (version := store.version("log")) < 60:
            try:
                store.commit(append(version, str(version).encode()))
            except ResourceError as error:
                assert "stale version" in str(error)
            else:
                won.append(version)
        store.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(60))


def test_a_lost_connection_is_made_again(postgres: PostgresServer, store: PostgresStore) -> None:
    store.commit(append(0, b"a"))
    backend = store._link.connection.info.backend_pid
    assert postgres.sql(f"SELECT pg_terminate_backend({backend})") == [(True,)]
    with pytest.raises(ResourceError, match=r"shuts down or starts|no server answers"):
        store.commit(append(1, b"b"))
    assert store.read("log") == [b"a"]
    store.commit(append(1, b"b"))
    assert store.read("log") == [b"a", b"b"]


def test_a_server_that_stops_answering_is_not_waited_for_without_end(
    store: PostgresStore,
) -> None:
    store.commit(append(0, b"a"))
    connection = store._link.connection
    connection.call_s = 0.3
    backend = connection.info.backend_pid
    stand_still(backend)
    try:
        began = time.monotonic()
        with pytest.raises(ResourceError, match="no server answers: see that it runs"):
            store.commit(append(1, b"b"))
        # Not as long as it waits for an answer otherwise.
        assert time.monotonic() - began < CALL_S / 2
        # The next call has a connection of its own.
        assert store.read("log") == [b"a"]
    finally:
        go_on(backend)


def test_a_transaction_whose_client_pauses_does_not_keep_others_from_writing(
    postgres: PostgresServer, database: str, store: PostgresStore
) -> None:
    paused = PostgresStore(postgres.address(database))
    link = paused._link
    with (
        pytest.raises(ResourceError, match=r"paused too long|shuts down|no server answers"),
        link.transaction("paused") as connection,
    ):
        link.claim(connection)
        connection.execute("INSERT INTO treaty.entries VALUES ('key', 'paused')")
        # Last: whoever is slow before that has not paused yet.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 200")
        store.commit(Batch(puts=(("key", b"other"),)))
    assert store.get("key") == paused.get("key") == b"other"
    paused.close()


def test_a_crash_of_the_server_loses_nothing_that_was_confirmed() -> None:
    from tests.postgres_server import running

    with running() as server:
        database = server.database()
        store = PostgresStore(server.address(database))
        for number in range(20):
            store.commit(append(number, str(number).encode()))
        server.stop("immediate")
        with pytest.raises(ResourceError, match=r"shuts down or starts|no server answers"):
            store.commit(append(20, b"20"))
        with pytest.raises(ResourceError, match="no server answers"):
            store.read("log")
        server.start()
        assert store.read("log") == [str(number).encode() for number in range(20)]
        server.stop()
        server.start("fsync=off")
        store.close()
        with pytest.raises(ResourceError, match="fsync off, expected on"):
            PostgresStore(server.address(database))
