"""Data set: a site's registered data set, its keys, and what a charter lets it spend.

Guarantees (docs/spec/privacy.md, 7.1, 7.3 and 7.8):
  * A person's partition is a function of the person and the partition key alone.
  * Content is compared by keyed digests: who has the ledger cannot test a guess.
  * Caps round towards less: delta is never above the charter's.
"""

import hmac
import math
from dataclasses import dataclass, field
from fractions import Fraction

from treaty.contracts.person_ids import person_form
from treaty.crypto.canonical import sha256
from treaty.crypto.derivation import labelled_hash
from treaty.errors import PolicyError, UsageError
from treaty.governance.charter import Charter
from treaty.governance.terms import PrivacyMode
from treaty.ids import Digest
from treaty.ports import Ledger
from treaty.privacy.ledger import open_ledger
from treaty.privacy.ledger_entries import (
    DEFAULT_ENVELOPES,
    HOLDOUT,
    MAX_DELTA_INVERSE,
    TRAINING,
    Capped,
    Envelope,
    LedgerHead,
    Named,
    Opened,
)

__all__ = [
    "HOLDOUT_EPSILON_MICRO",
    "UNIT",
    "RegisteredDataset",
    "caps_of",
    "content_digest",
    "fingerprint_of",
    "new_ledger",
]

UNIT = "person-in-institution"

HOLDOUT_EPSILON_MICRO = 1_000_000
"""Default cap of the holdout, which is spent on evaluations alone; never above the charter's."""

_EVALUATION = (Envelope(name="evaluation", per_mille=1000),)
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class RegisteredDataset:
    """A data set as its site registered it, with the keys that never leave the site.

    `statement` is the digest of the officer's signed statement. `partition_key` divides persons
    into partitions: made once, never rotated. `fingerprint_key` is the site's: under it the content
    of all its data sets is compared.
    """

    identity: str
    statement: Digest
    holdout_permille: int
    partition_key: bytes = field(repr=False)
    fingerprint_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse keys of another length."""
        if len(self.partition_key) != _KEY_BYTES or len(self.fingerprint_key) != _KEY_BYTES:
            raise UsageError(f"expected keys of {_KEY_BYTES} bytes for a registered data set")

    def partition_of(self, person: str) -> str:
        """Return the partition of a person: the same in every study, for ever.

        Guarantee: a function of the person and the partition key alone, so partitions are
        person-disjoint over all studies and what one spends the other does not. Spellings that
        `person_form` holds alike are one person, also where a later file is written otherwise.
        """
        named = b"treaty.partition/v1\0" + person_form(person).encode()
        drawn = hmac.digest(self.partition_key, named, "sha256")
        share = int.from_bytes(drawn[:8], "big") * 1000 >> 64
        return HOLDOUT if share < self.holdout_permille else TRAINING

    def fingerprint(self, content: bytes) -> Digest:
        """Return the keyed digest of content: nobody without the key can test a guess."""
        return fingerprint_of(self.fingerprint_key, content)

    def named(self, naming: str, start: bytes) -> Named:
        """Return the entry that says how persons are known: by `naming`, and by their place in a
        file that begins with `start` where that is not empty."""
        return Named(
            naming=self.fingerprint(b"naming\0" + naming.encode()),
            size_bytes=len(start),
            start=self.fingerprint(b"start\0" + bytes.fromhex(sha256(start))),
        )

    def opening(self, salt: bytes, *, recovers: bool = False) -> Opened:
        """Return the genesis entry of this data set's ledger; `salt` is 32 fresh bytes."""
        if len(salt) != _KEY_BYTES:
            raise UsageError(f"expected a salt of {_KEY_BYTES} bytes, got {len(salt)}")
        return Opened(
            identity=self.identity,
            salt=salt.hex(),
            partition_key=labelled_hash("partition-key", self.partition_key).hex(),
            statement=self.statement,
            unit=UNIT,
            holdout_permille=self.holdout_permille,
            recovers=recovers,
        )


def content_digest(data: bytes) -> bytes:
    """Return the digest of a file's lines in whatever order, encoding mark and line ends, 32 bytes.

    So a copy that was sorted, or saved by another program, is known to be the same content.
    """
    lines = (line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines())
    return bytes.fromhex(sha256(b"\n".join(sorted(filter(None, lines)))))


def fingerprint_of(site_key: bytes, content: bytes) -> Digest:
    """Return the digest of content under the site's key."""
    return Digest(hmac.digest(site_key, b"treaty.fingerprint/v1\0" + content, "sha256").hex())


def new_ledger(
    ledger: Ledger, dataset: RegisteredDataset, salt: bytes, *, recovers: bool = False
) -> LedgerHead:
    """Open the ledger of `dataset` and return its head; `ResourceError` where there is one.

    With `recovers`, nothing is charged before a re-base.
    """
    step = open_ledger(dataset.opening(salt, recovers=recovers))
    ledger.append(0, (step.entry,), "ledger-open")
    return step.state.published


def caps_of(charter: Charter, digest: Digest) -> tuple[Capped, ...]:
    """Return the caps that a charter sets: training in envelopes, holdout by itself.

    A charter whose sums are exact sets none. The holdout's cap is `HOLDOUT_EPSILON_MICRO` or the
    charter's budget, whichever is less.
    """
    policy = charter.privacy
    if policy.mode is not PrivacyMode.DIFFERENTIAL:
        return ()
    budget = policy.epsilon_budget_milli * 1000
    delta_inverse = _delta_inverse(policy.delta)
    return (
        Capped(
            charter=digest,
            partition=TRAINING,
            epsilon_micro=budget,
            delta_inverse=delta_inverse,
            envelopes=DEFAULT_ENVELOPES,
        ),
        Capped(
            charter=digest,
            partition=HOLDOUT,
            epsilon_micro=min(budget, HOLDOUT_EPSILON_MICRO),
            delta_inverse=delta_inverse,
            envelopes=_EVALUATION,
        ),
    )


def _delta_inverse(text: str) -> int:
    """Return 1 / delta rounded up, so that the delta counted with is never above the charter's."""
    delta = Fraction(text)
    if not 0 < delta < 1:
        raise PolicyError(f"the charter's delta is {text}, expected 0 < delta < 1", code="no-cap")
    inverse = math.ceil(1 / delta)
    if inverse > MAX_DELTA_INVERSE:
        raise PolicyError(
            f"the charter's delta is {text}, a ledger counts with 1e-12 at the least: amend it",
            code="no-cap",
        )
    return inverse
