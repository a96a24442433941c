"""A site whose policy asks for an assessment contributes to no family that did not pass one (T-47).

Planted and caught: the flag read from nowhere, a record taken without its signature, a record of
another site, family, contract, code or protection, a quick or failed one taken for a pass, a
claim of less epsilon taken for one of more.
"""

import dataclasses
from pathlib import Path

import msgspec
import pytest

from tests.small_federation import (
    SITES,
    SmallFederation,
    contract,
    found,
    site_files,
    small_plan,
)
from treaty.assessment.record import (
    AssessmentNeed,
    AssessmentRecord,
    open_record,
    require_assessment,
    seal_record,
)
from treaty.cli.main import run
from treaty.contracts.normalisation import with_public_bounds
from treaty.contracts.schema import Contract, contract_bytes, contract_digest
from treaty.crypto.keys import SigningKey
from treaty.errors import FormatError, PolicyError, VerificationError
from treaty.ids import Digest
from treaty.models.specification import LogisticRegression
from treaty.protocol.study import Phase
from treaty.simulation.federation import Federation
from treaty.studies.calibrating import Privacy, private_model, terms_for
from treaty.studies.plan import AggregationSettings, EvaluationSettings
from treaty.wiring import code_digest, load_key

ASKS = SITES[0]
KEY = SigningKey.generate(bytes(32))
NEED = AssessmentNeed(
    site=ASKS,
    family="logistic-regression",
    protection="noised",
    epsilon_micro=1_000_000,
    delta_inverse=10_000,
    contract="1" * 64,
    code="2" * 64,
)
PASSED = AssessmentRecord(
    site=ASKS,
    family="logistic-regression",
    protection="noised",
    epsilon_micro=1_000_000,
    delta_inverse=10_000,
    contract=Digest("1" * 64),
    code=Digest("2" * 64),
    findings=Digest("3" * 64),
    thorough=True,
    passed=True,
)


def changed(**fields: object) -> AssessmentRecord:
    """Return a passing record with other fields."""
    return msgspec.structs.replace(PASSED, **fields)


@pytest.mark.parametrize(
    "record",
    [
        PASSED,
        changed(epsilon_micro=2_000_000),
        changed(delta_inverse=1_000),
    ],
    ids=["just so", "more epsilon was tested", "a larger delta was tested"],
)
def test_t47_a_record_that_covers_the_plan_is_taken(record: AssessmentRecord) -> None:
    """Also among others that do not."""
    records = [b"{}", seal_record(changed(passed=False), KEY), seal_record(record, KEY)]
    assert require_assessment(NEED, records, KEY.public) == record


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"site": "elsewhere"}, "not-assessed"),
        ({"family": "multilayer-perceptron"}, "not-assessed"),
        ({"contract": "4" * 64}, "not-assessed"),
        ({"code": "4" * 64}, "not-assessed"),
        ({"protection": "exact", "epsilon_micro": None}, "not-assessed"),
        ({"protection": "noised-statistics"}, "not-assessed"),
        ({"epsilon_micro": 999_999}, "not-assessed"),
        ({"epsilon_micro": None}, "not-assessed"),
        ({"delta_inverse": 20_000}, "not-assessed"),
        ({"passed": False}, "assessment-failed"),
        ({"thorough": False}, "assessment-failed"),
    ],
)
def test_t47_a_record_of_anything_else_is_not(fields: dict[str, object], code: str) -> None:
    """Each field alone is enough to refuse."""
    with pytest.raises(PolicyError) as caught:
        require_assessment(NEED, [seal_record(changed(**fields), KEY)], KEY.public)
    assert caught.value.code == code


def test_t47_noised_sums_that_passed_say_nothing_of_exact_ones() -> None:
    """An exact plan needs a record of exact sums, whatever epsilon another one tested."""
    exact = dataclasses.replace(NEED, protection="exact", epsilon_micro=None)
    with pytest.raises(PolicyError) as caught:
        require_assessment(exact, [seal_record(PASSED, KEY)], KEY.public)
    assert caught.value.code == "not-assessed"
    record = changed(protection="exact", epsilon_micro=None)
    assert require_assessment(exact, [seal_record(record, KEY)], KEY.public) == record


def test_t47_a_record_is_signed_by_the_site() -> None:
    """Another key, altered bytes and no record at all count as no assessment."""
    other = SigningKey.generate(bytes([1]) * 32)
    data = seal_record(PASSED, KEY)
    assert open_record(data, KEY.public) == PASSED
    with pytest.raises(VerificationError):
        open_record(data, other.public)
    forged = seal_record(changed(passed=False), KEY).replace(b'"passed":false', b'"passed":true')
    with pytest.raises(VerificationError):
        open_record(forged, KEY.public)
    with pytest.raises(FormatError):
        open_record(data + b" ", KEY.public)
    for records in ([], [forged], [seal_record(PASSED, other)]):
        with pytest.raises(PolicyError) as caught:
            require_assessment(NEED, records, KEY.public)
        assert caught.value.code == "not-assessed"


def _asking(directory: Path) -> None:
    """Let one site's policy ask for an assessment."""
    policy = directory / "parties" / ASKS / "policy.toml"
    head, _, rest = policy.read_text().partition("\n[")
    policy.write_text(f"{head}\nrequire_assessment = true\n[{rest}")


def _keep(directory: Path, data: bytes) -> None:
    folder = directory / "parties" / ASKS / "assessments"
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_bytes(data)


def _of_this_study(directory: Path, **fields: object) -> bytes:
    """Return a record that fits the plan of `small_plan`, changed by `fields`."""
    record = changed(
        protection="exact",
        epsilon_micro=None,
        contract=contract_digest(contract()),
        code=code_digest(),
        **fields,
    )
    return seal_record(record, load_key(directory / "parties" / ASKS, "runner"))


def _took_part(federation: SmallFederation) -> bool:
    study = list(federation.coordinator.state.studies.values())[-1]
    return any(ASKS in one.members_in for one in study.rounds)


def test_t47_without_a_record_the_site_takes_no_part(tmp_path: Path) -> None:
    """The cause is in its own journal; the others go on without it."""
    federation = found(tmp_path, edit=_asking, in_memory=True)
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.COMPLETED
    assert not _took_part(federation)
    assert "study-refused.not-assessed" in federation.journal_of(ASKS)


def _assess(directory: Path, agreed: Contract, *options: str) -> int:
    """Let the asking site assess its own rows by the command; return the exit code."""
    place = directory / "parties" / ASKS
    (directory / "contract.json").write_bytes(contract_bytes(agreed))
    (place / "assessments").mkdir()
    words = ["--contract", str(directory / "contract.json"), *options]
    words += ["--adapter", str(place / "adapter.toml"), "--data", str(place / "data.csv")]
    words += ["--key", str(place / "keys" / "runner.key")]
    return run(["assess", *words, "--record", str(place / "assessments" / "record.json")])


def test_t47_exact_sums_that_can_be_read_back_keep_the_site_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The site's own rows, assessed by the command: exit 4, and then no contribution."""

    def assessed(directory: Path) -> None:
        _asking(directory)
        assert _assess(directory, contract(), "--exact", "--model", "site-intercepts") == 4
        assert "FAILS: records can be read" in capsys.readouterr().out

    federation = found(tmp_path, edit=assessed, in_memory=True)
    federation.run_study(small_plan(federation), contract())
    assert not _took_part(federation)
    assert "study-refused.assessment-failed" in federation.journal_of(ASKS)


def _private(directory: Path, asked: Privacy) -> SmallFederation:
    """Run a short private study that promises what is `asked`; the asking site has what it has."""
    agreed = with_public_bounds(contract())
    federation = SmallFederation(directory, in_memory=True)
    federation.establish()
    model = private_model(LogisticRegression())
    plan = federation.plan(
        "rivers-private",
        agreed,
        model,
        evaluation=EvaluationSettings(bins=8),
        aggregation=AggregationSettings(
            max_persons_per_site=256, slots_per_epoch=16, support_rows=1
        ),
        privacy=terms_for(
            asked,
            model,
            agreed,
            federation.charter.privacy,
            members=len(SITES),
            max_persons_per_site=256,
        ),
    )
    federation.run_study(plan, agreed)
    return federation


def _found_private(directory: Path) -> None:
    Federation.found(
        directory,
        {name: site_files(name) for name in SITES},
        consortium="rivers.example",
        post_quantum=False,
        epsilon_budget_milli=4000,
        delta="1e-5",
    )
    _asking(directory)


def test_t47_noised_sums_that_pass_let_the_site_in(tmp_path: Path) -> None:
    """Assessed at epsilon 1 by the command, then a private study at epsilon 1."""
    _found_private(tmp_path)
    assert _assess(tmp_path, with_public_bounds(contract())) == 0
    assert _took_part(_private(tmp_path, Privacy(epsilon=1.0, rounds=4)))


def test_t47_a_pass_at_epsilon_one_does_not_cover_two(tmp_path: Path) -> None:
    """The same record, and a study that promises less."""
    _found_private(tmp_path)
    record = changed(contract=contract_digest(with_public_bounds(contract())), code=code_digest())
    _keep(tmp_path, seal_record(record, load_key(tmp_path / "parties" / ASKS, "runner")))
    federation = _private(tmp_path, Privacy(epsilon=2.0, rounds=4))
    assert not _took_part(federation)
    assert "study-refused.not-assessed" in federation.journal_of(ASKS)


@pytest.mark.parametrize("protection", ["noised", "noised-statistics"])
def test_t47_a_sum_of_statistics_needs_an_assessment_of_its_own(
    protection: str, tmp_path: Path
) -> None:
    """Gradient sums that passed say nothing of what one sum of statistics shows."""
    _found_private(tmp_path)
    record = changed(
        contract=contract_digest(with_public_bounds(contract())),
        code=code_digest(),
        protection=protection,
    )
    _keep(tmp_path, seal_record(record, load_key(tmp_path / "parties" / ASKS, "runner")))
    federation = _private(tmp_path, Privacy(epsilon=1.0, one_round=True))
    assert _took_part(federation) is (protection == "noised-statistics")
    refused = "study-refused.not-assessed" in federation.journal_of(ASKS)
    assert refused is (protection == "noised")


def test_t47_with_a_record_that_passed_the_site_takes_part(tmp_path: Path) -> None:
    """The keys of the directory are those that sign its log, so the record verifies."""
    directory = tmp_path / "rivers"

    def edit(place: Path) -> None:
        _asking(place)
        _keep(place, _of_this_study(place))

    federation = found(directory, edit=edit, in_memory=True)
    federation.run_study(small_plan(federation), contract())
    assert _took_part(federation)


def test_t47_with_a_record_that_failed_it_takes_no_part(tmp_path: Path) -> None:
    """A failed assessment is worse than none."""
    directory = tmp_path / "rivers"

    def edit(place: Path) -> None:
        _asking(place)
        _keep(place, _of_this_study(place, passed=False))

    federation = found(directory, edit=edit, in_memory=True)
    federation.run_study(small_plan(federation), contract())
    assert not _took_part(federation)
    assert "study-refused.assessment-failed" in federation.journal_of(ASKS)
