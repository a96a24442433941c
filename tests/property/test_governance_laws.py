"""Laws of governance: TOML and bytes round trips; narrowing is a descent; more signers never hurt.

Planted faults seen to fail: a quote left unescaped in TOML; narrowing applied to the first
recipient only; a threshold that counts keys.
"""

import tomllib

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.governance.consortia import (
    NAMES,
    NOW,
    approvals,
    founding,
    member_keys,
    with_member,
)
from treaty.errors import PolicyError
from treaty.governance.amendment import authorise
from treaty.governance.charter import (
    charter_bytes,
    charter_from_toml,
    charter_to_toml,
    parse_charter,
)
from treaty.governance.exposure import (
    FORMS,
    Artefact,
    ExposureMatrix,
    ExposureRule,
    HowOften,
    Narrowing,
    narrow,
)
from treaty.governance.roles import Action, Role
from treaty.governance.toml_writer import write_toml

_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
_SCALAR = _TEXT | st.integers(-(2**40), 2**40) | st.booleans()
_TABLE = st.recursive(
    st.dictionaries(_TEXT, _SCALAR | st.lists(_SCALAR, max_size=3), max_size=4),
    lambda inner: st.dictionaries(_TEXT, _SCALAR | inner | st.lists(inner, max_size=3), max_size=4),
    max_leaves=10,
)


@given(_TABLE)
def test_toml_gives_back_the_table(table: dict[str, object]) -> None:
    assert tomllib.loads(write_toml(table)) == table


_LINE = st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="\u061c"))


@given(
    _LINE.filter(lambda text: len(text) <= 200),
    st.integers(2, 128),
    st.integers(0, 253_402_300_799_999),
    st.booleans(),
)
def test_a_charter_survives_both_spellings(
    text: str, support: int, expires: int, simulation: bool
) -> None:
    charter = msgspec.structs.replace(
        founding(),
        title=text,
        purpose=text,
        least_support=support,
        expires=expires,
        simulation=simulation,
    )
    assert parse_charter(charter_bytes(charter)) == charter
    assert charter_from_toml(charter_to_toml(charter)) == charter


_ARTEFACTS = st.sampled_from(sorted(FORMS, key=lambda one: one.value)[:8])
_ROLES = st.lists(st.sampled_from(Role), min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def _rules(draw: st.DrawFn) -> ExposureRule:
    artefact = draw(_ARTEFACTS.filter(lambda one: bool(FORMS[one])))
    return ExposureRule(
        artefact=artefact,
        form=draw(st.sampled_from(sorted(FORMS[artefact], key=lambda one: one.value))),
        recipients=draw(_ROLES),
        allow=draw(st.booleans()),
        least_members=draw(st.integers(1, 4)),
        how_often=draw(st.sampled_from(HowOften)),
    )


_ROWS = st.builds(
    lambda rule, allow, least, often, every: Narrowing(
        artefact=rule.artefact,
        form=rule.form,
        recipients=() if every else rule.recipients,
        allow=allow,
        least_members=least,
        how_often=often,
    ),
    _rules(),
    st.booleans(),
    st.none() | st.integers(1, 4),
    st.none() | st.sampled_from(HowOften),
    st.booleans(),
)


@given(st.lists(_rules(), max_size=8), st.lists(_ROWS, max_size=4))
def test_whatever_the_site_writes_the_charter_stays_the_ceiling(
    rules: list[ExposureRule], rows: list[Narrowing]
) -> None:
    kept: list[ExposureRule] = []
    for rule in rules:
        try:
            ExposureMatrix((*kept, rule))
        except PolicyError:
            continue
        kept.append(rule)
    charter = ExposureMatrix(tuple(kept))
    try:
        site = narrow(charter, rows)
    except PolicyError as error:
        assert error.code == "site-widens"
        return
    for artefact in Artefact:
        for form in FORMS[artefact]:
            for role in Role:
                for members in (0, 1, 2, 3, 4):
                    allowed = site.decide(artefact, role, form, members).allowed
                    assert charter.decide(artefact, role, form, members).allowed or not allowed
    assert narrow(site, ()) == site
    for row in rows:
        if not row.allow:
            roles = row.recipients or tuple(Role)
            assert not any(site.decide(row.artefact, role, row.form, 4).allowed for role in roles)


@given(
    st.sets(st.sampled_from(NAMES[:4])),
    st.sampled_from([Action.STUDY_APPROVE, Action.RELEASE_APPROVE, Action.STUDY_HALT]),
)
def test_signatures_of_more_members_never_take_a_decision_back(
    signers: set[str], action: Action
) -> None:
    """A second key of each member changes nothing; another member never harms."""
    charter = founding()
    for name in NAMES[:4]:
        keys = charter.members[name].keys
        more = msgspec.structs.replace(
            keys, approval=(*keys.approval, *member_keys(name, 2).approval)
        )
        charter = with_member(charter, name, keys=more)
    enough = len(signers) >= charter.decisions[action].threshold
    for keyids in (approvals(charter, signers), approvals(founding(), signers)):
        try:
            assert authorise(charter, action, keyids, at=NOW) == signers
        except PolicyError:
            assert not enough
        else:
            assert enough
