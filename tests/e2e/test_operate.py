"""Processes that are watched: logs, metrics and health of a real consortium, searched for rows.

One site's file has a value that is none where a level should stand, so that this site takes no part
and its journal says why.

Planted and caught: a node whose journal is not watched; an endpoint that outlives its process; a
site that is ready before it is connected; a log that says nothing of a lost connection.
"""

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats_network import free_port
from tests.prometheus_text import parse
from tests.small_federation import SITES, contract, sentinels
from treaty.models.specification import LogisticRegression

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.network_rig import HUB, Rig, small_sites, treaty

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]

FORBIDDEN = re.compile("|".join(re.escape(f"{one}") for name in SITES for one in sentinels(name)))
PORTS = {name: free_port() for name in (HUB, *SITES)}
ODD = SITES[0]


def ask(name: str, path: str) -> tuple[int, str]:
    """Return status and text of an answer; 0 where nobody answers."""
    client = http.client.HTTPConnection("127.0.0.1", PORTS[name], timeout=30)
    try:
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        client.close()


def ready(name: str) -> dict[str, object]:
    status, text = ask(name, "/readyz")
    found = json.loads(text) if text else {}
    assert not text or (status == 200) is found["ready"]
    return dict(found)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A founded consortium whose processes are watched."""
    sites = small_sites()
    odd = sites[ODD][0].decode().splitlines()
    odd[3] = odd[3].replace(",m,", ",131.123456-odd,").replace(",f,", ",131.123456-odd,")
    sites[ODD] = ("\n".join(odd).encode() + b"\n", sites[ODD][1])
    made = Rig(tmp_path_factory.mktemp("watched"), sites)
    for name, port in PORTS.items():
        log = made.root / f"{name}.log"
        made.options[name] = ("--metrics", f"{port}", "--log", str(log), "--log-level", "debug")
    made.prepare()
    made.start(HUB)
    try:
        made.until(
            lambda: ready(HUB).get("reason") == "the consortium is not founded",
            "the coordinator does not say that it is not founded",
        )
        assert ready(HUB)["waits_for"]["parties"] == list(SITES)  # type: ignore[index]  # an object
        for name in SITES:
            made.start(name)
        made.until(made.founded, "the consortium is not founded")
        yield made
    finally:
        made.stop()


def log_of(rig: Rig, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (rig.root / f"{name}.log").read_text().splitlines()]


def test_a_study_is_watched_and_no_row_is_shown(rig: Rig) -> None:
    shown: list[str] = []

    def watch() -> bool:
        for name in PORTS:
            for path in ("/metrics", "/readyz", "/healthz"):
                status, text = ask(name, path)
                assert status in (200, 503), (name, path, status)
                shown.append(text)
        return True

    rig.until(lambda: all(ready(name).get("ready") for name in PORTS), "they are not ready")
    watch()
    model = LogisticRegression(max_rounds=3)
    plan = rig.decide(rig.plan(contract(), model, deadline_s=8), contract())
    rig.until(lambda: watch() and rig.finished(plan), "the study does not end", pause=0.5)
    rig.until(
        lambda: ask(HUB, "/metrics")[1].find('treaty_studies{phase="completed"} 1') > 0,
        "the metrics lag",
    )
    watch()
    # The site's own journal says why it takes no part, and until the deadline it was waited for.
    assert "study-refused.data" in (rig.place(ODD) / "journal.jsonl").read_text()
    assert any(f'"parties": ["{ODD}"], "since_ms": 1' in text for text in shown)
    text = "".join(shown) + "".join((rig.root / f"{name}.log").read_text() for name in PORTS)
    assert not FORBIDDEN.search(text) and "131.123456" not in text and "study-refused" not in text
    assert "site.declined" in [line["event"] for line in log_of(rig, ODD)]
    # The health answers name who is waited for; the metrics name nobody.
    _, values = parse(ask(HUB, "/metrics")[1])
    assert not any(name in ask(HUB, "/metrics")[1] for name in SITES)
    study = rig.state(HUB).studies[plan]  # type: ignore[index]  # a digest
    assert values[("treaty_rounds_total", (("result", "published"),))] == len(study.rounds)
    assert values[("treaty_log_tree_size", ())] == rig.size(HUB)


def test_a_lost_server_shows_and_so_does_its_return(rig: Rig) -> None:
    name = SITES[1]
    assert ready(name)["connected"]
    # The coordinator starts its server anew. However short the loss, both ends of it are told.
    assert rig.kill_server()
    rig.until(
        lambda: [line["event"] for line in log_of(rig, name)].count("connection.up") > 1,
        "nobody sees that the server is gone",
    )
    assert "connection.down" in [line["event"] for line in log_of(rig, name)]
    rig.until(lambda: bool(ready(name)["connected"]), "the site does not come back")
    assert "server.restarted" in [line["event"] for line in log_of(rig, HUB)]


def test_a_process_that_ends_says_so_and_answers_no_more(rig: Rig) -> None:
    name = SITES[2]
    assert rig.children[name].end() == 0
    assert log_of(rig, name)[-1]["event"] == "process.stopped"
    assert ask(name, "/healthz") == (0, "")
    # Withdrawn: it does not start, and so listens nowhere.
    treaty("site", "withdraw", "--dir", rig.place(name))
    child = rig.start(name)
    assert child.process.wait(60) == 4


def test_a_port_in_use_is_one_clear_line(rig: Rig) -> None:
    name = SITES[3]
    assert rig.children[name].end() == 0
    said = treaty(*("site", "up", "--dir", rig.place(name), "--metrics", str(PORTS[HUB])), code=5)
    assert "cannot listen for metrics" in said and "--metrics" in said
    said = treaty("site", "up", "--dir", rig.place(name), "--metrics", "hub.example:1", code=2)
    assert "expected an IP address" in said
    said = treaty(
        *("site", "up", "--dir", rig.place(name), "--log", str(Path("/nowhere/log"))), code=5
    )
    assert "cannot write the log" in said
