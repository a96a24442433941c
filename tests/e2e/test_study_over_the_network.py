"""A study led from Python over the network: `treaty.join` in the place of `treaty.simulate`.

One script runs over both, unchanged but for the line that makes its consortium, and ends with the
same model, byte for byte. A site makes a bundle of its own from the checkpoint that it was shown.

Planted and caught: a comparison that is passed over instead of refused; a coordinator that forgets
a steward's signature when it dies; a site that sends a release for ever.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import treaty
from tests.small_federation import CONTRACT, SITES, site_files
from treaty.crypto import envelope
from treaty.deployment.outbox import Outbox
from treaty.errors import PolicyError, ResourceError, UsageError
from treaty.protocol.messages import ReleaseProvenance
from treaty.protocol.model_release import questions, release_body
from treaty.protocol.statements import peek, seal_statement
from treaty.wiring import load_key, stored_log

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.network_rig import HUB, Rig, attempt
from tests.network_rig import treaty as command

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]

LEAD = SITES[0]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A founded consortium whose processes run."""
    with Rig(tmp_path_factory.mktemp("network")).serving() as made:
        yield made


@pytest.fixture(scope="module")
def contract_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("contract") / "rivers.toml"
    path.write_text(CONTRACT)
    return path


def script(consortium: treaty.Consortium, out: Path) -> treaty.Study:
    """What a study lead writes, whatever the consortium is."""
    study = consortium.train(treaty.LogisticRegression(), name="rivers", seed=7)
    study.release()
    assert study.released
    study.report(out / "report.html")
    record = study.bundle(out / "bundle").verify(study.anchor).record
    assert record.released
    return study


def officers(rig: Rig, choice: str, voters: tuple[str, ...]) -> Callable[[], None]:
    """Let `voters` vote on everything that is put to the vote, until the returned call."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            for name in voters:
                for number, record in rig.state(name).proposals.items():
                    if not record.proposal.settled and name not in record.proposal.ballots:
                        # It may be settled by others meanwhile.
                        attempt("proposal", "vote", number, choice, "--dir", rig.place(name))

    thread = threading.Thread(target=watch)
    thread.start()

    def end() -> None:
        done.set()
        thread.join()

    return end


def test_nothing_is_proposed_that_cannot_be_had(rig: Rig, contract_file: Path) -> None:
    """A pooled comparison, a privacy that the charter has no budget for, a coordinator's vote."""
    joined = treaty.join(rig.place(LEAD), contract_file, wait_s=5)
    with pytest.raises(UsageError, match="exist in a simulation only"):
        joined.train(compare_pooled=True)
    with pytest.raises(UsageError, match="sums are exact"):
        joined.train(privacy=treaty.Privacy())
    with pytest.raises(UsageError, match="a coordinator has no vote"):
        treaty.join(rig.place(HUB), contract_file, wait_s=5).train()
    with pytest.raises(UsageError, match="have adopted none: name the contract's file"):
        treaty.join(rig.place(LEAD))
    with pytest.raises(UsageError, match="no studies yet"):
        joined.study("rivers")
    assert rig.state(LEAD).proposals == {}
    assert list((rig.place(LEAD) / "outbox").glob("*.json")) == []


def test_one_script_runs_over_both(rig: Rig, contract_file: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for kind in ("joined", "simulated"):
        (tmp_path / kind).mkdir()
    end = officers(rig, "approve", SITES[1:3])
    try:
        joined = treaty.join(rig.place(LEAD), contract_file, vote=True, wait_s=90, say=said.append)
        study = script(joined, tmp_path / "joined")
    finally:
        end()
    files = {str(name): tmp_path / f"{name}.csv" for name in SITES}
    for name in SITES:
        files[name].write_bytes(site_files(name).data)
    simulated = script(
        treaty.simulate(files, contract_file, exact_sums=True), tmp_path / "simulated"
    )
    assert study.state.final_model == simulated.state.final_model
    assert study.evaluation == simulated.evaluation
    # The same rows; over the network the table says what cannot be known there.
    table, other = study.compare(), simulated.compare()
    assert table.rows == other.rows and other.note == ""
    assert str(table).endswith("exist in a simulation only: nobody has all rows here.")
    # Logged, by coordinator.example, or, where this process was held up, waiting for ballots.
    assert said[0].startswith("study rivers waits for ")
    assert any("waits for ballots on" in line for line in said)
    assert any("rivers waits for " in line and ", since 20" in line for line in said)
    assert (tmp_path / "joined" / "report.html").stat().st_size > 10_000
    assert any(line.startswith("the release of study rivers waits for") for line in said)
    # Nobody proposed anything twice.
    assert len(rig.state(HUB).proposals) == 3


def test_a_sites_bundle_is_attested_and_the_coordinators_is_full(rig: Rig, tmp_path: Path) -> None:
    joined = treaty.join(rig.place(SITES[3]))
    study = joined.study("rivers")
    record = study.bundle(tmp_path / "site").verify(rig.anchor).record
    assert record.edition == "attested" and record.sums_recomputed == 0 and record.released
    assert record.model == study.state.final_model
    with pytest.raises(UsageError, match="which the coordinator stores"):
        study.bundle(tmp_path / "none", edition="full")
    assert not (tmp_path / "none").exists()
    at_hub = treaty.join(rig.place(HUB)).study("rivers").bundle(tmp_path / "hub")
    full = at_hub.verify(rig.anchor).record
    assert (
        full.released
        and full.edition == "full"
        and full.sums_recomputed == record.sums_attested > 0
    )
    command("bundle", "export", "--dir", rig.place(SITES[2]), "--out", tmp_path / "exported")
    said = command("verify", tmp_path / "exported", "--anchor", rig.anchor)
    assert "attested, not recomputed" in said


def test_the_wait_ends_and_names_who_is_missing_and_is_taken_up(rig: Rig) -> None:
    """The first call ends while nobody has voted; the second goes on where it ended."""
    said: list[str] = []
    brief = treaty.join(rig.place(LEAD), wait_s=1, say=said.append)

    def names_them() -> bool:
        # On a slow machine not even the proposal is logged when a call ends.
        with pytest.raises(ResourceError, match="takes it up again") as caught:
            brief.train(name="second", seed=1)
        return "on study.approve, from aare, birs, emme, reuss" in str(caught.value)

    rig.until(names_them, "nobody says who is missing")
    end = officers(rig, "approve", SITES[1:4])
    try:
        study = treaty.join(rig.place(LEAD), wait_s=90, say=said.append).train(
            name="second", seed=1
        )
    finally:
        end()
    assert study.model is not None
    actions = [one.proposal.action for one in rig.state(HUB).proposals.values()]
    assert actions.count("study.approve") == 2, "one for each study"
    # A study that is over is returned at once, from whoever asks.
    again = treaty.join(rig.place(SITES[2]), wait_s=5, say=said.append).train(name="second", seed=1)
    assert again.identity == study.identity


def test_a_coordinator_killed_between_two_signatures_releases_all_the_same(rig: Rig) -> None:
    """Right before and right after each of them is durable; nobody signs again."""
    study = next(one for one in rig.state(LEAD).studies.values() if one.plan.study == "second")

    def dies(moment: str) -> None:
        hub = rig.start(HUB, TREATY_KILL_AT=f"release-signature:1:{moment}")
        rig.until(lambda: hub.process.poll() == -signal.SIGKILL, f"it lives on {moment}")

    def asked(name: str) -> bool:
        return bool(questions(rig.state(name).proposals, study.identity))

    assert rig.children[HUB].end() == 0
    command("release", "approve", "second", "--dir", rig.place(LEAD))
    dies("after")
    hub = rig.start(HUB)
    rig.until(lambda: asked(SITES[1]), "the question does not come")
    # It may have come before the coordinator died: one that still starts ends by the signal itself.
    rig.until(lambda: "serving" in hub.said, "the coordinator does not serve")
    assert rig.children[HUB].end() == 0
    command("release", "approve", "second", "--dir", rig.place(SITES[1]))
    dies("before")
    rig.start(HUB)
    rig.until(lambda: study.final_model in rig.state(HUB).releases, "it is not released")
    rig.until_mirrored()
    for name in SITES[:2]:
        place = rig.place(name)
        rig.until(lambda place=place: not list((place / "outbox").glob("*.json")), "it is sent on")  # type: ignore[misc]  # bound now
    with stored_log(rig.place(HUB)) as log:
        found = [peek(one) for one in log.entries]
    last = [parts for parts, body in found if isinstance(body, ReleaseProvenance)][-1]
    assert len(last.signatures) == 2
    said = command("release", "approve", "second", "--dir", rig.place(SITES[2]), code=2)
    assert "is released already" in said
    # A copy of what was released, sent again, and a part of it by itself: neither is taken.
    size = rig.state(HUB).size
    for statement in (envelope.join(last.payload, dict(last.signatures)),) * 2:
        Outbox(rig.place(SITES[3])).put(statement)
    key = load_key(rig.place(SITES[3]), "approval")
    late = release_body(rig.state(HUB).members.directory.charter, HUB, study)
    Outbox(rig.place(SITES[3])).put(seal_statement(late, key))
    place = rig.place(SITES[3])
    rig.until(lambda: not list((place / "outbox").glob("*.json")), "it is sent on")
    assert rig.state(HUB).size == size


def test_a_study_that_the_members_reject_is_a_refusal_with_names(rig: Rig) -> None:
    end = officers(rig, "reject", SITES[1:3])
    try:
        with pytest.raises(PolicyError, match="do not approve study third") as caught:
            treaty.join(rig.place(LEAD), wait_s=60, say=lambda _: None).train(name="third")
    finally:
        end()
    assert caught.value.code == "rejected" and "without birs, emme" in str(caught.value)


def test_a_site_whose_process_does_not_run_is_said(rig: Rig) -> None:
    said: list[str] = []
    assert rig.children[LEAD].end() == 0
    joined = treaty.join(rig.place(LEAD), wait_s=4, say=said.append)
    with pytest.raises(ResourceError, match="start it with `treaty site up`"):
        joined.train(name="fourth")
    assert said[-1].startswith(f"the process of {LEAD} does not run")
    rig.start(LEAD)
    # What was signed while it did not run leaves now.
    rig.until(lambda: len(rig.state(HUB).proposals) == 7, "the proposal does not leave")
