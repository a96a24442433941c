"""Cosignatures: the lines that members put under the coordinator's newest checkpoint.

They are verified when somebody asks for them, not when they come: most checkpoints are followed by
the next at once, and nobody ever asks. A line that does not verify is noted and left out.
"""

from treaty.errors import PeerError, code_of
from treaty.ids import MemberId
from treaty.node.log_keeper import LogKeeper
from treaty.ports import Journal
from treaty.protocol.membership import Membership

__all__ = ["Cosignatures"]


class Cosignatures:
    """The cosignatures of one checkpoint, by the member that sent them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._unverified: dict[MemberId, str] = {}
        self._verified: dict[str, str] = {}

    def add(self, member: MemberId, line: str) -> None:
        """Take a line under the newest checkpoint as it came."""
        self._unverified[member] = line

    def clear(self) -> None:
        """Begin anew: there is another checkpoint."""
        self._unverified, self._verified = {}, {}

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
        self._unverified = {}
        return dict(self._verified)
