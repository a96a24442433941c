"""What a running party shows of itself, and who asks (T-100 to T-104).

Every value of a column is a sentinel (`tests.small_federation`); one site's reader and another's
trainer say such values in their errors. The journals hold them, which shows that the search finds
them; logs, metrics and health answers must not.

Planted and caught: the journal's detail in a log line; the cause of a site's refusal as a label; a
site's name as a label; rounds counted twice after a restart; an endpoint that waits for a slow
reader, reads a body, serves more connections than its limit or without a rate, answers another
host's name; a snapshot that is older than it says; ready while the connection is down; a
connection made again between two looks that nobody is told of.
"""

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import small_federation
from tests.prometheus_text import parse
from tests.small_federation import SITES, SmallFederation, contract, sentinels, small_plan
from treaty.contracts.schema import Contract
from treaty.deployment import endpoint
from treaty.deployment.endpoint import Address, Answer, Endpoint, parse_address
from treaty.deployment.monitor import Monitor
from treaty.deployment.process_log import EVENTS, Level, ProcessLog
from treaty.errors import ResourceError, UsageError
from treaty.ids import MemberId
from treaty.ports import EventStore, Journal, SiteData
from treaty.protocol.study import Phase
from treaty.simulation.federation import COORDINATOR
from treaty.stores.system import FileJournal, SystemClock
from treaty.wiring import Storage

FORBIDDEN = re.compile("|".join(re.escape(f"{one}") for name in SITES for one in sentinels(name)))


class TellingSource:
    """A reader whose error quotes a row."""

    def load(self, contract: Contract, **_: object) -> SiteData:
        raise UsageError(f"row 7: pressure {sentinels(SITES[0])[7]} is not what it should be")


class Watched(SmallFederation):
    """A federation with a monitor on each party."""

    def __init__(self, directory: Path, **options: object) -> None:
        logs = directory / "logs"
        logs.mkdir()
        self.monitors = {
            name: Monitor(ProcessLog(logs / name, Level.DEBUG), Address("127.0.0.1", 0))
            for name in (COORDINATOR, *SITES)
        }
        self.shown: dict[tuple[str, str], list[str]] = {}
        self.connected = True
        self.connections = 1
        self.stores: dict[str, EventStore] = {}
        super().__init__(directory, **options)  # type: ignore[arg-type]  # passed through

    @property
    def is_connected(self) -> bool:
        return self.connected

    def _storage(self, place: Path) -> Storage:
        opened = super()._storage(place)
        self.stores[place.name] = opened.store
        return opened

    def _journal(self, name: MemberId) -> Journal:
        inner = FileJournal(self.directory / "parties" / name / "journal.jsonl")
        return self.monitors[name].journal(inner)

    def look(self) -> None:
        """Let every monitor look at its party, and keep all that it says."""
        hub = self.coordinator
        self.monitors[COORDINATOR].observe(
            hub, self, self.stores[COORDINATOR], cosignatures=len(hub.witnesses())
        )
        for name, node in self.participants.items():
            self.monitors[name].observe(node, self, self.stores[name], budget=node.budget)
        for name in self.monitors:
            for path in ("/metrics", "/healthz", "/readyz"):
                self.shown.setdefault((name, path), []).append(self.said(name, path))

    def said(self, name: str, path: str) -> str:
        answer = self.monitors[MemberId(name)].answer(path)
        assert answer is not None
        return answer.text

    def figures(self, name: str) -> dict[str, float]:
        """Return the figures of a party, each by its name and label values."""
        _, values = parse(self.said(name, "/metrics"))
        return {
            " ".join([series, *(value for _, value in labels)]): value
            for (series, labels), value in values.items()
        }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A study that one site cannot serve, watched at every step."""
    place = tmp_path_factory.mktemp("watched")
    small_federation.Federation.found(
        place,
        {name: small_federation.site_files(name) for name in SITES},
        consortium="rivers.example",
        post_quantum=False,
        site_figures=True,
    )
    made = Watched(place, sources={SITES[0]: TellingSource()}, clock=SystemClock())
    with contextlib.ExitStack() as running:
        running.callback(made.close)
        for name, monitor in made.monitors.items():
            running.enter_context(monitor.running(name, is_hub=name == COORDINATOR))
        made.look()
        made.establish()
        made.look()
        study = made.run_study(small_plan(made), contract(), progress=made.look)
        assert study.phase is Phase.COMPLETED
        made.look()
        yield made


def log_of(watched: Watched, name: str) -> list[dict[str, object]]:
    text = (watched.directory / "logs" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_t100_no_row_stands_in_a_log_a_metric_or_a_health_answer(watched: Watched) -> None:
    # The control: the search finds the row where it may stand, in the site's own journal.
    assert FORBIDDEN.search(watched.journal_of(SITES[0]))
    assert sum(len(texts) for texts in watched.shown.values()) > 300
    for place, texts in watched.shown.items():
        for text in texts:
            assert not FORBIDDEN.search(text), place
    for name in watched.monitors:
        text = (watched.directory / "logs" / name).read_text()
        assert text and not FORBIDDEN.search(text), name


def test_t101_why_a_site_declines_is_not_told(watched: Watched) -> None:
    events = [line["event"] for line in log_of(watched, SITES[0])]
    assert "site.declined" in events
    assert watched.figures(SITES[0])["treaty_declined_total"] >= 1
    everything = "".join(text for texts in watched.shown.values() for text in texts)
    everything += "".join((watched.directory / "logs" / name).read_text() for name in SITES)
    assert "study-refused" in watched.journal_of(SITES[0])
    assert "study-refused" not in everything and '"data"' not in everything


def test_t101_metrics_name_no_site(watched: Watched) -> None:
    for (_, path), texts in watched.shown.items():
        if path == "/metrics":
            for text in texts:
                parse(text)
                assert not any(name in text for name in SITES)


def test_every_line_of_the_log_is_a_listed_event(watched: Watched) -> None:
    for name in watched.monitors:
        found = log_of(watched, name)
        assert found[0]["event"] == "process.started"
        for line in found:
            level, fields = EVENTS[str(line["event"])]
            assert line["level"] == level.name.lower() and line["party"] == name
            assert set(line) == {"at_ms", "event", "level", "party", *fields}


def test_the_figures_are_those_of_the_log(watched: Watched) -> None:
    (study,) = watched.coordinator.state.studies.values()
    found = watched.figures(COORDINATOR)
    assert found["treaty_log_tree_size"] == watched.coordinator.size
    assert found["treaty_rounds_total published"] == len(study.rounds) == study.progress.index
    assert found["treaty_rounds_total abandoned"] == 0
    assert found["treaty_members"] == len(SITES)
    assert found["treaty_studies completed"] == 1 and found["treaty_studies running"] == 0
    assert found["treaty_log_cosignatures"] >= found["treaty_log_witness_quorum"] > 0
    # The site that cannot read its rows is in no sum.
    last = study.rounds[-1]
    assert found["treaty_round_members in"] == len(last.members_in) == 3
    assert found["treaty_round_members declined"] == len(last.declined)
    lost = sum(
        len(set(one.participants) - set(one.members_in) - set(one.declined)) for one in study.rounds
    )
    assert found["treaty_round_members_lost_total"] == lost
    assert found["treaty_awaited_parties approval-of-the-release"] == len(SITES)
    site = watched.figures(SITES[1])
    assert site["treaty_awaited_self"] == 1 and found["treaty_awaited_self"] == 0
    assert site["treaty_rounds_total published"] == len(study.rounds)
    # In the middle somebody was late, and was waited for by name where health is asked for.
    halfway = [json.loads(text) for text in watched.shown[(COORDINATOR, "/readyz")]]
    inputs = [
        one["waits_for"]["parties"]
        for one in halfway
        if one.get("waits_for") and one["waits_for"]["what"] == "masked inputs"
    ]
    assert inputs and all(set(parties) <= set(SITES) for parties in inputs)


def test_counters_never_fall(watched: Watched) -> None:
    for (_, path), texts in watched.shown.items():
        if path != "/metrics":
            continue
        before: dict[object, float] = {}
        for text in texts:
            types, values = parse(text)
            for series, value in values.items():
                if types[series[0]] == "counter":
                    assert value >= before.get(series, 0), series
                    before[series] = value


def test_readiness_says_truthfully_what_stands_in_the_way(watched: Watched) -> None:
    def asked() -> tuple[int, dict[str, object]]:
        answer = watched.monitors[SITES[1]].answer("/readyz")
        assert answer is not None
        return answer.status, json.loads(answer.text)

    watched.look()
    status, found = asked()
    assert status == 200 and found["ready"] and found["reason"] == ""
    assert found["waits_for"]["what"] == "approval of the release"  # type: ignore[index]  # an object
    now = SystemClock().now()
    assert now - 120_000 < found["waits_for"]["since_ms"] <= now  # type: ignore[index]  # an object
    watched.connected = False
    watched.look()
    try:
        status, found = asked()
        assert status == 503 and found["reason"] == "not connected to the message server"
        assert watched.figures(SITES[1])["treaty_connected"] == 0
        assert log_of(watched, SITES[1])[-1]["event"] == "connection.down"
        answer = watched.monitors[SITES[1]].answer("/healthz")
        assert answer is not None and answer.status == 200
    finally:
        watched.connected = True
        watched.look()
    assert asked()[0] == 200


def test_a_connection_lost_and_made_again_between_two_looks_is_told(watched: Watched) -> None:
    def events() -> list[object]:
        lines = [line["event"] for line in log_of(watched, SITES[2])]
        return [one for one in lines if str(one).startswith("connection.")]

    before = events()
    watched.look()
    assert events() == before
    watched.connections += 1
    watched.look()
    assert events() == [*before, "connection.down", "connection.up"]
    watched.look()
    assert len(events()) == len(before) + 2


def test_a_party_that_starts_is_alive_and_not_ready() -> None:
    monitor = Monitor(address=Address("127.0.0.1", 0))
    ready, health, metrics = (monitor.answer(path) for path in ("/readyz", "/healthz", "/metrics"))
    assert ready is not None and ready.status == 503 and "starting" in ready.text
    assert health is not None and health.status == 200
    assert metrics is not None and metrics.text == ""
    monitor.awaits("requests to join", (MemberId("aare"),))
    ready = monitor.answer("/readyz")
    assert ready is not None and ready.status == 503
    assert json.loads(ready.text)["waits_for"]["parties"] == ["aare"]


# --- who asks -------------------------------------------------------------------------------------


@pytest.fixture
def served() -> Iterator[Endpoint]:
    def answer(path: str) -> Answer | None:
        return Answer(200, "text/plain", "x" * 100) if path == "/metrics" else None

    made = Endpoint(Address("127.0.0.1", 0), answer)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        made.stop()


def raw(port: int, data: bytes, seconds: float = 60) -> bytes:
    """Send bytes, and return everything that comes back until the end."""
    with socket.create_connection(("127.0.0.1", port), seconds) as end:
        end.sendall(data)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := end.recv(65536):
                found += piece
        return found


def test_a_plain_client_is_answered(served: Endpoint) -> None:
    for path, status in (("/metrics", 200), ("/metrics?x=1", 200), ("/other", 404)):
        client = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        client.request("GET", path)
        answer = client.getresponse()
        assert answer.status == status
        assert len(answer.read()) == int(answer.headers["Content-Length"])
        client.close()


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"HEAD /metrics HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n" + HOST + b"\r\n", 400),
        (b"GET metrics HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: hub.example\r\n\r\n", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1.hub.example\r\n\r\n", 403),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\r\nHost: [::1]:1\r\n\r\n", 200),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"A: " + b"a" * 9000 + b"\r\n\r\n", 431),
    ],
)
def test_t102_only_a_small_get_of_this_machine_is_answered(
    served: Endpoint, request_bytes: bytes, status: int
) -> None:
    answer = raw(served.port, request_bytes)
    # A connection that is closed on unread bytes may be reset before the answer is read.
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) or (status == 431 and not answer)


class Counting(Endpoint):
    """An endpoint that remembers how many connections were open at once, at most."""

    most = 0

    @property
    def _open(self) -> int:
        return self._now

    @_open.setter
    def _open(self, number: int) -> None:
        self._now, self.most = number, max(self.most, number)

    def until_idle(self) -> None:
        """Wait until no connection is open."""
        end = time.monotonic() + 60
        while self._open:
            assert time.monotonic() < end, f"{self._open} connections stay open"
            time.sleep(0.01)


def test_t103_a_slow_reader_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TIME_S", 0.3)
    asked = threading.Event()

    def answer(_: str) -> Answer:
        asked.set()
        return Answer(200, "text/plain", "x" * 50_000_000)

    made = Counting(Address("127.0.0.1", 0), answer)
    made.start()
    try:
        with socket.create_connection(("127.0.0.1", made.port), 60) as end:
            # Half a request, and nothing more.
            end.sendall(b"GET /met")
            assert end.recv(10) == b""
        with socket.create_connection(("127.0.0.1", made.port), 60) as end:
            # A request whose answer nobody reads.
            end.sendall(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
            assert asked.wait(60)
            made.until_idle()
            got = 0
            with contextlib.suppress(ConnectionResetError):
                while piece := end.recv(1 << 20):
                    got += len(piece)
            assert got < 50_000_000
        assert made._open == 0
    finally:
        made.stop()


def test_t103_idle_connections_are_few_and_do_not_stop_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "TIME_S", 0.5)
    monkeypatch.setattr(endpoint, "BURST", 1000)
    made = Counting(Address("127.0.0.1", 0), lambda _: Answer(200, "text/plain", "x"))
    made.start()
    held: list[socket.socket] = []
    try:
        held += [
            socket.create_connection(("127.0.0.1", made.port), 60)
            for _ in range(3 * endpoint.CONNECTIONS)
        ]
        for one in held:
            # Cut at once or in time, every one of them hears the end.
            one.settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
        made.until_idle()
        assert 1 < made.most <= endpoint.CONNECTIONS
        good = raw(made.port, b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
        assert good.startswith(b"HTTP/1.1 200 ")
    finally:
        for one in held:
            one.close()
        made.stop()


def test_t103_a_flood_is_cut_and_the_party_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = 0

    def answer(_: str) -> Answer:
        nonlocal answered
        answered += 1
        return Answer(200, "text/plain", "x")

    made = Endpoint(Address("127.0.0.1", 0), answer)
    made.start()
    try:
        began = time.monotonic()
        for _ in range(300):
            with contextlib.suppress(OSError):
                raw(made.port, b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n", 5)
        allowed = endpoint.BURST + endpoint.REQUESTS_PER_S * (time.monotonic() - began) + 1
        assert 0 < answered <= allowed
    finally:
        made.stop()


def test_t103_no_thread_is_left_behind(served: Endpoint) -> None:
    served.stop()
    assert not any(
        one.name == "endpoint" and one is served._thread for one in threading.enumerate()
    )
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port), 1)


def test_t104_a_port_in_use_is_one_clear_error(served: Endpoint) -> None:
    other = Endpoint(Address("127.0.0.1", served.port), lambda _: None)
    with pytest.raises(ResourceError, match=r"cannot listen for metrics .* --metrics"):
        other.start()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("9464", "127.0.0.1", 9464),
        (":9464", "127.0.0.1", 9464),
        ("localhost:0", "localhost", 0),
        ("[::1]:9464", "::1", 9464),
        ("0.0.0.0:80", "0.0.0.0", 80),
    ],
)
def test_t104_without_a_host_it_is_loopback(text: str, host: str, port: int) -> None:
    found = parse_address(text)
    assert (found.host, found.port) == (host, port)
    assert found.is_loopback is (host != "0.0.0.0")


@pytest.mark.parametrize(
    "text", ["", "host", "1.2.3:1", "hub.example:80", "::1:80", "1:70000", "a b:1"]
)
def test_t104_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_address(text)
