"""Contracts, site data and plans as files: what they say, and what is wrong with them.

Guarantees:
  * Findings about data name column, rule, count and row number, and repeat no cell. They are
    for the site's own engineer; nothing is sent.
  * What a plan asks and discloses is derived by the same functions that run it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from treaty import wiring
from treaty.cli.charter_files import read_charter, unnamed
from treaty.cli.output import aligned
from treaty.contracts.alignment import parse_adapter
from treaty.contracts.conformance import ConformedData, conform, examine
from treaty.contracts.design import design_columns
from treaty.contracts.diff import compare, require_version
from treaty.contracts.findings import Finding as DataFinding
from treaty.contracts.schema import (
    Contract,
    contract_digest,
    contract_from_bytes,
    parse_contract,
)
from treaty.errors import FormatError, PolicyError, UsageError
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.exposure import Artefact, Form, describe_artefact
from treaty.governance.roles import Role
from treaty.ids import MemberId
from treaty.models.specification import parameter_count
from treaty.privacy.certificate import Cohort, curve_lines
from treaty.privacy.events import SAMPLING_UNIT
from treaty.privacy.terms import (
    DistributedGaussian,
    NoisedStatistics,
    NoisedTerms,
    noise_tiers,
    sum_variance,
)
from treaty.studies.calibrating import with_noise
from treaty.studies.certificates import PrivacyStatement, partition_lines, privacy_statement
from treaty.studies.lint import Finding as PlanFinding
from treaty.studies.lint import kinds_of, lint_plan
from treaty.studies.plan import Plan, parse_plan, plan_from_toml
from treaty.studies.queries import NO_DIGEST, Query, QueryKind, make_query, sums_at_most
from treaty.studies.surplus import default_tiers

__all__ = [
    "ContractChange",
    "DataReport",
    "Disclosure",
    "PlanExplanation",
    "change_of",
    "check_data",
    "check_plan",
    "explain_plan",
    "read_contract",
    "read_plan",
]


def read_contract(path: Path) -> Contract:
    """Return the contract in `path`, TOML or canonical JSON, checked."""
    text = wiring.read_text(path)
    try:
        if text.startswith("{"):
            return contract_from_bytes(text.removesuffix("\n").encode())
        return parse_contract(text)
    except UsageError as error:
        raise UsageError(unnamed(path, error)) from error
    except FormatError as error:
        raise FormatError(unnamed(path, error)) from error


def read_plan(path: Path, contract: Contract, charter: Charter) -> Plan:
    """Return the plan in `path`: canonical JSON as proposed, or TOML bound to the two given.

    Of TOML the code is not bound yet: its digest is filled in on proposing. Where it states an
    epsilon and no noise, the least noise that keeps it is filled in, and in how many parts surplus
    noise comes off.
    """
    text = wiring.read_text(path)
    try:
        if text.startswith("{"):
            return parse_plan(text.removesuffix("\n").encode())
        plan = plan_from_toml(
            text,
            charter=charter_digest(charter),
            contract=contract_digest(contract),
            code=NO_DIGEST,
        )
        once = isinstance(plan.privacy, NoisedStatistics)
        tiers = default_tiers(charter, plan.model, contract, one_round=once)
        return with_noise(plan, contract, tiers)
    except UsageError as error:
        raise UsageError(unnamed(path, error)) from error
    except FormatError as error:
        raise FormatError(unnamed(path, error)) from error


@dataclass(frozen=True, slots=True)
class ContractChange:
    """The changes between two contracts, their worst class, and whether the version says so."""

    changes: tuple[tuple[str, str], ...]
    compatibility: str
    fault: str

    def record(self) -> Mapping[str, object]:
        """Return it for programs."""
        return {
            "changes": [{"class": kind, "place": place} for place, kind in self.changes],
            "class": self.compatibility,
            "fault": self.fault,
        }

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        yield from aligned([(kind, place) for place, kind in self.changes])
        yield f"class {self.compatibility}"
        if self.fault:
            yield f"version: {self.fault}"


def change_of(old: Contract, new: Contract) -> ContractChange:
    """Return what changes from `old` to `new`."""
    changes = compare(old, new)
    fault = ""
    try:
        require_version(old, new)
    except PolicyError as error:
        fault = str(error)
    worst = max((change.compatibility for change in changes), default=None)
    return ContractChange(
        tuple((change.place, change.compatibility.name.lower()) for change in changes),
        "same" if worst is None else worst.name.lower(),
        fault,
    )


@dataclass(frozen=True, slots=True)
class DataReport:
    """What the static checks found in a site's file. Counts are for the site's own eyes."""

    site: str
    rows: int
    usable: int
    dropped: tuple[tuple[str, int], ...]
    findings: tuple[DataFinding, ...]
    notes: tuple[str, ...] = ()

    def record(self) -> Mapping[str, object]:
        """Return it for programs."""
        return {
            "dropped": {reason: rows for reason, rows in self.dropped if rows},
            "findings": [
                {"column": one.column, "fault": one.fault.value, "sentence": one.sentence}
                for one in self.findings
            ],
            "notes": list(self.notes),
            "rows": self.rows,
            "site": self.site,
            "usable": self.usable,
        }

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        yield f"site {self.site}, {self.rows} rows read"
        if self.findings:
            yield from aligned([(one.fault.value, one.sentence) for one in self.findings])
            return
        yield f"{self.usable} rows usable"
        for reason, rows in self.dropped:
            if rows:
                yield f"{rows} dropped: {reason}"
        for note in self.notes:
            yield f"note: {note}"
        yield "conforms to the contract; nothing was sent"


def check_data(contract: Contract, adapter: Path, data: Path) -> DataReport:
    """Return what the static checks find in the file `data`, read through `adapter`.

    Raises `UsageError` when the adapter does not lead to the contract's columns.
    """
    try:
        reader = parse_adapter(wiring.read_text(adapter))
    except UsageError as error:
        raise UsageError(unnamed(adapter, error)) from error
    table = wiring.read_site(data, reader, contract)
    findings = examine(contract, table, site=MemberId(reader.site))
    if findings:
        return DataReport(reader.site, table.rows, 0, (), findings)
    found = conform(contract, table, site=MemberId(reader.site))
    return DataReport(
        reader.site, found.rows_read, found.rows, found.dropped, (), tuple(_notes(found))
    )


def _notes(found: ConformedData) -> Iterator[str]:
    """Yield what is allowed and yet mostly a mistake: one label, or one value, in every row."""
    if (found.label == found.label[0]).all():
        yield "every usable row has the same label: are the label's codes right?"
    for column, values in zip(found.columns, found.features.T, strict=True):
        if column.level is None and (values == values[0]).all():
            yield f"{column.feature} has the same value in every usable row: is the column right?"


def check_plan(plan: Path, contract: Path, charter: Path) -> tuple[Plan, tuple[PlanFinding, ...]]:
    """Return the plan and all that is wrong with it."""
    agreed, rules = read_contract(contract), read_charter(charter)
    asked = read_plan(plan, agreed, rules)
    return asked, lint_plan(asked, agreed, rules)


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One kind of secure sum: its layout, how often it is asked for, and who learns it."""

    query: Query
    times: int
    what: str
    recipients: tuple[str, ...]

    def record(self) -> Mapping[str, object]:
        """Return it for programs."""
        layout = self.query.layout
        return {
            "kind": self.query.kind.value,
            "recipients": list(self.recipients),
            "ring_bits": layout.ring_bits,
            "segments": [
                {
                    "bound": str(part.bound),
                    "length": part.length,
                    "name": part.name,
                    "scale_bits": part.scale_bits,
                }
                for part in layout.segments
            ],
            "times_at_most": self.times,
            "what": self.what,
            "words": layout.length,
        }

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        layout = self.query.layout
        often = "once" if self.times == 1 else f"at most {self.times} times"
        yield f"{self.query.kind.value}: {often}"
        yield f"  discloses {self.what}"
        yield f"  to {', '.join(self.recipients) or 'nobody: the charter has no such row'}"
        yield f"  {layout.length} words modulo 2^{layout.ring_bits}"
        for part in layout.segments:
            step = f"in steps of 2^-{part.scale_bits}" if part.scale_bits else "whole numbers"
            yield f"    {part.name}: {part.length} words, {step}, each site's at most {part.bound}"


@dataclass(frozen=True, slots=True)
class NoiseExplanation:
    """What a plan's noise is, and what it promises to a person."""

    terms: NoisedTerms
    statement: PrivacyStatement

    def record(self) -> Mapping[str, object]:
        """Return it for programs."""
        return {
            "statement": msgspec.to_builtins(self.statement),
            "terms": msgspec.to_builtins(self.terms),
        }

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        terms, training = self.terms, self.statement.certificates[0]
        honest = training.min_survivors - training.max_colluders
        yield f"privacy: epsilon {terms.epsilon_milli / 1000:.3f} promised, person by person"
        for line in partition_lines(self.statement):
            yield f"  {line}"
        total = math.sqrt(int(terms.variance, 16)) / terms.clip.units
        clip = f"clip {terms.clip.norm:g} = 2^{terms.grid_bits} grid units"
        if isinstance(terms, DistributedGaussian):
            count = math.sqrt(int(terms.count_variance, 16)) / terms.clip.units
            sampled = f"sampled at {terms.rate / SAMPLING_UNIT:.6g}"
            yield (
                f"  {terms.rounds} rounds of gradient descent on clipped sums, {clip}, learning "
                f"rate {terms.learning_rate_milli / 1000:g}, "
                + ("everybody in every round" if terms.sampling is None else sampled)
            )
            noise = f"in a gradient sum, of {count:.1f} persons in the count"
        else:
            yield f"  one sum of clipped statistics over everybody, {clip}"
            noise = "in that sum"
        yield (
            f"  noise of {total:.2f} clips {noise}, carried by {honest} honest shares of "
            f"{training.members}; every site draws {total / math.sqrt(honest):.2f} clips"
        )
        if training.surplus_removed:
            cohort = Cohort(training.members, training.min_survivors, training.max_colluders)
            tiers = noise_tiers(terms, terms.variance, cohort)
            left = math.sqrt(sum_variance(terms, terms.variance, cohort, training.members))
            parts = len(tiers.components)
            yield (
                f"  surplus noise comes off in {'one part' if parts == 1 else f'{parts} parts'}: a "
                f"sum over all {training.members} carries {left / terms.clip.units:.2f} clips"
            )
        else:
            yield "  surplus noise stays in, however many take part"
        for line in curve_lines(training):
            yield f"  {line}"


@dataclass(frozen=True, slots=True)
class PlanExplanation:
    """What a plan would have every site compute, and who would learn which sum."""

    plan: Plan
    columns: tuple[str, ...]
    parameters: int
    members: int
    min_survivors: int
    sums: tuple[Disclosure, ...]
    site_figures: tuple[str, ...]
    privacy: NoiseExplanation | None = None

    def record(self) -> Mapping[str, object]:
        """Return it for programs."""
        return {
            "columns": list(self.columns),
            "members": self.members,
            "min_survivors": self.min_survivors,
            "parameters": self.parameters,
            "privacy": None if self.privacy is None else self.privacy.record(),
            "site_figures_to": list(self.site_figures),
            "study": self.plan.study,
            "sums": [one.record() for one in self.sums],
        }

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        yield f"study {self.plan.study}: {self.plan.title}"
        yield f"purpose: {self.plan.purpose}"
        yield f"model of {self.parameters} parameters on {len(self.columns)} columns"
        yield f"columns: {', '.join(self.columns)}"
        yield (
            f"{self.members} members; a sum over fewer than {self.min_survivors} is never opened"
        )
        if self.privacy is None:
            yield "privacy: sums are exact, no differential privacy is claimed"
        else:
            yield from self.privacy.lines()
        for one in self.sums:
            yield from one.lines()
        if self.plan.evaluation.site_figures:
            yield "figures of each site alone, exact"
            yield f"  to {', '.join(self.site_figures) or 'nobody: the charter has no such row'}"
        else:
            yield "no figure of a site alone leaves it"


def explain_plan(plan: Path, contract: Path, charter: Path) -> PlanExplanation:
    """Return what the plan asks and discloses.

    Raises `PolicyError` (code ``capacity``) when a sum does not fit its ring.
    """
    agreed, rules = read_contract(contract), read_charter(charter)
    asked = read_plan(plan, agreed, rules)
    columns = tuple(column.name for column in design_columns(agreed))
    members = rules.active_members()
    return PlanExplanation(
        asked,
        columns,
        parameter_count(asked.model, len(columns)),
        len(members),
        rules.parameters().min_survivors,
        tuple(_disclosure(kind, asked, agreed, rules) for kind in kinds_of(asked)),
        _recipients(rules, Artefact.SITE_METRIC, 1),
        _noise(asked, agreed, rules),
    )


def _noise(plan: Plan, contract: Contract, charter: Charter) -> NoiseExplanation | None:
    if not isinstance(plan.privacy, NoisedTerms):
        return None
    try:
        return NoiseExplanation(plan.privacy, privacy_statement(plan, contract, charter, ()))
    except UsageError as error:
        raise PolicyError(f"the noise does not fit: {error}", code="noise-range") from error


def _disclosure(kind: QueryKind, plan: Plan, contract: Contract, charter: Charter) -> Disclosure:
    query = make_query(
        plan,
        contract,
        kind,
        0,
        members=len(charter.active_members()),
        model=NO_DIGEST,
        normaliser=NO_DIGEST,
    )
    repeated = kind in {QueryKind.NEWTON, QueryKind.AVERAGING, QueryKind.DESCENT}
    what = describe_artefact(kind.artefact)
    return Disclosure(
        query,
        sums_at_most(plan) - len(kinds_of(plan)) + 1 if repeated else 1,
        f"{what}, with noise" if kind.form is Form.NOISED else what,
        _recipients(charter, kind.artefact, charter.parameters().min_survivors, kind.form),
    )


def _recipients(
    charter: Charter, artefact: Artefact, members: int, form: Form = Form.EXACT
) -> tuple[str, ...]:
    """Return the roles to which `artefact` over the data of `members` members may go."""
    matrix = charter.exposure_matrix()
    return tuple(
        role.value for role in Role if matrix.decide(artefact, role, form, members).allowed
    )
