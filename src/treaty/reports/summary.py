"""Summary: the report's data, read out of a verified bundle.

Guarantees:
  * Pure: a function of the bundle alone. No clock, environment or locale; what the verifier said
    about freshness at its own time is left out, because a page cannot know when it is read.
  * Every figure is one of the replayed log, as the verdict has it. Floats appear in their
    shortest decimal spelling that gives the same float again.
  * What did not happen is absent: no study, no model and no evaluation give no digest.

The report is on the last completed study, else on the last one, else on the governance alone. A
study is told under the charter version that it ran under. The verdict must be on the same files
(`UsageError`); that the verdict itself is sound is the verifier's business.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from treaty.aggregation.quantization import ring_vector
from treaty.contracts.design import design_columns
from treaty.errors import PolicyError
from treaty.governance.amendment import CharterHistory
from treaty.governance.charter import charter_digest, time_to_text
from treaty.governance.quorum import DerivedParameters
from treaty.governance.terms import PrivacyMode
from treaty.ids import MemberId, Timestamp
from treaty.privacy.terms import NoisedTerms
from treaty.protocol.membership import log_verifier, witness_verifiers
from treaty.protocol.messages import ComparisonPublished, Figures, SiteReported
from treaty.protocol.study import Phase, Study
from treaty.provenance.bundle import CHECKPOINT, final_study, policy_of
from treaty.provenance.privacy import study_privacy
from treaty.provenance.verify import Verdict as BundleVerdict
from treaty.reports.certified import privacy_lines
from treaty.reports.document import (
    CalibrationLine,
    CountLine,
    Coverage,
    EvaluationResult,
    Guarantee,
    LogLine,
    MemberLine,
    ModelFigures,
    PooledComparison,
    PrivacyLine,
    ReportData,
    RoundLine,
    SiteFigures,
    Term,
    Verdict,
    Verification,
    WitnessLine,
)
from treaty.reports.learned import exposure_lines, times_in_log
from treaty.reports.opened_sums import OpenedSum, opened_sums
from treaty.reports.render import render_report
from treaty.reports.setbacks import study_refusals
from treaty.reports.statements import Logged, blob, read_log
from treaty.reports.wording import (
    charter_terms,
    column_lines,
    counted,
    listed,
    model_in_words,
    plan_terms,
)
from treaty.studies.outcome import EvaluationOutcome, FigureRecord
from treaty.studies.queries import COUNTED, QueryKind
from treaty.tlog.checkpoint import open_checkpoint

__all__ = ["NO_STUDY", "report_data", "report_html"]

NO_STUDY = "Governance only"
"""What a report is called whose log has no study."""

_SHOWN_DIGITS = 16
_LAST_MOMENT_MS = 253_402_300_799_999
_DEVIATIONS_PERMILLE = 1960
_KIND_WORDS = {
    QueryKind.SUPPORT: "support of the columns",
    QueryKind.STATISTICS: "counts, sums and squares",
    QueryKind.NEWTON: "gradient and Hessian",
    QueryKind.AVERAGING: "model updates",
    QueryKind.EVALUATION: "evaluation histograms",
    QueryKind.SCORES: "evaluation histograms with noise",
    QueryKind.COUNT: "number of persons, noised",
    QueryKind.DESCENT: "clipped gradients, noised",
    QueryKind.SUFFICIENT: "clipped statistics, noised",
}
_EDITIONS = {
    "full": "full: sums recomputed from the masked contributions",
    "attested": "attested: masked contributions left out, sums as the log has them",
}


@dataclass(frozen=True, slots=True)
class _StudyPart:
    """What only a study can fill."""

    study: Study
    sums: tuple[OpenedSum, ...]

    @property
    def contributors(self) -> frozenset[MemberId]:
        return frozenset(name for one in self.sums for name in one.record.members_in)


def _parameters(history: CharterHistory) -> DerivedParameters:
    """Return the thresholds of a secure sum, as agreed where too few members are left for any."""
    try:
        return history.effective().parameters()
    except PolicyError:
        return history.current.parameters()


def report_html(verdict: BundleVerdict, files: Mapping[str, bytes]) -> str:
    """Return the report on the verified bundle `files` as one self-contained page."""
    return render_report(report_data(verdict, files))


def report_data(verdict: BundleVerdict, files: Mapping[str, bytes]) -> ReportData:
    """Return what a report shows of the bundle `files` on which `verdict` was given.

    Raises `UsageError` when the verdict is on other files.
    """
    log = read_log(verdict, files)
    state = verdict.history.state
    record = verdict.record
    last = state.members.history
    part = _reported(verdict)
    history = last if part is None else part.study.history
    charter = history.current
    witnesses = _witnesses(files[CHECKPOINT], last)
    cosigned = sum(line.cosigned for line in witnesses)
    times = times_in_log(log, state.studies.values(), cosigned)
    terms = _Terms(verdict, log, history)
    if part is None:
        parameters = _parameters(last)
        colluders, survivors = parameters.max_colluders, parameters.min_survivors
    else:
        colluders, survivors = part.study.group.max_colluders, part.study.group.min_survivors
    evaluation = None if part is None else part.study.progress.evaluation
    study = None if part is None else part.study
    return ReportData(
        consortium=charter.consortium,
        simulation=charter.simulation,
        anchor=record.anchor,
        charter_version=charter.version,
        charter_expires=time_to_text(Timestamp(charter.expires)),
        charter_digest=history.digest,
        members=_members(history, frozenset() if part is None else part.contributors),
        study=NO_STUDY if study is None else study.plan.title or study.plan.study,
        purpose=charter.purpose if study is None else study.plan.purpose,
        model="No model"
        if study is None
        else model_in_words(
            study.plan.model, len(design_columns(study.contract)), study.plan.privacy
        ),
        contract="none" if study is None else f"{study.contract.name} {study.contract.version}",
        columns=() if study is None else column_lines(study.contract),
        max_colluders=colluders,
        min_survivors=survivors,
        witness_quorum=record.quorum,
        noised=(
            charter.privacy.mode is PrivacyMode.DIFFERENTIAL
            if study is None
            else isinstance(study.plan.privacy, NoisedTerms)
        ),
        verification=_verification(verdict),
        guarantees=_guarantees(verdict),
        plan_digest=None if study is None else study.identity,
        bundle_edition=_EDITIONS[record.edition],
        log_size=record.size,
        log_root=record.root,
        model_digest=None if study is None else study.final_model,
        halted=None if study is None else _halted(study),
        label="" if study is None else study.contract.label.meaning.strip(),
        rounds=() if part is None else tuple(_rounds(part, files)),
        evaluation=None if evaluation is None else _evaluation(evaluation),
        sites=() if study is None else _sites(study.reports),
        comparison=None if study is None else _comparison(state.comparisons.get(study.identity)),
        calibration=() if evaluation is None else _calibration(evaluation),
        exposure=exposure_lines(history.matrix(), times),
        privacy=_privacy(part),
        timeline=tuple(_log_line(one) for one in log),
        counts=_counts(log),
        witnesses=witnesses,
        refusals=() if study is None else study_refusals(log, study),
        terms=tuple(terms.of(study)),
    )


def _reported(verdict: BundleVerdict) -> _StudyPart | None:
    studies = tuple(verdict.history.state.studies.values())
    study = final_study(verdict.history) or (studies[-1] if studies else None)
    return None if study is None else _StudyPart(study, opened_sums(study))


def _halted(study: Study) -> str | None:
    if study.phase is not Phase.HALTED or study.halt_code is None:
        return None
    return study.halt_code.value


def _members(history: CharterHistory, contributors: frozenset[MemberId]) -> tuple[MemberLine, ...]:
    return tuple(
        MemberLine(
            name=name,
            title=member.title,
            region=member.region or "",
            took_part=name in contributors,
        )
        for name, member in sorted(history.current.members.items())
    )


def _rounds(part: _StudyPart, files: Mapping[str, bytes]) -> Iterator[RoundLine]:
    for number, one in enumerate(part.sums, start=1):
        record = one.record
        inside = record.members_in
        trace = None if one.training is None else part.study.progress.trace[one.training]
        yield RoundLine(
            number=number,
            kind=_KIND_WORDS[one.kind],
            survivors=len(inside),
            rows=_rows(one, files),
            lost=tuple(name for name in record.participants if name not in inside),
            step=None if trace is None else _decimal(trace.step),
            loss=None if trace is None or trace.loss is None else _decimal(trace.loss),
        )


def _rows(one: OpenedSum, files: Mapping[str, bytes]) -> int | None:
    """Return the rows behind an opened sum: its last word but one. Support sums have none."""
    record = one.record
    if record.sum is None or one.kind not in COUNTED:
        return None
    vector = ring_vector(blob(files, record.sum), record.ring_bits, record.length)
    return int(vector[-2])


def _decimal(value: float) -> str | None:
    # repr is the shortest spelling that reads back as the same float, on every machine.
    return repr(float(value)) if math.isfinite(value) else None


def _evaluation(outcome: EvaluationOutcome) -> EvaluationResult:
    return EvaluationResult(
        sites=outcome.sites,
        federated=_pooled_figures(outcome.federated),
        alone=None if outcome.alone is None else _pooled_figures(outcome.alone),
        verdict=Verdict(outcome.verdict),
        auc_difference=outcome.auc_difference,
        auc_margin=outcome.auc_margin,
    )


def _pooled_figures(record: FigureRecord) -> ModelFigures:
    error = record.auc_error
    errors = None if isinstance(record.noised, msgspec.UnsetType) else record.noised
    return ModelFigures(
        accuracy=record.accuracy,
        brier=record.brier,
        auc=record.auc,
        auc_half_width=record.auc_half_width,
        auc_margin=None if error is None else _margin(error),
        rows=record.rows,
        positives=record.positives,
        accuracy_margin=None if errors is None else _margin(errors.accuracy),
        brier_margin=None if errors is None else _margin(errors.brier) + errors.brier_half_width,
    )


def _margin(error: int) -> int:
    """Return the 95 % margin of a standard error, rounded up."""
    return -(-error * _DEVIATIONS_PERMILLE // 1000)


def _own_figures(figures: Figures) -> ModelFigures:
    return ModelFigures(accuracy=figures.accuracy, brier=figures.brier, auc=figures.auc)


def _sites(reports: Mapping[MemberId, SiteReported]) -> tuple[SiteFigures, ...]:
    return tuple(
        SiteFigures(
            site=name,
            federated=_own_figures(report.federated),
            alone=_own_figures(report.alone),
        )
        for name, report in sorted(reports.items())
    )


def _comparison(body: ComparisonPublished | None) -> PooledComparison | None:
    if body is None:
        return None
    gap = body.max_probability_gap_e12
    return PooledComparison(
        pooled=_own_figures(body.pooled),
        largest_gap=f"{gap}e-12" if gap else "0",
        alone_everywhere=_by_site(body.alone_everywhere),
        alone_private=_by_site(body.alone_private_everywhere or {}),
    )


def _by_site(found: Mapping[str, Figures]) -> tuple[tuple[str, ModelFigures], ...]:
    return tuple((name, _own_figures(figures)) for name, figures in sorted(found.items()))


def _calibration(outcome: EvaluationOutcome) -> tuple[CalibrationLine, ...]:
    return tuple(
        CalibrationLine(lower=one.lower, upper=one.upper, observed=one.observed, rows=one.rows)
        for one in outcome.calibration
    )


def _privacy(part: _StudyPart | None) -> tuple[PrivacyLine, ...]:
    if part is None:
        return ()
    statement = study_privacy(part.study)
    if statement is not None:
        return privacy_lines(statement)
    kinds = {one.kind for one in part.sums}
    sentence = "Exact sums, accepted in the charter by name; no differential privacy is claimed."
    lines = []
    if kinds - {QueryKind.EVALUATION}:
        lines.append(PrivacyLine(partition="Training rows", sentence=sentence))
    if QueryKind.EVALUATION in kinds:
        lines.append(PrivacyLine(partition="Test rows", sentence=sentence))
    return tuple(lines)


def _log_line(one: Logged) -> LogLine:
    return LogLine(
        index=one.index, kind=one.kind, author=one.body.author, digest=one.digest[:_SHOWN_DIGITS]
    )


def _counts(log: Sequence[Logged]) -> tuple[CountLine, ...]:
    counted = Counter(one.kind for one in log)
    return tuple(CountLine(kind=kind, count=count) for kind, count in sorted(counted.items()))


def _witnesses(checkpoint: bytes, history: CharterHistory) -> tuple[WitnessLine, ...]:
    """Return who cosigned; every line of the note must be of the charter in force."""
    charter = history.effective()
    keys = policy_of(charter).witness_keys
    signed = open_checkpoint(checkpoint, log_verifier(charter), keys, strict=True)
    present = {one.witness for one in signed.cosignatures}
    return tuple(
        WitnessLine(witness=name, cosigned=verifier in present)
        for name, verifier in witness_verifiers(charter).items()
    )


def _verification(verdict: BundleVerdict) -> Verification:
    record = verdict.record
    sums = record.sums_recomputed + record.sums_attested
    sentence = (
        "The bundle was replayed from its anchor and holds: "
        f"{counted(record.size, 'log entry', 'log entries')}, "
        f"{record.cosignatures} cosignatures where the quorum is {record.quorum}"
    )
    if sums:
        sentence += f", {record.sums_recomputed} of {sums} sums added up again"
    status = Coverage.ATTESTED if record.sums_attested else Coverage.PROVED
    return Verification(status=status, sentence=f"{sentence}.")


def _guarantees(verdict: BundleVerdict) -> tuple[Guarantee, ...]:
    return tuple(
        Guarantee(
            name=one.name.replace("-", " ").capitalize(),
            status=Coverage(one.status.value),
            sentence=_sentence(one.statement),
        )
        if one.name != "freshness"
        else Guarantee(
            name="Freshness",
            status=Coverage.NOT_COVERED,
            sentence=f"Proved to size {verdict.record.size}. A page cannot know whether a longer "
            "log exists: verify the bundle again, with a maximal age.",
        )
        for one in verdict.record.guarantees
    )


def _sentence(statement: str) -> str:
    text = statement[:1].upper() + statement[1:]
    return text if text.endswith(".") else f"{text}."


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the terms are drawn from."""

    verdict: BundleVerdict
    log: tuple[Logged, ...]
    history: CharterHistory

    def of(self, study: Study | None) -> Iterator[Term]:
        """Yield the study's terms, the charter's, then what else the log tells."""
        if study is not None:
            yield from plan_terms(study.plan)
            yield from self._release(study)
        yield from charter_terms(self.history.current)
        yield from self._rest(study)

    def _release(self, study: Study) -> Iterator[Term]:
        state, model = self.verdict.history.state, study.final_model
        entry = None if model is None else state.releases.get(model)
        if entry is None:
            yield Term(label="Release", value="not released in this log")
            return
        release = self.log[entry]
        # A key may be another party's by now: whose it was says the charter that was in force.
        owners = {
            key.public.keyid: key.owner
            for version in state.members.history.versions
            if charter_digest(version) == release.body.charter
            for key in version.listed_keys()
        }
        names = sorted({owners[keyid] for keyid in release.keyids})
        yield Term(label="Release", value=f"entry {entry}, approved by {listed(names)}")
        back = None if model is None else state.withdrawn.get(model)
        if back is not None:
            yield Term(label="Withdrawn", value=f"entry {back}, by its stewards")

    def _rest(self, study: Study | None) -> Iterator[Term]:
        state = self.verdict.history.state
        last = state.members.history
        if last.digest != self.history.digest:
            yield Term(
                label="Charter at the end of the log",
                value=f"version {last.current.version}, in force until "
                f"{time_to_text(Timestamp(last.current.expires))}",
            )
        if last.excluded():
            yield Term(label="Suspended", value=listed(sorted(last.excluded())))
        for other in state.studies.values():
            if study is None or other.identity != study.identity:
                code = f" ({other.halt_code.value})" if other.halt_code is not None else ""
                model = other.final_model
                if model is not None and model in state.releases and model not in state.withdrawn:
                    code += f", released in entry {state.releases[model]}"
                yield Term(
                    label="Another study in this log",
                    value=f"{other.plan.title or other.plan.study}: {other.phase.value}{code}",
                )
        if 0 < state.at <= _LAST_MOMENT_MS:
            yield Term(label="Last time stated in the log", value=time_to_text(state.at))
