"""Log keeper: a party's own view of the tree, and what it may sign about it.

A frozen value over the tree of the entries that the party holds. Appending to one's own tree and
comparing roots is the consistency check: no proof is needed by whoever has every entry.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from treaty.crypto.keys import SigningKey
from treaty.errors import VerificationError
from treaty.governance.charter import witness_name
from treaty.ids import MemberId
from treaty.protocol.membership import Membership
from treaty.tlog.checkpoint import Checkpoint, add_cosignatures, cosign, open_checkpoint, sign
from treaty.tlog.merkle import CompactRange, leaf_hash
from treaty.tlog.notes import (
    Cosigner,
    SignatureLine,
    Signer,
    open_note,
    parse_signature_line,
)

__all__ = ["LogKeeper"]


@dataclass(frozen=True, slots=True)
class LogKeeper:
    """The tree of a party's entries."""

    _tree: CompactRange = field(default_factory=CompactRange, repr=False)

    @property
    def size(self) -> int:
        """Return the number of entries."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """Return the root of the tree (32 bytes)."""
        return self._tree.root()

    def extended(self, entries: Iterable[bytes]) -> "LogKeeper":
        """Return the keeper after `entries`; this one is unchanged."""
        tree = self._tree.copy()
        for entry in entries:
            tree.append(leaf_hash(entry))
        return LogKeeper(tree)

    def note(self, members: Membership, key: SigningKey) -> str:
        """Return the checkpoint note of this tree, signed with the log key."""
        return sign(self._checkpoint(members), Signer(members.log.name, key)).decode()

    def check_note(self, note: str, members: Membership) -> None:
        """Raise `VerificationError` unless `note` is the log's checkpoint of exactly this tree.

        Code ``split-view`` when the log signed another tree of this size or another size.
        """
        data = note.encode()
        if open_note(data, (members.log,)).text == self._checkpoint(members).body():
            # Origin, size and root are this tree's, spelt as they only can be, and the log signed.
            return
        signed = open_checkpoint(data, members.log)
        if signed.checkpoint != self._checkpoint(members):
            raise VerificationError(
                f"the log signed size {signed.checkpoint.size}, root "
                f"{signed.checkpoint.root.hex()[:16]}; this member's own tree has size "
                f"{self.size}, root {self.root.hex()[:16]}",
                code="split-view",
            )

    def cosign(self, note: str, key: SigningKey, member: MemberId, now_ms: int) -> str:
        """Return this member's cosignature line under `note`, which `check_note` accepted."""
        # The note's body is this tree's checkpoint, so it is taken from the tree, not the text.
        origin = note.partition("\n")[0]
        checkpoint = Checkpoint(origin, self.size, self.root)
        return str(cosign(checkpoint, Cosigner(witness_name(member), key), now_ms // 1000))

    def check_cosignature(
        self, line: str, members: Membership, member: MemberId
    ) -> tuple[str, str]:
        """Return the cosigner's name and its line, verified under the newest checkpoint."""
        parsed = parse_signature_line(line.removesuffix("\n").encode(), strict=True)
        verifier = members.witnesses.get(member)
        if verifier is None:
            raise VerificationError(f"{member} is no witness now", code="unknown-key")
        if (parsed.name, parsed.key_id) != (verifier.name, verifier.key_id):
            raise VerificationError(
                f"the cosignature of {member} names another key", code="unknown-key"
            )
        verifier.verify(self._checkpoint(members).body(), parsed.signature)
        return parsed.name, line

    def cosigned(self, note: str, lines: Iterable[str]) -> str:
        """Return `note` with the cosignature `lines`, in canonical order."""
        return add_cosignatures(note.encode(), [_line(line) for line in lines]).decode()

    def _checkpoint(self, members: Membership) -> Checkpoint:
        return Checkpoint(members.log.name, self.size, self.root)


def _line(text: str) -> SignatureLine:
    return parse_signature_line(text.removesuffix("\n").encode())
