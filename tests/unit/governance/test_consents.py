"""An officer's consents: the newest decision stands, and doubt stops a study.

The rule is small: all short histories of decisions are compared with one written apart.

Planted and caught: the first record wins, an approval beats a withdrawal of the same number,
another site's record counts, another code's approval counts, a bad signature is passed over.
"""

import itertools

import msgspec
import pytest

from tests.unit.governance.consortia import key
from treaty.crypto.canonical import sha256
from treaty.errors import PolicyError
from treaty.governance.consents import Consent, Standing, sign_consent, standing
from treaty.ids import Digest

OFFICER, STRANGER = key("north approval"), key("stranger")
KEYS = {OFFICER.public.keyid: OFFICER.public}
PLAN, CODE = Digest(sha256(b"plan")), Digest(sha256(b"code"))
YES = Consent(site="north", plan=PLAN, code=CODE, decision="approve", number=1)


def _standing(*records: bytes, code: Digest | None = CODE) -> Standing:
    return standing(records, KEYS, site="north", plan=PLAN, code=code)


def _decided(number: int, decision: str) -> Consent:
    return msgspec.structs.replace(YES, number=number, decision=decision)


def _by_hand(history: tuple[tuple[int, str], ...]) -> Standing:
    top = max((number for number, _ in history), default=-1)
    said = {decision for number, decision in history if number == top}
    if not said:
        return Standing.NOTHING
    return Standing.WITHDRAWN if "withdraw" in said else Standing.APPROVED


def test_every_short_history_ends_in_its_newest_decision() -> None:
    choices = list(itertools.product((1, 2, 3), ("approve", "withdraw")))
    for length in range(4):
        for history in itertools.product(choices, repeat=length):
            records = [sign_consent(_decided(*one), OFFICER) for one in history]
            assert _standing(*records) is _by_hand(history), history


@pytest.mark.parametrize("change", [{"site": "south"}, {"plan": sha256(b"another")}])
def test_records_on_other_plans_and_sites_say_nothing(change: dict[str, str]) -> None:
    other = msgspec.structs.replace(YES, **change)
    assert _standing(sign_consent(other, OFFICER)) is Standing.NOTHING
    assert _standing(sign_consent(other, STRANGER)) is Standing.NOTHING


def test_an_approval_is_of_one_code() -> None:
    record = sign_consent(msgspec.structs.replace(YES, code=sha256(b"other code")), OFFICER)
    assert _standing(record) is Standing.NOTHING
    assert _standing(record, code=None) is Standing.APPROVED


@pytest.mark.parametrize("damage", ["stranger", "flipped", "text", "empty"])
def test_a_record_that_does_not_hold_stops_the_plan(damage: str) -> None:
    record = sign_consent(YES, STRANGER if damage == "stranger" else OFFICER)
    if damage == "flipped":
        record = sign_consent(YES, OFFICER).replace(b'"sig":"', b'"sig":"A', 1)
    if damage in ("text", "empty"):
        record = b"withdraw everything" if damage == "text" else b""
    good = sign_consent(_decided(9, "approve"), OFFICER)
    with pytest.raises(PolicyError) as refused:
        _standing(good, record)
    assert refused.value.code == "consent-unreadable"
