"""What `treaty assess` does: read the rows, assess, write what was asked for.

Guarantees:
  * All is local: files are read and, where named, written; nothing is sent.
  * What is wrong with the request, or stands in the way of a file to be written, is found before
    the work begins. No file is replaced.
  * Persons are named only in the file of `--exposed`, which is private (mode 0600).
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from treaty import wiring
from treaty.assessment.findings import failures
from treaty.assessment.record import AssessmentRecord, seal_record
from treaty.assessment.wording import text_lines, verdict_sentence
from treaty.cli.charter_files import unnamed
from treaty.cli.output import aligned
from treaty.cli.study_files import read_contract
from treaty.contracts.alignment import parse_adapter
from treaty.contracts.conformance import ConformedData, conform
from treaty.contracts.normalisation import with_public_bounds
from treaty.contracts.schema import Contract
from treaty.crypto.canonical import digest_of
from treaty.crypto.keys import SigningKey, decode_key_file
from treaty.errors import FormatError, ResourceError, UsageError
from treaty.governance.quorum import DerivedParameters
from treaty.governance.terms import PrivacyMode, PrivacyPolicy
from treaty.ids import MemberId
from treaty.models.specification import (
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
)
from treaty.privacy.certificate import Cohort
from treaty.privacy.terms import DistributedGaussian, NoisedStatistics
from treaty.reports.assessment_page import render_assessment
from treaty.simulation.impact import Assessment, AssessmentRequest, Progress, assess, target_of
from treaty.studies.calibrating import (
    Privacy,
    private_model,
    terms_for,
)
from treaty.studies.plan import AggregationSettings

__all__ = ["FAMILIES", "Request", "Result", "Watch", "record_of", "run_assessment"]

FAMILIES: Mapping[str, ModelSpecification] = {
    "plain": LogisticRegression(site_intercepts=False),
    "site-intercepts": LogisticRegression(),
    "perceptron": MultilayerPerceptron(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for; `epsilon` None means exact sums.

    `one_round` means one noised sum of statistics.
    """

    model: str
    contract: Path | None
    adapter: Path | None
    data: Path | None
    known: str | None
    epsilon: float | None
    one_round: bool
    delta_inverse: int
    members: int
    quick: bool
    seed: int
    page: Path | None
    exposed: Path | None
    record: Path | None
    key: Path | None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it, and which files were written."""

    assessment: Assessment
    written: tuple[Path, ...]

    @property
    def failed(self) -> bool:
        """Return whether a rule of the verdict is broken."""
        return bool(failures(self.assessment.findings))

    def record(self) -> Mapping[str, object]:
        """Return it for programs."""
        return {
            "failures": list(failures(self.assessment.findings)),
            "findings": self.assessment.findings,
            "verdict": verdict_sentence(self.assessment.findings),
            "written": [str(path) for path in self.written],
        }

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        yield from text_lines(self.assessment.findings)
        for path in self.written:
            yield f"written {path}"


class Watch:
    """Shows how far a long run is, on standard error: the result alone is on standard output.

    On a terminal one line is kept up to date; elsewhere each stage is named once.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._live = sys.stderr.isatty()
        self._stage = ""

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live and self._stage and not self._silent:
            sys.stderr.write("\r\x1b[K")

    def show(self, stage: str, done: int, of: int) -> None:
        """Say where the run stands."""
        if self._silent:
            return
        if self._live:
            sys.stderr.write(f"\r\x1b[K{stage}: {done} of {of}")
        elif stage != self._stage:
            sys.stderr.write(f"{stage}: {of}\n")
        self._stage = stage
        sys.stderr.flush()


def run_assessment(request: Request, progress: Progress | None = None) -> Result:
    """Assess, and write what was asked for.

    Raises `UsageError` for options that do not go together, rows that do not conform or are too
    few, and files that exist; `TrainerFailure` where the family cannot be trained on the rows.
    """
    signer = _signer(request)
    _check_outputs([request.page, request.exposed, request.record])
    contract, data, source = _rows(request)
    colluders = max(1, (request.members - 1) // 3)
    derived = DerivedParameters(request.members, colluders)
    bound = min(AggregationSettings().max_persons_per_site, contract.max_persons_per_site)
    specification, terms = FAMILIES[request.model], None
    if request.one_round and request.epsilon is None:
        raise UsageError("one noised sum of statistics is not exact: leave out --exact")
    if request.epsilon is not None:
        if request.model == "site-intercepts":
            raise UsageError(
                "noised sums train a common intercept: choose --model plain, or --exact"
            )
        specification, contract = private_model(specification), with_public_bounds(contract)
        terms = _terms(request, request.epsilon, specification, contract, bound)
    asked = AssessmentRequest(
        specification=specification,
        contract=contract,
        data=data,
        source=source,
        code=wiring.code_digest(),
        terms=terms,
        cohort=Cohort(request.members, derived.min_survivors, colluders),
        delta_inverse=request.delta_inverse,
        max_persons_per_site=bound,
        seed=request.seed,
        quick=request.quick,
    )
    target_of(asked)
    found = assess(asked, progress)
    return Result(found, tuple(_write(request, found, signer)))


def _check_outputs(paths: Sequence[Path | None]) -> None:
    """Refuse, before the work, what could not be written after it."""
    named = [path for path in paths if path is not None]
    if len(set(named)) < len(named):
        raise UsageError("--page, --exposed and --record need a file of their own each")
    for path in named:
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists: name a new file")
        if not path.parent.is_dir():
            raise UsageError(f"{path.parent} is no directory: make it first")


def _signer(request: Request) -> SigningKey | None:
    """Return the key that signs the record, None where none is asked for."""
    if request.record is None and request.key is None:
        return None
    if request.record is None or request.key is None:
        raise UsageError("--record and --key go together: give both, or none")
    if request.data is None:
        raise UsageError("a record is of the site's own rows: give --data, not --known")
    try:
        found = decode_key_file(wiring.read_private_file(request.key))
    except FormatError as error:
        raise ResourceError(f"{request.key} is damaged: {error}; restore it") from error
    if found.role != "runner":
        raise UsageError(f"{request.key} holds a key for {found.role}, expected runner")
    return found.key


def _rows(request: Request) -> tuple[Contract, dict[MemberId, ConformedData], str]:
    """Return contract, rows by site, and a name for where they come from."""
    files = (request.contract, request.adapter, request.data)
    if request.known is not None:
        if any(file is not None for file in files):
            raise UsageError("--known stands in place of --contract, --adapter and --data")
        dataset = wiring.load_dataset(request.known)
        return dataset.contract, dataset.conformed(), dataset.name
    if request.contract is None or request.adapter is None or request.data is None:
        raise UsageError("expected --contract, --adapter and --data, or --known")
    contract = read_contract(request.contract)
    try:
        adapter = parse_adapter(wiring.read_text(request.adapter))
    except UsageError as error:
        raise UsageError(unnamed(request.adapter, error)) from error
    site = MemberId(adapter.site)
    table = wiring.read_site(request.data, adapter, contract)
    return contract, {site: conform(contract, table, site=site)}, site


def _terms(
    request: Request,
    epsilon: float,
    specification: ModelSpecification,
    contract: Contract,
    bound: int,
) -> DistributedGaussian | NoisedStatistics:
    """Return the terms that a study takes by default for this epsilon and delta."""
    # The next float above: one over it is then rounded up to the whole number that was asked.
    delta = math.nextafter(1.0 / request.delta_inverse, 1.0)
    return terms_for(
        Privacy(epsilon=epsilon, delta=delta, one_round=request.one_round),
        specification,
        contract,
        PrivacyPolicy(mode=PrivacyMode.DIFFERENTIAL),
        members=request.members,
        max_persons_per_site=bound,
    )


def _write(request: Request, found: Assessment, signer: SigningKey | None) -> Iterator[Path]:
    if request.page is not None:
        wiring.write_new_file(request.page, render_assessment(found.findings).encode())
        yield request.page
    if request.exposed is not None:
        lines = aligned(
            [(one.person, f"{one.separation:.2f}") for one in found.exposed],
            ("person", "separation"),
        )
        wiring.write_new_private_file(request.exposed, ("\n".join(lines) + "\n").encode())
        yield request.exposed
    if request.record is not None and signer is not None:
        # A record is of one site's own rows, so the source is the site that the adapter names.
        record = record_of(found, MemberId(found.findings.data))
        wiring.write_new_file(request.record, seal_record(record, signer))
        yield request.record


def record_of(found: Assessment, site: MemberId) -> AssessmentRecord:
    """Return the record of what was found, for `site`."""
    findings = found.findings
    return AssessmentRecord(
        site=site,
        family=findings.family,
        protection=findings.protection,
        epsilon_micro=findings.claim.epsilon_micro,
        delta_inverse=findings.claim.delta_inverse,
        contract=findings.contract,
        code=findings.code,
        findings=digest_of(findings),
        thorough=findings.thorough,
        passed=not failures(findings),
    )
