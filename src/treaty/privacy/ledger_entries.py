"""The entries of a site's privacy ledger: closed canonical records, nothing else.

Guarantees (docs/spec/privacy.md, 7.2): integers, digests and closed codes only; what stands
here is what is hashed, chained and kept. The rules are in `ledger`.
"""

from typing import Annotated

import msgspec

from treaty.crypto.canonical import Count, DigestField, Name, Record
from treaty.ids import Digest
from treaty.privacy.events import GaussianEvent, SampledGaussianEvent

__all__ = [
    "DEFAULT_ENVELOPES",
    "FORMAT",
    "GENESIS",
    "HOLDOUT",
    "LOST",
    "MAX_DELTA_INVERSE",
    "PARTITIONS",
    "RESERVE",
    "TRAINING",
    "Action",
    "AssumedSpend",
    "Capped",
    "Charged",
    "Closed",
    "Disclosed",
    "Entry",
    "Envelope",
    "Fingerprinted",
    "LedgerHead",
    "Named",
    "Opened",
    "PrivateEvent",
    "Rebased",
    "Reserved",
    "Sent",
]

FORMAT = "treaty-privacy-ledger-v1"
GENESIS = Digest("0" * 64)
"""What the first entry names as its predecessor."""

TRAINING = "training"
HOLDOUT = "holdout"
PARTITIONS = (TRAINING, HOLDOUT)
"""The person-disjoint partitions of a data set."""

RESERVE = "reserve"
"""The envelope that holds what others cannot."""

LOST = "lost-ledger"
"""The release that stands for whatever a lost ledger held about a partition without a cap."""

PrivateEvent = GaussianEvent | SampledGaussianEvent
PerMille = Annotated[int, msgspec.Meta(ge=1, le=1000)]
MAX_DELTA_INVERSE = 10**12
"""The smallest delta that is counted with is one over this."""

InverseDelta = Annotated[int, msgspec.Meta(ge=2, le=MAX_DELTA_INVERSE)]
EpsilonCap = Annotated[int, msgspec.Meta(ge=1, le=10**9)]


class LedgerHead(Record, frozen=True):
    """Where a ledger stands, as its site publishes it: nothing in it can be guessed.

    `ledger` is the digest of the genesis entry, whose salt is secret, so it names a ledger without
    naming its data set; `count` the number of entries; `head` the digest of the last one.
    """

    ledger: DigestField
    count: Annotated[int, msgspec.Meta(ge=1, le=(1 << 53) - 1)]
    head: DigestField


class Envelope(Record, frozen=True):
    """A share of a cap, in thousandths of its mu squared (shares add where epsilons do not)."""

    name: Name
    per_mille: PerMille


DEFAULT_ENVELOPES = (
    Envelope(name="training", per_mille=800),
    Envelope(name="statistics", per_mille=50),
    Envelope(name=RESERVE, per_mille=150),
)
"""Default split of the training partition; the holdout has its own cap."""


class Opened(Record, frozen=True, tag="opened", tag_field="kind"):
    """Genesis. `salt` is 32 random bytes; `partition_key` commits to the key that assigns
    persons to partitions, made once per identity and never changed. `statement` is the digest
    of the officer's signed statement that no other identity holds these persons. `recovers`
    says that an earlier ledger of this identity was lost: nothing may be charged before a
    `Rebased`. `holdout_permille` is the share of persons in the holdout partition: it is fixed
    with the key, because another share would move persons from one partition to the other.
    """

    identity: Name
    salt: DigestField
    partition_key: DigestField
    statement: DigestField
    unit: Name
    holdout_permille: Annotated[int, msgspec.Meta(ge=0, le=999)]
    recovers: bool


class Fingerprinted(Record, frozen=True, tag="fingerprinted", tag_field="kind"):
    """New content of the same data set (a keyed digest): it inherits all spend."""

    fingerprint: DigestField


class Named(Record, frozen=True, tag="named", tag_field="kind"):
    """How persons are known: `naming` is a keyed digest, and stays for ever. Where a person is
    known by its place in the file, the first `size_bytes` of it, of the keyed digest `start`, stay
    as they are; 0 and the digest of nothing where persons have identifiers.
    """

    naming: DigestField
    size_bytes: Count
    start: DigestField


class Capped(Record, frozen=True, tag="capped", tag_field="kind"):
    """A charter version sets the cap of one person-disjoint partition."""

    charter: DigestField
    partition: Name
    epsilon_micro: EpsilonCap
    delta_inverse: InverseDelta
    envelopes: tuple[Envelope, ...]


class Reserved(Record, frozen=True, tag="reserved", tag_field="kind"):
    """The most that a plan may ever charge to one envelope of one partition."""

    plan: DigestField
    partition: Name
    envelope: Name
    events: tuple[PrivateEvent, ...]


class Charged(Record, frozen=True, tag="charged", tag_field="kind"):
    """One noised vector, `payload` its digest before masking, for one slot of a plan.

    It is paid from the plan's reservation in `envelope` of `partition`.
    """

    plan: DigestField
    partition: Name
    envelope: Name
    query: DigestField
    model: DigestField
    cohort: DigestField
    payload: DigestField
    event: PrivateEvent


class Sent(Record, frozen=True, tag="sent", tag_field="kind"):
    """The paid vector left the site."""

    plan: DigestField
    payload: DigestField


class Closed(Record, frozen=True, tag="closed", tag_field="kind"):
    """The plan is over: what it reserved anywhere and did not charge becomes free."""

    plan: DigestField


class Disclosed(Record, frozen=True, tag="disclosed", tag_field="kind"):
    """A plan's release without noise over a partition, by name: its epsilon is infinite."""

    plan: DigestField
    partition: Name
    name: Name


class AssumedSpend(Record, frozen=True):
    """What a re-base counts as spent in one envelope."""

    partition: Name
    envelope: Name
    event: GaussianEvent


class Rebased(Record, frozen=True, tag="rebased", tag_field="kind"):
    """An officer's signed `statement` accepts the loss of entries up to a published head."""

    statement: DigestField
    lost_count: Count
    lost_head: DigestField
    assumed: tuple[AssumedSpend, ...]


Action = (
    Opened
    | Fingerprinted
    | Named
    | Capped
    | Reserved
    | Charged
    | Sent
    | Closed
    | Disclosed
    | Rebased
)


class Entry(Record, frozen=True):
    """One line of the ledger: its number from 0, the digest of the line before, the action."""

    format: Name
    sequence: Count
    previous: DigestField
    action: Action
