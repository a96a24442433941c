"""Stored: a simulated consortium's directory, read without running anybody or changing anything.

The parties' stores are opened for reading and their logs are folded again, so what is said here is
what the stored bytes prove, not what a status file remembers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from treaty.errors import ResourceError, UsageError, VerificationError
from treaty.governance.charter import Charter, charter_digest, parse_charter
from treaty.ids import Digest, MemberId, Timestamp
from treaty.node.log_keeper import LogKeeper
from treaty.node.phase_clock import waiting_since
from treaty.ports import Clock
from treaty.protocol.consortium import Consortium
from treaty.provenance.bundle import Edition, export
from treaty.wiring import StoredLog, SystemClock, load_key, read_file, stored_log

__all__ = ["Standing", "StoredConsortium", "fold_log"]


@dataclass(frozen=True, slots=True)
class Standing:
    """A party's log, folded: its state, the entries, and the documents at hand that it names.

    `since` is when its present phase began by that party's clock, None where it is not known.
    """

    party: MemberId
    state: Consortium
    entries: tuple[bytes, ...] = field(repr=False)
    documents: dict[Digest, bytes] = field(repr=False)
    since: Timestamp | None = None


class StoredConsortium:
    """The consortium in `directory`, as `Federation.found` made it. Reading changes nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not (directory / "anchor.txt").is_file():
            raise UsageError(
                f"{directory} holds no consortium: name the directory of a party or a simulation"
            )
        self.anchor = Digest(read_file(directory / "anchor.txt").decode().strip())
        self.charter: Charter = parse_charter(read_file(directory / "charter.json"))
        if charter_digest(self.charter) != self.anchor:
            raise VerificationError(
                f"charter.json is not the charter of {self.anchor[:16]}: restore it, or take it "
                "from a bundle",
                code="wrong-anchor",
            )

    @property
    def coordinator(self) -> MemberId:
        """Return the coordinator's name."""
        return MemberId(self.charter.coordinator.name)

    def parties(self) -> tuple[MemberId, ...]:
        """Return the coordinator and the founding members."""
        return (self.coordinator, *(MemberId(name) for name in sorted(self.charter.members)))

    def standing(self, party: MemberId | None = None) -> Standing:
        """Return how the log of `party` stands, by default the coordinator's.

        Raises `UsageError` for a stranger, `ResourceError` when its state cannot be read, and what
        the fold raises when a stored log does not hold.
        """
        name = self.coordinator if party is None else party
        if name not in self.parties():
            raise UsageError(f"expected one of {', '.join(self.parties())}, got {name}")
        with self._log(name) as log:
            return fold_log(name, self.anchor, log)

    def mirrors(self, standing: Standing) -> dict[MemberId, int]:
        """Return for each member how many entries it holds.

        Raises `VerificationError` (``split-view``) when its entries are not those of `standing`.
        """
        sizes = {}
        for name in self.parties()[1:]:
            with self._log(name) as log:
                shared = min(len(log.entries), len(standing.entries))
                if log.entries[:shared] != standing.entries[:shared]:
                    raise VerificationError(
                        f"the log of {name} is not that of {standing.party}: keep both as evidence "
                        "of a fork and call the other members",
                        code="split-view",
                    )
                sizes[name] = len(log.entries)
        return sizes

    def bundle(self, edition: Edition = "full", clock: Clock | None = None) -> dict[str, bytes]:
        """Return the bundle of the coordinator's log, cosigned by the members that hold all of it.

        Cosignatures are not stored: the simulation, which has every key, makes them again as each
        member's node would. Raises `UsageError` for another charter than a simulation's, and
        `ResourceError` when too few members hold the whole log.
        """
        if not self.charter.simulation:
            raise UsageError("only a simulation's directory holds the keys of all members")
        now = (clock or SystemClock()).now()
        standing = self.standing()
        if standing.state.membership is None:
            raise ResourceError("the log is empty: run the consortium first")
        keeper = LogKeeper().extended(standing.entries)
        with self._log(self.coordinator) as log:
            note = log.checkpoint
            keeper.check_note(note, standing.state.members)
            lines = [
                keeper.cosign(note, load_key(self._place(name), "witness"), name, now)
                for name, size in self.mirrors(standing).items()
                if size == len(standing.entries) and name in standing.state.members.witnesses
            ]
            needed = standing.state.members.witness_quorum
            if len(lines) < needed:
                raise ResourceError(
                    f"{len(lines)} members hold all {len(standing.entries)} entries, a checkpoint "
                    f"needs {needed}: let the interrupted run go on first"
                )
            return export(
                standing.entries,
                keeper.cosigned(note, lines).encode(),
                self.anchor,
                log.find,
                log.has,
                edition,
            )

    def _place(self, name: MemberId) -> Path:
        return self.directory / "parties" / name

    @contextmanager
    def _log(self, name: MemberId) -> Iterator[StoredLog]:
        if not (self._place(name) / "store.db").exists():
            # Founded, but cut off before this party was started.
            yield StoredLog((), "", _nothing, lambda _: False)
            return
        with stored_log(self._place(name)) as log:
            yield log


def fold_log(name: MemberId, anchor: Digest, log: StoredLog) -> Standing:
    """Return the log of the party `name`, folded again from its stored bytes."""
    state = Consortium(anchor)
    documents: dict[Digest, bytes] = {}

    def find(digest: Digest) -> bytes:
        documents[digest] = log.find(digest)
        return documents[digest]

    for entry in log.entries:
        state, _ = state.apply(entry, find)
    for record in state.proposals.values():
        subject = record.proposal.subject
        if log.has(subject):
            documents[subject] = log.find(subject)
    since = waiting_since(log.since, state)
    return Standing(name, state, log.entries, documents, since)


def _nothing(digest: Digest) -> bytes:
    raise ResourceError(f"blob {digest[:16]} is not stored here")
