"""T-43: nobody is moved from the partition that was shown exactly to the one with an epsilon.

The first study shows the holdout's histogram exactly and prints an epsilon for training. If a later
study trains on rows of that holdout, an exact function of them has left while an epsilon is
printed. Real nodes over the real protocol; what changes between or in the studies is a contract
that names persons otherwise, an adapter, or the site's file.

Planted and caught: persons named by another column, by their place or by a changed identifier; a
file in another order, with a row taken out or put in front; a file that is exchanged in the middle
of a study; content that belongs to another data set, read after a restart; a file that changes
while it is read; what a copy in another order is taken for.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.private_federation import found_private, private_contract, private_plan
from tests.small_federation import CONTRACT, SITES, SmallFederation, site_files
from treaty.contracts.alignment import parse_adapter, person_naming
from treaty.contracts.normalisation import with_public_bounds
from treaty.contracts.schema import Contract, contract_digest, parse_contract
from treaty.ids import MemberId
from treaty.node.budget import BudgetKeeper
from treaty.node.dataset import content_digest
from treaty.protocol.study import Phase, Study
from treaty.simulation.federation import Federation, SiteFilesToWrite
from treaty.studies.calibrating import Privacy
from treaty.studies.plan import Plan

VICTIM = MemberId(SITES[0])
BUDGET = Privacy(epsilon=0.4, rounds=1)


def numbered(site: str) -> SiteFilesToWrite:
    """Return a site's files with two columns that could name a person."""
    plain = site_files(site)
    lines = plain.data.decode().splitlines()
    text = [f"mrn,visit,{lines[0]}"]
    text += [f"P{7 * place + 3},V{place},{line}" for place, line in enumerate(lines[1:])]
    return replace(plain, data="\n".join(text).encode() + b"\n")


def naming_by(column: str) -> Contract:
    """Return the sites' contract with persons named by `column`, by their place where empty."""
    entity = f'[entity]\nperson_id = "{column}"\n\n[label]' if column else "[label]"
    return with_public_bounds(parse_contract(CONTRACT.replace("[label]", entity)))


def opened(directory: Path, files: Callable[[str], SiteFilesToWrite]) -> SmallFederation:
    Federation.found(
        directory,
        {name: files(name) for name in SITES},
        consortium="rivers.example",
        post_quantum=False,
        epsilon_budget_milli=3000,
        delta="1e-5",
        max_sites_per_person=2,
    )
    federation = SmallFederation(directory, in_memory=True, capture=False)
    federation.establish()
    return federation


def plan_of(federation: SmallFederation, name: str, agreed: Contract) -> Plan:
    plan = private_plan(federation, BUDGET, study=name)
    return msgspec.structs.replace(plan, contract=contract_digest(agreed))


def keeper(federation: SmallFederation, name: MemberId = VICTIM) -> BudgetKeeper:
    found = federation.participants[name].budget
    assert found is not None
    return found


def place(federation: SmallFederation, name: str = VICTIM) -> Path:
    return federation.directory / "parties" / name


def restart(federation: SmallFederation, name: MemberId = VICTIM) -> None:
    federation.participants[name] = federation._open_participant(name)
    federation.participants[name].start()


def left_out(federation: SmallFederation, study: Study, cause: str) -> None:
    """The study goes on without the victim, which charged nothing and says why in its journal."""
    assert study.phase is Phase.COMPLETED
    assert all(VICTIM not in one.members_in for one in study.rounds)
    state = keeper(federation).state
    assert not any(slot[0] == study.identity for slot in state.slots)
    assert not any(plan == study.identity for plan, _, _ in state.plans)
    assert f".{cause}" in federation.journal_of(VICTIM)


# --- between studies --------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("mrn", "visit"), ("mrn", ""), ("", "mrn")])
def test_a_contract_that_names_persons_otherwise_is_declined(
    first: str, second: str, tmp_path: Path
) -> None:
    """Every site declines: its persons would be divided anew."""
    federation = opened(tmp_path, numbered)
    agreed = naming_by(first)
    study = federation.run_study(plan_of(federation, "one", agreed), agreed)
    assert study.phase is Phase.COMPLETED
    other = naming_by(second)
    refused = federation.run_study(plan_of(federation, "two", other), other)
    assert refused.phase is Phase.HALTED and not refused.rounds
    assert ".person-naming" in federation.journal_of(VICTIM)
    assert not any(slot[0] == refused.identity for slot in keeper(federation).state.slots)
    again = federation.run_study(plan_of(federation, "three", agreed), agreed)
    assert again.phase is Phase.COMPLETED and VICTIM in again.rounds[0].members_in


def test_an_adapter_that_writes_identifiers_otherwise_is_declined(tmp_path: Path) -> None:
    federation = opened(tmp_path, numbered)
    agreed = naming_by("mrn")
    federation.run_study(plan_of(federation, "one", agreed), agreed)
    adapter = place(federation) / "adapter.toml"
    codes = ", ".join(f'P{7 * at + 3} = "Q{(at * 11) % 60}"' for at in range(60))
    operation = f'\n[[operations]]\nop = "map"\ncolumn = "mrn"\ncodes = {{ {codes} }}\n'
    adapter.write_text(adapter.read_text() + operation)
    restart(federation)
    study = federation.run_study(plan_of(federation, "two", agreed), agreed)
    left_out(federation, study, "person-naming")


def _shuffled(data: bytes) -> bytes:
    head, *rows = data.splitlines(keepends=True)
    random.Random(5).shuffle(rows)
    return head + b"".join(rows)


def _without(data: bytes) -> bytes:
    head, _, *rows = data.splitlines(keepends=True)
    return head + b"".join(rows)


def _in_front(data: bytes) -> bytes:
    head, *rows = data.splitlines(keepends=True)
    return head + b"50,120.5,m,0,1\n" + b"".join(rows)


MOVED: Mapping[str, Callable[[bytes], bytes]] = {
    "another order": _shuffled,
    "a row taken out": _without,
    "a row put in front": _in_front,
}


@pytest.mark.parametrize("what", MOVED)
def test_rows_known_by_their_place_keep_it(what: str, tmp_path: Path) -> None:
    """Without identifiers the file may only grow at its end."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    agreed = private_contract()
    federation.run_study(plan_of(federation, "one", agreed), agreed)
    data = place(federation) / "data.csv"
    data.write_bytes(MOVED[what](data.read_bytes()))
    restart(federation)
    study = federation.run_study(plan_of(federation, "two", agreed), agreed)
    left_out(federation, study, "rows-moved")


def test_rows_may_be_appended_and_count_under_the_same_ledger(tmp_path: Path) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)
    agreed = private_contract()
    first = federation.run_study(plan_of(federation, "one", agreed), agreed)
    before = federation.participants[VICTIM].local_study(first).data
    data = place(federation) / "data.csv"
    data.write_bytes(data.read_bytes() + b"50,120.5,m,0,1\n51,121.5,f,0,0\n")
    restart(federation)
    study = federation.run_study(plan_of(federation, "two", agreed), agreed)
    assert study.phase is Phase.COMPLETED and VICTIM in study.rounds[0].members_in
    after = federation.participants[VICTIM].local_study(study).data
    assert set(after.training.persons) >= set(before.training.persons)
    assert set(after.holdout.persons) >= set(before.holdout.persons)
    assert after.training.rows + after.holdout.rows == 62
    assert len(keeper(federation).state.fingerprints) == 2


def test_identifiers_let_rows_come_go_and_move(tmp_path: Path) -> None:
    """The control: where a column names persons, the file may change in any way."""
    federation = opened(tmp_path, numbered)
    agreed = naming_by("mrn")
    first = federation.run_study(plan_of(federation, "one", agreed), agreed)
    sides = federation.participants[VICTIM].local_study(first).data
    data = place(federation) / "data.csv"
    data.write_bytes(_shuffled(_without(data.read_bytes())))
    restart(federation)
    study = federation.run_study(plan_of(federation, "two", agreed), agreed)
    assert study.phase is Phase.COMPLETED and VICTIM in study.rounds[0].members_in
    after = federation.participants[VICTIM].local_study(study).data
    assert set(after.training.persons) <= set(sides.training.persons)
    assert set(after.holdout.persons) <= set(sides.holdout.persons)


# --- in the middle of a study -----------------------------------------------------------------


class ProcessEndedError(Exception):
    """The victim's process ends here."""


def swapped_in_the_middle(federation: SmallFederation, data: bytes) -> Study:
    """Run a study of three gradient sums; after the first one exchange the site's file for `data`,
    while its process is down."""

    def stop() -> None:
        study = federation.coordinator.state.running
        if study is None or study.progress.index != 2:
            return
        if study.round is None or VICTIM not in study.round.inputs:
            raise ProcessEndedError

    plan = private_plan(federation, Privacy(epsilon=0.4, rounds=3))
    with pytest.raises(ProcessEndedError):
        federation.run_study(plan, private_contract(), stop)
    (place(federation) / "data.csv").write_bytes(data)
    restart(federation)
    study = federation.run_study(plan, private_contract())
    assert study.phase is Phase.COMPLETED
    federation.close()
    return study


def test_rows_exchanged_in_the_middle_of_a_study_are_not_summed(tmp_path: Path) -> None:
    federation = found_private(tmp_path, capture=False)
    data = (place(federation) / "data.csv").read_bytes()
    study = swapped_in_the_middle(federation, _shuffled(data))
    inside = [VICTIM in one.members_in for one in study.rounds]
    assert inside[:2] == [True, True] and not any(inside[2:])
    assert ".rows-moved" in federation.journal_of(VICTIM)


def test_content_that_appears_in_the_middle_of_a_study_is_registered(tmp_path: Path) -> None:
    """It inherits all spend from the first sum that it is in, not from the next study on."""
    federation = found_private(tmp_path, capture=False)
    grown = (place(federation) / "data.csv").read_bytes() + b"50,120.5,m,0,1\n"
    study = swapped_in_the_middle(federation, grown)
    assert VICTIM in study.rounds[-1].members_in
    registered = keeper(federation).dataset
    assert registered.fingerprint(content_digest(grown)) in keeper(federation).state.fingerprints


def test_a_file_that_changes_while_it_is_read_is_not_used(tmp_path: Path) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)
    data = place(federation) / "data.csv"
    node = federation._open_participant(VICTIM)
    source = node._admission._source
    load = source.load

    class Changing:
        def load(self, *given: object, **named: object) -> object:
            found = load(*given, **named)  # type: ignore[arg-type]  # passed through
            data.write_bytes(data.read_bytes() + b"50,120.5,m,0,1\n")
            return found

    node._admission._source = Changing()  # type: ignore[assignment]  # the test's own
    federation.participants[VICTIM] = node
    node.start()
    study = federation.run_study(private_plan(federation, BUDGET, study="one"), private_contract())
    left_out(federation, study, "data")


# --- what a copy is taken for -----------------------------------------------------------------


def test_a_copy_in_another_order_is_the_same_content() -> None:
    data = site_files(VICTIM).data
    dressed = b"\xef\xbb\xbf" + _shuffled(data).replace(b"\n", b"\r\n") + b"\r\n\r\n"
    assert content_digest(dressed) == content_digest(data)
    assert content_digest(_without(data)) != content_digest(data)


def test_equal_ways_to_an_identifier_are_one_naming() -> None:
    """Only names in between differ: what the file holds, and what is done to it, is the same."""
    plain = 'format = "treaty.adapter/v1"\ncontract = "rivers"\nsite = "aare"\n'
    rename = '[[operations]]\nop = "rename"\ncolumn = "{}"\nto = "{}"\n'
    whole = '[[operations]]\nop = "whole_number"\ncolumn = "{}"\n'

    def naming(text: str, column: str) -> str:
        return person_naming(parse_adapter(plain + text), naming_by(column))

    same = [
        naming("", "mrn"),
        naming(rename.format("mrn", "visit"), "visit"),
        naming(rename.format("mrn", "a") + rename.format("a", "b"), "b"),
    ]
    assert len(set(same)) == 1
    others = [
        naming(whole.format("mrn"), "mrn"),
        naming("", "visit"),
        naming("", ""),
        naming("[source]\nheader = false\ncolumns = ['mrn']\n", "mrn"),
        naming("[source]\nheader = false\ncolumns = ['mrn']\n", ""),
    ]
    assert len({*same, *others}) == 1 + len(others)
    assert naming(rename.format("visit", "mrn"), "mrn") == naming("", "visit")
    assert naming(whole.format("mrn"), "mrn") == naming(
        rename.format("mrn", "visit") + whole.format("visit"), "visit"
    )
