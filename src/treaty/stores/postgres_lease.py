"""Lease: which of a coordinator's replicas is the active one, by one row of their database.

Guarantees (docs/spec/storage.md, section 7):
  * Whoever takes the lease gets a greater epoch than everybody before. Writes are refused from then
    on under every older one (`treaty.stores.postgres_link`), however late they come: the time a
    lease runs decides who may try, the epoch who may write.
  * Expiry is judged on the database's clock alone. The holder besides stands still by its own
    clock, which goes on while the machine or the process sleeps, as soon as a renewal is overdue.
    It waits for as long as a lease lasts to hear whether the lease is its own yet, and ends if it
    is not.
  * A replica that is started again in the directory of the holder takes its own lease back at once:
    the caller has made sure that the process before has ended.
  * A lease is not renewed for a process that has stood still for longer than it was allowed to
    (`keep_while`): the thread that renews outlives a loop that hangs.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from treaty.errors import ResourceError
from treaty.stores.kill_points import persist_point
from treaty.stores.postgres_link import PostgresLink, lease_lost

__all__ = ["LeaseState", "PostgresLease", "look_at_lease"]

RENEWALS = 4
"""How often a lease is renewed while it lasts: three may fail."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What the row says: the epoch (0: never taken), who holds it, how long it lasts yet."""

    epoch: int
    holder: str
    left_ms: int

    @property
    def is_held(self) -> bool:
        """Say whether somebody holds the lease now."""
        return bool(self.holder) and self.left_ms > 0


class PostgresLease:
    """One replica's way to the lease. `holder` names it to people; `duration_ms` is how long."""

    def __init__(
        self, address: str, password: str | None, *, holder: str, duration_ms: int
    ) -> None:
        self.holder = holder
        self._duration_ms = duration_ms
        self._link = PostgresLink(address, password)
        self._epoch = 0
        self._good_until = 0.0
        self._trouble = ""
        self._lost: ResourceError | None = None
        self._news = threading.Condition()
        self._ended = threading.Event()
        self._keeper: threading.Thread | None = None
        self._progress: Callable[[], object] = lambda: None
        self._still_ms: int | None = None
        self._seen: object = None
        self._moved_at = 0.0

    @property
    def epoch(self) -> int:
        """Return the epoch under which this process writes; 0 before it holds the lease."""
        return self._epoch

    def state(self) -> LeaseState:
        """Return what the row says now."""
        return _state(self._link)

    def take(self) -> bool:
        """Take the lease if nobody else holds it, and keep it renewed; say whether it was taken.

        Persist point ``lease-take``.
        """
        began = _awake_s()
        with (
            self._link.lock,
            self._link.errors("take the lease of"),
            persist_point("lease-take"),
        ):
            row = self._link.connection.execute(
                "UPDATE treaty.control SET epoch = epoch + 1, holder = %s, "
                "expires_at = clock_timestamp() + %s * interval '1 millisecond' "
                "WHERE one = 1 AND (expires_at <= clock_timestamp() OR holder = %s) "
                "RETURNING epoch",
                (self.holder, self._duration_ms, self.holder),
            ).fetchone()
        if row is None:
            return False
        self._epoch = int(row[0])
        self._good_until = began + self._duration_ms / 1000
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._keeper.start()
        return True

    def keep_while(self, progress: Callable[[], object], still_ms: int) -> None:
        """Renew the lease only as long as `progress` returns something else every `still_ms`.

        It is called in the thread that renews, and must not wait.
        """
        self._seen, self._moved_at = progress(), _awake_s()
        self._progress, self._still_ms = progress, still_ms

    def require(self) -> None:
        """Raise `ResourceError` "lease lost" unless this process may still act as the active one.

        Asks nobody: it compares the last renewal with this machine's clock. Returns at once unless
        that is overdue: then it waits for the next, which a database or a disk may have held up,
        but not longer than the lease lasts.
        """
        if self._epoch and self._lost is None and not self._is_good():
            with self._news:
                self._news.wait_for(
                    lambda: self._lost is not None or self._is_good(), self._duration_ms / 1000
                )
        if self._lost is not None:
            raise self._lost
        if not self._is_good():
            why = f" ({self._trouble})" if self._trouble else ""
            raise ResourceError(
                f"lease lost: that of epoch {self._epoch} was not renewed in time{why}; this "
                "process has stopped; start it again, and it stands by"
            )

    def release(self) -> None:
        """Give the lease back, so that another takes it at once; close. Never raises."""
        self._ended.set()
        if self._keeper is not None:
            self._keeper.join(self._duration_ms / 1000)
        if self._epoch:
            try:
                with self._link.lock, self._link.errors("release the lease of"):
                    self._link.connection.execute(
                        "UPDATE treaty.control SET holder = '', expires_at = '-infinity' "
                        "WHERE one = 1 AND epoch = %s",
                        (self._epoch,),
                    )
            except ResourceError:
                # It runs out by itself; whoever ends has nothing left to do about it.
                pass
        self._link.close()

    def _keep(self) -> None:
        while not self._ended.wait(self._duration_ms / 1000 / RENEWALS):
            began = _awake_s()
            if not self._moves(began):
                continue
            try:
                self._renew()
            except ResourceError as error:
                self._trouble = str(error)
            else:
                self._good_until = began + self._duration_ms / 1000
                self._trouble = ""
            with self._news:
                self._news.notify_all()
            if self._lost is not None:
                return

    def _is_good(self) -> bool:
        return bool(self._epoch) and _awake_s() < self._good_until

    def _moves(self, now: float) -> bool:
        """Say whether this process has got on lately; if not, remember what to say of it."""
        if self._still_ms is None:
            return True
        found = self._progress()
        if found != self._seen:
            self._seen, self._moved_at = found, now
        still_ms = 1000 * (now - self._moved_at)
        if still_ms <= self._still_ms:
            return True
        self._trouble = f"this process had stood still for {still_ms / 1000:.0f} s"
        return False

    def _renew(self) -> None:
        with self._link.lock, self._link.errors("renew the lease of"):
            row = self._link.connection.execute(
                "UPDATE treaty.control "
                "SET expires_at = clock_timestamp() + %s * interval '1 millisecond' "
                "WHERE one = 1 AND epoch = %s RETURNING epoch",
                (self._duration_ms, self._epoch),
            ).fetchone()
        if row is None:
            found = self.state()
            self._lost = lease_lost(self._epoch, found.epoch, found.holder)
            raise self._lost


def look_at_lease(address: str, password: str | None) -> LeaseState:
    """Return what the row of the database at `address` says; nothing changes."""
    link = PostgresLink(address, password, read_only=True)
    try:
        return _state(link)
    finally:
        link.close()


def _state(link: PostgresLink) -> LeaseState:
    with link.lock, link.errors("read the lease of"):
        row = link.connection.execute(
            "SELECT epoch, holder, CASE WHEN expires_at > clock_timestamp() THEN "
            "ceil(extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint ELSE 0 END "
            "FROM treaty.control WHERE one = 1"
        ).fetchone()
    if row is None:
        raise ResourceError(f"{link.name} lacks its row of control: restore the newest backup")
    return LeaseState(int(row[0]), str(row[1]), int(row[2]))


def _awake_s() -> float:
    """Return seconds on a clock that never goes back and runs on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
