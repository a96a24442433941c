"""The certificate: what it says, what it refuses, and that the record alone gives the text.

Planted faults that these tests catch: noise of all members counted instead of the honest ones,
epsilon rounded to nearest, a non-private release left out, a person identifier ignored, a person
of no site.
"""

import pytest

from treaty.crypto.canonical import decode, encode
from treaty.errors import PolicyError, UsageError
from treaty.privacy.accountant import composed_epsilon
from treaty.privacy.certificate import (
    Certificate,
    Cohort,
    NoisedSum,
    Unit,
    certificate_text,
    certify,
    epsilon_micro,
)

CLIP = 1 << 24
SUM = NoisedSum(share_variance=100 * CLIP * CLIP, sensitivity=CLIP, sampling=1 << 53, rounds=20)
COHORT = Cohort(members=4, min_survivors=3, max_colluders=1)


def make(**changes: object) -> Certificate:
    arguments: dict[str, object] = {
        "partition": "training",
        "unit": Unit.PERSON,
        "person_identifier_present": True,
        "sums": [SUM],
        "cohort": COHORT,
        "delta_inverse": 100_000,
    }
    return certify(**(arguments | changes))  # type: ignore[arg-type]  # a table of arguments


def test_epsilon_counts_the_guaranteed_honest_shares_and_is_rounded_up() -> None:
    certificate = make()
    honest = composed_epsilon([SUM.event(2)], 1e-5)
    assert 0 <= certificate.lines[0].add_remove_micro - honest * 1e6 < 1.001  # type: ignore[operator]  # finite here
    assert epsilon_micro(1e-9) == 1


def test_lines_rise_with_sites_and_replacement_and_the_curve_with_collusion() -> None:
    certificate = make()
    one, two = certificate.lines
    assert one.add_remove_micro < two.add_remove_micro < two.replace_one_micro  # type: ignore[operator]  # finite here
    assert one.replace_one_micro == two.add_remove_micro
    assert [point.honest_shares for point in certificate.curve] == [3, 2, 1]
    values = [point.epsilon_micro for point in certificate.curve]
    assert values == sorted(values)  # type: ignore[type-var]  # finite here
    assert values[1] == one.add_remove_micro


def test_large_consortia_get_a_short_curve_that_holds_the_designed_point() -> None:
    certificate = make(cohort=Cohort(members=100, min_survivors=70, max_colluders=33))
    shares = [point.honest_shares for point in certificate.curve]
    assert len(shares) <= 13
    assert {1, 37, 99} <= set(shares)


def test_an_exact_release_makes_every_epsilon_infinite_and_is_listed() -> None:
    certificate = make(non_private=["support-sum", "support-sum"])
    assert certificate.lines[0].add_remove_micro is None
    assert certificate.non_private == ("support-sum",)
    assert certificate.attack.area_micro == 1_000_000
    text = certificate_text(certificate)
    assert "EPSILON IS INFINITE" in text
    assert "support-sum" in text


def test_lines_are_for_one_site_at_least() -> None:
    assert len(make(max_sites_per_person=1).lines) == 1
    with pytest.raises(UsageError, match="at least one site"):
        make(max_sites_per_person=0)


def test_no_epsilon_for_rows_while_a_person_identifier_is_unused() -> None:
    with pytest.raises(PolicyError) as caught:
        make(unit=Unit.RECORD)
    assert caught.value.code == "person-id-unused"
    assert make(unit=Unit.RECORD, person_identifier_present=False).unit == Unit.RECORD.value


def test_weak_noise_claims_no_protection() -> None:
    weak = NoisedSum(share_variance=CLIP * CLIP, sensitivity=CLIP, sampling=1 << 53, rounds=50)
    assert "No meaningful formal protection" in certificate_text(make(sums=[weak]))
    assert "No meaningful formal protection" not in certificate_text(make())


def test_the_record_survives_its_bytes_and_gives_the_same_text() -> None:
    certificate = make(non_private=["a"])
    again = decode(encode(certificate), Certificate)
    assert again == certificate
    assert certificate_text(again) == certificate_text(certificate)
    assert all(len(line) <= 100 for line in certificate_text(certificate).splitlines())


def test_the_text_of_the_four_hospital_plan() -> None:
    text = certificate_text(make())
    assert "Noise counted: 2 honest shares of 4 (up to 1 lost and 1 colluding members)." in text
    assert "A person at one site: epsilon 1.200 (added or removed), 2.595 (replaced)." in text


@pytest.mark.parametrize(("members", "survivors", "colluders"), [(4, 3, 0), (4, 3, 3), (3, 4, 1)])
def test_impossible_cohorts_are_refused(members: int, survivors: int, colluders: int) -> None:
    with pytest.raises(UsageError):
        Cohort(members, survivors, colluders)


def test_a_delta_of_one_is_refused() -> None:
    with pytest.raises(UsageError):
        make(delta_inverse=1)
