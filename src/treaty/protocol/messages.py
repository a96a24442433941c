"""Statements of governance and of studies (secure aggregation's are in `secagg_messages`).

Each Record is one predicate type; each field carries the artefact class by which the
charter's exposure matrix rules over it. Low-entropy facts about a site's data appear here
in one type alone, `SiteReported`, whose class the charter must allow by name.
"""

from enum import Enum
from typing import Annotated, Literal

import msgspec

from treaty.crypto.canonical import Count, DigestField, MemberName, Name, Record
from treaty.governance.exposure import Artefact, Form
from treaty.protocol.secagg_messages import LedgerMark
from treaty.protocol.statements import Predicate, SignerKind, Subject, statement

__all__ = [
    "SLSA_PROVENANCE",
    "BallotCast",
    "CharterGathered",
    "CharterPublished",
    "ComparisonPublished",
    "DatasetRegistered",
    "Figures",
    "HaltCode",
    "LedgerRebased",
    "MemberSuspended",
    "ProposalOpened",
    "ReleaseProvenance",
    "SiteReported",
    "StudyCompleted",
    "StudyHalted",
    "StudyOpened",
    "TimeStated",
    "VotingClosed",
    "release_provenance",
]

SLSA_PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://treaty.example/buildtypes/federated-training/v1"

PartsPerMillion = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


@statement(
    "charter/v1",
    signer=None,
    several=True,
    classes={
        "version": Artefact.GOVERNANCE_DOCUMENT,
        "previous": Artefact.GOVERNANCE_DOCUMENT,
    },
)
class CharterPublished(Predicate):
    """A charter version takes effect. `charter` is its own digest; the document is a blob."""

    version: Count
    previous: DigestField | None = None


@statement(
    "charter-gathered/v1",
    signer=None,
    classes={"signatures": Artefact.GOVERNANCE_DOCUMENT},
)
class CharterGathered(Predicate):
    """A charter version takes effect whose signatures outgrow a log entry.

    `signatures` is the digest of the `CharterPublished` statement with all of them, a blob. The
    coordinator's own signature under this one says where they are, and counts for nothing else.
    """

    signatures: DigestField

    def subjects(self) -> tuple[Subject, ...]:
        """Return the charter and the statement that carries the signatures."""
        return (
            Subject.of("charter", self.charter),
            Subject.of("signatures", self.signatures),
        )


@statement("time/v1", signer=SignerKind.COORDINATOR, classes={"at": Artefact.SCHEDULE})
class TimeStated(Predicate):
    """The log's clock: milliseconds since the Unix epoch at which what follows was sequenced.

    It never goes back. Members refuse a time too far from their own clocks.
    """

    at: Count


@statement(
    "proposal/v1",
    signer=SignerKind.APPROVAL,
    classes={
        "action": Artefact.GOVERNANCE_DOCUMENT,
        "subject": Artefact.GOVERNANCE_DOCUMENT,
        "target": Artefact.GOVERNANCE_DOCUMENT,
        "nonce": Artefact.IDENTIFIER,
    },
)
class ProposalOpened(Predicate):
    """A member asks the others: may `action` be done to the object with digest `subject`?

    `target` names a member where the action is about one. `nonce` tells repeated questions apart.
    """

    action: Name
    subject: DigestField
    target: MemberName | None = None
    nonce: Count = 0

    def subjects(self) -> tuple[Subject, ...]:
        """Return the object of the question."""
        return (Subject.of(self.action, self.subject),)


@statement(
    "ballot/v1",
    signer=SignerKind.APPROVAL,
    classes={"proposal": Artefact.IDENTIFIER, "choice": Artefact.VOTE},
)
class BallotCast(Predicate):
    """A member's ballot on the proposal whose envelope has digest `proposal`."""

    proposal: DigestField
    choice: Literal["approve", "reject", "abstain"]

    def subjects(self) -> tuple[Subject, ...]:
        """Return the proposal."""
        return (Subject.of("proposal", self.proposal),)


@statement(
    "voting-closed/v1",
    signer=SignerKind.COORDINATOR,
    classes={"proposal": Artefact.IDENTIFIER},
)
class VotingClosed(Predicate):
    """The coordinator ends the vote on an open proposal: it lapses."""

    proposal: DigestField

    def subjects(self) -> tuple[Subject, ...]:
        """Return the proposal."""
        return (Subject.of("proposal", self.proposal),)


@statement(
    "member-suspended/v1",
    signer=SignerKind.COORDINATOR,
    classes={"proposal": Artefact.IDENTIFIER, "target": Artefact.GOVERNANCE_DOCUMENT},
)
class MemberSuspended(Predicate):
    """A ratified suspension takes effect at this entry."""

    proposal: DigestField
    target: MemberName

    def subjects(self) -> tuple[Subject, ...]:
        """Return the proposal."""
        return (Subject.of("proposal", self.proposal),)


@statement(
    "study-opened/v1",
    signer=SignerKind.COORDINATOR,
    classes={"plan": Artefact.IDENTIFIER, "proposal": Artefact.IDENTIFIER},
)
class StudyOpened(Predicate):
    """A study with a ratified plan begins."""

    plan: DigestField
    proposal: DigestField

    def subjects(self) -> tuple[Subject, ...]:
        """Return the plan."""
        return (Subject.of("plan", self.plan),)


class HaltCode(Enum):
    """Why a study stopped: closed and data-independent."""

    LEAST_SUPPORT = "least-support"
    TOO_FEW_MEMBERS = "too-few-members"
    NOT_CONVERGED = "not-converged"
    DECIDED = "decided"
    SUM_FALSE = "sum-false"


@statement(
    "study-halted/v1",
    signer=SignerKind.COORDINATOR,
    classes={"plan": Artefact.IDENTIFIER, "code": Artefact.REFUSAL_CODE},
)
class StudyHalted(Predicate):
    """A study stops for good."""

    plan: DigestField
    code: HaltCode

    def subjects(self) -> tuple[Subject, ...]:
        """Return the plan."""
        return (Subject.of("plan", self.plan),)


class Figures(Record):
    """One model's figures on one holdout, in parts per million."""

    accuracy: PartsPerMillion
    auc: PartsPerMillion | None
    brier: PartsPerMillion


@statement(
    "site-report/v1",
    signer=SignerKind.RUNNER,
    classes={
        "plan": Artefact.IDENTIFIER,
        "model": Artefact.IDENTIFIER,
        "federated": (Artefact.SITE_METRIC, Form.EXACT),
        "alone": (Artefact.SITE_METRIC, Form.EXACT),
    },
)
class SiteReported(Predicate):
    """A site's own figures on its own holdout, exact. Leaves only where the matrix says so."""

    plan: DigestField
    model: DigestField
    federated: Figures
    alone: Figures

    def subjects(self) -> tuple[Subject, ...]:
        """Return the model."""
        return (Subject.of("model", self.model),)


@statement(
    "study-completed/v1",
    signer=SignerKind.COORDINATOR,
    classes={
        "plan": Artefact.IDENTIFIER,
        "model": Artefact.IDENTIFIER,
        "normaliser": Artefact.IDENTIFIER,
        "evaluation": Artefact.IDENTIFIER,
        "rounds": Artefact.IDENTIFIER,
    },
)
class StudyCompleted(Predicate):
    """The study's program is finished; all digests are recomputed by whoever reads."""

    plan: DigestField
    model: DigestField
    normaliser: DigestField
    evaluation: DigestField
    rounds: Count

    def subjects(self) -> tuple[Subject, ...]:
        """Return the model and the evaluation."""
        return (
            Subject.of("model.safetensors", self.model),
            Subject.of("evaluation.json", self.evaluation),
        )


@statement(
    "comparison/v1",
    signer=SignerKind.COORDINATOR,
    classes={
        "plan": Artefact.IDENTIFIER,
        "model": Artefact.IDENTIFIER,
        "label": Artefact.SIMULATION_COMPARISON,
        "pooled": Artefact.SIMULATION_COMPARISON,
        "max_probability_gap_e12": Artefact.SIMULATION_COMPARISON,
        "alone_everywhere": Artefact.SIMULATION_COMPARISON,
        "alone_private_everywhere": Artefact.SIMULATION_COMPARISON,
    },
)
class ComparisonPublished(Predicate):
    """Simulation only: the pooled model beside the federated one, outside the protocol.

    `max_probability_gap_e12` is the largest difference of predicted probability on the holdouts,
    times 1e12, rounded up. Of a study under noise `pooled` and `alone_everywhere` are the same
    training without noise, on all rows and at each site; `alone_private_everywhere` is each site
    by itself under the study's epsilon.
    """

    plan: DigestField
    model: DigestField
    label: Literal["simulation only"]
    pooled: Figures
    max_probability_gap_e12: Count
    alone_everywhere: dict[MemberName, Figures]
    alone_private_everywhere: dict[MemberName, Figures] | None = None

    def subjects(self) -> tuple[Subject, ...]:
        """Return the model."""
        return (Subject.of("model.safetensors", self.model),)


@statement(
    "dataset-registered/v1",
    signer=SignerKind.APPROVAL,
    classes={"dataset": Artefact.COMMITMENT, "persons": Artefact.GOVERNANCE_DOCUMENT},
)
class DatasetRegistered(Predicate):
    """An officer registers a data set of the site under an identity of its own.

    `dataset` commits to the identity. `persons` is what the officer vouches for; a privacy ledger
    of its own rests on it (docs/spec/privacy.md, section 7).
    """

    dataset: DigestField
    persons: Literal["in no other registered data set of this site"]

    def subjects(self) -> tuple[Subject, ...]:
        """Return the data set."""
        return (Subject.of("dataset", self.dataset),)


@statement(
    "ledger-rebased/v1",
    signer=SignerKind.APPROVAL,
    classes={
        "lost": Artefact.COMMITMENT,
        "lost_count": Artefact.LOG_POSITION,
        "successor": Artefact.COMMITMENT,
    },
)
class LedgerRebased(Predicate):
    """An officer accepts that a privacy ledger was lost, from its last published head on.

    Everything that the charter allows counts as spent in `successor`, which is the lost ledger
    itself when an older copy of it goes on.
    """

    lost: LedgerMark
    lost_count: Count
    successor: DigestField

    def subjects(self) -> tuple[Subject, ...]:
        """Return the lost ledger."""
        return (Subject.of("ledger", self.lost.ledger),)


class ResourceDescriptor(Record):
    """An input of the release: what it is and its digest."""

    uri: Name
    digest: dict[Literal["sha256"], DigestField]


class ExternalParameters(Record):
    """What the release rests on."""

    charter: DigestField
    plan: DigestField
    model: DigestField


class BuildDefinition(Record):
    """SLSA Provenance v1: how the model came to be."""

    build_type: Literal["https://treaty.example/buildtypes/federated-training/v1"] = msgspec.field(
        name="buildType"
    )
    external_parameters: ExternalParameters = msgspec.field(name="externalParameters")
    resolved_dependencies: tuple[ResourceDescriptor, ...] = msgspec.field(
        name="resolvedDependencies"
    )


class Builder(Record):
    """Who ran the build."""

    id: Name


class RunDetails(Record):
    """SLSA Provenance v1: where it ran."""

    builder: Builder


@statement(
    "provenance/v1",
    uri=SLSA_PROVENANCE,
    signer=SignerKind.APPROVAL,
    several=True,
    classes={
        "build_definition": Artefact.GOVERNANCE_DOCUMENT,
        "run_details": Artefact.GOVERNANCE_DOCUMENT,
    },
)
class ReleaseProvenance(Record):
    """A model is released: signed by the approvers that the charter's rule asks for.

    The predicate is SLSA Provenance v1, so that foreign tools read it; charter and author
    stand inside it.
    """

    build_definition: BuildDefinition = msgspec.field(name="buildDefinition")
    run_details: RunDetails = msgspec.field(name="runDetails")

    @property
    def charter(self) -> str:
        """Return the charter that the release is made under."""
        return self.build_definition.external_parameters.charter

    @property
    def author(self) -> str:
        """Return who ran the build: the coordinator."""
        return self.run_details.builder.id

    @property
    def model(self) -> str:
        """Return the digest of the released model."""
        return self.build_definition.external_parameters.model

    @property
    def plan(self) -> str:
        """Return the digest of the plan."""
        return self.build_definition.external_parameters.plan

    def subjects(self) -> tuple[Subject, ...]:
        """Return the model file."""
        return (Subject.of("model.safetensors", self.model),)


def release_provenance(
    charter: str,
    builder: str,
    plan: str,
    model: str,
    dependencies: tuple[tuple[str, str], ...],
) -> ReleaseProvenance:
    """Return the provenance of `model`; `dependencies` are (uri, SHA-256) pairs.

    `builder` is the name of the coordinator.
    """
    return ReleaseProvenance(
        build_definition=BuildDefinition(
            build_type="https://treaty.example/buildtypes/federated-training/v1",
            external_parameters=ExternalParameters(charter=charter, plan=plan, model=model),
            resolved_dependencies=tuple(
                ResourceDescriptor(uri=uri, digest={"sha256": digest})
                for uri, digest in dependencies
            ),
        ),
        run_details=RunDetails(builder=Builder(id=builder)),
    )
