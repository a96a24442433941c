"""Monitor: what a party's process shows of itself: log lines, metrics, health.

The party's loop calls `observe`; that takes a snapshot, which alone the endpoint's thread reads.
Without a log and an address a monitor does nothing.

Guarantee: a cause that depends on a site's rows is not told. Refusals are counted by the codes in
`REFUSAL_CODES`, which follow from messages alone; every other one is a `site.declined`.
"""

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from treaty.deployment.endpoint import Address, Answer, Endpoint, parse_address
from treaty.deployment.metrics import CONTENT_TYPE, render, word
from treaty.deployment.process_log import Level, ProcessLog
from treaty.deployment.vitals import Budget, Standing, Vitals, alive, families, read_standing, ready
from treaty.errors import PolicyError, TreatyError, code_of
from treaty.ids import MemberId, Timestamp
from treaty.node.budget import BudgetKeeper
from treaty.node.phase_clock import SINCE_KEY, waiting_since
from treaty.ports import EventStore, Journal
from treaty.privacy.ledger_entries import PARTITIONS
from treaty.protocol.consortium import Consortium
from treaty.stores.system import SystemClock

__all__ = ["REFUSAL_CODES", "Monitor", "monitor_of"]

REFUSAL_CODES = frozenset(
    {
        "bad-signature",
        "blob-mismatch",
        "charter-changed",
        "clock-back",
        "clock-skew",
        "conflict",
        "does-not-open",
        "expired",
        "format",
        "frame-object",
        "halted",
        "key-refused",
        "left-out",
        "locked-set",
        "malformed",
        "no-charter",
        "no-proposal",
        "no-quorum",
        "no-round",
        "no-study",
        "no-tls",
        "not-a-member",
        "not-a-participant",
        "not-confirmed",
        "not-elector",
        "not-in-epoch",
        "not-in-roster",
        "not-in-round",
        "not-included",
        "not-listed",
        "not-opened",
        "not-permitted",
        "not-proved",
        "out-of-order",
        "peer",
        "replayed",
        "restored-backup",
        "second-input",
        "second-ready",
        "second-reveal",
        "signature-differs",
        "simulation",
        "slot-answered",
        "slot-out-of-range",
        "slot-used",
        "split-view",
        "study-runs",
        "sub-quorum",
        "sum-mismatch",
        "suspended",
        "two-survivor-sets",
        "unknown-key",
        "unknown-log",
        "wrong-anchor",
        "wrong-author",
        "wrong-certificate",
        "wrong-charter",
        "wrong-code",
        "wrong-context",
        "wrong-epoch",
        "wrong-key",
        "wrong-model",
        "wrong-origin",
        "wrong-plan",
        "wrong-previous",
        "wrong-result",
        "wrong-role",
        "wrong-shape",
        "wrong-signatures",
    }
)
"""Codes of refusals that follow from what a peer sent, whatever the site's rows are."""

_NOTES = MappingProxyType(
    {
        "blame": "blamed",
        "document-missing": "document.missing",
        "epoch-failed": "epoch.failed",
        "input-missing": "document.missing",
        "lease-taken": "lease.taken",
        "secret-lost": "secret.lost",
        "server-config": "server.configured",
        "server-restarted": "server.restarted",
        "standby": "standby",
        "sum-disputed": "sum.disputed",
        "unreachable": "peer.unreachable",
    }
)
_CODED = MappingProxyType(
    {
        "audit-refused": "frame.refused",
        "held-back": "held-back",
        "refused": "frame.refused",
        "statement-refused": "statement.refused",
    }
)
_DECLINES = frozenset({"column-missing", "declined", "ledger", "study-refused"})

BUDGET_EVERY_MS = 5000


class Watched(Protocol):
    """What a monitor asks of a node."""

    @property
    def state(self) -> Consortium:
        """Return the folded log."""

    @property
    def size(self) -> int:
        """Return the number of log entries."""


class Linked(Protocol):
    """What a monitor asks of an engine."""

    @property
    def is_connected(self) -> bool:
        """Say whether the connection stands."""

    @property
    def connections(self) -> int:
        """Return how often the connection was made."""


class Monitor:
    """Watches one party. `log` and `address` are off when None."""

    def __init__(self, log: ProcessLog | None = None, address: Address | None = None) -> None:
        self._log = log
        self._address = address
        self._active = log is not None or address is not None
        self._clock = SystemClock()
        self._party = MemberId("")
        self._is_hub = False
        self._began = _now_ms()
        self._state: object = None
        self._standing = Standing()
        self._progressed = self._began
        self._waits_since = self._began
        self._connected: bool | None = None
        self._connections = 0
        # The engine's thread notes refusals, too.
        self._lock = threading.Lock()
        self._refusals: Counter[str] = Counter()
        self._declined = 0
        self._budgets: tuple[Budget, ...] = ()
        self._budgets_due = 0
        self._vitals: Vitals | None = None
        self.port = 0
        """Where the endpoint listens while it runs."""

    @contextmanager
    def running(self, party: MemberId, *, is_hub: bool) -> Iterator[None]:
        """Watch the process of `party` meanwhile. Raises `ResourceError` for a port in use."""
        self._party, self._is_hub = party, is_hub
        # It warns of every connection that ends; that is noted in the journal, in one place.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        if self._log is not None:
            self._log.check()
            self._log.party = party
        endpoint = None
        if self._address is not None:
            endpoint = Endpoint(self._address, self.answer)
            endpoint.start()
            self.port = endpoint.port
        try:
            self._emit("process.started", pid=os.getpid())
            if endpoint is not None:
                self._emit("endpoint.listens", port=endpoint.port)
            yield
        except BaseException as error:
            code = code_of(error) if isinstance(error, TreatyError) else "bug"
            self._emit("process.failed", code=word(code))
            raise
        else:
            self._emit("process.stopped")
        finally:
            if endpoint is not None:
                endpoint.stop()

    def journal(self, inner: Journal) -> Journal:
        """Return a journal that also counts refusals and tells events; words go to `inner` only."""
        return _WatchedJournal(inner, self) if self._active else inner

    def awaits(
        self, what: str, parties: tuple[MemberId, ...], *, engine: Linked | None = None
    ) -> None:
        """Note what is waited for before there is a log, and the engine if there is one yet."""
        if self._active:
            self._adopt(Standing(what=what, awaited=parties))
            self._publish(engine, None)

    def observe(
        self,
        node: Watched,
        engine: Linked,
        store: EventStore,
        *,
        cosignatures: int | None = None,
        budget: BudgetKeeper | None = None,
    ) -> None:
        """Take a snapshot of the running party. Called by its loop, often; cheap."""
        if not self._active:
            return
        state = node.state
        if state is not self._state:
            self._state = state
            since = waiting_since(store.get(SINCE_KEY), state)
            self._adopt(read_standing(state, node.size), since)
        self._read_budget(budget)
        self._publish(engine, cosignatures)

    # --- what is noted --------------------------------------------------------------------------

    def noted(self, event: str) -> None:
        """Count and tell one note of the party's journal, by its event alone."""
        kind, _, code = event.partition(".")
        told = _NOTES.get(event)
        if told is not None:
            self._emit(told)
        elif kind == "confinement":
            self._emit("confinement", code=word(code))
        elif kind in _CODED and code in REFUSAL_CODES:
            self._count(code)
            self._emit(_CODED[kind], code=code)
        elif self._is_hub and kind in _CODED:
            # A coordinator has no rows; a code that is not listed is counted with its likes.
            self._count("other")
            self._emit(_CODED[kind], code="other")
        elif kind in _CODED or kind in _DECLINES:
            with self._lock:
                self._declined += 1
            self._emit("site.declined")
        else:
            self._emit("noted")

    def _count(self, code: str) -> None:
        with self._lock:
            self._refusals[code] += 1

    def _adopt(self, found: Standing, since: Timestamp | None = None) -> None:
        now, before = _now_ms(), self._standing
        if found.size > before.size:
            self._progressed = now
            self._emit("log.grew", size=found.size)
        # What a starting party reads from its store did not happen now.
        if before.founded and found.published > before.published:
            self._emit("round.published", published=found.published)
        if before.founded and found.abandoned > before.abandoned:
            self._emit("round.abandoned", abandoned=found.abandoned)
        if found.what != before.what:
            self._waits_since = now
            self._emit("waits", what=word(found.what or "nothing"), parties=found.awaited)
        if since is not None:
            self._waits_since = now - max(0, self._clock.now() - since)
        self._standing = found

    def _read_budget(self, budget: BudgetKeeper | None) -> None:
        now = _now_ms()
        if budget is None or now < self._budgets_due:
            return
        self._budgets_due = now + BUDGET_EVERY_MS
        try:
            caps = budget.state.caps
            self._budgets = tuple(
                Budget(name, budget.epsilon(name), caps[name].epsilon_micro / 1e6)
                for name in PARTITIONS
                if name in caps
            )
        except PolicyError:
            # A lost ledger has no figures; that it is lost stands in the journal.
            self._budgets = ()

    def _publish(self, engine: Linked | None, cosignatures: int | None) -> None:
        # In this order: a connection made between the two is told now or at the next look.
        connected = engine is not None and engine.is_connected
        connections = 0 if engine is None else engine.connections
        if connected is not self._connected:
            if self._connected is not None or connected:
                self._emit("connection.up" if connected else "connection.down")
        elif connected and connections > self._connections:
            # Lost and made again between two looks.
            self._emit("connection.down")
            self._emit("connection.up")
        self._connected, self._connections = connected, connections
        with self._lock:
            refusals, declined = dict(self._refusals), self._declined
        self._vitals = Vitals(
            party=self._party,
            is_hub=self._is_hub,
            standing=self._standing,
            connected=connected,
            began_ms=self._began,
            turned_ms=_now_ms(),
            progressed_ms=self._progressed,
            waits_since_ms=self._waits_since,
            cosignatures=cosignatures,
            budgets=self._budgets,
            refusals=MappingProxyType(refusals),
            declined=declined,
            log_lines_lost=0 if self._log is None else self._log.lost,
        )

    # --- what is answered, in the endpoint's thread -----------------------------------------------

    def answer(self, path: str) -> Answer | None:
        """Return what is said at `path`, from the newest snapshot."""
        vitals, now = self._vitals, _now_ms()
        match path:
            case "/metrics":
                text = "" if vitals is None else render(families(vitals, now))
                return Answer(200, CONTENT_TYPE, text)
            case "/healthz":
                return _json(200, alive(vitals, now))
            case "/readyz":
                holds, record = ready(vitals, now, self._clock.now())
                return _json(200 if holds else 503, record)
            case _:
                return None

    def _emit(self, event: str, **fields: int | str | tuple[MemberId, ...]) -> None:
        if self._log is not None:
            self._log.emit(event, **fields)


class _WatchedJournal:
    """A journal whose events are told to a monitor; what they say stays in the journal."""

    def __init__(self, inner: Journal, monitor: Monitor) -> None:
        self._inner = inner
        self._monitor = monitor

    def note(self, event: str, detail: str) -> None:
        """See `treaty.ports.Journal.note`."""
        self._inner.note(event, detail)
        self._monitor.noted(event)


def monitor_of(metrics: str, log: str, level: str) -> Monitor:
    """Return the monitor that a command line asks for; empty texts leave a part out.

    `metrics` is an address (`parse_address`), `log` a file or ``-`` for standard error, `level` the
    name of a `Level`. Raises `UsageError`.
    """
    lines = None
    if log:
        lines = ProcessLog(None if log == "-" else Path(log), Level[level.upper()])
    return Monitor(lines, parse_address(metrics) if metrics else None)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _json(status: int, record: dict[str, object]) -> Answer:
    return Answer(status, "application/json", json.dumps(record, sort_keys=True) + "\n")
