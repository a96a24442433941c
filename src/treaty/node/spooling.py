"""Spool: a large masked input goes to the store when it arrives, not when it is sequenced.

So the coordinator holds one input at a time, however many members send theirs before it appends
(docs/spec/storage.md, 1.10). Guarantees:
  * What is stored has been compared with its header; an entry that names it is appended later, so
    an entry never names what is not durable.
  * What was stored for statements that did not enter the log is removed again, unless another
    entry names it or it was there before.

A process that dies in between leaves a blob that nothing names.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from treaty.ids import Digest
from treaty.node.intake import named_blobs
from treaty.ports import BlobStore
from treaty.protocol.secagg_messages import MaskedInput
from treaty.protocol.statements import Body

__all__ = ["SPOOL_BYTES", "Spool"]

SPOOL_BYTES: Final = 1 << 18
"""Inputs of more bytes are spooled; smaller ones are stored with their entry, in one commit."""


class Spool:
    """The large inputs that wait in `blobs` for their entries."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._stored: set[Digest] = set()

    @staticmethod
    def takes(body: Body, blobs: Mapping[Digest, bytes]) -> bool:
        """Say whether `body` is an input whose vector, in `blobs`, is large."""
        return (
            isinstance(body, MaskedInput) and len(blobs.get(Digest(body.blob), b"")) > SPOOL_BYTES
        )

    def store(self, body: Body, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, bytes]:
        """Store the vector of an input that was checked; return the other blobs."""
        if not isinstance(body, MaskedInput):
            return blobs
        digest = Digest(body.blob)
        if not self._blobs.has(digest):
            self._blobs.put(blobs[digest])
            self._stored.add(digest)
        return {one: data for one, data in blobs.items() if one != digest}

    def release(self) -> frozenset[Digest]:
        """Return what was stored since the last call; the caller then settles it."""
        stored, self._stored = frozenset(self._stored), set()
        return stored

    def settle(self, stored: frozenset[Digest], entered: Iterable[Body]) -> None:
        """Remove of `stored` what no statement in `entered` names.

        To be called when those entries are durable. Where a commit failed nothing is removed: it
        may have been stored all the same, and a lost input is worse than a surplus one.
        """
        named = {one for body in entered for one in named_blobs(body)}
        for digest in sorted(stored - named):
            self._blobs.delete(digest)
