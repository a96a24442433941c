"""Four sites and a coordinator as processes, from the invitation to a verified bundle.

One consortium lives through the whole module; cases that change it for good come last. The model
must be, byte for byte, that of the embedded engine.

Planted and caught: an anchor that is not compared, a directory that two processes share, a
suspension that leaves the configuration as it was, a withdrawal that a running site does not see.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_federation import SITES, contract
from treaty.models.specification import LogisticRegression

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.network_rig import HUB, Rig, asked, embedded_model, treaty

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]

MODEL = LogisticRegression(site_intercepts=True)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A founded consortium whose processes run."""
    with Rig(tmp_path_factory.mktemp("network")).serving() as made:
        yield made


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of the same study, trained with the embedded engine."""
    return embedded_model(tmp_path_factory.mktemp("embedded"), MODEL)


def test_the_network_trains_the_same_model_and_its_bundle_verifies(
    rig: Rig, embedded: str, tmp_path: Path
) -> None:
    digest = rig.decide(rig.plan(contract(), MODEL), contract())
    rig.until(lambda: rig.finished(digest), "the study does not end")
    rig.export(tmp_path / "bundle")
    assert rig.state(HUB).studies[digest].final_model == embedded  # type: ignore[index]  # a digest
    for name in SITES:
        rig.until(lambda name=name: rig.size(name) == rig.size(HUB), f"{name} is behind")  # type: ignore[misc]  # bound now
        status = asked("site", "status", "--dir", rig.place(name))
        assert status["problems"] == {} and status["running"] and status["to_be_sent"] == []
    status = asked("study", "status", "--dir", rig.place(HUB))
    # Nobody is due but the stewards, and the log says since when.
    assert status["waits_for"] == {"parties": list(SITES), "what": "approval of the release"}
    assert str(status["waits_since"]).startswith("20")
    assert "holds" in treaty("verify", tmp_path / "bundle", "--anchor", rig.anchor)


def test_a_second_process_in_one_directory_is_refused(rig: Rig) -> None:
    for words, name in (
        (("site", "up", "--anchor", rig.anchor), SITES[0]),
        (("coordinator", "up"), HUB),
    ):
        said = treaty(*words, "--dir", rig.place(name), code=5)
        assert "is running already" in said


def test_no_secret_stands_in_what_a_party_writes_for_people(rig: Rig) -> None:
    seeds = [
        json.loads(path.read_text())["seed"]
        for name in (HUB, *SITES)
        for path in (rig.place(name) / "keys").glob("*.key")
    ]
    assert len(seeds) == 4 * (len(SITES) + 1)
    public = [rig.root / f"{name}.out" for name in (HUB, *SITES)]
    public += [rig.place(name) / "journal.jsonl" for name in (HUB, *SITES)]
    public += [*(rig.root / "invites").iterdir(), rig.place(HUB) / "server" / "server.conf"]
    public += [rig.place(HUB) / "server" / "server.log"]
    public += [rig.place(name) / "request.json" for name in SITES]
    for path in public:
        text = path.read_text() if path.exists() else ""
        assert not any(seed in text for seed in seeds), path


def test_a_site_that_is_stopped_comes_back_where_it_was(rig: Rig) -> None:
    name = SITES[1]
    size = rig.size(name)
    assert rig.children[name].end(signal.SIGTERM) == 0
    assert asked("site", "status", "--dir", rig.place(name))["running"] is False
    # With another anchor than that of its consortium it does not start.
    said = treaty("site", "up", "--anchor", "0" * 64, "--dir", rig.place(name), code=3)
    assert "check the anchor" in said
    rig.start(name)
    rig.until(lambda: "serves" in rig.children[name].said, "the site does not come back")
    assert rig.size(name) >= size


def test_a_suspended_member_is_cut_off_and_the_others_go_on(rig: Rig) -> None:
    out, first, second = SITES[3], SITES[0], SITES[1]
    made = asked("member", "suspend", out, "--dir", rig.place(first))
    rig.ratify(str(made["proposal"]), (first, second))
    rig.until(
        lambda: out in rig.state(HUB).members.history.excluded(), "the suspension is not logged"
    )
    journal = rig.place(out) / "journal.jsonl"
    rig.until(
        lambda: journal.exists() and "key-refused" in journal.read_text(),
        "the suspended member is still connected",
    )
    rows = json.loads(treaty("member", "list", "--dir", rig.place(first), "--format", "json"))
    standing = {row["member"]: row["standing"] for row in rows}
    assert standing == {name: "suspended" if name == out else "member" for name in SITES}
    rig.until(lambda: rig.size(first) == rig.size(HUB), "the others do not go on")


def test_a_site_that_withdraws_stops_and_does_not_start_again(rig: Rig) -> None:
    name = SITES[2]
    assert treaty("site", "withdraw", "--dir", rig.place(name)) == "withdrawn\n"
    assert rig.children[name].process.wait(60) == 0
    said = treaty("site", "up", "--dir", rig.place(name), code=4)
    assert "has withdrawn" in said and "to take part again" in said
    (rig.place(name) / "withdrawn").unlink()


def test_everything_ends_cleanly_when_told_to(rig: Rig) -> None:
    running = [name for name in (*SITES, HUB) if rig.children[name].process.poll() is None]
    assert HUB in running
    for name in running:
        assert rig.children[name].end(signal.SIGTERM) == 0, rig.words()
        assert "Traceback" not in rig.children[name].said
    assert rig.server_pid() is None
