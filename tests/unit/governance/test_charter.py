"""Charter: bytes, TOML, and every check with the reason it gives.

Each row of `BREAKAGES` is a planted fault in a sound charter; `check` must give the expected code,
and the same charter without the fault passes. Faults planted in the code and seen to fail:
half as enough for charter.amend; duplicate keys across kinds not looked for; thresholds counted
over suspended members; an exact training sum, or the exact claims of sketched rounds, under
differential privacy; grant below amend.
"""

from collections.abc import Callable

import msgspec
import pytest

from tests.unit.governance.consortia import (
    NAMES,
    founding,
    hex_of,
    member_keys,
    successor,
    with_member,
)
from treaty.errors import FormatError, PolicyError, UsageError
from treaty.governance.charter import (
    Charter,
    charter_bytes,
    charter_digest,
    charter_from_toml,
    charter_to_toml,
    parse_charter,
    require_networked,
    time_from_text,
    time_to_text,
    witness_name,
)
from treaty.governance.data_use import DUO_CODES, DataUse, DataUseTerm, require_data_use
from treaty.governance.exposure import SUMS, TRAINING_SUMS, Artefact, ExposureRule, Form
from treaty.governance.roles import ELIGIBLE_ROLES, Action, KeyKind, Role, signing_key_kind
from treaty.governance.template import CharterOptions, build_charter, template_toml
from treaty.governance.terms import DecisionRule, Document, LocalisationRule, PrivacyMode
from treaty.governance.validity import check, problems
from treaty.ids import Timestamp

A, B, C, D = NAMES[:4]
PRIVATE = CharterOptions(epsilon_budget_milli=1000, delta="1e-5")


def _decide(charter: Charter, action: Action, role: Role, threshold: int) -> Charter:
    rules = dict(charter.decisions) | {action: DecisionRule(role=role, threshold=threshold)}
    return msgspec.structs.replace(charter, decisions=rules)


def _rows(charter: Charter, which: Artefact, **changes: object) -> Charter:
    rows = tuple(
        msgspec.structs.replace(rule, **changes) if rule.artefact is which else rule
        for rule in charter.exposure
    )
    return msgspec.structs.replace(charter, exposure=rows)


def _terms(charter: Charter, *terms: DataUseTerm) -> Charter:
    return msgspec.structs.replace(charter, data_use=DataUse(terms=terms))


def _aggregation(charter: Charter, **changes: object) -> Charter:
    policy = msgspec.structs.replace(charter.secure_aggregation, **changes)
    return msgspec.structs.replace(charter, secure_aggregation=policy)


def _privacy(charter: Charter, **changes: object) -> Charter:
    return msgspec.structs.replace(
        charter, privacy=msgspec.structs.replace(charter.privacy, **changes)
    )


def _keys(charter: Charter, name: str, **changes: object) -> Charter:
    keys = msgspec.structs.replace(charter.members[name].keys, **changes)
    return with_member(charter, name, keys=keys)


def _set(**changes: object) -> Callable[[Charter], Charter]:
    return lambda charter: msgspec.structs.replace(charter, **changes)


def _renamed(charter: Charter, name: str) -> Charter:
    members = dict(charter.members)
    members[name] = members.pop(A)
    return msgspec.structs.replace(charter, members=members)


_DOCUMENT = Document(name="agreement", title="Agreement", sha256="ab" * 32)

BREAKAGES: dict[str, tuple[str, Callable[[Charter], Charter]]] = {
    "founding version with a predecessor": ("version", _set(previous="ab" * 32)),
    "later version without a predecessor": ("version", _set(version=2)),
    "founding version that readmits": ("version", _set(readmits=(A,))),
    "readmits a stranger": (
        "version",
        _set(version=2, previous="ab" * 32, readmits=("x.example",)),
    ),
    "expires at zero": ("expiry", _set(expires=0)),
    "member named coordinator": ("roles", lambda c: _renamed(c, "coordinator")),
    "member named like the coordinator": ("roles", lambda c: _renamed(c, c.coordinator.name)),
    "no role": ("roles", lambda c: with_member(c, A, roles=())),
    "role twice": (
        "roles",
        lambda c: with_member(c, A, roles=(Role.MEMBER, Role.WITNESS, Role.MEMBER)),
    ),
    "member as coordinator": (
        "roles",
        lambda c: with_member(c, A, roles=(*c.members[A].roles, Role.COORDINATOR)),
    ),
    "member that is no witness": ("roles", lambda c: with_member(c, A, roles=(Role.MEMBER,))),
    "witness that is no member": ("roles", lambda c: with_member(c, A, roles=(Role.WITNESS,))),
    "steward that is no member": ("roles", lambda c: with_member(c, A, roles=(Role.STEWARD,))),
    "one key for two members": (
        "key-counted-twice",
        lambda c: _keys(c, A, approval=c.members[B].keys.approval),
    ),
    "one key for two purposes": (
        "key-counted-twice",
        lambda c: _keys(c, A, runner=c.members[A].keys.approval),
    ),
    "one key listed twice": (
        "key-counted-twice",
        lambda c: _keys(c, A, approval=c.members[A].keys.approval * 2),
    ),
    "coordinator's key for a member": (
        "key-counted-twice",
        lambda c: _keys(c, A, transport=(c.coordinator.log,)),
    ),
    "no approval key": ("key-missing", lambda c: _keys(c, A, approval=())),
    "no runner key": ("key-missing", lambda c: _keys(c, A, runner=())),
    "no witness key": ("key-missing", lambda c: _keys(c, A, witness=())),
    "two witness keys": (
        "key-missing",
        lambda c: _keys(c, A, witness=(*c.members[A].keys.witness, hex_of("another witness"))),
    ),
    "low order key": ("key-invalid", lambda c: _keys(c, A, runner=("00" * 32,))),
    "too few members": (
        "parameters",
        lambda c: with_member(with_member(c, A, suspended=True), B, suspended=True),
    ),
    "too many colluders": ("parameters", lambda c: _aggregation(c, max_colluders=3)),
    "min_survivors above N": ("parameters", lambda c: _aggregation(c, min_survivors=5)),
    "least_support of two": ("parameters", _set(least_support=2)),
    "least_support above N": ("parameters", _set(least_support=5)),
    "ring width twice": ("parameters", lambda c: _aggregation(c, ring_bits=(64, 64))),
    "nobody amends": ("threshold", _set(decisions={})),
    "half amends": ("threshold", lambda c: _decide(c, Action.CHARTER_AMEND, Role.MEMBER, 2)),
    "more than all amend": (
        "threshold",
        lambda c: _decide(c, Action.CHARTER_AMEND, Role.MEMBER, 5),
    ),
    "grants below amendments": (
        "threshold",
        lambda c: _decide(c, Action.EXPOSURE_GRANT, Role.MEMBER, 2),
    ),
    "commits for others": (
        "threshold",
        lambda c: _decide(c, Action.UPDATE_COMMIT, Role.MEMBER, 2),
    ),
    "threshold above the stewards left": (
        "threshold",
        lambda c: with_member(
            _decide(c, Action.RELEASE_APPROVE, Role.STEWARD, 4),
            A,
            roles=(Role.MEMBER, Role.WITNESS),
        ),
    ),
    "threshold counts the suspended": (
        "threshold",
        lambda c: with_member(_decide(c, Action.STUDY_APPROVE, Role.MEMBER, 4), A, suspended=True),
    ),
    "coordinator releases": (
        "decision-role",
        lambda c: _decide(c, Action.RELEASE_APPROVE, Role.COORDINATOR, 1),
    ),
    "steward opens rounds": (
        "decision-role",
        lambda c: _decide(c, Action.ROUND_OPEN, Role.STEWARD, 1),
    ),
    "sum over too few": ("exposure", lambda c: _rows(c, Artefact.STATISTICS_SUM, least_members=2)),
    "sum over more than all": (
        "exposure",
        lambda c: _rows(c, Artefact.STATISTICS_SUM, least_members=5),
    ),
    "row without remediation": ("exposure", lambda c: _rows(c, Artefact.MODEL, remediation="")),
    "row of raw data": (
        "exposure",
        lambda c: _rows(c, Artefact.MODEL, artefact=Artefact.RAW_DATA),
    ),
    "row doubled": ("exposure", lambda c: _set(exposure=(*c.exposure, c.exposure[0]))(c)),
    "epsilon while exact": ("privacy", lambda c: _privacy(c, epsilon_budget_milli=1000)),
    "delta while exact": ("privacy", lambda c: _privacy(c, delta="1e-6")),
    "differential without epsilon": (
        "privacy",
        lambda c: _privacy(c, mode=PrivacyMode.DIFFERENTIAL, delta="1e-6"),
    ),
    "differential without delta": (
        "privacy",
        lambda c: _privacy(c, mode=PrivacyMode.DIFFERENTIAL, epsilon_budget_milli=5, delta="0.00"),
    ),
    "a delta that no ledger counts with": (
        "privacy",
        lambda c: _privacy(c, mode=PrivacyMode.DIFFERENTIAL, epsilon_budget_milli=5, delta="9e-13"),
    ),
    "unknown data-use code": (
        "data-use",
        lambda c: _terms(c, DataUseTerm(code="DUO:0000006"), DataUseTerm(code="DUO:9999999")),
    ),
    "data-use code twice": ("data-use", lambda c: _terms(c, *c.data_use.terms * 2)),
    "disease not named": ("data-use", lambda c: _terms(c, DataUseTerm(code="DUO:0000007"))),
    "modifiers alone": ("data-use", lambda c: _terms(c, DataUseTerm(code="DUO:0000021"))),
    "held outside its regions": (
        "localisation",
        _set(
            localisation=(
                LocalisationRule(artefact=Artefact.RAW_DATA, regions=("CH",), basis="law"),
            )
        ),
    ),
    "documents with one name": ("documents", _set(documents=(_DOCUMENT, _DOCUMENT))),
    "nobody to call": ("contacts", _set(escalation=())),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_fault_is_refused_for_its_own_reason(name: str) -> None:
    code, fault = BREAKAGES[name]
    sound = founding()
    check(sound)
    broken = fault(sound)
    with pytest.raises(PolicyError) as refusal:
        check(broken)
    assert refusal.value.code == code
    found = problems(broken)
    assert code in {problem.code for problem in found}
    for problem in found:
        assert problem.sentence == problem.sentence.strip()
        assert not problem.sentence.endswith(".")


def test_more_than_half_is_enforced_for_every_threshold() -> None:
    for members in (3, 4, 5):
        charter = founding(members)
        for threshold in range(1, 7):
            amended = _decide(
                _decide(charter, Action.CHARTER_AMEND, Role.MEMBER, threshold),
                Action.EXPOSURE_GRANT,
                Role.MEMBER,
                members,
            )
            holds = not problems(amended)
            assert holds == (members / 2 < threshold <= members)


@pytest.mark.parametrize("action", Action)
def test_each_action_takes_its_roles_and_no_other(action: Action) -> None:
    charter = founding()
    auditor = with_member(
        charter, A, roles=(*charter.members[A].roles, Role.AUDITOR, Role.OBSERVER)
    )
    for role in Role:
        threshold = 3 if action in (Action.CHARTER_AMEND, Action.EXPOSURE_GRANT) else 1
        codes = {one.code for one in problems(_decide(auditor, action, role, threshold))}
        assert ("decision-role" not in codes) == (role in ELIGIBLE_ROLES[action])


def test_runner_keys_commit_and_nothing_else() -> None:
    kinds = {action: signing_key_kind(action) for action in Action}
    assert [a for a, kind in kinds.items() if kind is KeyKind.RUNNER] == [Action.UPDATE_COMMIT]
    rounds = {Action.ROUND_OPEN, Action.ROUND_CLOSE}
    assert {a for a, kind in kinds.items() if kind is KeyKind.COORDINATOR} == rounds
    assert all(Role.COORDINATOR not in ELIGIBLE_ROLES[action] for action in set(Action) - rounds)


def test_sums_need_min_survivors_even_when_raised() -> None:
    charter = founding(4, CharterOptions(min_survivors=4))
    assert charter.parameters().min_survivors == 4
    for artefact in SUMS:
        assert problems(_rows(charter, artefact, least_members=3))


def test_differential_privacy_never_stands_beside_exact_training_sums() -> None:
    """Named one by one: a class that drops out of the set would be exact under an epsilon."""
    charter = founding(4, PRIVATE)
    check(charter)
    assert {one.value for one in TRAINING_SUMS} == {
        "statistics-sum",
        "support-sum",
        "gradient-hessian-sum",
        "model-update-sum",
        "sketch-claim",
    }
    for artefact in TRAINING_SUMS & SUMS:
        codes = {one.code for one in problems(_rows(charter, artefact, form=Form.EXACT))}
        assert codes == {"privacy"}
    matrix = charter.exposure_matrix()
    assert not any(matrix.recipients(artefact, Form.EXACT) for artefact in TRAINING_SUMS)


def test_claims_of_sketched_rounds_are_exact_and_so_never_stand_beside_an_epsilon() -> None:
    """They have no other form: their row goes, or the mode changes."""
    claims = ExposureRule(
        artefact=Artefact.SKETCH_CLAIM,
        recipients=(Role.COORDINATOR, Role.MEMBER),
        form=Form.EXACT,
        remediation="halt the study",
    )

    def with_claims(charter: Charter, **changes: object) -> Charter:
        row = msgspec.structs.replace(claims, **changes)
        return msgspec.structs.replace(charter, exposure=(*charter.exposure, row))

    check(with_claims(founding(4)))
    (problem,) = problems(with_claims(founding(4, PRIVATE)))
    assert problem.code == "privacy"
    assert "sketch-claim as exact: expected none, remove the row" in problem.sentence
    # A row that denies what no row allows changes nothing.
    check(with_claims(founding(4, PRIVATE), allow=False))


def test_localisation_reaches_everyone_who_may_hold_the_artefact() -> None:
    rule = LocalisationRule(artefact=Artefact.MASKED_INPUT, regions=("CH",), basis="law")
    charter = founding()
    for name in charter.members:
        charter = with_member(charter, name, region="CH")
    charter = msgspec.structs.replace(charter, localisation=(rule,))
    assert {one.code for one in problems(charter)} == {"localisation"}
    home = msgspec.structs.replace(charter.coordinator, region="CH")
    check(msgspec.structs.replace(charter, coordinator=home))


def test_bytes_and_toml_give_back_the_same_charter() -> None:
    for charter in (founding(3), founding(4, PRIVATE), successor(founding(5))):
        assert parse_charter(charter_bytes(charter)) == charter
        again = charter_from_toml(charter_to_toml(charter))
        assert again == charter
        assert charter_digest(again) == charter_digest(charter)


def test_unknown_fields_and_actions_do_not_parse() -> None:
    data = charter_bytes(founding())
    for old, new in (
        (b'"charter.amend"', b'"charter.amenx"'),
        (b'"consortium"', b'"consortiun"'),
        (b'"least_support":3', b'"least_support":3.0'),
        (b'"simulation":false', b'"simulation":0'),
        (b"treaty.charter/v1", b"treaty.charter/v2"),
        (b'"title":"aare.example"', b'"title":"aare\\u202eexample"'),
        (b'"title":"aare.example"', b'"title":"aare\\nexample"'),
    ):
        assert old in data
        with pytest.raises(FormatError):
            parse_charter(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("expires = ", "# expires = ", "expected `expires`"),
        ("Z\n", "\n", "with an offset"),
        ("simulation = false", "simulation = 0", "simulation"),
        ("max_age_s = 3600", "max_age = 3600", "max_age"),
        ('"study.halt"', '"study.hold"', "study.hold"),
        ("[log]", "[log", "expected a charter in TOML"),
    ],
)
def test_a_mistake_in_the_toml_is_named(old: str, new: str, message: str) -> None:
    text = charter_to_toml(founding()).replace('"2031-01-01T00:00:00Z"', "2031-01-01T00:00:00Z")
    assert charter_from_toml(text) == founding()
    assert old in text
    with pytest.raises(UsageError, match=message):
        charter_from_toml(text.replace(old, new, 1))


def test_times_are_milliseconds_and_iso_text() -> None:
    for moment in (0, 1, 999, 1_000, 1_924_992_000_000, 253_402_300_799_999):
        assert time_from_text(time_to_text(Timestamp(moment))) == moment
    assert time_from_text("2027-01-01T01:00:00+01:00") == time_from_text("2027-01-01T00:00:00Z")
    for text in ("2027-01-01", "tomorrow", "1969-01-01T00:00:00Z", "2027-01-01T00:00:00.0001Z"):
        with pytest.raises(UsageError):
            time_from_text(text)


def test_a_simulation_charter_is_refused_by_networked_sites() -> None:
    require_networked(founding())
    with pytest.raises(PolicyError) as refusal:
        require_networked(founding(4, CharterOptions(simulation=True)))
    assert refusal.value.code == "simulation"


def test_only_a_simulation_may_compare_with_pooled_data() -> None:
    for simulation in (False, True):
        charter = founding(4, CharterOptions(simulation=simulation))
        matrix = charter.exposure_matrix()
        recipients = matrix.recipients(Artefact.SIMULATION_COMPARISON, Form.EXACT)
        assert bool(recipients) == simulation


def test_the_template_passes_once_its_keys_are_filled_in() -> None:
    for options in (CharterOptions(), PRIVATE):
        text = template_toml("hearts.example", (A, B, C), options)
        with pytest.raises(UsageError, match="coordinator"):
            charter_from_toml(text)
        for field in ("runner", "log"):
            text = text.replace(f'{field} = "" # fill in', f'{field} = "{hex_of(field)}"', 1)
        blank = charter_from_toml(text)
        assert {one.code for one in problems(blank)} == {"key-missing"}
        filled = blank
        for name in (A, B, C):
            filled = with_member(filled, name, keys=member_keys(name))
        check(filled)
        built = build_charter(
            "hearts.example", {n: member_keys(n) for n in (A, B, C)}, filled.coordinator, options
        )
        assert built == filled
    with pytest.raises(PolicyError, match="key"):
        build_charter("hearts.example", {n: member_keys(A) for n in (A, B, C)}, filled.coordinator)


def test_names_are_counted_in_order_and_without_the_suspended() -> None:
    charter = with_member(founding(5), B, suspended=True)
    assert charter.active_members() == (A, C, D, NAMES[4])
    assert charter.parameters().members == 4
    assert set(charter.witness_keys()) == {A, C, D, NAMES[4]}
    assert witness_name(A) == "aare.example/witness"


def test_a_plan_acknowledges_every_term_and_no_other() -> None:
    use = DataUse(terms=(DataUseTerm(code="DUO:0000006"), DataUseTerm(code="DUO:0000021")))
    require_data_use(use, ["DUO:0000021", "DUO:0000006"])
    for declared in ([], ["DUO:0000006"], ["DUO:0000006", "DUO:0000021", "DUO:0000043"]):
        with pytest.raises(PolicyError) as refusal:
            require_data_use(use, declared)
        assert refusal.value.code == "data-use"
    assert sum(code.is_permission for code in DUO_CODES.values()) == 5
