"""What the commands say and do when an institution joins a consortium that is founded.

Guarantee: nothing here talks to a peer. The coordinator's command writes an invitation, a member's
leaves statements for its running site to send.
"""

from dataclasses import dataclass
from pathlib import Path

from treaty import wiring
from treaty.cli.network_files import desk, party_standing
from treaty.cli.output import aligned
from treaty.deployment.agent import read_invite
from treaty.deployment.inviting import invite_newcomer
from treaty.deployment.papers import open_accession
from treaty.deployment.places import founded
from treaty.errors import UsageError
from treaty.governance.accession import newcomer_of
from treaty.governance.charter import charter_from_toml
from treaty.governance.page import charter_diff
from treaty.ids import Digest

__all__ = ["Invited", "NewcomerProposed", "invite_one", "propose_newcomer"]

_FILE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Invited:
    """An invitation into a founded consortium, and the digest for the officers' paper."""

    member: str
    path: Path
    terms: Digest
    changes: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {"invite": str(self.path), "member": self.member, "terms": self.terms}

    def lines(self) -> list[str]:
        """Return it for people."""
        rows = [("member", self.member), ("invite", self.path), ("terms", self.terms)]
        return [
            *aligned(rows),
            *(f"  {line}" for line in self.changes),
            "give its officer the digest on paper, and the anchor by voice",
        ]


def invite_one(directory: Path, name: str, charter: Path | None, out: Path) -> Invited:
    """Invite a newcomer by the next version of the charter, as `charter` has it where it is given.

    Without a name it is the one member that the version adds.
    """
    found = founded(directory)
    if not name and (charter is None or found is None):
        raise UsageError("name who is to join with --newcomer")
    current = party_standing(directory).state.charter
    terms = None
    if charter is not None:
        text = wiring.read_text(charter, _FILE_LIMIT)
        terms = charter_from_toml(text)
        name = name or newcomer_of(current, terms)
    path, digest = invite_newcomer(directory, name, out, terms=terms)
    following = read_invite(path).terms
    return Invited(name, path, digest, charter_diff(current, following).sentences)


@dataclass(frozen=True, slots=True)
class NewcomerProposed:
    """The proposal that lets a newcomer join."""

    member: str
    proposal: Digest

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {"member": self.member, "proposal": self.proposal}

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            *aligned([("newcomer", self.member), ("proposal", self.proposal)]),
            "members read it with `treaty proposal show` and decide with `treaty proposal vote`",
        ]


def propose_newcomer(directory: Path, requests: list[Path], key: Path | None) -> NewcomerProposed:
    """Propose that the newcomer whose request is given becomes a member."""
    if len(requests) != 1:
        raise UsageError(f"expected one newcomer's request, got {len(requests)}")
    data = wiring.read_file(requests[0], _FILE_LIMIT)
    proposal = desk(directory, key).propose_accession(data)
    return NewcomerProposed(open_accession(data)[0].member, proposal)
