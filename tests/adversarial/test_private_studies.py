"""T-43, T-44, T-45: nothing exact over training rows leaves while an epsilon is printed.

The tables say of every kind of sum and of every class of artefact whether it is computed from
training rows; a new one without its line fails here. What then really leaves a study is compared
with the tables, and the published numbers with what the sites' rows give in the clear.

Planted and caught: the noise left out; a hundredth of its variance; the model alone back in the
evaluation; the support summed first; a header without its commitment, and the commitment not
checked; one noise key for everything; the plan's promise not checked; the statement left out of
the derived files; lost members counted as shares; noised sums called exact; the first iterates in
the mean; a vote that frees a noised question; fresh noise on another attempt.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from tests.chance import assert_within
from tests.forgery import Forge, Genuine, genuine_of
from tests.private_federation import (
    ROUNDS,
    found_private,
    private_contract,
    private_plan,
)
from tests.small_federation import SITES
from treaty.aggregation.quantization import decode_sum, ring_vector
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.errors import FormatError, PolicyError, VerificationError
from treaty.evaluation.metrics import local_sums
from treaty.governance.exposure import Artefact, Form
from treaty.governance.roles import Action
from treaty.governance.template import default_exposure
from treaty.ids import Digest
from treaty.models.specification import LogisticRegression, MultilayerPerceptron
from treaty.node.contribution import LocalStudy
from treaty.node.noising import clipped_gradient
from treaty.privacy.distributed import persons_in_order
from treaty.privacy.events import SAMPLING_UNIT
from treaty.privacy.terms import ExactSums
from treaty.protocol.frequency import kind_of
from treaty.protocol.messages import (
    BallotCast,
    ComparisonPublished,
    Figures,
    ProposalOpened,
    SiteReported,
    StudyCompleted,
    StudyOpened,
)
from treaty.protocol.secagg_messages import (
    MaskedInput,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    RoundResult,
)
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.statements import holds_something, peek, registered
from treaty.protocol.study import Study
from treaty.provenance.privacy import log_privacy, study_privacy
from treaty.provenance.verify import Status, verify_bundle
from treaty.reports.opened_sums import opened_sums
from treaty.reports.summary import report_data
from treaty.simulation.federation import COORDINATOR
from treaty.studies.calibrating import Privacy
from treaty.studies.certificates import PrivacyStatement
from treaty.studies.lint import lint_plan
from treaty.studies.noise import noise_terms
from treaty.studies.plan import Plan, parse_plan, plan_bytes, plan_digest
from treaty.studies.progress import begin
from treaty.studies.queries import NO_DIGEST, NOISED, PERSONS, QueryKind, make_query

FROM_TRAINING_ROWS: Mapping[QueryKind, bool] = MappingProxyType(
    {
        QueryKind.SUPPORT: True,
        QueryKind.STATISTICS: True,
        QueryKind.NEWTON: True,
        QueryKind.AVERAGING: True,
        QueryKind.COUNT: True,
        QueryKind.DESCENT: True,
        QueryKind.SUFFICIENT: True,
        QueryKind.SCORES: False,
        QueryKind.EVALUATION: False,
    }
)

ARTEFACTS_FROM_TRAINING_ROWS: Mapping[Artefact, bool] = MappingProxyType(
    {
        Artefact.RAW_DATA: True,
        Artefact.MASKED_INPUT: True,
        Artefact.STATISTICS_SUM: True,
        Artefact.SUPPORT_SUM: True,
        Artefact.GRADIENT_HESSIAN_SUM: True,
        Artefact.MODEL_UPDATE_SUM: True,
        Artefact.SKETCH_CLAIM: True,
        Artefact.MODEL: True,
        Artefact.SITE_METRIC: True,
        Artefact.MONITORING_SIGNAL: True,
        Artefact.SIMULATION_COMPARISON: True,
        Artefact.EVALUATION_HISTOGRAM: False,
        Artefact.EVALUATION_VERDICT: False,
        **dict.fromkeys(
            (
                Artefact.REFUSAL_CODE,
                Artefact.PROTOCOL_KEY,
                Artefact.SECRET_SHARE,
                Artefact.SURPLUS_NOISE_KEY,
                Artefact.SIGNATURE,
                Artefact.COMMITMENT,
                Artefact.LOG_POSITION,
                Artefact.IDENTIFIER,
                Artefact.SCHEDULE,
                Artefact.ADAPTER_DIGEST,
                Artefact.PRIVACY_CERTIFICATE,
                Artefact.ATTESTATION,
                Artefact.VOTE,
                Artefact.GOVERNANCE_DOCUMENT,
                Artefact.CONTRACT,
                Artefact.PLAN,
                Artefact.MODEL_CARD,
                Artefact.DATASET_CARD,
                Artefact.RELEASE_STAGE,
                Artefact.INCIDENT_REPORT,
                Artefact.REMARK,
            ),
            False,
        ),
    }
)
"""Derived from training rows. The model is, through noised sums alone; the histogram is of holdout
rows, given a model that is noised already."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Genuine, Study, dict[str, LocalStudy]]:
    """One private study, with a member lost in its second gradient sum, released."""
    return made(tmp_path_factory.mktemp("private"))


def made(place: Path) -> tuple[Genuine, Study, dict[str, LocalStudy]]:
    federation = found_private(place, in_memory=True, capture=False)
    severed: set[str] = set()

    def lose_one() -> None:
        study = federation.coordinator.state.running
        if study is None or study.progress.index < 2:
            return
        if study.progress.index == 2 and not severed:
            severed.add(SITES[-1])
            federation.network.sever(SITES[-1])
        if study.progress.index == 3:
            federation.network.heal(SITES[-1])

    study = federation.run_study(private_plan(federation), private_contract(), lose_one)
    assert [len(one.members_in) for one in study.rounds] == [4, 4, 3, 4, 4]
    locals_ = {name: federation.participants[name].local_study(study) for name in SITES}
    federation.release(study)
    return genuine_of(federation), federation.coordinator.state.studies[study.identity], locals_


# --- the tables -------------------------------------------------------------------------------


def test_every_kind_of_sum_and_every_artefact_has_its_line() -> None:
    assert set(FROM_TRAINING_ROWS) == set(QueryKind)
    assert set(ARTEFACTS_FROM_TRAINING_ROWS) == set(Artefact)
    for kind, derived in FROM_TRAINING_ROWS.items():
        assert kind.over_training_rows is derived
        assert ARTEFACTS_FROM_TRAINING_ROWS[kind.artefact] is derived


def test_a_private_charter_shows_nothing_exact_that_comes_from_training_rows() -> None:
    """But for the simulator's comparison, which is no part of the protocol."""
    exact = {
        rule.artefact
        for rule in default_exposure(3, differential=True, simulation=True)
        if rule.allow and rule.form is Form.EXACT
    }
    derived = {one for one in exact if ARTEFACTS_FROM_TRAINING_ROWS[one]}
    assert derived == {Artefact.SIMULATION_COMPARISON}


# --- what really leaves -----------------------------------------------------------------------


def headers(genuine: Genuine, context: str) -> list[MaskedInput]:
    """Return the headers of a round, from the log."""
    bodies = (peek(entry)[1] for entry in genuine.forge.entries)
    return [one for one in bodies if isinstance(one, MaskedInput) and one.context == context]


def test_every_published_sum_over_training_rows_is_noised(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """Kinds as the progress of the study asks for them, and headers that commit to noise."""
    genuine, study, _ = run
    progress = begin(study.plan, study.contract, members=4, least_support=3)
    kinds = []
    for record in study.rounds:
        query = progress.expected_query()
        kinds.append(query.kind)
        assert record.query == query.digest
        for header in headers(genuine, record.context):
            assert (header.noise is not None) is FROM_TRAINING_ROWS[query.kind]
        assert record.sum is not None
        total = ring_vector(
            genuine.forge.find(record.sum),
            query.layout.ring_bits,
            query.layout.length,
        )
        progress = progress.absorb(query, total, len(record.members_in))
    assert kinds == [QueryKind.COUNT, *[QueryKind.DESCENT] * ROUNDS, QueryKind.EVALUATION]
    assert all(kind in NOISED for kind in kinds if FROM_TRAINING_ROWS[kind])


def test_no_statement_carries_an_exact_artefact_of_training_rows(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    genuine, _, _ = run
    for entry in genuine.forge.entries:
        body = peek(entry)[1]
        for name, (artefact, form) in registered(type(body)).classes.items():
            if holds_something(body, name) and form is Form.EXACT:
                assert not ARTEFACTS_FROM_TRAINING_ROWS[artefact], name


def test_a_noise_key_serves_one_question(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    genuine, study, _ = run
    found = [
        header.noise
        for record in study.rounds
        for header in headers(genuine, record.context)
        if header.noise is not None
    ]
    assert len(found) == len(set(found)) == 4 + 4 + 3 + 4


def test_the_published_sums_are_the_exact_ones_plus_the_planned_noise(
    run: tuple[Genuine, Study, dict[str, LocalStudy]], tmp_path: Path
) -> None:
    """Every word differs from the exact sum; together they differ as the shares' variance says.

    Sixteen words: the sum of squares over the variance is chi-squared, and outside 3 .. 45 with a
    probability of 3e-4, twice with 1e-7.
    """
    assert_within(3.0, 45.0, squares_of(run), lambda: squares_of(made(tmp_path)))


def squares_of(run: tuple[Genuine, Study, dict[str, LocalStudy]]) -> float:
    """Return the sum of squares of what the published sums differ by, over its variance."""
    genuine, study, sites = run
    terms = noise_terms(study.plan)
    progress = begin(study.plan, study.contract, members=4, least_support=3)
    squares, words = 0.0, 0
    for record in study.rounds[:-1]:
        query = progress.expected_query()
        assert record.sum is not None
        data = genuine.forge.find(record.sum)
        total = ring_vector(data, query.layout.ring_bits, query.layout.length)
        sums = decode_sum(total, query.layout)
        inside = record.members_in
        if query.kind is QueryKind.COUNT:
            persons = sum(sites[name].data.training.rows for name in inside)
            gap = sums[PERSONS].astype(float) - persons * terms.clip.units
            variance = int(terms.count_variance, 16)
        else:
            exact = sum(_clipped(study.plan, sites[name], progress) for name in inside)
            names = [part.name for part in query.layout.segments[:-2]]
            gap = np.concatenate([sums[name] for name in names]).astype(float) - exact
            variance = int(terms.variance, 16)
        assert (gap != 0).all()
        squares += float((gap**2).sum()) / (math.ceil(variance / 2) * len(inside))
        words += len(gap)
        progress = progress.absorb(query, total, len(inside))
    assert words == 1 + ROUNDS * 5 == 16
    return squares


def _clipped(plan: Plan, local: LocalStudy, progress: object) -> np.ndarray:
    training = local.data.training
    order, person = persons_in_order(training.persons)

    def parts(rows: np.ndarray) -> object:
        features = local._features(progress, training)[rows]  # type: ignore[arg-type]  # the test's own look inside
        task = local._task(progress, progress.model, bytes(32))  # type: ignore[arg-type, attr-defined]  # as above
        return local.trainer.layers(
            type(task)(plan.model, task.model, features, training.label[rows], bytes(32))
        )

    return clipped_gradient(plan, progress.model.manifest, parts, order, person)  # type: ignore[attr-defined, arg-type]  # as above


def test_the_model_follows_from_the_noised_sums_alone(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """A simpler computation of the same steps: plain lists, mean of the later iterates."""
    genuine, study, _ = run
    terms = noise_terms(study.plan)
    weights = [0.0] * 5
    later = []
    units = 2.0**terms.grid_bits
    counted = 0.0
    for record in study.rounds[:-1]:
        assert record.sum is not None
        data = genuine.forge.find(record.sum)
        words = np.frombuffer(data, "<i8")[:-2].astype(float)
        if record.round == 0:
            counted = max(float(words[0]) / units, 20.0 * len(record.members_in))
            continue
        step = terms.clip_micro / 1e6 / units
        rate = terms.learning_rate_milli / 1000
        weights = [
            one - rate * (word * step / counted) for one, word in zip(weights, words, strict=True)
        ]
        if record.round > ROUNDS // 2:
            later.append(weights)
    mean = [sum(column) / len(later) for column in zip(*later, strict=True)]
    assert study.progress.model.flat().tolist() == pytest.approx(mean, rel=1e-12)


def test_the_histogram_is_of_the_model_and_the_holdout_alone(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """Scores from the published model and holdout rows, without any site's training rows."""
    genuine, study, sites = run
    model = study.progress.model
    weights = model.flat()
    assert model.names == ("coefficients", "intercept")
    digest = study.rounds[-1].sum
    assert digest is not None
    found = np.frombuffer(genuine.forge.find(digest), "<i8")
    expected = np.zeros(16, dtype=np.int64)
    assert study.progress.normaliser is not None
    for local in sites.values():
        held = local.data.holdout
        rows = np.column_stack(
            [study.progress.normaliser.apply(held.features, clip=16.0), np.ones(held.rows)]
        )
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        scores = 1 / (1 + np.exp(-(unit @ weights)))
        sums = local_sums(scores, held.label, bins=8, threshold_permille=500)
        expected += np.array([*sums.negative, *sums.positive])
    assert found[:16].tolist() == expected.tolist()
    assert len(found) == 16 + 2 + 2, "only the one model's words, its rows and the constant one"


# --- what the verifier says, and refuses ------------------------------------------------------


def refused(files: Mapping[str, bytes], anchor: Digest) -> str:
    """Return the code by which the bundle is refused; fail when it holds."""
    with pytest.raises((VerificationError, FormatError)) as caught:
        verify_bundle(files, anchor)
    return getattr(caught.value, "code", "format")


def test_the_verdict_has_a_line_for_every_partition(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    genuine, _, _ = run
    verdict = verify_bundle(genuine.files, genuine.forge.anchor)
    said = {one.name: one for one in verdict.record.guarantees}
    training = said["privacy-training"]
    assert training.status is Status.ATTESTED
    assert training.statement.startswith("training: epsilon 1.000 at delta 1/100000, 2.155 at 2")
    assert said["privacy-log"].status is Status.PROVED
    assert "1 noised count, 3 of 3 noised gradient sums" in said["privacy-log"].statement
    assert "at least 3 of 4 members" in said["privacy-log"].statement
    assert said["privacy-holdout"].status is Status.NOT_COVERED
    assert "exact, not differentially private, accepted in the charter's row" in (
        said["privacy-holdout"].statement
    )


def test_another_study_and_a_comparison_are_told_beside(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """Two studies under noise add up; what a simulator compares has no epsilon."""
    genuine, study, _ = run
    forge = genuine.forge
    figures = Figures(accuracy=1, auc=None, brier=1)
    forge = forge.saying(
        ComparisonPublished(
            charter=forge.state().members.directory.charter,
            author=COORDINATOR,
            plan=study.identity,
            model=study.progress.model_digest,
            label="simulation only",
            pooled=figures,
            max_probability_gap_e12=1,
            alone_everywhere={},
        )
    )
    said = {
        one.name: one for one in verify_bundle(forge.exported(), forge.anchor).record.guarantees
    }
    assert said["privacy-comparison"].status is Status.NOT_COVERED
    assert "privacy-studies" not in said and "privacy-exact-studies" not in said
    state = forge.state()
    twin = msgspec.structs.replace(study.plan, title="Again")
    twice = replace(
        state,
        studies={**state.studies, plan_digest(twin): replace(study, plan=twin)},
    )
    one, both = log_privacy(state), log_privacy(twice)
    assert (one.private, both.private, one.exact, one.comparisons) == (1, 2, 0, 1)
    assert one.epsilon_micro is not None and both.epsilon_micro is not None
    # In mu the two add up as squares: more than a half more, less than twice as much.
    assert 1.4 < both.epsilon_micro / one.epsilon_micro < 1.6
    plain = msgspec.structs.replace(study.plan, privacy=ExactSums())
    mixed = replace(
        state,
        studies={**state.studies, plan_digest(plain): replace(study, plan=plain)},
    )
    assert log_privacy(mixed).exact == 1


def test_the_kinds_of_noised_questions_are_those_of_the_program(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """By them a site counts how often it has contributed to sums of one class."""
    _, study, _ = run
    assert [kind_of(study, one.record.round) for one in opened_sums(study)] == [
        one.kind for one in opened_sums(study)
    ]


def test_the_statement_in_the_bundle_must_follow(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """Another epsilon, another number of rounds, or none: the file is derived and compared."""
    genuine, study, _ = run
    statement = canonical.decode(genuine.files["privacy.json"], PrivacyStatement)
    assert statement == study_privacy(study)
    better = msgspec.structs.replace(
        statement,
        certificates=(
            msgspec.structs.replace(
                statement.certificates[0],
                lines=(
                    msgspec.structs.replace(
                        statement.certificates[0].lines[0], add_remove_micro=500_000
                    ),
                    *statement.certificates[0].lines[1:],
                ),
            ),
            statement.certificates[1],
        ),
    )
    fewer = msgspec.structs.replace(
        statement, happened=msgspec.structs.replace(statement.happened, gradients=2)
    )
    for other in (better, fewer):
        files = {**genuine.files, "privacy.json": canonical.encode(other)}
        assert refused(files, genuine.forge.anchor) == "derived-differs"
    without = {path: data for path, data in genuine.files.items() if path != "privacy.json"}
    assert refused(without, genuine.forge.anchor) == "derived-differs"


ALTERED: Mapping[str, tuple[dict[str, object], str]] = MappingProxyType(
    {
        "less noise": ({"variance": "sixteenth"}, "epsilon-claim"),
        "less noise on the count": ({"count_variance": "sixteenth"}, "epsilon-claim"),
        "more rounds": ({"rounds": ROUNDS + 1}, "epsilon-claim"),
        "a clip of more units": ({"grid_bits": 25}, "epsilon-claim"),
        "a smaller delta": ({"delta_inverse": 10**7}, "epsilon-claim"),
        "a larger delta": ({"delta_inverse": 10**4}, "privacy-budget"),
        "more than the charter's budget": ({"epsilon_milli": 3001}, "privacy-budget"),
        "noise that cannot be drawn": ({"variance": "1"}, "noise-range"),
        "noise that no grid of losses holds": (
            {
                "sampling": SAMPLING_UNIT // 2,
                "grid_bits": 32,
                "variance": f"{1 << 22:x}",
                "count_variance": f"{1 << 22:x}",
            },
            "epsilon-claim",
        ),
        "persons at more sites": ({"max_sites_per_person": 3}, "privacy-policy"),
        "records in place of persons": ({"unit": "record-in-institution"}, "privacy-policy"),
    }
)


def reopened(forge: Forge, plan: Plan) -> Forge:
    """Return the log before the study began, with `plan` ratified by every officer instead."""
    opened = forge.places(StudyOpened)[0]
    proposal = forge.said(opened, StudyOpened).proposal
    first = next(at for at, entry in enumerate(forge.entries[:opened]) if sha256(entry) == proposal)
    forge = forge.until(first).with_blob(plan_bytes(plan))
    charter = forge.state().members.directory.charter
    forge = forge.saying(
        ProposalOpened(
            charter=charter,
            author=SITES[0],
            action=Action.STUDY_APPROVE.value,
            subject=plan_digest(plan),
        )
    )
    asked = sha256(forge.entries[-1])
    for name in SITES[:3]:
        forge = forge.saying(
            BallotCast(charter=charter, author=name, proposal=asked, choice="approve")
        )
    return forge.saying(
        StudyOpened(charter=charter, author=COORDINATOR, plan=plan_digest(plan), proposal=asked)
    )


@pytest.mark.parametrize("what", ALTERED)
def test_a_plan_that_gives_more_than_it_promises_never_begins(
    what: str, run: tuple[Genuine, Study, dict[str, LocalStudy]]
) -> None:
    """All officers and the coordinator agree on it; members and verifiers refuse it the same."""
    genuine, study, _ = run
    changes, code = ALTERED[what]
    terms = noise_terms(study.plan)
    for name in ("variance", "count_variance"):
        if changes.get(name) == "sixteenth":
            changes = {**changes, name: f"{int(getattr(terms, name), 16) // 16:x}"}
    altered = msgspec.structs.replace(study.plan, privacy=msgspec.structs.replace(terms, **changes))
    forge = reopened(genuine.forge, altered)
    with pytest.raises((VerificationError, PolicyError)) as caught:
        forge.state()
    assert caught.value.code == code
    assert refused(forge.bundle(), forge.anchor) == code


def test_the_same_plan_agreed_again_would_begin(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """The control of the refusals above."""
    genuine, study, _ = run
    assert reopened(genuine.forge, study.plan).state().running is not None


def test_a_higher_sampling_rate_gives_more_than_the_plan_promises(tmp_path: Path) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)
    plan = private_plan(federation, Privacy(rounds=ROUNDS, sampling=0.25))
    terms = noise_terms(plan)
    assert terms.sampling == SAMPLING_UNIT // 4
    for rate, refused_by in ((SAMPLING_UNIT // 4, None), (SAMPLING_UNIT // 2, "epsilon-claim")):
        other = msgspec.structs.replace(plan, privacy=msgspec.structs.replace(terms, sampling=rate))
        codes = [one.code for one in lint_plan(other, private_contract(), federation.charter)]
        assert codes == ([] if refused_by is None else [refused_by])


def _again(forge: Forge, study: Study, kind: QueryKind) -> RoundOpened:
    """Return a question of `kind` where the evaluation is due."""
    last = forge.places(RoundOpened)[-1]
    before = forge.said(last, RoundOpened)
    plan = parse_plan(forge.find(study.identity))
    if kind not in NOISED:
        plan = msgspec.structs.replace(plan, model=LogisticRegression(site_intercepts=False))
    state = forge.state(last).studies[study.identity]
    query = make_query(
        plan,
        study.contract,
        kind,
        before.round,
        members=4,
        model=state.progress.model_digest,
        normaliser=state.progress.normaliser_digest or NO_DIGEST,
    )
    return msgspec.structs.replace(
        before,
        query=query.digest,
        length=query.layout.length,
        ring_bits=query.layout.ring_bits,
    )


@pytest.mark.parametrize(
    "kind",
    [
        QueryKind.COUNT,
        QueryKind.DESCENT,
        QueryKind.NEWTON,
        QueryKind.STATISTICS,
        QueryKind.SUPPORT,
    ],
)
def test_a_question_too_many_is_refused_whatever_it_asks(
    kind: QueryKind, run: tuple[Genuine, Study, dict[str, LocalStudy]]
) -> None:
    """After the last planned gradient sum only the evaluation may follow."""
    genuine, study, _ = run
    last = genuine.forge.places(RoundOpened)[-1]
    forge = genuine.forge.until(last).saying(_again(genuine.forge, study, kind))
    assert refused(forge.bundle(), forge.anchor) == "wrong-query"


def test_an_input_without_a_commitment_to_its_noise_is_refused(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    genuine, _, _ = run
    forge = genuine.forge
    for at in (forge.places(MaskedInput)[0], forge.places(MaskedInput)[5]):
        other = forge.until(at + 1).changed(at, noise=None)
        assert refused(other.bundle(), forge.anchor) == "noise-commitment"
    last = forge.places(MaskedInput)[-1]
    other = forge.until(last + 1).changed(last, noise="0" * 64)
    assert refused(other.bundle(), forge.anchor) == "noise-commitment"


def test_no_vote_lets_a_noised_question_be_summed_over_another_set(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """The same noise in two sums would leave the input in the difference with one share of it."""
    genuine, study, _ = run
    forge = genuine.forge
    for at, free in ((forge.places(RoundResult)[1], False), (forge.places(RoundResult)[-1], True)):
        context = forge.said(at, RoundResult).context
        abandoned = forge.until(at).saying(
            RoundAbandoned(
                charter=forge.state(at).members.directory.charter,
                author=COORDINATOR,
                context=context,
                code=RoundCode.TOO_FEW_REVEALS,
            )
        )
        state = abandoned.state().studies[study.identity]
        assert state.bound == frozenset(SITES)
        resumed = state.resume(Digest(context), frozenset(SITES), revive=False)
        assert resumed.freed == (frozenset(SITES) if free else frozenset())


def test_figures_of_a_site_have_no_place_in_a_private_study(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    genuine, study, _ = run
    figures = Figures(accuracy=1, auc=None, brier=1)
    done = genuine.forge.places(StudyCompleted)[0]
    forge = genuine.forge.until(done + 1)
    forge = forge.saying(
        SiteReported(
            charter=forge.state().members.directory.charter,
            author=SITES[0],
            plan=study.identity,
            model=study.progress.model_digest,
            federated=figures,
            alone=figures,
        )
    )
    assert refused(forge.bundle(), forge.anchor) == "exposure"


def test_an_altered_sum_moves_the_model(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """The verifier adds the masked inputs up again; a sum without its noise is not theirs."""
    genuine, _, _ = run
    forge = genuine.forge
    at = forge.places(RoundResult)[1]
    body = forge.said(at, RoundResult)
    words = np.frombuffer(forge.find(Digest(body.sum)), "<i8").copy()
    words[0] += 1
    other = forge.with_blob(words.tobytes()).changed(at, sum=sha256(words.tobytes()))
    assert refused(other.until(at + 1).bundle(), forge.anchor) == "sum-mismatch"


# --- other terms, and another attempt ---------------------------------------------------------


def test_a_perceptron_with_secret_samples_and_local_noise_runs_to_its_end(tmp_path: Path) -> None:
    """Ghost norms, Poisson sampling and whole shares, through protocol and verifier."""
    federation = found_private(tmp_path, max_sites_per_person=1, in_memory=True, capture=False)
    asked = Privacy(epsilon=2.0, rounds=2, sampling=0.5, local=True)
    plan = private_plan(federation, asked, MultilayerPerceptron(hidden=(3,)))
    study = federation.run_study(plan, private_contract())
    assert study.final_model is not None and len(study.progress.trace) == 2
    statement = study_privacy(study)
    assert statement is not None
    [first] = statement.certificates[0].lines
    assert first.add_remove_micro is not None
    assert 1_700_000 < first.add_remove_micro <= 2_000_000
    # Local noise: one honest site suffices, so the last point of the curve is the promise.
    assert statement.certificates[0].curve[-1].epsilon_micro == first.add_remove_micro
    held = verify_bundle(federation.bundle(), federation.anchor)
    assert held.record.sums_recomputed == 4
    federation.close()


def test_another_attempt_sends_the_vector_with_the_same_noise(tmp_path: Path) -> None:
    """A round that was cut off after its inputs is asked again: no fresh noise, nothing new."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    severed: list[str] = []

    def cut_off() -> None:
        study = federation.coordinator.state.running
        if study is None or study.progress.index != 1:
            return
        if study.round is not None and len(study.round.inputs) == 4 and not severed:
            severed.extend(SITES[:2])
            for name in severed:
                federation.network.sever(name)
        elif severed and any(one.phase is RoundPhase.ABANDONED for one in study.rounds):
            for name in severed:
                federation.network.heal(name)

    study = federation.run_study(private_plan(federation), private_contract(), cut_off)
    again = [one for one in study.rounds if one.round == 1]
    assert len(again) == 2 and again[0].phase is RoundPhase.ABANDONED
    sent: dict[str, dict[str, str | None]] = {record.context: {} for record in again}
    for entry in federation.coordinator.entries:
        body = peek(entry)[1]
        if isinstance(body, MaskedInput) and body.context in sent:
            sent[body.context][body.author] = body.noise
    first, second = sent.values()
    assert set(first) == set(SITES) and first == second and None not in first.values()
    statement = study_privacy(study)
    assert statement is not None and statement.happened.gradients == ROUNDS
    federation.close()


def test_the_report_counts_noised_sums_under_their_own_rows(
    run: tuple[Genuine, Study, dict[str, LocalStudy]],
) -> None:
    """Nothing exact over training rows in "who learned what", and no row that the charter lacks."""
    genuine, _, _ = run
    verdict = verify_bundle(genuine.files, genuine.forge.anchor)
    data = report_data(verdict, genuine.files)
    shown = {(line.artefact, line.form): line.times for line in data.exposure if line.times}
    fitted = "Sums of the quantities that fit a model"
    assert shown[fitted, "noised"] == ROUNDS and (fitted, "exact") not in shown
    assert shown["Sums of counts, values and squares of the data columns", "noised"] == 1
    assert shown["The model", "noised"] == ROUNDS
    assert not [line for line in data.exposure if "has no row for it" in line.sentence]
    assert data.noised and data.privacy[0].epsilon == "1.000"
