"""The page on a coordinator with a standby is executed as it stands, with a kill in the middle.

Its database and its message server are the tests' own; the lease is shorter than the page's.
"""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

pytest.importorskip("nats", reason="nats: nats-py is not installed")
pytest.importorskip("psycopg", reason="postgres: psycopg is not installed")

from tests.e2e.test_howto import SITES, Stage, blocks
from tests.nats_network import free_port
from tests.network_rig import treaty
from tests.postgres_server import PostgresServer
from treaty.deployment.server import find_server

pytestmark = [pytest.mark.nats, pytest.mark.postgres, pytest.mark.timeout(300)]

REPLICAS = ("first", "second")
CARRIED = re.compile(r"^    treaty-coordinator/(\S+) ", re.MULTILINE)


@pytest.fixture
def stage(tmp_path: Path, postgres: PostgresServer) -> Iterator[Stage]:
    """Directories for everybody, and what stands here for the names of the page."""
    made = Stage(tmp_path, free_port())
    made.instead = {
        "host=db.example dbname=treaty user=treaty sslmode=verify-full": postgres.address(
            postgres.database()
        ),
        "nats.example": "127.0.0.1",
        "--lease 10": "--lease 5",
    }
    for name in SITES:
        made.furnish(name)
    yield made
    made.end()


def carry(stage: Stage, page: str) -> None:
    """Carry what the page lists, and nothing else, to the second machine."""
    source, target = (stage.place(name) / "treaty-coordinator" for name in REPLICAS)
    target.mkdir(mode=0o700)
    named = CARRIED.findall(page)
    assert {"keys/", "store.json", "anchor.txt"} <= set(named)
    for name in named:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, target / name)
        elif path.exists():
            # The password has none here: the socket asks for none.
            shutil.copy(path, target / name)
    (stage.root / "server").mkdir()
    for name in REPLICAS:
        (stage.place(name) / "treaty-coordinator" / "server").symlink_to(stage.root / "server")


def test_the_page_plays_as_it_stands(stage: Stage) -> None:
    page = (ROOT / "docs" / "howto" / "standby.md").read_text(encoding="utf-8")
    standby, hub, site = blocks("standby"), blocks("coordinator"), blocks("site")
    assert list(standby) == ["prepare", "first", "second", "standby", "takeover", "again"]
    stage.perform("first", standby["prepare"])
    place = stage.place("first") / "treaty-coordinator"
    treaty("coordinator", "invite", "--dir", place, "--out", stage.root / "invites")
    for name in SITES:
        invite = f"invite-{name}.json"
        shutil.copy(stage.root / "invites" / invite, stage.place(name) / invite)
        stage.perform(name, site["site-1"], name)
        request = stage.place(name) / "treaty-site" / "request.json"
        shutil.copy(request, stage.place("first") / f"request-{name}.json")
    stage.perform("first", hub["coordinator-2"])
    carry(stage, page)

    stage.perform("first", standby["first"])
    active = stage.processes[-1]
    config = stage.root / "server" / "server.conf"
    stage.wait_for(config.exists, "no configuration is written")
    server = subprocess.Popen(
        [str(find_server()), "-c", str(config.resolve())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        stage.perform("second", standby["second"])
        for name in SITES:
            stage.perform(name, site["site-2"], name)
        asked = "$ treaty proposal list --dir treaty-site\nnothing was put to the vote\n"
        stage.until(SITES[0], asked)
        stage.perform("second", standby["standby"])
        active.send_signal(signal.SIGKILL)
        assert active.wait(60) == -signal.SIGKILL
        stage.processes.remove(active)
        stage.until("second", "".join(standby["takeover"]))
        stage.perform("first", standby["again"])
        # What the first had founded, the second goes on with.
        stage.perform(SITES[0], site["propose"])
        there = "$ treaty proposal show <contract> --dir treaty-site\nproposal[..]\n...\n"
        stage.until(SITES[1], there)
        stage.end()
    finally:
        server.kill()
        server.wait(20)
