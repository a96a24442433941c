"""An attacker who holds every key: rewrites a genuine log and signs it anew.

A `Genuine` history is what a small federation really did. `Forge` takes its entries, says other
things in anybody's name, and makes a bundle whose tiles, root, checkpoint and cosignatures hold; so
whatever refuses it is the meaning of an entry, not its bytes. Sums, plans and charters may be
changed as well: their blobs come along under their digests.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from tests.small_federation import SITES, SmallFederation, contract, found, small_plan
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import ResourceError, TreatyError
from treaty.governance.charter import Charter, charter_bytes, parse_charter, witness_name
from treaty.governance.roles import Action, KeyKind
from treaty.ids import Digest, MemberId
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import (
    BallotCast,
    CharterPublished,
    MemberSuspended,
    ProposalOpened,
)
from treaty.protocol.statements import Body, peek, registered, seal_statement
from treaty.provenance.bundle import (
    BLOBS,
    CHECKPOINT,
    LOG,
    MANIFEST,
    Edition,
    Manifest,
    derived_files,
    export,
)
from treaty.provenance.record import Record as History
from treaty.simulation.federation import COORDINATOR
from treaty.tlog.checkpoint import Checkpoint, add_cosignatures, cosign, sign
from treaty.tlog.merkle import MerkleTree, leaf_hash
from treaty.tlog.notes import Cosigner, Signer
from treaty.tlog.tiles import resources
from treaty.wiring import COORDINATOR_ROLES, MEMBER_ROLES, load_key

Files = dict[str, bytes]
B = TypeVar("B", bound=Body)

_FOLDED: dict[bytes, Consortium] = {}
"""States by the hash of the entries before them: many forgeries share a long beginning."""


@dataclass(frozen=True)
class Keys:
    """Every key of a consortium, by party and purpose."""

    coordinator: SigningKey
    log: SigningKey
    members: Mapping[str, Mapping[str, SigningKey]]

    def of(self, body: Body) -> SigningKey:
        """Return the key that the author of `body` signs it with."""
        kind = registered(type(body)).signer
        if kind is KeyKind.COORDINATOR:
            return self.coordinator
        return self.members[body.author]["runner" if kind is KeyKind.RUNNER else "approval"]


@dataclass(frozen=True)
class Forge:
    """A log and all its documents in the hands of someone with every key."""

    anchor: Digest
    keys: Keys
    entries: tuple[bytes, ...]
    blobs: Mapping[Digest, bytes] = field(repr=False)
    time_s: int = 1_900_000_000

    # --- reading ------------------------------------------------------------------------------

    def find(self, digest: Digest) -> bytes:
        """Return a document or sum."""
        if digest not in self.blobs:
            raise ResourceError(f"blob {digest[:16]} is missing")
        return self.blobs[digest]

    def state(self, size: int | None = None) -> Consortium:
        """Return the folded log after `size` entries (all of them)."""
        return self._folded(size, lenient=False)

    def lenient(self) -> Consortium:
        """Return the state after the longest prefix that the fold accepts."""
        return self._folded(None, lenient=True)

    def _folded(self, size: int | None, *, lenient: bool) -> Consortium:
        state, known = Consortium(self.anchor), self.anchor.encode()
        for entry in self.entries[:size]:
            known = hashlib.sha256(known + entry).digest()
            if known not in _FOLDED:
                try:
                    _FOLDED[known] = state.apply(entry, self.find)[0]
                except TreatyError:
                    if lenient:
                        break
                    raise
            state = _FOLDED[known]
        return state

    def places(self, kind: type[Body]) -> list[int]:
        """Return the indexes of the statements of `kind`."""
        return [at for at, entry in enumerate(self.entries) if isinstance(peek(entry)[1], kind)]

    def said(self, at: int, kind: type[B]) -> B:
        """Return the statement at index `at`, which is of `kind`."""
        body = peek(self.entries[at])[1]
        assert isinstance(body, kind)
        return body

    @property
    def charter(self) -> Charter:
        """The charter in force at the end, suspensions written in."""
        state = self.lenient()
        if state.membership is None:
            return parse_charter(self.find(self.anchor))
        return state.members.history.effective()

    # --- forging ------------------------------------------------------------------------------

    def until(self, size: int) -> "Forge":
        """Return the log cut to its first `size` entries."""
        return replace(self, entries=self.entries[:size])

    def without_blob(self, digest: str) -> "Forge":
        """Return the log with one document less at hand."""
        kept = {known: data for known, data in self.blobs.items() if known != digest}
        return replace(self, blobs=kept)

    def with_blob(self, data: bytes) -> "Forge":
        """Return the log with one more document at hand."""
        return replace(self, blobs={**self.blobs, sha256(data): data})

    def and_entry(self, entry: bytes) -> "Forge":
        """Return the log with `entry` at its end."""
        return replace(self, entries=(*self.entries, entry))

    def saying(self, body: Body, *signers: SigningKey) -> "Forge":
        """Return the log with `body` at its end, signed by its author's key or by `signers`."""
        return self.and_entry(seal_statement(body, *(signers or (self.keys.of(body),))))

    def changed(self, at: int, **fields: object) -> "Forge":
        """Return the log whose entry `at` says something else, signed by its author."""
        body = peek(self.entries[at])[1]
        other = msgspec.structs.replace(body, **fields)  # type: ignore[type-var]  # a Record
        entry = seal_statement(other, self.keys.of(body))
        return replace(self, entries=(*self.entries[:at], entry, *self.entries[at + 1 :]))

    def exchanged(self, entries: Sequence[bytes]) -> "Forge":
        """Return the forge with other entries."""
        return replace(self, entries=tuple(entries))

    def amended(self, edit: Callable[[Charter], Charter], *more: SigningKey) -> "Forge":
        """Return the log with an amendment that every officer and `more` signed."""
        history = self.state().members.history
        following = msgspec.structs.replace(
            edit(history.current), version=history.current.version + 1, previous=history.digest
        )
        return self.publishing(following, *self.officers(), *more)

    def publishing(self, charter: Charter, *signers: SigningKey) -> "Forge":
        """Return the log with `charter` at its end, signed by `signers`."""
        data = charter_bytes(charter)
        body = CharterPublished(
            charter=sha256(data),
            author=charter.coordinator.name,
            version=charter.version,
            previous=charter.previous,
        )
        return self.with_blob(data).and_entry(seal_statement(body, *signers))

    def officers(self, *names: str) -> tuple[SigningKey, ...]:
        """Return the approval keys of `names`, or of everybody who is not suspended."""
        out = self.lenient().members.history.excluded()
        chosen = names or tuple(name for name in self.keys.members if name not in out)
        return tuple(self.keys.members[name]["approval"] for name in chosen)

    # --- bundles ------------------------------------------------------------------------------

    def note(self, witnesses: Sequence[str] | None = None) -> bytes:
        """Return the checkpoint of these entries, signed by the log and cosigned by `witnesses`."""
        charter = self.charter
        chosen = charter.active_members() if witnesses is None else witnesses
        tree = MerkleTree(leaf_hash(entry) for entry in self.entries)
        checkpoint = Checkpoint(charter.log.origin, tree.size, tree.root())
        signed = sign(checkpoint, Signer(charter.log.origin, self.keys.log))
        lines = [
            cosign(
                checkpoint,
                Cosigner(witness_name(name), self.keys.members[name]["witness"]),
                self.time_s,
            )
            for name in chosen
        ]
        return add_cosignatures(signed, lines)

    def exported(self, edition: Edition = "full", note: bytes | None = None) -> Files:
        """Return the bundle of a log that the fold accepts."""
        has = self.blobs.__contains__
        return export(self.entries, note or self.note(), self.anchor, self.find, has, edition)

    def bundle(self, edition: Edition = "full", note: bytes | None = None) -> Files:
        """Return a bundle in which everything but the meaning of the entries holds.

        The derived files are those of the longest prefix that the fold accepts, the blobs all that
        exist.
        """
        signed = note or self.note()
        tree = MerkleTree(leaf_hash(entry) for entry in self.entries)
        files = {
            LOG + path: data
            for path, data in resources(tree, lambda at: self.entries[at], tree.size).items()
        }
        files |= {BLOBS + digest: data for digest, data in self.blobs.items()}
        files[CHECKPOINT] = signed
        state = self.lenient()
        if state.membership is not None:
            record = History(state, (), frozenset(), frozenset(), 0, 0)
            files |= derived_files(record, tree, signed)
        manifest = Manifest(
            edition=edition, anchor=self.anchor, size=tree.size, checkpoint=sha256(signed)
        )
        return files | {MANIFEST: canonical.encode(manifest)}


@dataclass(frozen=True)
class Genuine:
    """A history that really happened: its forge, and the bundle as the coordinator exported it."""

    forge: Forge
    files: Files = field(repr=False)


def keys_of(directory: Path) -> Keys:
    """Return every key of the federation in `directory`."""
    parties = directory / "parties"
    own = {role: load_key(parties / COORDINATOR, role) for role in COORDINATOR_ROLES}
    return Keys(
        coordinator=own["coordinator"],
        log=own["log"],
        members={
            name: {role: load_key(parties / name, role) for role in MEMBER_ROLES}
            for name in SITES
            if (parties / name).is_dir()
        },
    )


def genuine_of(federation: SmallFederation) -> Genuine:
    """Return the history of `federation` so far."""
    files = federation.bundle()
    blobs = {
        Digest(path.removeprefix(BLOBS)): data
        for path, data in files.items()
        if path.startswith(BLOBS)
    }
    forge = Forge(
        federation.anchor, keys_of(federation.directory), federation.coordinator.entries, blobs
    )
    return Genuine(forge, files)


def released_history(directory: Path, *, post_quantum: bool = False) -> Genuine:
    """Run one study with a member lost in its second training round, and release the model."""
    federation = found(directory, post_quantum=post_quantum, in_memory=True, capture=False)
    lost = SITES[-1]
    severed: set[str] = set()

    def lose_one() -> None:
        study = federation.coordinator.state.running
        if study is None or study.progress.index < 3:
            return
        if study.progress.index == 3 and not severed:
            severed.add(lost)
            federation.network.sever(lost)
        if study.progress.index == 4:
            federation.network.heal(lost)

    study = federation.run_study(small_plan(federation), contract(), lose_one)
    assert [len(one.members_in) for one in study.rounds] == [4, 4, 4, 3, 4, 4]
    federation.release(study)
    return genuine_of(federation)


def suspended_history(genuine: Genuine, target: str = SITES[-1]) -> Genuine:
    """Return `genuine` after the members have suspended `target`, forged by all."""
    forge = genuine.forge
    charter = forge.state().members.directory.charter
    opened = ProposalOpened(
        charter=charter,
        author=SITES[0],
        action=Action.MEMBER_SUSPEND.value,
        subject=sha256(b"grounds"),
        target=target,
    )
    forge = forge.saying(opened)
    proposal = sha256(forge.entries[-1])
    for name in SITES[:2]:
        ballot = BallotCast(charter=charter, author=name, proposal=proposal, choice="approve")
        forge = forge.saying(ballot)
    forge = forge.saying(
        MemberSuspended(
            charter=charter,
            author=MemberId(COORDINATOR),
            proposal=proposal,
            target=target,
        )
    )
    return Genuine(forge, forge.exported())
