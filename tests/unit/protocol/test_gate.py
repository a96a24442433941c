"""The gate: each field of each statement needs its own row.

Planted and caught: only the first recipient asked; only the first field asked; site figures counted
as if all members stood behind them; the masked form of a contribution not asked for.
"""

import pytest

from tests.worlds import digest, small_charter
from treaty.errors import PolicyError
from treaty.governance.exposure import Artefact, ExposureMatrix, ExposureRule, Form
from treaty.governance.roles import Role
from treaty.protocol.gate import LOG_READERS, check_statement, check_sum, explain_statement
from treaty.protocol.messages import BallotCast, Figures, SiteReported
from treaty.protocol.secagg_messages import (
    EpochKeys,
    EpochReady,
    InputDeclined,
    LedgerMark,
    MaskedInput,
    Reveal,
)
from treaty.protocol.statements import Body, holds_something, registered

WHO = {"charter": digest("charter"), "author": "aare.example"}
FIGURES = Figures(accuracy=900_000, auc=None, brier=100_000)
MATRIX = small_charter().exposure_matrix()
MEMBER_BODIES: list[Body] = [
    BallotCast(**WHO, proposal=digest("p"), choice="reject"),
    EpochKeys(
        **WHO, epoch=1, opened=digest("o"), transport=digest("t"), kem="00" * 1184,
        round_keys=(digest("r"),), commitments=(digest("c"),),
    ),
    EpochReady(
        **WHO, epoch_hash=digest("e"), pair_commitments=(digest("c"),), wraps=digest("w")
    ),
    MaskedInput(
        **WHO, context=digest("c"), length=3, root=digest("r"), blob=digest("b"), noise=digest("n"),
        ledger=LedgerMark(ledger=digest("l"), head=digest("h")), ledger_count=2,
    ),
    Reveal(**WHO, context=digest("c"), survivors=digest("s"), self_shares={}, round_shares={}),
]  # fmt: skip
REPORT = SiteReported(**WHO, plan=digest("p"), model=digest("m"), federated=FIGURES, alone=FIGURES)


def row(artefact: Artefact, form: Form, least: int = 1, *readers: Role) -> ExposureRule:
    return ExposureRule(
        artefact=artefact,
        recipients=readers or LOG_READERS,
        form=form,
        least_members=least,
        remediation="stop",
    )


@pytest.mark.parametrize("body", MEMBER_BODIES, ids=lambda body: type(body).__name__)
def test_the_default_charter_lets_the_protocol_work(body: Body) -> None:
    check_statement(MATRIX, body, members=4)


@pytest.mark.parametrize("body", MEMBER_BODIES, ids=lambda body: type(body).__name__)
@pytest.mark.parametrize("reader", LOG_READERS)
def test_every_field_needs_its_row_for_every_reader(body: Body, reader: Role) -> None:
    """Without the row of one class for one reader every field of that class is named."""
    classes = registered(type(body)).classes.items()
    for artefact, form in {one for name, one in classes if holds_something(body, name)}:
        kept = [
            rule
            for one in MATRIX.rules
            for recipient in one.recipients
            if (one.artefact, recipient, one.form) != (artefact, reader, form)
            for rule in [row(one.artefact, one.form, 1, recipient)]
            if one.allow
        ]
        matrix = ExposureMatrix(tuple(kept))
        refused = {
            answer.field
            for answer in explain_statement(matrix, body, members=4)
            if not answer.allowed
        }
        held = registered(type(body)).classes.items()
        fields = [(name, one) for name, one in held if holds_something(body, name)]
        assert refused == {name for name, one in fields if one == (artefact, form)}
        with pytest.raises(PolicyError, match="may not leave") as caught:
            check_statement(matrix, body, members=4)
        assert caught.value.code == "exposure"
        assert artefact.value in str(caught.value)
        assert reader.value in str(caught.value)


def test_an_empty_matrix_lets_nothing_leave() -> None:
    for body in MEMBER_BODIES:
        with pytest.raises(PolicyError):
            check_statement(ExposureMatrix(), body, members=4)


def test_a_field_that_holds_nothing_needs_no_row() -> None:
    body = EpochReady(**WHO, epoch_hash=digest("e"), pair_commitments=(), wraps=None)
    fields = {answer.field for answer in explain_statement(MATRIX, body, members=4)}
    assert fields == {"charter", "author", "epoch_hash", "pair_commitments"}


def test_site_figures_need_a_row_for_a_single_site() -> None:
    with pytest.raises(PolicyError, match="field federated of site-report/v1 may not leave"):
        check_statement(MATRIX, REPORT, members=4)
    plain = row(Artefact.IDENTIFIER, Form.PLAIN)
    alone = ExposureMatrix((plain, row(Artefact.SITE_METRIC, Form.EXACT)))
    check_statement(alone, REPORT, members=4)
    pooled = ExposureMatrix((plain, row(Artefact.SITE_METRIC, Form.EXACT, 3)))
    with pytest.raises(PolicyError, match="needs at least 3 members behind it, got 1"):
        check_statement(pooled, REPORT, members=4)
    noised = ExposureMatrix((plain, row(Artefact.SITE_METRIC, Form.NOISED)))
    with pytest.raises(PolicyError, match="may be shown as noised"):
        check_statement(noised, REPORT, members=4)


def test_an_explanation_names_field_class_form_reader_and_reason() -> None:
    body = InputDeclined(**WHO, context=digest("c"), code="site-declined")  # type: ignore[arg-type]  # the value is enough for the gate
    answers = {
        (one.field, one.recipient): one for one in explain_statement(MATRIX, body, members=4)
    }
    assert set(answers) == {
        (field, role) for field in ("charter", "author", "context", "code") for role in LOG_READERS
    }
    code = answers["code", Role.MEMBER]
    assert (code.artefact, code.form, code.allowed) == (Artefact.REFUSAL_CODE, Form.CODE, True)
    assert code.reason.startswith("allowed: an exposure row allows refusal-code to member as code")
    refusal = explain_statement(ExposureMatrix(), body, members=4)[0]
    assert refusal.reason.startswith("refused: no exposure row allows")


SUM = Artefact.GRADIENT_HESSIAN_SUM


@pytest.mark.parametrize(
    "rules, members, reason",
    [
        ((row(SUM, Form.EXACT, 3),), 3, "masked-input"),
        ((row(Artefact.MASKED_INPUT, Form.MASKED),), 3, "gradient-hessian-sum to coordinator"),
        (
            (
                row(Artefact.MASKED_INPUT, Form.MASKED),
                row(SUM, Form.EXACT, 3, Role.COORDINATOR),
            ),
            3,
            "gradient-hessian-sum to member",
        ),
        (
            (row(Artefact.MASKED_INPUT, Form.MASKED), row(SUM, Form.EXACT, 3)),
            2,
            "at least 3 members behind it, got 2",
        ),
        (
            (row(Artefact.MASKED_INPUT, Form.MASKED), row(SUM, Form.NOISED, 3)),
            3,
            "may be shown as noised",
        ),
    ],
)
def test_a_sum_needs_its_rows(rules: tuple[ExposureRule, ...], members: int, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason) as caught:
        check_sum(ExposureMatrix(rules), SUM, members=members)
    assert caught.value.code == "exposure"


def test_a_sum_with_its_rows_may_be_opened() -> None:
    check_sum(MATRIX, SUM, members=3)
