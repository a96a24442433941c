"""Statements of secure aggregation: an epoch's keys and shares, then one round per slot.

Every message is a log entry and carries one signature (docs/spec/secagg.md, section 4). Bulk
data (masked vectors, columns of sealed shares, the opened sum) are blobs that a statement names
by SHA-256. Members are listed in the order of the charter's active members; their indexes in
keys and shares are positions in that order, from 1.

What a message must be to its neighbours is checked by the machines, not here.
"""

from typing import Annotated, Literal

import msgspec

from treaty.crypto.canonical import Count, DigestField, MemberName, Record
from treaty.governance.exposure import Artefact
from treaty.privacy.surplus import MAX_TIERS
from treaty.protocol.secagg_codes import CloseCode, DeclineCode, RoundCode
from treaty.protocol.statements import Predicate, SignerKind, Subject, statement

__all__ = [
    "HYBRID_SUITE",
    "AuditCalled",
    "CloseCode",
    "DeclineCode",
    "EpochClosed",
    "EpochKeys",
    "EpochOpened",
    "EpochReady",
    "EpochRoster",
    "EpochSealed",
    "EpochShares",
    "Hex32",
    "InputDeclined",
    "KemKey",
    "LedgerMark",
    "MaskedInput",
    "Names",
    "Reveal",
    "RoundAbandoned",
    "RoundCode",
    "RoundOpened",
    "RoundResult",
    "ShareComplaint",
    "Suite",
    "SumDisputed",
    "SumsAudited",
    "Survivor",
    "SurvivorsConfirmed",
    "SurvivorsSealed",
]

Suite = Literal["cesa1-x25519", "cesa1-x25519-mlkem768"]
HYBRID_SUITE: Suite = "cesa1-x25519-mlkem768"

Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""32 bytes: a public key, a commitment, a share or a seed."""

Claim = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{4}){64,256}\Z")]
"""64 words of a ring, little-endian: of 16, 32 or 64 bits."""

KemKey = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{2368}\Z")]
"""An ML-KEM-768 encapsulation key: 1,184 bytes."""

MAX_LISTED = 1024
"""Members that a statement can list. The size of a log entry is reached before."""

Names = Annotated[tuple[MemberName, ...], msgspec.Meta(max_length=MAX_LISTED)]
RingBits = Annotated[int, msgspec.Meta(ge=16, le=64, multiple_of=16)]
"""Width of the ring's words; 48 passes here and is refused as ``wrong-shape``."""

_Slots = Annotated[int, msgspec.Meta(ge=1, le=64)]
_PerSlot = Annotated[tuple[Hex32, ...], msgspec.Meta(max_length=64)]
_Words = Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]

_Parts = Annotated[tuple[Hex32, ...], msgspec.Meta(min_length=1, max_length=MAX_TIERS)]
"""One value for each part of the noise that can be taken off."""

_ID = Artefact.IDENTIFIER
_KEY = Artefact.PROTOCOL_KEY
_SHARE = Artefact.SECRET_SHARE
_WHEN = Artefact.SCHEDULE


@statement(
    "epoch-opened/v1",
    signer=SignerKind.COORDINATOR,
    classes={
        "epoch": _ID,
        "plan": _ID,
        "slots": _WHEN,
        "suite": _ID,
        "max_colluders": Artefact.GOVERNANCE_DOCUMENT,
        "min_survivors": Artefact.GOVERNANCE_DOCUMENT,
    },
)
class EpochOpened(Predicate):
    """The coordinator asks for keys for `slots` rounds. The parameters repeat the charter's."""

    epoch: Count
    plan: DigestField
    slots: _Slots
    suite: Suite
    max_colluders: Count
    min_survivors: Count

    def subjects(self) -> tuple[Subject, ...]:
        """Return the plan."""
        return (Subject.of("plan", self.plan),)


@statement(
    "epoch-keys/v1",
    signer=SignerKind.RUNNER,
    classes={
        "epoch": _ID,
        "opened": _ID,
        "transport": _KEY,
        "kem": _KEY,
        "round_keys": _KEY,
        "commitments": Artefact.COMMITMENT,
        "graph": Artefact.COMMITMENT,
    },
)
class EpochKeys(Predicate, omit_defaults=True):
    """A member's public keys of an epoch: one for shares, one for each slot.

    `commitments` bind the self-mask seeds. `kem` is null in the classical suite. In a large group
    `graph` binds the nonce that chooses the holders of this member's shares.
    """

    epoch: Count
    opened: DigestField
    transport: Hex32
    kem: KemKey | None
    round_keys: _PerSlot
    commitments: _PerSlot
    graph: Hex32 | None = None

    def subjects(self) -> tuple[Subject, ...]:
        """Return the opening statement."""
        return (Subject.of("epoch", self.opened),)


@statement(
    "epoch-roster/v1",
    signer=SignerKind.COORDINATOR,
    classes={"epoch": _ID, "opened": _ID, "keys": _ID},
)
class EpochRoster(Predicate):
    """The members of the epoch: the digests of their key statements, in the charter's order."""

    epoch: Count
    opened: DigestField
    keys: Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=MAX_LISTED)]

    def subjects(self) -> tuple[Subject, ...]:
        """Return the opening statement."""
        return (Subject.of("epoch", self.opened),)


class _InEpoch(Predicate):
    """A statement within an epoch whose roster is fixed."""

    epoch_hash: DigestField

    def subjects(self) -> tuple[Subject, ...]:
        """Return the epoch."""
        return (Subject.of("epoch", self.epoch_hash),)


@statement(
    "epoch-shares/v1",
    signer=SignerKind.RUNNER,
    classes={"epoch_hash": _ID, "columns": _ID, "nonce": _KEY},
)
class EpochShares(_InEpoch, omit_defaults=True):
    """A member dealt its slot secrets: for each holder, the digest of its sealed column.

    The holders are all others; in a large group those that `nonce` chooses.
    """

    columns: dict[MemberName, DigestField]
    nonce: Hex32 | None = None


@statement(
    "epoch-sealed/v1",
    signer=SignerKind.COORDINATOR,
    classes={"epoch_hash": _ID, "dealers": _ID},
)
class EpochSealed(_InEpoch):
    """Dealing is over; only `dealers` may take part. Each of them gets its columns as blobs."""

    dealers: Names


@statement(
    "epoch-ready/v1",
    signer=SignerKind.RUNNER,
    classes={"epoch_hash": _ID, "pair_commitments": Artefact.COMMITMENT, "wraps": _ID},
)
class EpochReady(_InEpoch):
    """A member opened its columns and erased what only dealing needed.

    In the hybrid suite `wraps` names the blob that holds, for each slot, the pairwise
    post-quantum keys sealed under the member's own round seed, and `pair_commitments` bind them;
    in the classical suite they are null and empty.
    """

    pair_commitments: _PerSlot
    wraps: DigestField | None


@statement(
    "share-complaint/v1",
    signer=SignerKind.RUNNER,
    classes={"epoch_hash": _ID, "dealer": _ID, "slot": _ID, "key": _KEY},
)
class ShareComplaint(_InEpoch):
    """`dealer`'s share for `slot` does not open under `key`, the key of that one share."""

    dealer: MemberName
    slot: Count
    key: Hex32


@statement(
    "epoch-closed/v1",
    signer=SignerKind.COORDINATOR,
    classes={"epoch": _ID, "code": Artefact.REFUSAL_CODE},
)
class EpochClosed(Predicate):
    """The epoch is over: members erase what is left of it."""

    epoch: Count
    code: CloseCode


@statement(
    "round-opened/v1",
    signer=SignerKind.COORDINATOR,
    classes={
        "epoch_hash": _ID,
        "slot": _ID,
        "round": _ID,
        "attempt": _ID,
        "participants": _ID,
        "plan": _ID,
        "query": _ID,
        "code": _ID,
        "model": _ID,
        "length": _ID,
        "ring_bits": _ID,
        "previous": _ID,
    },
)
class RoundOpened(_InEpoch):
    """A secure sum begins: which query, at which model, by whom, in which slot.

    `round` is the query's number in the study, `attempt` counts repetitions of it, `previous` is
    the digest of the last `RoundResult` statement of the study, or zeros. Every field is bound into
    every mask key.
    """

    slot: Count
    round: Count
    attempt: Count
    participants: Names
    plan: DigestField
    query: DigestField
    code: DigestField
    model: DigestField
    length: _Words
    ring_bits: RingBits
    previous: DigestField


class _InRound(Predicate):
    """A statement within a round; `context` is the digest of all that the round was opened with."""

    context: DigestField

    def subjects(self) -> tuple[Subject, ...]:
        """Return the round."""
        return (Subject.of("round", self.context),)


class LedgerMark(Record):
    """A privacy ledger and its head: digests of its first and of its last entry.

    The first entry holds a secret salt of 32 bytes, so neither can be guessed.
    """

    ledger: DigestField
    head: DigestField


@statement(
    "masked-input/v1",
    signer=SignerKind.RUNNER,
    classes={
        "context": _ID,
        "length": _ID,
        "root": Artefact.MASKED_INPUT,
        "blob": Artefact.MASKED_INPUT,
        "noise": Artefact.COMMITMENT,
        "surplus": Artefact.COMMITMENT,
        "ledger": Artefact.COMMITMENT,
        "ledger_count": Artefact.LOG_POSITION,
    },
)
class MaskedInput(_InRound):
    """A member's masked vector: its chunk root, and the SHA-256 of its bytes.

    `noise` is the commitment to the key of the noise that the member added, null where the
    query is for an exact sum. `surplus` are those of the parts of it that its answer may take off
    again, left out where nothing can be.
    `ledger` and `ledger_count` are the head of the privacy ledger of the data set behind it, with
    what this input costs in it; null where the member has registered none.
    """

    length: _Words
    root: DigestField
    blob: DigestField
    noise: DigestField | None = None
    surplus: _Parts | msgspec.UnsetType = msgspec.UNSET
    ledger: LedgerMark | None = None
    ledger_count: Count | None = None

    def subjects(self) -> tuple[Subject, ...]:
        """Return the round and the masked vector."""
        return (Subject.of("round", self.context), Subject.of("masked-input", self.blob))


@statement(
    "input-declined/v1",
    signer=SignerKind.RUNNER,
    classes={"context": _ID, "code": Artefact.REFUSAL_CODE},
)
class InputDeclined(_InRound):
    """A member takes no part in this round. The cause stays in its own journal."""

    code: DeclineCode


class Survivor(Record):
    """A member whose input is in the sum: digest of its header statement and its chunk root."""

    member: MemberName
    header: DigestField
    root: DigestField


@statement(
    "survivors-sealed/v1",
    signer=SignerKind.COORDINATOR,
    classes={"context": _ID, "survivors": _ID},
)
class SurvivorsSealed(_InRound):
    """The inputs of the sum are these; the members are asked for what opens it."""

    survivors: Annotated[tuple[Survivor, ...], msgspec.Meta(max_length=MAX_LISTED)]


@statement(
    "survivors-confirmed/v1",
    signer=SignerKind.RUNNER,
    classes={"context": _ID, "survivors": _ID},
)
class SurvivorsConfirmed(_InRound):
    """A member binds itself to one set of survivors before anything is revealed."""

    survivors: DigestField


@statement(
    "reveal/v1",
    signer=SignerKind.RUNNER,
    classes={
        "context": _ID,
        "survivors": _ID,
        "self_shares": _SHARE,
        "round_shares": _SHARE,
        "surplus": Artefact.SURPLUS_NOISE_KEY,
        "claim": Artefact.SKETCH_CLAIM,
    },
)
class Reveal(_InRound, omit_defaults=True):
    """A member's one answer: for each survivor a share of its self-mask seed, for each
    participant that dropped out a share of its round seed, never both for one member.

    `surplus` are the keys of the parts of its noise that a sum over these survivors does not need,
    left out where there are none or all noise stays in; `claim` is that of a sketched round
    (`secagg_claims`, EXPERIMENTAL).
    """

    survivors: DigestField
    self_shares: dict[MemberName, Hex32]
    round_shares: dict[MemberName, Hex32]
    surplus: _Parts | msgspec.UnsetType = msgspec.UNSET
    claim: Claim | None = None


@statement(
    "round-result/v1",
    signer=SignerKind.COORDINATOR,
    classes=dict.fromkeys(("context", "survivors", "sum"), _ID)
    | dict.fromkeys(("self_seeds", "round_seeds", "pair_seeds", "pairs"), _SHARE),
)
class RoundResult(_InRound, omit_defaults=True):
    """The sum is open: the SHA-256 of its little-endian bytes, and the seeds that open it.

    Whoever has the masked vectors recomputes the sum from them. `pair_seeds` are the
    post-quantum keys of dropped members, in the order of the epoch's dealers without the
    member itself; empty in the classical suite, and where `pairs` names the blob that holds
    them (`treaty.protocol.secagg_pairs`). Which artefact the sum is, the query says.
    """

    survivors: DigestField
    sum: DigestField
    self_seeds: dict[MemberName, Hex32]
    round_seeds: dict[MemberName, Hex32]
    pair_seeds: dict[MemberName, tuple[Hex32, ...]]
    pairs: DigestField | None = None

    def subjects(self) -> tuple[Subject, ...]:
        """Return the round and the sum."""
        return (Subject.of("round", self.context), Subject.of("sum", self.sum))


@statement(
    "audit-called/v1",
    signer=SignerKind.COORDINATOR,
    classes={"results": _ID, "chunks": _ID},
)
class AuditCalled(Predicate):
    """The members are asked to add up the study's unaudited sums again.

    `results` are the digests of their result statements, `chunks` that of the list of their
    inputs' chunk hashes, a blob.
    """

    results: Annotated[tuple[DigestField, ...], msgspec.Meta(min_length=1, max_length=64)]
    chunks: DigestField

    def subjects(self) -> tuple[Subject, ...]:
        """Return the list of chunk hashes."""
        return (Subject.of("masked-chunks", self.chunks),)


@statement("sums-audited/v1", signer=SignerKind.RUNNER, classes={"call": _ID})
class SumsAudited(Predicate):
    """A member added up again all chunks that were its to audit; each is as published.

    `call` is the digest of the `AuditCalled` statement.
    """

    call: DigestField

    def subjects(self) -> tuple[Subject, ...]:
        """Return the call."""
        return (Subject.of("audit", self.call),)


@statement("sum-disputed/v1", signer=SignerKind.RUNNER, classes={"result": _ID, "proof": _ID})
class SumDisputed(Predicate):
    """A member proves that a published sum is false. `proof` is a blob that anyone can check."""

    result: DigestField
    proof: DigestField

    def subjects(self) -> tuple[Subject, ...]:
        """Return the proof."""
        return (Subject.of("fraud-proof", self.proof),)


@statement(
    "round-abandoned/v1",
    signer=SignerKind.COORDINATOR,
    classes={"context": _ID, "code": Artefact.REFUSAL_CODE},
)
class RoundAbandoned(_InRound):
    """The round ends without a sum; its slot is spent."""

    code: RoundCode
