"""The record of an assessment that a site keeps, and the rule that asks for one.

A site's policy may ask that a model family was assessed before its first contribution. The
record binds the outcome to the family, the data contract, the code and the protection, and is
signed by the site's own runner key, so that one made elsewhere, or for other code, does not pass.

Guarantees (docs/spec/privacy.md, section 10.7):
  * `require_assessment` lets a study pass only with a record that passed, was thorough, and is of
    this site, family, contract, code and protection; a record on noised sums covers plans that
    promise no more epsilon than it tested, at a delta no larger.
  * The cause of a refusal is for the site's own journal; the shared log sees a decline.

Local: a record is never sent. LIMIT: whoever holds the site's runner key can write one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from treaty.assessment.findings import Protection
from treaty.crypto import canonical
from treaty.crypto.canonical import Count, DigestField, MemberName, Name, Record
from treaty.crypto.derivation import enc
from treaty.crypto.keys import PublicKey, SigningKey
from treaty.errors import FormatError, PolicyError, VerificationError

__all__ = [
    "AssessmentNeed",
    "AssessmentRecord",
    "open_record",
    "require_assessment",
    "seal_record",
]

_DOMAIN: Final = b"treaty.assessment-record/v1"

Signature = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{128}\Z")]


class AssessmentRecord(Record):
    """What an assessment came to. `findings` is the digest of the findings' canonical bytes.

    `epsilon_micro` null means that nothing was claimed: exact sums.
    """

    format: Literal["treaty.assessment-record/v1"] = "treaty.assessment-record/v1"
    site: MemberName
    family: Name
    protection: Protection
    epsilon_micro: Count | None
    delta_inverse: Annotated[int, msgspec.Meta(ge=2, le=(1 << 53) - 1)]
    contract: DigestField
    code: DigestField
    findings: DigestField
    thorough: bool
    passed: bool


class _Signed(Record):
    record: AssessmentRecord
    signature: Signature


@dataclass(frozen=True, slots=True)
class AssessmentNeed:
    """What a plan asks to be assessed; fields as in `AssessmentRecord`."""

    site: str
    family: str
    protection: Protection
    epsilon_micro: int | None
    delta_inverse: int
    contract: str
    code: str


def seal_record(record: AssessmentRecord, key: SigningKey) -> bytes:
    """Return the bytes to keep: the record, signed by the site's runner key."""
    signature = key.sign(_signed_bytes(record)).hex()
    return canonical.encode(_Signed(record=record, signature=signature))


def open_record(data: bytes, key: PublicKey) -> AssessmentRecord:
    """Return the record that `key` signed.

    Raises `FormatError` for other bytes, `VerificationError` (``bad-signature``) for another key.
    """
    signed = canonical.decode(data, _Signed)
    key.verify(bytes.fromhex(signed.signature), _signed_bytes(signed.record))
    return signed.record


def require_assessment(
    need: AssessmentNeed, records: Iterable[bytes], key: PublicKey
) -> AssessmentRecord:
    """Return the record that covers `need`, or raise `PolicyError`.

    Codes: ``not-assessed`` when no record of this site is for the family, contract, code and
    protection; ``assessment-failed`` when the ones that are did not pass or were quick only.
    Records that do not parse or verify count as absent.
    """
    found = []
    for data in records:
        try:
            record = open_record(data, key)
        except (FormatError, VerificationError):
            continue
        if _covers(record, need):
            found.append(record)
    for record in found:
        if record.passed and record.thorough:
            return record
    if found:
        raise PolicyError(
            f"the assessment of {need.family} on {need.protection} sums did not pass, or was "
            "quick only: decline, or change the plan and assess again",
            code="assessment-failed",
        )
    raise PolicyError(
        f"the policy asks for an assessment of {need.family} on {need.protection} sums under "
        "this contract and code, there is none: run `treaty assess`, and keep its record",
        code="not-assessed",
    )


def _covers(record: AssessmentRecord, need: AssessmentNeed) -> bool:
    same = (
        record.site == need.site
        and record.family == need.family
        and record.protection == need.protection
        and record.contract == need.contract
        and record.code == need.code
    )
    if not same or need.protection == "exact":
        return same
    # What was tested must be at least as weak as what is asked for: it is then covered.
    return (
        record.epsilon_micro is not None
        and need.epsilon_micro is not None
        and need.epsilon_micro <= record.epsilon_micro
        and need.delta_inverse >= record.delta_inverse
    )


def _signed_bytes(record: AssessmentRecord) -> bytes:
    return enc(_DOMAIN, canonical.encode(record))
