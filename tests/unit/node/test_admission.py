"""A site takes part in what it may, decided before a row is read.

Planted and caught: a plan that names other code than the site runs; a record of an assessment
believed where no key is known to check it; a file that changed while it was read.
"""

from collections.abc import Callable
from typing import NoReturn, cast

from tests.adversarial.test_assessment_required import PASSED
from tests.worlds import World, refused
from treaty.assessment.record import seal_record
from treaty.contracts.schema import Contract
from treaty.crypto.keys import SigningKey
from treaty.governance.site_policy import SitePolicy
from treaty.ids import Digest
from treaty.node.admission import Admission
from treaty.node.budget import BudgetKeeper
from treaty.ports import DataSource
from treaty.stores.memory import MemoryStore
from treaty.stores.system import MemoryJournal
from treaty.trainers.numpy_trainer import NumpyTrainer


class _Sealed:
    """A data set that nobody may open here."""

    def load(
        self,
        contract: Contract,
        *,
        holdout_permille: int,
        seed: int,
        held_out: Callable[[str], bool] | None = None,
    ) -> NoReturn:
        """Fail: rows were read before the site had decided."""
        raise AssertionError("rows are read although the site takes no part")


def refusal(
    *,
    code: Digest | None = None,
    require_assessment: bool = False,
    assessments: tuple[bytes, ...] = (),
) -> str:
    """Return why a site with these settings stays out of a ratified study."""
    world, journal, store = World(), MemoryJournal(), MemoryStore()
    world.start()
    policy = SitePolicy(site=world.names[0], require_assessment=require_assessment)
    admission = Admission(
        store=store,
        journal=journal,
        source=_Sealed(),
        trainer=NumpyTrainer(),
        policy=policy,
        code=code,
        assessments=assessments,
    )
    assert not admission.permits(world.state, world.study)
    [(event, _)] = journal.lines
    assert not admission.permits(world.state, world.study)
    return event.removeprefix("study-refused.")


def test_a_plan_that_names_other_code_than_the_site_runs_is_refused() -> None:
    assert refusal(code=Digest("0" * 64)) == "wrong-code"


def test_an_assessment_that_nobody_can_check_is_none() -> None:
    """Also where a file lies there that claims to be its record."""
    sealed = seal_record(PASSED, SigningKey(bytes(32)))
    for assessments in ((), (b"{}",), (sealed,)):
        assert refusal(require_assessment=True, assessments=assessments) == "not-assessed"


class _Changing:
    """A data set and its ledger; whoever edits the file does so while it is read."""

    lock = ""
    dataset = None

    def __init__(self, *, changes: bool) -> None:
        self._changes = changes
        self._content = "a" * 64

    def register_content(self) -> Digest:
        """Return the fingerprint of what the file holds now."""
        return Digest(self._content)

    def load(self, *_: object, **__: object) -> object:
        """Return the rows, as far as anybody looks at them here."""
        if self._changes:
            self._content = "b" * 64
        return object()


def test_a_file_that_changes_while_it_is_read_is_not_worked_with() -> None:
    """Its rows would be of a content that no ledger knows."""
    world = World()
    world.start()
    for changes in (False, True):
        local = _Changing(changes=changes)
        admission = Admission(
            store=MemoryStore(),
            journal=MemoryJournal(),
            source=cast("DataSource", local),
            trainer=NumpyTrainer(),
            policy=None,
            budget=cast("BudgetKeeper", local),
        )
        if not changes:
            assert admission.prepared(world.study) is admission.local
            continue
        with refused("data"):
            admission.prepared(world.study)
        assert admission.local is None
