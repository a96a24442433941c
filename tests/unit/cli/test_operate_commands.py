"""Operating commands: a demonstration from start to end, and how a consortium stands in between.

One demonstration runs for the whole module, one is interrupted in its second training round, and
one consortium has an open proposal and nothing else.

Planted and caught: the exit code of a refused bundle dropped, a finished directory run again,
other settings taken up silently, a directory in use founded in, the anchor missing from the
command to verify, progress on standard output beside JSON, a store opened for writing, a member
that lags counted among the cosigners, an officer's approval left to a node, a ballot asked for
twice, waiting for members that have answered, a charter beside another anchor, a bundle that too
few cosign, a report of a bundle that does not hold.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command
from treaty.api import from_dataset
from treaty.cli import demo as demo_module
from treaty.cli.demo import DemoProgress, run_demo
from treaty.cli.demo_view import DemoView
from treaty.cli.main import run
from treaty.contracts.schema import contract_bytes, contract_digest
from treaty.crypto.canonical import sha256
from treaty.governance.roles import Action
from treaty.ids import MemberId
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import ComparisonPublished, ProposalOpened, ReleaseProvenance
from treaty.protocol.secagg_messages import Reveal
from treaty.protocol.waiting import awaited
from treaty.simulation.federation import Federation
from treaty.simulation.stored import StoredConsortium
from treaty.wiring import load_dataset, stored_log

pytest.importorskip("sklearn", reason="the bundled data set comes with scikit-learn")

DATA = ("--data", "breast-cancer", "--model", "plain", "--no-dp")


class CutOffError(Exception):
    """Stops a run where the test wants it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished demonstration; not to be changed."""
    out = tmp_path_factory.mktemp("operate") / "done"
    assert run_demo(out, data="breast-cancer", model="plain", exact=True).verified
    return out


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was cut off after three sums; not to be changed."""
    out = tmp_path_factory.mktemp("operate") / "cut"

    def stop(now: DemoProgress) -> None:
        if now.sums == 3 and now.late:
            raise CutOffError

    with pytest.raises(CutOffError):
        run_demo(out, data="breast-cancer", model="plain", exact=True, progress=stop)
    return out


@pytest.fixture(scope="module")
def voting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a consortium in which one of four has voted on a contract."""
    place = tmp_path_factory.mktemp("operate") / "voting"
    dataset = load_dataset("breast-cancer")
    consortium = from_dataset(dataset, place, consortium="vote.example")
    consortium.federation.establish()
    consortium.federation.decide(
        Action.CONTRACT_ADOPT,
        contract_digest(dataset.contract),
        contract_bytes(dataset.contract),
        voters=[MemberId("north")],
    )
    consortium.federation.settle()
    consortium.close()
    return place


@pytest.fixture
def state(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing that a test reads may change: neither content nor time of any file or folder."""

    def seen() -> dict[Path, tuple[bytes, int]]:
        return {
            path: (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
            for name in ("finished", "cut", "voting")
            if name in request.fixturenames
            for path in request.getfixturevalue(name).rglob("*")
        }

    before = seen()
    yield
    assert seen() == before


def _json(shown_by: Command, *words: object) -> object:
    shown = shown_by(*words, "--format", "json")
    assert shown.code == 0, shown.out
    return json.loads(shown.out)


# --- the demonstration ------------------------------------------------------------------------


def test_a_finished_directory_is_refused_and_says_what_to_do(
    treaty: Command, finished: Path, state: None
) -> None:
    """Exit 2, and the command that checks what is there."""
    shown = treaty("demo", "--out", finished, *DATA)
    assert (shown.code, shown.out) == (2, "")
    assert f"treaty verify {finished}/bundle" in shown.err
    assert "--out" in shown.err


def test_an_interrupted_run_goes_on_and_says_so(treaty: Command, cut: Path, tmp_path: Path) -> None:
    """It needs no options again, ends well, and adds to the log that was there."""
    place = tmp_path / "again"
    shutil.copytree(cut, place)
    before = _json(treaty, "study", "status", "--dir", place)
    shown = treaty("demo", "--out", place, "--model", "plain", "--no-dp")
    assert shown.code == 0, shown.err
    first, second, *_ = shown.out.splitlines()
    assert "interrupted run" in first
    assert second.startswith("data: Wisconsin breast cancer")
    after = _json(treaty, "study", "status", "--dir", place)
    assert isinstance(before, dict) and isinstance(after, dict)
    assert after["anchor"] == before["anchor"]
    assert after["size"] > before["size"]
    assert after["waits_for"] is None


@pytest.mark.parametrize(
    "other",
    [
        ("--model", "perceptron", "--no-dp"),
        ("--model", "plain", "--no-dp", "--seed", "1"),
        ("--data", "ist"),
        ("--model", "perceptron"),
    ],
)
def test_an_interrupted_run_is_not_taken_up_for_something_else(
    other: tuple[str, ...], treaty: Command, cut: Path, state: None
) -> None:
    """The data, model, seed or privacy of the log are not those asked for: exit 2."""
    words = other if "--model" in other else (*other, "--model", "plain", "--no-dp")
    shown = treaty("demo", "--out", cut, *words)
    assert (shown.code, shown.out) == (2, "")
    assert "--model plain" in shown.err and "--seed 0 --no-dp" in shown.err


def test_a_noised_evaluation_of_exact_sums_is_refused(treaty: Command, tmp_path: Path) -> None:
    shown = treaty("demo", "--out", tmp_path / "demo", *DATA, "--holdout-epsilon", "1")
    assert shown.code == 2 and "leave out --holdout-epsilon, or --no-dp" in shown.err
    assert not (tmp_path / "demo").exists()


def test_a_directory_in_use_is_left_alone(treaty: Command, tmp_path: Path) -> None:
    """Keys and charters are not strewn over somebody's files."""
    (tmp_path / "thesis.txt").write_text("chapter one")
    shown = treaty("demo", "--out", tmp_path, *DATA)
    assert (shown.code, [path.name for path in tmp_path.iterdir()]) == (2, ["thesis.txt"])


def test_the_summary_says_everything_that_it_must(
    treaty: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One table, who learned what, the verdict, where things lie; exit 3 if the bundle is refused.

    The separate verifier refuses here: what it says decides, not what this process believes.
    """

    def refuse(*_: object) -> tuple[bool, tuple[str, ...]]:
        return False, ("error: entry 7 differs",)

    monkeypatch.setattr(demo_module, "_verify_apart", refuse)
    out = tmp_path / "demo"
    shown = treaty("demo", "--out", out, "--data", "breast-cancer")
    assert shown.code == 3
    lines = shown.out.splitlines()
    for wanted in (
        "data: Wisconsin breast cancer as bundled with scikit-learn",
        "privacy: differential, epsilon 1 for a person",
        "  all rows, no noise (simulation only)",
        "    east alone, same epsilon (simulation only)",
        "Who learned what",
        "What a person risks",
        "  training: epsilon 1.000 at delta 1/100000, 2.155 at 2 sites",
        "  holdout: exact, not differentially private, accepted in the charter's row",
        "  in the log: 1 noised count, 20 of 20 noised gradient sums",
        "  error: entry 7 differs",
        "  it does not hold: do not use this model",
        f"  report  {out}/report.html",
    ):
        assert any(line.startswith(wanted) for line in lines), wanted
    assert sum(line.startswith("training ") for line in lines) >= 3
    assert sum("accuracy" in line and "AUC" in line for line in lines) == 1
    anchor = (out / "anchor.txt").read_text().strip()
    assert f"treaty verify {out}/bundle --anchor {anchor}" in shown.out
    assert json.loads((out / "result.json").read_text())["verdict"] == "refused"


def test_for_programs_there_is_one_value_and_nothing_else(
    treaty: Command, cut: Path, tmp_path: Path
) -> None:
    """Integers in parts per million, and the verdict of the verifier."""
    place = tmp_path / "again"
    shutil.copytree(cut, place)
    shown = treaty("demo", "--out", place, "--model", "plain", "--no-dp", "--format", "json")
    record = json.loads(shown.out)
    assert (shown.code, record["verified"], record["differential_privacy"]) == (0, True, None)
    assert shown.out.count("\n") == 1
    names = [figures["name"] for figures in record["figures"]]
    assert names[:2] == ["federated", "each site alone"]
    assert names[-1] == "pooled (simulation only)"
    assert all(isinstance(figures["accuracy_ppm"], int) for figures in record["figures"])


def test_progress_off_a_terminal_is_a_line_a_sum(capsys: pytest.CaptureFixture[str]) -> None:
    """Repeated states print nothing; a sum names its phase, its sites and its losses."""
    states = [
        DemoProgress("training", 1, 0, 4, 0, 0.7, 60, 3, 4),
        DemoProgress("training", 1, 3, 1, 0, 0.7, 64, 3, 4),
        DemoProgress("training", 2, 0, 3, 1, 0.5, 70, 4, 3),
        DemoProgress("training", 2, 0, 3, 1, 0.5, 70, 4, 3),
        DemoProgress("evaluation", 3, 0, 3, 1, 0.4, 80, 5, 3),
    ]
    with DemoView() as view:
        for now in states:
            view.show(now)
    assert capsys.readouterr().out.splitlines() == [
        "training: log 60",
        "training 2: 3 sites in, 1 lost, loss 0.5000, log 70",
        "training 3: 3 sites in, 1 lost, loss 0.4000, log 80",
    ]


# --- how it stands ----------------------------------------------------------------------------


def test_a_status_names_who_is_waited_for(treaty: Command, cut: Path, state: None) -> None:
    """The study is in training, its round is open, and nobody has sent an input."""
    found = _json(treaty, "study", "status", "--dir", cut)
    assert isinstance(found, dict)
    [study] = found["studies"]
    assert (study["phase"], study["stage"], study["sums"]) == ("running", "training", 3)
    assert (study["attempts"], study["released"], study["model"]) == (0, False, None)
    assert study["waits_for"] == {
        "parties": ["east", "north", "south", "west"],
        "what": "masked inputs",
    }
    text = treaty("study", "status", "--dir", cut).out
    assert "waits for masked inputs, from east, north, south, west" in text
    assert f"log of coordinator: {found['size']} entries" in text


def test_a_status_of_one_member_is_that_of_its_own_log(
    treaty: Command, finished: Path, tmp_path: Path
) -> None:
    """A member that lags shows less, and does not count among the cosigners."""
    place = tmp_path / "lags"
    shutil.copytree(finished, place)
    whole = _json(treaty, "study", "status", "--dir", place)
    for path in (place / "parties" / "west").glob("store.db*"):
        path.unlink()
    behind = _json(treaty, "study", "status", "--dir", place)
    assert isinstance(whole, dict) and isinstance(behind, dict)
    assert behind["mirrors"]["west"] == 0
    assert behind["members_with_whole_log"] == whole["members_with_whole_log"] - 1
    own = treaty("study", "status", "--dir", place, "--member", "west")
    assert (own.code, own.out.splitlines()) == (
        0,
        ["founded, and the log is empty: its first entry is the charter"],
    )
    assert "behind: west (0)" in treaty("study", "status", "--dir", place).out
    # It cannot say that nothing was put to the vote.
    unknown = treaty("proposal", "list", "--dir", place, "--member", "west")
    assert (unknown.code, unknown.out) == (2, "")
    assert "the log is empty: the consortium is not founded yet" in unknown.err


def test_a_finished_consortium_waits_for_nobody(
    treaty: Command, finished: Path, state: None
) -> None:
    """Completed, released, cosigned by whoever holds it all."""
    found = _json(treaty, "study", "status", "--dir", finished)
    assert isinstance(found, dict)
    [study] = found["studies"]
    assert (study["phase"], study["released"], study["waits_for"]) == ("completed", True, None)
    assert (found["members_with_whole_log"], found["quorum"]) == (4, 3)
    assert treaty("study", "status", "--dir", finished).out.endswith("waits for nobody\n")


def test_whoever_is_waited_for_writes_the_next_entry(finished: Path, state: None) -> None:
    """Replayed entry by entry: who is named is who moves the log.

    Unasked come only proposals, and answers beyond those that open a sum. What a simulation and
    a coordinator add about a finished study is theirs to time.
    """
    stored = StoredConsortium(finished)
    standing = stored.standing()
    unasked = (ProposalOpened, Reveal, ComparisonPublished, ReleaseProvenance)
    before = Consortium(stored.anchor)
    seen: set[str] = set()
    with stored_log(finished / "parties" / stored.coordinator) as log:
        for entry in standing.entries:
            after, verified = before.apply(entry, log.find)
            waits = awaited(before)
            if before.membership is not None and not isinstance(verified.predicate, unasked):
                assert waits is not None
                assert verified.author in waits.parties, (verified, waits)
                seen.add(waits.what)
            before = after
    assert awaited(before) is None
    assert {"keys of the epoch", "shares of the epoch", "masked inputs", "the opened sum"} <= seen


@pytest.mark.parametrize("words", [("study", "status"), ("proposal", "list"), ("next",)])
def test_a_directory_without_a_consortium_is_a_mistake(
    words: tuple[str, ...], treaty: Command, tmp_path: Path
) -> None:
    """Exit 2; nothing is made there."""
    role = ("--role", "auditor") if words == ("next",) else ()
    assert treaty(*words, "--dir", tmp_path, *role).code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_was_altered_is_refused(treaty: Command, voting: Path, tmp_path: Path) -> None:
    """Another charter beside the anchor, or a stranger's name: nothing is said."""
    place = tmp_path / "altered"
    shutil.copytree(voting, place)
    assert treaty("study", "status", "--dir", place, "--member", "paris").code == 2
    text = (place / "charter.json").read_bytes()
    (place / "charter.json").write_bytes(text.replace(b"vote.example", b"vite.example"))
    shown = treaty("study", "status", "--dir", place)
    assert (shown.code, shown.out) == (3, "")


# --- proposals and what to do -----------------------------------------------------------------


def test_an_open_proposal_names_missing_ballots(treaty: Command, voting: Path, state: None) -> None:
    """It is found by the beginning of its digest, and says what it is about."""
    found = _json(treaty, "proposal", "list", "--dir", voting)
    assert isinstance(found, list)
    [one] = found
    assert (one["phase"], one["approvals"], one["needed"]) == ("open", 1, 3)
    assert one["missing"] == ["east", "south", "west"]
    assert one["about"] == "contract breast-cancer 1.0.0"
    shown = treaty("proposal", "show", one["proposal"][:8], "--dir", voting).out.splitlines()
    assert "approve    north" in shown
    assert "no ballot  west" in shown
    assert treaty("proposal", "show", "0" * 64, "--dir", voting).code == 2
    assert treaty("proposal", "show", one["proposal"][:3], "--dir", voting).code == 2


def test_whoever_has_not_voted_is_told_to(treaty: Command, voting: Path, state: None) -> None:
    """And whoever has, waits for the others."""
    [one] = json.loads(treaty("proposal", "list", "--dir", voting, "--format", "json").out)
    words = ("next", "--dir", voting, "--role")
    vote = treaty(*words, "member", "--member", "west").out.splitlines()
    assert vote[0].startswith(f"vote on proposal {one['proposal'][:16]}: contract.adopt")
    assert vote[1].strip().startswith("treaty proposal show")
    waits = "wait for east, south and west: ballots on contract.adopt\n"
    assert treaty(*words, "member", "--member", "north").out == waits
    assert treaty(*words, "coordinator").out == waits
    assert treaty(*words, "auditor").out == waits


def test_a_running_study_wants_nodes_and_patience(treaty: Command, cut: Path, state: None) -> None:
    """A member whose input is missing runs its node; officers wait."""
    words = ("next", "--dir", cut, "--role")
    told = treaty(*words, "member", "--member", "east").out.splitlines()
    assert told[0].startswith("run your node: ")
    assert told[1] == f"  treaty demo --out {cut}"
    for role in ("coordinator", "steward", "auditor"):
        assert treaty(*words, role).out.startswith("wait for east, north, south and west: ")


def test_a_model_that_nobody_released_wants_its_stewards(
    treaty: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Officers approve; no node can do it for them, and everybody else waits."""

    def refuse(*_: object) -> None:
        raise CutOffError

    monkeypatch.setattr(Federation, "release", refuse)
    place = tmp_path / "unreleased"
    with pytest.raises(CutOffError):
        run_demo(place, data="breast-cancer", model="plain", exact=True)
    words = ("next", "--dir", place, "--role")
    told = treaty(*words, "steward", "--member", "north").out
    assert told.startswith("approve the release of model ")
    waits = "wait for east, north, south and west: approval of the release\n"
    assert treaty(*words, "member", "--member", "north").out == waits
    assert treaty(*words, "coordinator").out == waits
    said = treaty("study", "status", "--dir", place).out
    assert "  released      no: 0 of 2 approvals" in said.splitlines()


def test_when_all_is_done_only_the_auditor_is_left(
    treaty: Command, finished: Path, state: None
) -> None:
    """And what it is told to do holds."""
    words = ("next", "--dir", finished, "--role")
    for role in (("coordinator",), ("steward",), ("member", "--member", "west")):
        assert treaty(*words, *role).out == "nothing to do\n"
    told = treaty(*words, "auditor").out.splitlines()
    assert told[0].startswith("verify the bundle")
    assert told[1].split()[0] == "treaty"
    assert run(told[1].split()[1:]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--role", "member"),
        ("--role", "member", "--member", "paris"),
        ("--role", "auditor", "--member", "west"),
        ("--role", "king"),
    ],
)
def test_a_role_that_nobody_has_is_a_mistake(
    words: tuple[str, ...], treaty: Command, voting: Path
) -> None:
    """Exit 2, and nothing is guessed."""
    assert treaty("next", "--dir", voting, *words).code == 2


# --- evidence ---------------------------------------------------------------------------------


def test_an_exported_bundle_holds_in_both_editions(
    treaty: Command, finished: Path, tmp_path: Path, state: None
) -> None:
    """The attested one says that its sums are not recomputed, and both verify."""
    anchor = (finished / "anchor.txt").read_text().strip()
    for edition, sums in (("full", "proved"), ("attested", "attested")):
        out = tmp_path / edition
        words = ("bundle", "export", "--dir", finished, "--out", out, "--edition", edition)
        assert treaty(*words).code == 0
        record = json.loads(treaty("verify", out, "--anchor", anchor, "--format", "json").out)
        status = {one["name"]: one["status"] for one in record["guarantees"]}
        assert (record["edition"], record["cosignatures"]) == (edition, 4)
        assert (status["sums"], status["model"]) == (sums, "proved")
    again = treaty("bundle", "export", "--dir", finished, "--out", tmp_path / "full")
    assert again.code == 2


def test_no_bundle_is_made_that_too_few_would_cosign(
    treaty: Command, finished: Path, tmp_path: Path
) -> None:
    """Two members without their logs leave no quorum: exit 5, and no directory."""
    place = tmp_path / "lost"
    shutil.copytree(finished, place)
    for name in ("north", "west"):
        for path in (place / "parties" / name).glob("store.db*"):
            path.unlink()
    shown = treaty("bundle", "export", "--dir", place, "--out", tmp_path / "bundle")
    assert shown.code == 5
    assert "2 members hold all" in shown.err
    assert not (tmp_path / "bundle").exists()


def test_a_report_is_made_of_a_bundle_that_holds_only(
    treaty: Command, finished: Path, tmp_path: Path
) -> None:
    """The page is the one that the demonstration wrote; another anchor gives none."""
    anchor = (finished / "anchor.txt").read_text().strip()
    page = tmp_path / "page.html"
    words = ("report", finished / "bundle", "--out", page, "--anchor")
    assert treaty(*words, sha256(b"another")).code == 3
    assert not page.exists()
    assert treaty(*words, anchor).code == 0
    assert page.read_bytes() == (finished / "report.html").read_bytes()
    assert treaty(*words, anchor).code == 5
