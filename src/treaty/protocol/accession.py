"""Accession: who may become a member by an amendment, as the fold decides it.

The members decide `member.accept` by ballots on the digest of the whole next version of the
charter, the newcomer's keys in it; the amendment itself is signed as every other. So a key that was
not voted on cannot be listed, and a version that the newcomer's keys did not sign takes no effect.

Invariants (docs/spec/governance.md, section 8):
  * An amendment lists a new member only if its acceptance by exactly this version is ratified.
  * A ratified suspension that can take effect does so before anything else begins.
  * What was accepted by another version than the one that took effect is void, and so are the
    releases, suspensions, rotations and plans that were approved under one that is over.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import msgspec

from treaty.errors import PeerError, PolicyError
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.membership import Membership
from treaty.protocol.proposal import Choice, Phase, Proposal

__all__ = ["ProposalRecord", "carried_out", "require_accepted", "require_suspended", "voided"]


class ProposalRecord(msgspec.Struct, frozen=True):
    """A proposal, who it names, the approving ballots' keys, and whether it was carried out."""

    proposal: Proposal
    target: MemberId | None
    approving: frozenset[Digest] = frozenset()
    used: bool = False

    @property
    def accepts(self) -> bool:
        """Say whether it is a ratified decision to accept a member."""
        return self._decides(Action.MEMBER_ACCEPT)

    @property
    def rotates(self) -> bool:
        """Say whether it is a ratified call for a change of keys that has not taken effect.

        The amendment needs more signatures than the call votes, so ballots go on.
        """
        return self._decides(Action.KEY_ROTATE) and not self.used

    @property
    def releases(self) -> bool:
        """Say whether it is a ratified decision to release a model."""
        return self._decides(Action.RELEASE_APPROVE)

    @property
    def suspends(self) -> bool:
        """Say whether it is a ratified decision to suspend a member."""
        return self._decides(Action.MEMBER_SUSPEND)

    @property
    def opens(self) -> bool:
        """Say whether it is a ratified decision to open a study."""
        return self._decides(Action.STUDY_APPROVE)

    @property
    def collects(self) -> bool:
        """Say whether it is ratified and waits for signatures, so that approvals still count.

        Otherwise one voter who approves and withholds its signature would stop it for all.
        """
        return self.rotates or (self.releases and not self.used)

    def _decides(self, action: Action) -> bool:
        return self.proposal.phase is Phase.RATIFIED and self.proposal.action == action.value


def require_accepted(
    records: Iterable[ProposalRecord], before: Membership, after: Membership
) -> None:
    """Raise `PolicyError` (``not-accepted``) if `after` has a member that nobody accepted by it."""
    digest = after.history.digest
    accepted = {one.target for one in records if one.accepts and one.proposal.subject == digest}
    for name in sorted(set(after.charter.members) - set(before.charter.members)):
        if name not in accepted:
            raise PolicyError(
                f"no ratified decision accepts {name} by charter {digest[:16]}: expected the "
                "members' approval of member.accept first",
                code="not-accepted",
            )


def require_suspended(
    records: Mapping[Digest, ProposalRecord], members: Membership, at: Timestamp
) -> None:
    """Raise `PolicyError` (``suspension-due``) if a ratified suspension waits and takes effect now.

    Whoever sequences the log could otherwise keep a suspended member in every round to come. One
    that the rules do not let take effect, since too few members would be left, stops nothing.
    """
    for one in records.values():
        if not one.suspends or one.used or one.target is None:
            continue
        try:
            members.suspend(one.target, one.approving, at=at)
        except (PeerError, PolicyError):
            continue
        raise PolicyError(
            f"the members decided to suspend {one.target}: expected its suspension before "
            "anything begins",
            code="suspension-due",
        )


def carried_out(records: Mapping[Digest, ProposalRecord]) -> Mapping[Digest, ProposalRecord]:
    """Return `records` after an amendment: acceptances are carried out by it, or void.

    Each was about the version after the one in force, of which there is one.
    """
    return _used(records, lambda one: one.accepts)


def voided(
    records: Mapping[Digest, ProposalRecord], concerned: MemberId | None = None
) -> Mapping[Digest, ProposalRecord]:
    """Return `records` without what was approved, has not taken effect, and cannot any more.

    Releases and suspensions: all of them after an amendment, since signatures bind a charter and
    keys may be others; those that `concerned` approved when it is suspended. Rotations of keys
    after either: each is about one next version, which says who is suspended. Studies after an
    amendment: their plans bind the charter before. They are asked anew.
    """

    def is_void(one: ProposalRecord) -> bool:
        approved = concerned is None or one.proposal.ballots.get(concerned) is Choice.APPROVE
        outlived = one.opens and concerned is None
        return one.rotates or outlived or ((one.releases or one.suspends) and approved)

    return _used(records, is_void)


def _used(
    records: Mapping[Digest, ProposalRecord], chosen: Callable[[ProposalRecord], bool]
) -> Mapping[Digest, ProposalRecord]:
    return MappingProxyType(
        {
            number: msgspec.structs.replace(one, used=True) if chosen(one) else one
            for number, one in records.items()
        }
    )
