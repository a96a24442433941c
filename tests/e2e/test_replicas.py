"""Two replicas of a coordinator, four sites: one pauses, hangs or is killed, and there is one log.

The model must be, byte for byte, that of the embedded engine, whoever was active when.

Planted faults that these tests caught: a status that calls every running replica active; a lease
that is kept while the loop hangs.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_federation import SITES, contract
from treaty.models.specification import LogisticRegression
from treaty.stores.kill_points import KILL_VARIABLE

pytest.importorskip("nats", reason="nats: nats-py is not installed")
pytest.importorskip("psycopg", reason="postgres: psycopg is not installed")

from tests.hanging_party import HANG_VARIABLE, STILL_VARIABLE
from tests.network_rig import HUB, assert_one_history, embedded_model, treaty
from tests.postgres_server import PASSWORD, PostgresServer
from tests.replica_rig import SECOND, ReplicaRig

pytestmark = [pytest.mark.nats, pytest.mark.postgres, pytest.mark.timeout(300)]

MODEL = LogisticRegression(site_intercepts=True)


@pytest.fixture(scope="module")
def rig(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaRig]:
    """A founded consortium whose processes run; the first replica is active."""
    made = ReplicaRig(tmp_path_factory.mktemp("replicas"), database=postgres)
    try:
        made.prepare_replicas()
        made.start_replicas()
        for name in SITES:
            made.start(name)
        made.until(made.founded, "the consortium is not founded")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of the same study, trained with the embedded engine."""
    return embedded_model(tmp_path_factory.mktemp("embedded"), MODEL)


def model(rig: ReplicaRig, digest: str) -> str:
    return str(rig.state(HUB).studies[digest].final_model)  # type: ignore[index]  # a digest


def test_one_replica_is_active_and_the_other_stands_by(rig: ReplicaRig) -> None:
    first, second = rig.status(HUB), rig.status(SECOND)
    assert (first["role"], second["role"]) == ("active", "standby")
    assert first["epoch"] == second["epoch"] == 1
    assert first["holder"] == second["holder"] == first["name"] != second["name"]
    said = treaty("coordinator", "status", "--dir", rig.place(SECOND))
    assert "replica  standby" in said and f"epoch 1, {first['name']}" in said
    # Its log is read from either directory.
    assert "hearts.example" in treaty("study", "status", "--dir", rig.place(SECOND))


def test_a_replica_that_pauses_loses_the_lease_and_ends_when_it_wakes(
    rig: ReplicaRig, embedded: str, tmp_path: Path
) -> None:
    with rig.waiting_for(SITES[3], rig.plan(contract(), MODEL, deadline_s=300), contract()) as one:
        digest = one
        rig.pause(HUB)
        rig.until(lambda: rig.is_active(SECOND), "the standby does not take over")
        rig.until(lambda: "serving" in rig.children[SECOND].said, "the standby does not serve")
    rig.wake(HUB)
    woken = rig.children[HUB]
    assert woken.process.wait(60) == 5, rig.words()
    assert "lease lost" in woken.said and "start it again, and it stands by" in woken.said
    rig.until(lambda: rig.finished(digest), "the study does not end")
    assert model(rig, digest) == embedded
    rig.export(tmp_path / "bundle", hub=SECOND)
    assert rig.status(HUB)["role"] == "stopped"


def test_a_replica_that_is_killed_is_followed_by_the_other(
    rig: ReplicaRig, embedded: str, tmp_path: Path
) -> None:
    # The one that had paused is started again and stands by, until the active one is told to stop.
    rig.start(HUB, **{KILL_VARIABLE: "coordinator-append:9:after"})
    rig.until(lambda: "stands by" in rig.children[HUB].said, "it does not stand by")
    rig.pause(HUB)
    assert rig.children[SECOND].end(signal.SIGTERM) == 0
    assert rig.holder() == "", "the lease is not given back"
    rig.wake(HUB)
    rig.until(lambda: rig.is_active(HUB), "the lease that is free is not taken")
    rig.start(SECOND)
    rig.until(lambda: rig.status(SECOND)["role"] == "standby", "it does not stand by")
    plan = rig.plan(contract(), MODEL, study="second")
    digest = rig.decide(plan, contract())
    rig.until(lambda: rig.finished(digest), "the study does not end")
    assert rig.children[HUB].process.wait(60) == -signal.SIGKILL
    assert model(rig, digest) == embedded
    assert rig.status(SECOND)["role"] == "active"
    rig.export(tmp_path / "bundle", hub=SECOND)
    rig.until(lambda: all(rig.size(name) == rig.size(HUB) for name in SITES), "a mirror is behind")
    assert_one_history(rig, SECOND)


def test_a_replica_whose_loop_hangs_loses_the_lease_although_its_threads_live(
    rig: ReplicaRig, embedded: str, tmp_path: Path
) -> None:
    hang = tmp_path / "hang"
    assert rig.children[SECOND].end(signal.SIGTERM) == 0
    usual, rig.program = rig.program, "tests.hanging_party"
    rig.start(HUB, **{HANG_VARIABLE: str(hang), STILL_VARIABLE: "2"})
    rig.program = usual
    rig.until(lambda: "serving" in rig.children[HUB].said, "it does not serve")
    rig.start(SECOND)
    rig.until(lambda: rig.status(SECOND)["role"] == "standby", "it does not stand by")
    plan = rig.plan(contract(), MODEL, study="third", deadline_s=300)
    with rig.waiting_for(SITES[3], plan, contract()) as digest:
        hang.touch()
        rig.until(lambda: rig.is_active(SECOND), "the standby does not take over")
        assert rig.children[HUB].process.poll() is None
    rig.until(lambda: rig.finished(digest), "the study does not end")
    hang.unlink()
    assert rig.children[HUB].process.wait(60) == 5, rig.words()
    assert "lease lost" in rig.children[HUB].said
    assert model(rig, digest) == embedded
    rig.until(lambda: all(rig.size(name) == rig.size(HUB) for name in SITES), "a mirror is behind")
    assert_one_history(rig, SECOND)


def test_a_database_that_is_not_reached_is_one_line_without_the_password(
    rig: ReplicaRig,
) -> None:
    place = rig.place(HUB)
    rig.children[HUB].end()
    kept = (place / "store.json").read_text()
    secret = place / "postgres.password"
    try:
        loopback = rig.database.loopback(rig.name) if rig.database else ""
        text = kept.replace(rig.database.address(rig.name) if rig.database else "", loopback)
        (place / "store.json").write_text(text)
        secret.write_text("hunter two\n")
        said = treaty("coordinator", "up", "--dir", place, code=5)
        assert "mode 0644, expected 0600" in said or "chmod 600" in said
        secret.chmod(0o600)
        said = treaty("coordinator", "up", "--dir", place, code=5)
        assert "refuses the password" in said and "hunter" not in said and "\n" not in said[:-1]
        secret.write_text(PASSWORD + "\n")
        assert "standby" not in treaty("coordinator", "status", "--dir", place)
        (place / "store.json").write_text(text.replace("127.0.0.1", "127.0.0.1 hostaddr=127.0.0.9"))
        said = treaty("coordinator", "status", "--dir", place, code=5)
        assert "no server answers" in said and "replica" in said
        assert PASSWORD not in said
    finally:
        (place / "store.json").write_text(kept)
        secret.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--store", "postgres:dbname=x"), "say --other-server"),
        (("--store", "mysql:x", "--other-server"), "expected a store such as postgres:"),
        (("--store", "postgres:host=h", "--other-server"), "names no database"),
        (("--store", "postgres:dbname=x password=p", "--other-server"), "holds a password"),
        (("--store", "postgres:dbname=x", "--other-server", "--lease", "0"), "1 to 600 seconds"),
    ],
)
def test_a_store_that_cannot_be_shared_is_refused(
    tmp_path: Path, words: tuple[str, ...], complaint: str
) -> None:
    members = [word for name in SITES for word in ("--member", name)]
    place = ("--dir", tmp_path / "hub")
    said = treaty("coordinator", "init", "hearts.example", *members, *place, *words, code=2)
    assert complaint in said
    assert not (tmp_path / "hub").exists()
