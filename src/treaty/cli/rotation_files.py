"""What the commands that exchange keys do with directories and files, and what they say of it.

Guarantee: nothing here talks to a peer, and no private key is shown or leaves the directory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from treaty import wiring
from treaty.cli.charter_files import read_key
from treaty.cli.network_files import desk, party_standing
from treaty.cli.output import aligned
from treaty.deployment.places import load_party
from treaty.deployment.rotating import open_rotation, prepare
from treaty.errors import PolicyError, UsageError
from treaty.governance.amendment import new_keys
from treaty.ids import Digest

__all__ = ["Accepted", "Rotated", "accept_keys", "rotate_keys"]

_FILE_LIMIT = 1 << 20
_AFTER = "the members read it with `treaty proposal show` and sign with `treaty proposal vote`"


@dataclass(frozen=True, slots=True)
class Rotated:
    """New keys that wait, and the proposal about them where it was made here."""

    member: str
    keys: tuple[tuple[str, str], ...]
    request: Path
    proposal: Digest | None

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "keys": dict(self.keys),
            "member": self.member,
            "proposal": self.proposal,
            "request": str(self.request),
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        rows: list[tuple[str, object]] = [("member", self.member)]
        rows += [(f"new {role} key", public) for role, public in self.keys]
        if self.proposal is None:
            return [
                *aligned([*rows, ("request", self.request)]),
                "give the request to a member, for: treaty key accept REQUEST --dir treaty-site",
            ]
        return [*aligned([*rows, ("proposal", self.proposal)]), _AFTER]


def rotate_keys(
    directory: Path, roles: Sequence[str], key: Path | None, *, by_request: bool
) -> Rotated:
    """Make new keys for `roles` in the site in `directory`; propose them unless `by_request`."""
    party = load_party(directory)
    if party.is_hub:
        raise UsageError(
            "the keys of a coordinator are not exchanged by this command: every member pins its "
            "server, and its log key signs all of the history; name a site's directory"
        )
    state = party_standing(directory).state
    if state.membership is None:
        raise UsageError("this site has no log yet: wait until the consortium is founded")
    if key is None and not by_request and not (directory / "keys" / "approval.key").exists():
        raise UsageError(
            "the approval key is not in the site's directory: name its file with --key, or say "
            "--by-request where it is lost and another member is to propose the new keys"
        )
    own_desk = None if by_request else desk(directory, key)
    held = None if key is None else read_key(key).key
    made = prepare(directory, party.name, roles, state.members.history, held)
    proposal = None if own_desk is None else own_desk.propose_rotation(made.data)
    return Rotated(party.name, made.public, made.path, proposal)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The proposal about another member's new keys."""

    member: str
    keys: tuple[tuple[str, str], ...]
    proposal: Digest

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {"keys": dict(self.keys), "member": self.member, "proposal": self.proposal}

    def lines(self) -> list[str]:
        """Return it for people."""
        rows: list[tuple[str, object]] = [("member", self.member)]
        rows += [(f"new {role} key", public) for role, public in self.keys]
        return [
            *aligned([*rows, ("proposal", self.proposal)]),
            f"compare the keys with {self.member} by voice before anybody approves; {_AFTER}",
        ]


def accept_keys(directory: Path, request: Path, key: Path | None) -> Accepted:
    """Propose at the member in `directory` what `request` asks for."""
    data = wiring.read_file(request, _FILE_LIMIT)
    own_desk, history = desk(directory, key), party_standing(directory).state.members.history
    found, _ = open_rotation(data, history)
    listed = tuple(
        (one.kind.value, one.public.hex) for one in new_keys(history.current, found.charter)
    )
    if not listed:
        raise PolicyError("the request lists no new key", code="not-a-rotation")
    return Accepted(found.member, listed, own_desk.propose_rotation(data))
