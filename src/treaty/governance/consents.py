"""Consents: an officer's signed yes or no to one plan and its code, kept at the site.

A record names site, plan and code digest; of several records on one plan the highest number
stands, and a withdrawal beats an approval of the same number. Guarantees (docs/spec/sandbox.md,
section 4):
  * A record counts only under an approval key of the site that the charter lists now: those of a
    rotated key must be signed again.
  * `standing` reads whatever bytes lie there. What does not parse, and a record on the plan that
    does not verify, stops the study; it never counts as an approval.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Literal

from treaty.crypto import canonical, envelope
from treaty.crypto.canonical import Count, DigestField, MemberName, Record
from treaty.crypto.keys import PublicKey, SigningKey
from treaty.errors import PeerError, PolicyError
from treaty.ids import Digest

__all__ = ["Consent", "Standing", "sign_consent", "standing"]

CONSENT_FORMAT = "treaty.consent/v1"


class Standing(Enum):
    """What an officer has said about a plan."""

    NOTHING = "nothing"
    APPROVED = "approved"
    WITHDRAWN = "withdrawn"


class Consent(Record, frozen=True, kw_only=True):
    """One decision. `number` rises with each decision on a plan."""

    format: Literal["treaty.consent/v1"] = "treaty.consent/v1"
    site: MemberName
    plan: DigestField
    code: DigestField
    decision: Literal["approve", "withdraw"]
    number: Count


def sign_consent(consent: Consent, key: SigningKey) -> bytes:
    """Return the envelope of `consent` under the officer's approval key."""
    return envelope.seal(canonical.encode(consent), [key])


def standing(
    records: Iterable[bytes],
    keys: Mapping[Digest, PublicKey],
    *,
    site: str,
    plan: Digest,
    code: Digest | None,
) -> Standing:
    """Return what the officer's records say about `plan` with `code`.

    `code` None compares plans only. Records on other plans and sites are passed over. Raises
    `PolicyError` (code ``consent-unreadable``) when a record does not parse, or one on this plan
    does not verify: it could be the withdrawal that somebody damaged.
    """
    found = Standing.NOTHING
    highest = -1
    for data in records:
        try:
            parsed = envelope.parse(data)
            consent = canonical.decode(parsed.payload, Consent)
            if consent.site != site or consent.plan != plan:
                continue
            envelope.verified_keys(parsed, keys)
        except PeerError as error:
            raise PolicyError(
                f"an officer's record on plans does not hold ({error}): sign it again or remove "
                "it, nothing is sent meanwhile",
                code="consent-unreadable",
            ) from error
        says = Standing.WITHDRAWN
        if consent.decision == "approve":
            says = Standing.APPROVED if code in (None, consent.code) else Standing.NOTHING
        if consent.number > highest or (consent.number == highest and says is Standing.WITHDRAWN):
            found, highest = says, consent.number
    return found
