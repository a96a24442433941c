"""Followed: the log of a party's directory, read and folded as its process extends it.

Whoever has the directory sees what the party has stored: entries are folded once, those that came
since the last look on top. Nothing in the directory changes, whether or not the process runs.
"""

import sys
import time
from pathlib import Path

from treaty.contracts.schema import Contract, contract_from_bytes
from treaty.deployment.places import is_running, load_party
from treaty.errors import ResourceError, UsageError
from treaty.ids import Digest, MemberId, Timestamp
from treaty.node.mirror import COSIGNED_KEY
from treaty.node.phase_clock import waiting_since
from treaty.protocol.consortium import Consortium
from treaty.provenance.bundle import Edition, export
from treaty.wiring import StoredLog, has_store, read_file, stored_log

__all__ = ["FollowedLog", "party_bundle"]

_PAUSE_S = 0.2


class FollowedLog:
    """The log of the party in `directory` as its store holds it, as of the last `refresh`.

    Raises `UsageError` for a directory that is nobody's, or whose consortium is not founded.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        party = load_party(directory)
        self.name = MemberId(party.name)
        self.anchor = party.anchor
        self.state = Consortium(self.anchor)
        self._since: Timestamp | None = None

    @property
    def since(self) -> Timestamp | None:
        """Return when the party's present phase began, by its clock; None where it is not known."""
        return self._since

    @property
    def is_running(self) -> bool:
        """Say whether the party's process runs: without it nothing is sent, and nothing comes."""
        return is_running(self.directory)

    def refresh(self) -> bool:
        """Fold what has been stored since; say whether there was anything."""
        if not has_store(self.directory):
            return False
        with stored_log(self.directory, self.state.size) as log:
            state = self.state
            for entry in log.entries:
                state, _ = state.apply(entry, log.find)
            self.state = state
            self._since = waiting_since(log.since, state)
            return bool(log.entries)

    def adopted(self) -> tuple[Contract, ...]:
        """Return the data contracts that the members have adopted, by their names and versions."""
        if not self.state.contracts:
            return ()
        with stored_log(self.directory, self.state.size) as log:
            found = [contract_from_bytes(log.find(digest)) for digest in self.state.contracts]
        return tuple(sorted(found, key=lambda one: (one.name, one.version)))

    def bundle(self, edition: Edition | None, wait_s: float) -> dict[str, bytes]:
        """Return a bundle of at least what `refresh` has seen, waiting for its cosignatures.

        Without `edition` it is the full one where the masked inputs are at hand, at the
        coordinator, else the attested one. Raises `ResourceError` when no quorum has cosigned so
        much within `wait_s`.
        """
        end = time.monotonic() + wait_s
        while (size := _cosigned_size(self.directory)) < self.state.size:
            if time.monotonic() > end:
                raise ResourceError(
                    f"enough members have cosigned {size} of {self.state.size} entries, as far as "
                    f"{self.name} knows: see that they and the coordinator run, then try again"
                )
            time.sleep(_PAUSE_S)
        return party_bundle(self.directory, edition)[1]


def party_bundle(directory: Path, edition: Edition | None) -> tuple[Digest, dict[str, bytes]]:
    """Return anchor and bundle of the log up to the newest checkpoint that members cosigned.

    A coordinator makes it from the cosignatures that meet there, a site from what it was shown of
    them. The full edition needs masked inputs, which only the coordinator stores; None is the full
    one there and the attested one elsewhere. Raises `UsageError` or `ResourceError`.
    """
    party = load_party(directory)
    if not party.is_hub and edition == "full":
        raise UsageError(
            "the full edition holds every member's masked inputs, which the coordinator stores: "
            "export the attested edition here, or the full one there"
        )
    with stored_log(directory) as log:
        note = _note(directory, log)
        if not note:
            raise ResourceError("no checkpoint is cosigned by enough members yet: try again later")
        size = _size(note)
        chosen: Edition = edition or ("full" if party.is_hub else "attested")
        return party.anchor, export(
            log.entries[:size], note, party.anchor, log.find, log.has, chosen
        )


def _cosigned_size(directory: Path) -> int:
    if not has_store(directory):
        return 0
    with stored_log(directory, sys.maxsize) as log:
        return _size(_note(directory, log))


def _note(directory: Path, log: StoredLog) -> bytes:
    """Return the newest checkpoint with a quorum's cosignatures, empty where there is none."""
    path = directory / "checkpoint"
    if path.is_file():
        return read_file(path)
    return log.value(COSIGNED_KEY) or b""


def _size(note: bytes) -> int:
    return int(note.split(b"\n", 2)[1]) if note else 0
