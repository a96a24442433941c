"""Founding: how the charter that all must sign gets its signatures before there is a log.

The coordinator's desk collects what members signed, one partial statement from each, and makes the
founding entry when every key that the charter lists has signed. A member's software signs only
the charter whose digest its officer was given on another way, with its own keys.

Invariants (docs/spec/transport.md, section 5):
  * A partial statement counts only if it is over exactly this charter and every signature in it is
    by a key that the charter lists for its sender.
  * What was collected is durable before it is acknowledged.
"""

from collections.abc import Mapping

from treaty.crypto import envelope
from treaty.crypto.keys import PublicKey, SigningKey
from treaty.errors import UsageError, VerificationError
from treaty.governance.charter import Charter, ListedKey, require_networked
from treaty.ids import Digest, MemberId
from treaty.ports import Batch, Engine, EventStore, Journal
from treaty.protocol.frames import Post, decode_post, encode_frame
from treaty.protocol.membership import charter_entry, charter_statement
from treaty.protocol.statements import seal_statement

__all__ = ["FoundingDesk", "founding_post", "sign_founding"]

COLLECTED_KEY = "founding"


def sign_founding(charter: Charter, owner: MemberId, *keys: SigningKey) -> bytes:
    """Return the founding statement of `charter` with the signatures of `owner`'s keys.

    Raises `UsageError` unless `keys` are exactly those that the charter lists for `owner`, and
    `PolicyError` (code ``simulation``) when the charter is a simulation's.
    """
    require_networked(charter)
    listed = {one.public.hex for one in _keys_of(charter, owner)}
    mine = {key.public.hex for key in keys}
    if listed != mine:
        raise UsageError(
            f"the charter lists {len(listed)} keys of {owner}, {len(listed & mine)} of them are "
            "here: ask the coordinator to take the request that was made with these keys"
        )
    return seal_statement(charter_statement(charter), *keys)


def founding_post(member: MemberId, statement: bytes) -> bytes:
    """Return the frame that brings a member's signatures to the desk."""
    return encode_frame(Post(member, 0, "", (statement,), {}))


class FoundingDesk:
    """Where signatures of the founding charter are collected; a node before there is a log."""

    def __init__(
        self,
        *,
        charter: Charter,
        keys: tuple[SigningKey, ...],
        store: EventStore,
        engine: Engine,
        journal: Journal,
    ) -> None:
        self.name = MemberId(charter.coordinator.name)
        self.engine = engine
        self.journal = journal
        self._charter = charter
        self._store = store
        own = sign_founding(charter, self.name, *keys)
        [self._key] = [key for key in keys if key.public.hex == charter.coordinator.runner]
        kept = store.get(COLLECTED_KEY)
        self._collected = own if kept is None else envelope.merge([own, kept])

    def handle(self, sender: MemberId, frame: bytes) -> None:
        """Take a member's signatures. Raises `PeerError` when they are not of this charter."""
        post = decode_post(frame)
        if post.member != sender:
            raise VerificationError(
                f"a post of {post.member} came from {sender}", code="wrong-author"
            )
        for statement in post.statements:
            self._take(sender, statement)

    def flush(self) -> bool:
        """Nothing waits here."""
        return False

    def on_quiet(self) -> bool:
        """The desk waits for members."""
        return False

    def missing(self) -> tuple[MemberId, ...]:
        """Return the parties of which a signature is missing, in order of name."""
        listed = self._charter.listed_keys()
        signed = _verify(_parsed(self._collected), listed)
        return tuple(sorted({one.owner for one in listed if one.public.keyid not in signed}))

    def statement(self) -> bytes:
        """Return the founding statement as far as it is signed."""
        return self._collected

    def entry(self) -> tuple[bytes, dict[Digest, bytes]]:
        """Return the log's first entry, and the blobs that it names, once all have signed."""
        return charter_entry(self._charter, self._collected, self._key)

    def _take(self, sender: MemberId, statement: bytes) -> None:
        parsed = envelope.parse(statement)
        if parsed.payload != _parsed(self._collected).payload:
            raise VerificationError(
                f"{sender} signed something else than the charter to be founded",
                code="wrong-anchor",
            )
        _verify(parsed, _keys_of(self._charter, sender))
        merged = envelope.merge([self._collected, statement])
        if merged != self._collected:
            self._store.commit(Batch(puts=((COLLECTED_KEY, merged),), label="founding-signature"))
            self._collected = merged


def _parsed(collected: bytes) -> envelope.Envelope:
    return envelope.parse(collected, limit=envelope.MAX_GATHERED_BYTES)


def _keys_of(charter: Charter, owner: MemberId) -> tuple[ListedKey, ...]:
    return tuple(one for one in charter.listed_keys() if one.owner == owner)


def _verify(parsed: envelope.Envelope, keys: tuple[ListedKey, ...]) -> frozenset[Digest]:
    """Return who signed; raise `VerificationError` when a signature is by none of `keys`."""
    known: Mapping[Digest, PublicKey] = {one.public.keyid: one.public for one in keys}
    return envelope.verified_keys(parsed, known)
