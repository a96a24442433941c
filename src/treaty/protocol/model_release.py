"""Model release: which model may be released, who was asked, and what the stewards sign.

A release is one statement with the signatures of as many stewards as the charter asks. Over a
network they are asked by a proposal, so that everybody who holds the log sees who has not answered;
an approving ballot and the signature are one act of the officer. To take a model back is decided by
ballots alone.

Invariants (docs/spec/governance.md, section 9):
  * Only the model of a completed study is released, and once: also after it was withdrawn.
  * Where stewards were asked, a release stands on a ratified question about exactly this study, and
    is signed by those alone who approved it: what somebody signed for an earlier question does not
    count for a later one.

Pure functions over the folded log.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

import msgspec

from treaty.errors import PolicyError, VerificationError
from treaty.governance.charter import Charter
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId
from treaty.protocol.accession import ProposalRecord
from treaty.protocol.messages import ReleaseProvenance, release_provenance
from treaty.protocol.proposal import Choice, Phase, VotingEnded
from treaty.protocol.study import Study

__all__ = [
    "approvers",
    "lapsed",
    "questions",
    "release_body",
    "require_approved",
    "require_releasable",
    "require_withdrawable",
    "settled_questions",
]

Records = Mapping[Digest, ProposalRecord]


def release_body(charter: Digest, coordinator: str, study: Study) -> ReleaseProvenance:
    """Return what the stewards sign to release the model of `study` under `charter`.

    It follows from the log, so that officers at their own desks sign the same bytes. Raises
    `VerificationError` (``wrong-model``) where the study has no final model.
    """
    if study.final_model is None:
        raise VerificationError("the study has not completed a model", code="wrong-model")
    dependencies = (("plan", study.identity),)
    return release_provenance(charter, coordinator, study.identity, study.final_model, dependencies)


def require_releasable(
    body: ReleaseProvenance, study: Study, charter: Charter, releases: Mapping[Digest, int]
) -> None:
    """Raise `VerificationError` unless `body` names the coordinator and an unreleased final model.

    Codes: ``wrong-author``, ``wrong-model``, ``replayed``.
    """
    if body.author != charter.coordinator.name:
        raise VerificationError(
            f"the release names {body.author} as its builder, expected {charter.coordinator.name}",
            code="wrong-author",
        )
    if study.final_model != body.model:
        raise VerificationError(
            "the release names a model that the study did not complete", code="wrong-model"
        )
    if body.model in releases:
        raise VerificationError("this model is released already", code="replayed")


def require_withdrawable(
    study: Study, releases: Mapping[Digest, int], withdrawn: Mapping[Digest, int]
) -> None:
    """Raise `VerificationError` unless the study's model is released and not taken back.

    Codes: ``wrong-model``, ``replayed``.
    """
    if study.final_model is None or study.final_model not in releases:
        raise VerificationError("the study has no released model", code="wrong-model")
    if study.final_model in withdrawn:
        raise VerificationError("this model is withdrawn already", code="replayed")


def questions(records: Records, study: Digest) -> tuple[tuple[Digest, ProposalRecord], ...]:
    """Return the proposals that ask whether to release the model of `study`, in their order."""
    return tuple(
        (number, one)
        for number, one in records.items()
        if one.proposal.action == Action.RELEASE_APPROVE.value and one.proposal.subject == study
    )


def approvers(records: Records, study: Digest) -> frozenset[MemberId]:
    """Return who approved the ratified question that is to be carried out; nobody without one."""
    found: frozenset[MemberId] = frozenset()
    for _, one in questions(records, study):
        if one.proposal.phase is Phase.RATIFIED and not one.used:
            found |= {
                name
                for name, choice in one.proposal.ballots.items()
                if choice is Choice.APPROVE and name not in one.proposal.equivocators
            }
    return found


def require_approved(records: Records, study: Digest, signers: Collection[MemberId]) -> None:
    """Raise `PolicyError` (``not-approved``) for signers who did not approve when asked.

    Where nobody was asked their signatures alone decide.
    """
    if not questions(records, study):
        return
    strangers = sorted(set(signers) - approvers(records, study))
    if strangers:
        # Prevents a signature given for a question that failed from being used for another.
        raise PolicyError(
            f"the release is signed by {', '.join(strangers)} without an approving ballot on a "
            "ratified question: expected signatures of those who approved",
            code="not-approved",
        )


def settled_questions(records: Records, study: Digest) -> Records:
    """Return `records` after the release: what asked for it is carried out, or lapses."""
    about = {number for number, _ in questions(records, study)}
    return _changed(records, lambda number, _: number in about)


def lapsed(records: Records, study: Digest) -> Records:
    """Return `records` after a withdrawal: no other question about it stays open."""
    return _changed(
        records,
        lambda _, one: (
            one.proposal.action == Action.RELEASE_ROLLBACK.value and one.proposal.subject == study
        ),
    )


def _changed(records: Records, chosen: Callable[[Digest, ProposalRecord], bool]) -> Records:
    """Return `records` with those `chosen` over: open ones lapse, ratified ones are used up."""
    return MappingProxyType(
        {number: _over(one) if chosen(number, one) else one for number, one in records.items()}
    )


def _over(record: ProposalRecord) -> ProposalRecord:
    if not record.proposal.settled:
        return msgspec.structs.replace(record, proposal=record.proposal.step(VotingEnded())[0])
    if record.proposal.phase is Phase.RATIFIED:
        return msgspec.structs.replace(record, used=True)
    return record
