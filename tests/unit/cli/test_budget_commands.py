"""Budget commands: register a data set, see what it spent, accept a loss."""

import json
from pathlib import Path

import pytest

from tests.small_federation import contract, found, small_plan
from tests.unit.cli.conftest import Command
from treaty.cli.budget_files import decimal
from treaty.governance.charter import charter_digest, charter_from_toml
from treaty.ids import MemberId
from treaty.node.budget import Claim
from treaty.privacy.events import GaussianEvent
from treaty.privacy.ledger_entries import DEFAULT_ENVELOPES, TRAINING, Capped
from treaty.protocol.messages import DatasetRegistered, LedgerRebased
from treaty.protocol.statements import peek
from treaty.registration import open_budget

SITE = MemberId("member-1.example")


@pytest.fixture
def site(desk: Path) -> Path:
    """A site's directory with data and without a registered data set."""
    place = desk / "site"
    place.mkdir(mode=0o700)
    (place / "data.csv").write_bytes((desk / "site.csv").read_bytes())
    return place


def register(treaty: Command, desk: Path, site: Path, identity: str = "cohort", **words: object):  # type: ignore[no-untyped-def]  # a Result
    members = sorted(charter_from_toml((desk / "charter.toml").read_text()).members)
    settings = {
        "--dir": site,
        "--charter": desk / "charter.toml",
        "--member": members[0],
        "--key": desk / f"{members[0]}.approval.key",
    } | {f"--{name}": value for name, value in words.items()}
    flat = [word for pair in settings.items() for word in pair]
    return treaty("budget", "register", identity, *flat, "--format", "json")


def test_a_registered_data_set_is_shown_with_what_it_may_spend(
    treaty: Command, desk: Path, site: Path
) -> None:
    done = register(treaty, desk, site)
    assert done.code == 0, done
    ledger = json.loads(done.out)["ledger"]
    keeper = open_budget(site)
    assert keeper is not None and keeper.head.ledger == ledger
    digest = charter_digest(charter_from_toml((desk / "charter.toml").read_text()))
    cap = Capped(
        charter=digest,
        partition=TRAINING,
        epsilon_micro=3_000_000,
        delta_inverse=10**5,
        envelopes=DEFAULT_ENVELOPES,
    )
    event = GaussianEvent(variance=f"{1 << 66:x}", sensitivity=1 << 30, count=3)
    keeper.cap(digest, (cap,))
    keeper.reserve(digest, [Claim(TRAINING, TRAINING, (event,))])
    keeper.disclose(digest, ("holdout",), "evaluation-histogram")
    keeper.release()
    (shown,) = json.loads(treaty("budget", "show", "--dir", site, "--format", "json").out)
    assert (shown["identity"], shown["lock"], shown["plans_open"]) == ("cohort", None, 1)
    training, holdout = shown["partitions"]["training"], shown["partitions"]["holdout"]
    assert training["epsilon_micro"] == 0 and training["cap_micro"] == 3_000_000
    assert training["envelopes"]["training"]["releases_reserved"] == 3
    assert holdout["epsilon_infinite"] and holdout["epsilon_micro"] is None
    text = treaty("budget", "show", "--dir", site).out
    assert "training: cap epsilon 3.000, delta 1/100000; spent: epsilon 0.000" in text
    assert "without noise: evaluation-histogram" in text
    assert "in order" in text


def test_epsilon_is_rounded_up() -> None:
    assert [decimal(one) for one in (0, 1, 999, 1000, 1001, None)] == [
        "0.000", "0.001", "0.001", "0.001", "0.002", "infinite",
    ]  # fmt: skip


def test_only_the_sites_own_officer_registers(treaty: Command, desk: Path, site: Path) -> None:
    members = sorted(charter_from_toml((desk / "charter.toml").read_text()).members)
    for key in (f"{members[1]}.approval.key", f"{members[0]}.runner.key"):
        refused = register(treaty, desk, site, key=desk / key)
        assert refused.code == 2 and "approval key" in refused.out
    refused = register(treaty, desk, site, member="nobody")
    assert refused.code == 2 and "not a member" in refused.out
    refused = register(treaty, desk, site, identity="Cohort One")
    assert refused.code == 2 and "identity" in refused.out
    assert not (site / "dataset.toml").exists()


def test_the_same_content_is_not_registered_twice(treaty: Command, desk: Path, site: Path) -> None:
    assert register(treaty, desk, site).code == 0
    again = register(treaty, desk, site, identity="second")
    assert again.code == 4 and json.loads(again.out)["code"] == "known-content"
    (site / "data.csv").write_bytes(b"other,rows\n1,2\n")
    assert register(treaty, desk, site, identity="second").code == 0
    shown = json.loads(treaty("budget", "show", "--dir", site, "--format", "json").out)
    assert [one["identity"] for one in shown] == ["cohort", "second"]


def test_a_lost_ledger_is_not_registered_anew(treaty: Command, desk: Path, site: Path) -> None:
    assert register(treaty, desk, site).code == 0
    (site / "ledger" / "cohort.ledger").unlink()
    again = register(treaty, desk, site)
    assert again.code == 5 and "re-base" in again.out
    (shown,) = json.loads(treaty("budget", "show", "--dir", site, "--format", "json").out)
    assert shown["lock"] == "ledger-lost"


def test_a_registration_cut_off_before_its_end_goes_on(
    treaty: Command, desk: Path, site: Path
) -> None:
    assert register(treaty, desk, site).code == 0
    home = site / "ledger"
    first = (home / "cohort.ledger").read_bytes()
    (home / "cohort.statement").rename(home / "cohort.pending")
    (site / "dataset.toml").unlink()
    assert register(treaty, desk, site).code == 0
    assert (home / "cohort.ledger").read_bytes() == first
    body = peek((home / "cohort.statement").read_bytes())[1]
    assert isinstance(body, DatasetRegistered)


def test_a_site_without_a_data_set_is_told_so(treaty: Command, site: Path) -> None:
    refused = treaty("budget", "show", "--dir", site)
    assert refused.code == 2 and "treaty budget register" in refused.err


def test_an_officer_accepts_a_restored_and_a_lost_ledger(treaty: Command, tmp_path: Path) -> None:
    """The statement that the command writes is sent by the node at its next start."""
    place = tmp_path / "rivers"
    federation = found(place)
    name = federation.members[0]
    site = place / "parties" / name
    ledger = site / "ledger" / f"{name}-data.ledger"
    backup = ledger.read_bytes()
    words = ("budget", "rebase", "--dir", site, "--member", name)
    key = ("--key", site / "keys" / "approval.key")
    federation.run_study(small_plan(federation), contract())
    federation.close()
    refused = treaty(*words, *key, "--out", tmp_path / "s1")
    assert refused.code == 2 and "nothing to accept" in refused.err
    ledger.write_bytes(backup)
    (shown,) = json.loads(
        treaty("budget", "show", "--dir", place, "--member", name, "--format", "json").out
    )
    assert shown["lock"] == "ledger-behind"
    wrong = treaty(*words, "--key", site / "keys" / "runner.key", "--out", tmp_path / "s1")
    assert wrong.code == 2 and not (tmp_path / "s1").exists()
    assert treaty(*words, *key, "--out", tmp_path / "s1").code == 0
    body = peek((tmp_path / "s1").read_bytes())[1]
    assert isinstance(body, LedgerRebased) and body.lost.ledger == body.successor
    # And lost altogether: a successor is opened, which is another ledger.
    ledger.unlink()
    assert treaty(*words, *key, "--out", tmp_path / "s2").code == 0
    body = peek((tmp_path / "s2").read_bytes())[1]
    assert isinstance(body, LedgerRebased) and body.lost.ledger != body.successor
    (shown,) = json.loads(
        treaty("budget", "show", "--dir", place, "--member", name, "--format", "json").out
    )
    assert shown["lock"] == "ledger-recovering"
    again = type(federation)(place)
    again.establish()
    assert again.run(lambda state: name in state.ledgers and state.ledgers[name].rebases)
    again.settle()
    again.close()
    (shown,) = json.loads(
        treaty("budget", "show", "--dir", place, "--member", name, "--format", "json").out
    )
    assert shown["lock"] is None
    assert shown["partitions"]["training"]["non_private"][-1]["release"] == "lost-ledger"
