"""A study led from Python over the network: `treaty.join` in the place of `treaty.simulate`.

One script runs over both, unchanged but for the line that makes its consortium, and ends with the
same model, byte for byte. A site makes a bundle of its own from the checkpoint that it was shown.

Planted and caught: a comparison that is passed over instead of refused.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import treaty
from tests.small_federation import CONTRACT, SITES, site_files
from treaty.errors import PolicyError, ResourceError, UsageError

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
    study.report(out / "report.html")
    study.bundle(out / "bundle").verify(study.anchor)
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
    assert said[0] == "study rivers waits for its proposal to be logged, by coordinator.example"
    assert any("waits for ballots on" in line for line in said)
    assert any("rivers waits for " in line and ", since 20" in line for line in said)
    assert (tmp_path / "joined" / "report.html").stat().st_size > 10_000
    # Nobody proposed anything twice.
    assert len(rig.state(HUB).proposals) == 2


def test_a_sites_bundle_is_attested_and_the_coordinators_is_full(rig: Rig, tmp_path: Path) -> None:
    joined = treaty.join(rig.place(SITES[3]))
    study = joined.study("rivers")
    record = study.bundle(tmp_path / "site").verify(rig.anchor).record
    assert record.edition == "attested" and record.sums_recomputed == 0
    assert record.model == study.state.final_model
    with pytest.raises(UsageError, match="which the coordinator stores"):
        study.bundle(tmp_path / "none", edition="full")
    assert not (tmp_path / "none").exists()
    at_hub = treaty.join(rig.place(HUB)).study("rivers").bundle(tmp_path / "hub")
    full = at_hub.verify(rig.anchor).record
    assert full.edition == "full" and full.sums_recomputed == record.sums_attested > 0
    command("bundle", "export", "--dir", rig.place(SITES[2]), "--out", tmp_path / "exported")
    said = command("verify", tmp_path / "exported", "--anchor", rig.anchor)
    assert "attested, not recomputed" in said


def test_the_wait_ends_and_names_who_is_missing_and_is_taken_up(rig: Rig) -> None:
    """The first call ends while nobody has voted; the second goes on where it ended."""
    said: list[str] = []
    brief = treaty.join(rig.place(LEAD), wait_s=1, say=said.append)
    with pytest.raises(ResourceError, match=r"on study\.approve, from aare, birs, emme, reuss"):
        brief.train(name="second", seed=1)
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
    rig.until(lambda: len(rig.state(HUB).proposals) == 5, "the proposal does not leave")
