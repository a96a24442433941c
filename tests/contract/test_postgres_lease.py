"""The lease: one active replica, and nobody else's writes, however late they come.

Planted faults that these tests caught: the epoch not compared by a commit; compared without the
lock; not compared for a blob; a lease taken while another holds it; an epoch that does not
grow; a release that ends another's lease; a holder that goes on although its renewals fail; a
writer without a lease let in beside replicas; a lease that is renewed for a process that stands
still, one that is not although it gets on, a standstill measured from the lease's beginning; a
holder that ends, or acts, while its renewal is held up.
"""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("psycopg", reason="postgres: psycopg is not installed")

from tests.postgres_server import PostgresServer
from treaty.errors import ResourceError
from treaty.ports import Batch
from treaty.stores.postgres import PostgresStore
from treaty.stores.postgres_lease import PostgresLease, look_at_lease
from treaty.stores.postgres_link import Session

pytestmark = pytest.mark.postgres

LONG_MS = 600_000


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.fixture
def lease(postgres: PostgresServer, database: str) -> Iterator[Callable[..., PostgresLease]]:
    """Makes leases on one database, and closes them."""
    made: list[PostgresLease] = []

    def make(holder: str, duration_ms: int = LONG_MS) -> PostgresLease:
        one = PostgresLease(
            postgres.address(database), None, holder=holder, duration_ms=duration_ms
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.release()


def expire(postgres: PostgresServer, database: str) -> None:
    """Let the lease run out, as if its holder had paused for long."""
    postgres.sql("UPDATE treaty.control SET expires_at = clock_timestamp()", database)


def extended_s(postgres: PostgresServer, database: str) -> Callable[[], float]:
    """Return what says by how much the end of the lease has been put off since now.

    Nobody's clock comes in: a machine that stalls extends late, and by no less.
    """

    def ends() -> float:
        [(found,)] = postgres.sql(
            "SELECT extract(epoch FROM expires_at)::float8 FROM treaty.control", database
        )
        assert isinstance(found, float)
        return found

    first = ends()
    return lambda: ends() - first


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_holds_the_lease_and_the_next_gets_a_greater_epoch(
    postgres: PostgresServer, database: str, lease: Callable[..., PostgresLease]
) -> None:
    first, second = lease("a"), lease("b")
    with pytest.raises(ResourceError, match="lease lost"):
        first.require()
    assert first.state().epoch == 0 and not first.state().is_held
    assert first.take() and first.epoch == 1
    first.require()
    assert not second.take() and second.epoch == 0
    found = look_at_lease(postgres.address(database), None)
    assert (found.epoch, found.holder, found.is_held) == (1, "a", True)
    assert LONG_MS - 60_000 < found.left_ms <= LONG_MS
    first.release()
    assert not second.state().is_held
    assert second.take() and second.epoch == 2


def test_a_lease_that_was_lost_lets_nothing_be_written(
    postgres: PostgresServer, database: str, lease: Callable[..., PostgresLease]
) -> None:
    first, second = lease("a"), lease("b")
    assert first.take()
    old = PostgresStore(postgres.address(database), epoch=first.epoch)
    large = b"l" * 3_000_000
    old.commit(Batch(appends=(("log", 0, (b"old",)),), blobs=(b"kept",)))
    expire(postgres, database)
    # Nobody took over yet: what is written now is written before the takeover.
    old.commit(Batch(appends=(("log", 1, (b"late",)),)))
    assert second.take()
    new = PostgresStore(postgres.address(database), epoch=second.epoch)
    digest = old.blobs.put(b"kept")
    for write in (
        lambda: old.commit(Batch(appends=(("log", 2, (b"fork",)),))),
        lambda: old.commit(Batch(appends=(("log", 2, (b"fork",)),), blobs=(large,))),
        lambda: old.commit(Batch(puts=(("checkpoint", b"forged"),))),
        lambda: old.commit(Batch()),
        lambda: old.blobs.put(b"new"),
        lambda: old.blobs.put_chunks([b"n", b"e", b"w"]),
        lambda: old.blobs.delete(digest),
    ):
        with pytest.raises(ResourceError, match="lease lost: b took over with epoch 2") as caught:
            write()
        assert "start it again, and it stands by" in str(caught.value)
    assert new.read("log") == old.read("log") == [b"old", b"late"]
    assert new.get("checkpoint") is None
    assert postgres.sql("SELECT count(*) FROM treaty.blobs", database) == [(1,)]
    new.commit(Batch(appends=(("log", 2, (b"new",)),)))
    old.close()
    new.close()


def test_a_takeover_waits_for_a_commit_that_has_begun_and_sees_it(
    postgres: PostgresServer, database: str, lease: Callable[..., PostgresLease]
) -> None:
    first, second = lease("a"), lease("b")
    assert first.take()
    old = PostgresStore(postgres.address(database), epoch=1)
    expire(postgres, database)
    taken: list[bool] = []
    taker = threading.Thread(target=lambda: taken.append(second.take()))
    with old._link.transaction("open") as connection:
        old._link.claim(connection)
        taker.start()
        time.sleep(0.2)
        assert not taken
        connection.execute("INSERT INTO treaty.entries VALUES ('key', 'old')")
    taker.join(60)
    assert taken == [True]
    with PostgresStore(postgres.address(database), epoch=2)._link.transaction("seen") as seen:
        assert seen.execute("SELECT value FROM treaty.entries").fetchall() == [(b"old",)]
    old.close()


def test_a_replica_that_starts_again_takes_its_own_lease_back_at_once(
    lease: Callable[..., PostgresLease],
) -> None:
    first, again, other = lease("a"), lease("a"), lease("b")
    assert first.take() and again.take()
    assert again.epoch == 2 and not other.take()
    first.release()
    # What the process before gives back is not what the new one holds.
    assert again.state().holder == "a" and not other.take()


def test_a_lease_is_renewed_while_the_process_lives(
    postgres: PostgresServer, database: str, lease: Callable[..., PostgresLease]
) -> None:
    first, second = lease("a", 4_000), lease("b")
    assert first.take()
    extended = extended_s(postgres, database)
    until(lambda: extended() > 1.5)
    assert not second.take()
    first.require()
    assert first.epoch == first.state().epoch == 1


def test_a_holder_whose_lease_was_taken_finds_out(
    postgres: PostgresServer, database: str, lease: Callable[..., PostgresLease]
) -> None:
    first, second = lease("a", 2_000), lease("b")
    assert first.take()

    def taken() -> bool:
        # A renewal may come between the two.
        expire(postgres, database)
        return second.take()

    until(taken)

    def stopped() -> bool:
        try:
            first.require()
        except ResourceError as error:
            return "lease lost: b took over with epoch 2, this process had epoch 1" in str(error)
        return False

    until(stopped)
    assert second.state().holder == "b"


def test_a_holder_that_cannot_renew_stops_before_another_may_write(
    postgres: PostgresServer, database: str, lease: Callable[..., PostgresLease]
) -> None:
    first = lease("a", 600)
    assert first.take()
    store = PostgresStore(postgres.address(database), epoch=1)
    with store._link.transaction("held") as connection:
        # The row is locked, so the renewals wait.
        hold(store, connection)
        until(lambda: _is_over(first))
        began = time.monotonic()
        with pytest.raises(ResourceError, match="not renewed in time"):
            first.require()
        assert time.monotonic() - began > 0.5
    store.close()


def test_a_holder_whose_renewal_was_held_up_does_nothing_until_it_came_and_goes_on(
    postgres: PostgresServer, database: str, lease: Callable[..., PostgresLease]
) -> None:
    """A disk that stalls for longer than the lease lasts is no reason to change places."""
    first = lease("a", 1_000)
    assert first.take()
    store = PostgresStore(postgres.address(database), epoch=1)
    returned: list[float] = []

    def act() -> None:
        first.require()
        returned.append(time.monotonic())

    with store._link.transaction("held") as connection:
        hold(store, connection)
        until(lambda: not first._is_good() and waits(postgres, database))
        # Whoever acts now waits for this long; how long the database takes then is not the matter.
        first._duration_ms = LONG_MS
        actor = threading.Thread(target=act)
        actor.start()
        time.sleep(0.3)
        assert not returned
        freed = time.monotonic()
    actor.join(60)
    assert len(returned) == 1 and returned[0] >= freed
    first.require()
    assert first.state().holder == "a" and first.epoch == 1
    store.close()


def waits(postgres: PostgresServer, database: str) -> bool:
    """Say whether some session of the database waits for a lock."""
    return postgres.sql(
        f"SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "  # noqa: S608 - a name of our own
        f"WHERE NOT granted AND datname = '{database}'"
    ) == [(1,)]


def hold(store: PostgresStore, connection: Session) -> None:
    """Lock the row of the lease until the transaction ends, however long that is."""
    connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    store._link.claim(connection)


def _is_over(lease: PostgresLease) -> bool:
    try:
        lease.require()
    except ResourceError:
        return True
    return False


def test_a_lease_is_not_renewed_for_a_process_that_stands_still(
    postgres: PostgresServer, database: str, lease: Callable[..., PostgresLease]
) -> None:
    """The thread that renews lives on when the loop beside it hangs."""
    first, second = lease("a", 600), lease("b", 600)
    assert first.take()
    turns = 0
    first.keep_while(lambda: turns, 500)
    extended = extended_s(postgres, database)

    def gets_on() -> bool:
        nonlocal turns
        turns += 1
        return extended() > 1.2

    # Twice as long as the lease lasts and longer than it may stand still.
    until(gets_on)
    until(second.take)
    with pytest.raises(ResourceError, match=r"lease lost: .* stood still for [0-9]+ s"):
        first.require()


def test_a_writer_without_a_lease_is_refused_where_replicas_have_been(
    postgres: PostgresServer, database: str, lease: Callable[..., PostgresLease]
) -> None:
    store = PostgresStore(postgres.address(database))
    store.commit(Batch(puts=(("key", b"alone"),)))
    first = lease("a")
    assert first.take()
    for _ in range(2):
        with pytest.raises(ResourceError, match=r"lease lost: .* and this process has none"):
            store.commit(Batch(puts=(("key", b"beside"),)))
        assert store.get("key") == b"alone"
        first.release()
    store.close()
