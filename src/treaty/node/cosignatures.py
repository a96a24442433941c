"""Cosignatures: the lines that members put under the coordinator's newest checkpoint.

They are verified when somebody asks for them, not when they come: most checkpoints are followed by
the next at once, and nobody ever asks. A line that does not verify is noted and left out.

What a quorum has cosigned is shown to the members once it stays; they read it by `open_cosigned`.
"""

from collections.abc import Iterable

from treaty.errors import PeerError, code_of
from treaty.ids import MemberId
from treaty.node.log_keeper import LogKeeper
from treaty.ports import Journal
from treaty.protocol.membership import Membership
from treaty.provenance.bundle import policy_of
from treaty.tlog.checkpoint import SignedCheckpoint, open_checkpoint

__all__ = ["Cosignatures", "open_cosigned"]


class Cosignatures:
    """The cosignatures of one checkpoint, by the member that sent them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._unverified: dict[MemberId, str] = {}
        self._verified: dict[str, str] = {}
        self._signers: set[MemberId] = set()
        self.shown: set[MemberId] = set()
        """Who has been sent this checkpoint with the cosignatures of a quorum."""

    def add(self, member: MemberId, line: str) -> None:
        """Take a line under the newest checkpoint as it came."""
        self._unverified[member] = line

    def clear(self) -> None:
        """Begin anew: there is another checkpoint."""
        self._unverified, self._verified = {}, {}
        self._signers.clear()
        self.shown.clear()

    def verified(self, log: LogKeeper, members: Membership | None) -> dict[str, str]:
        """Return the lines that hold under the checkpoint of `log`, by cosigner.

        None before there is a charter, because nobody may cosign then.
        """
        if members is None:
            return {}
        for member, line in self._unverified.items():
            try:
                name, held = log.check_cosignature(line, members, member)
            except PeerError as refusal:
                self._journal.note(f"refused.{code_of(refusal)}", str(refusal))
            else:
                self._verified[name] = held
                self._signers.add(member)
        self._unverified = {}
        return dict(self._verified)

    def missing(
        self, active: Iterable[MemberId], log: LogKeeper, members: Membership | None
    ) -> frozenset[MemberId]:
        """Return who of `active` may yet cosign the newest checkpoint; nobody once a quorum has.

        Whose line did not verify, or came altered, is among them.
        """
        if members is None:
            return frozenset()
        quorum = members.witness_quorum
        if quorum > len(members.witnesses) or len(self.verified(log, members)) >= quorum:
            return frozenset()
        return frozenset(active) - self._signers

    def to_show(
        self, current: Iterable[MemberId], log: LogKeeper, members: Membership
    ) -> tuple[MemberId, ...]:
        """Return whom of `current` the newest checkpoint is to be shown: all not told, at quorum.

        Nobody before a quorum has cosigned, or where so few members are left that none exists.
        """
        due = tuple(member for member in current if member not in self.shown)
        if not due or len(self.verified(log, members)) < members.witness_quorum:
            return ()
        return due


def open_cosigned(note: str, members: Membership) -> SignedCheckpoint:
    """Return the checkpoint in `note`, which the log's key signed and a quorum cosigned.

    Raises `FormatError` or `VerificationError` (``no-quorum`` and those of `open_checkpoint`).
    """
    witnesses = tuple(members.witnesses.values())
    signed = open_checkpoint(note.encode(), members.log, witnesses, strict=True)
    policy_of(members.effective).require(signed)
    return signed
