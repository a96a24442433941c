"""Normalisation: the normaliser from summed integers equals numpy's on the pooled rows.

Planted and seen to fail: sample instead of population variance; scale without the spread; centre
left out of the mean; no tolerance for a constant column.
"""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.contracts.example import clean_columns, example_contract, table
from treaty.contracts import (
    ConformedData,
    Normaliser,
    conform,
    design_columns,
    moment_bounds,
    moments,
    normaliser_from_bounds,
    normaliser_from_record,
    normaliser_from_sums,
)
from treaty.contracts.schema import Number
from treaty.crypto import canonical
from treaty.errors import FormatError, UsageError

SCALE_BITS = 24


def sites() -> list[ConformedData]:
    every = clean_columns(90)
    parts = [(0, 20), (20, 60), (60, 90)]
    return [
        conform(example_contract(), table({name: v[a:b] for name, v in every.items()}))
        for a, b in parts
    ]


def summed(data: list[ConformedData], bits: int = SCALE_BITS) -> Normaliser:
    each = [moments(site) for site in data]
    return normaliser_from_sums(
        example_contract(),
        count=sum(one.count for one in each),
        sums=[
            sum(round(v * 2**bits) for v in col)
            for col in zip(*(m.sums for m in each), strict=True)
        ],
        squares=[
            sum(round(v * 2**bits) for v in col)
            for col in zip(*(m.squares for m in each), strict=True)
        ],
        scale_bits=bits,
        contributors=len(each),
    )


def test_the_normaliser_equals_numpy_on_the_pooled_rows() -> None:
    data = sites()
    pooled = np.vstack([site.features for site in data])
    normaliser = summed(data)
    deviation = pooled.std(axis=0)
    assert np.allclose(normaliser.mean, pooled.mean(axis=0), rtol=1e-7, atol=1e-7)
    assert np.allclose(normaliser.scale, np.where(deviation == 0, 1, deviation), rtol=1e-6)
    assert (deviation == 0).any(), "the example should hold a constant column"
    applied = normaliser.apply(pooled)
    varying = deviation > 0
    assert np.allclose(applied[:, varying].std(axis=0), 1, rtol=1e-6)
    assert np.allclose(applied.mean(axis=0), 0, atol=1e-6)


def test_the_order_of_rows_changes_no_bit() -> None:
    data = sites()[1]
    order = np.argsort(data.features[:, 0], kind="stable")[::-1]
    turned = ConformedData(
        features=np.ascontiguousarray(data.features[order]),
        label=data.label[order],
        persons=tuple(data.persons[row] for row in order),
        index_months=None,
        columns=data.columns,
        subgroups={},
        rows_read=data.rows_read,
        dropped=(),
    )
    assert moments(data).sums.tobytes() == moments(turned).sums.tobytes()
    assert moments(data).squares.tobytes() == moments(turned).squares.tobytes()


def test_a_site_stays_within_the_public_bounds() -> None:
    linear, quadratic = moment_bounds(example_contract())
    for site in sites():
        one = moments(site)
        assert (np.abs(one.sums) <= site.rows * np.array(linear)).all()
        assert (one.squares <= site.rows * np.array(quadratic)).all()
    # chol: range 50 to 700.5 around 200 by 50 reaches 10.01
    assert linear[1] == 11


@given(st.integers(1, 30), st.integers(1, 5000), st.integers(1, 25), st.integers(0, 1000))
def test_a_constant_column_keeps_scale_one(bits: int, rows: int, parts: int, value: int) -> None:
    """Whatever each site's rounding did, a constant is recognised."""
    u = value / 997
    shares = [rows * (part + 1) // parts - rows * part // parts for part in range(parts)]
    total = sum(round(share * u * 2**bits) for share in shares)
    square = sum(round(share * u * u * 2**bits) for share in shares)
    width = len(design_columns(example_contract()))
    normaliser = normaliser_from_sums(
        example_contract(),
        count=rows,
        sums=[total] * width,
        squares=[square] * width,
        scale_bits=bits,
        contributors=parts,
    )
    assert normaliser.scale.tolist() == [1.0] * width


def test_means_and_variances_are_rounded_once() -> None:
    normaliser = normaliser_from_sums(
        example_contract(),
        count=3,
        sums=[0, 0, 1 << 40, 0, 0, 0],
        squares=[0, 0, 1 << 40, 0, 0, 0],
        scale_bits=40,
        contributors=1,
    )
    assert normaliser.mean[2] == 1 / 3
    assert normaliser.scale[2] == math.sqrt(2 / 9)


def test_applying_cuts_at_the_clip() -> None:
    normaliser = Normaliser(("a",), np.array([1.0]), np.array([2.0]))
    features = np.array([[1.0], [100.0], [-100.0], [3.0]])
    assert normaliser.apply(features, clip=4.0).tolist() == [[0.0], [4.0], [-4.0], [1.0]]
    with pytest.raises(UsageError):
        normaliser.apply(np.zeros((2, 2)))


def test_the_public_normaliser_needs_no_data() -> None:
    """A typical interval becomes -1 to 1; without one the centre and the spread are taken."""
    contract = example_contract()
    normaliser = normaliser_from_bounds(contract)
    assert normaliser.mean.tolist() == [60.0, 235.0, 0.0, 0.0, 0.0, 0.0]
    assert normaliser.scale.tolist() == [20.0, 115.0, 1.0, 1.0, 1.0, 1.0]
    plain = tuple(
        msgspec.structs.replace(one, typical=None) if isinstance(one, Number) else one
        for one in contract.features
    )
    normaliser = normaliser_from_bounds(msgspec.structs.replace(contract, features=plain))
    assert normaliser.mean.tolist() == [64.0, 200.0, 0.0, 0.0, 0.0, 0.0]
    assert normaliser.scale.tolist() == [46.0, 50.0, 1.0, 1.0, 1.0, 1.0]


def test_a_record_brings_back_every_bit_and_no_other_spelling() -> None:
    normaliser = summed(sites())
    data = canonical.encode(normaliser.record())
    record = canonical.decode(data, type(normaliser.record()))
    again = normaliser_from_record(record)
    assert again.mean.tobytes() == normaliser.mean.tobytes()
    assert again.scale.tobytes() == normaliser.scale.tobytes()
    for bad in ("0x1.0000000000000p+2000", "-0x1.0000000000000p+0", "0x0.0p+0"):
        changed = type(record)(columns=("a",), mean=("0x0.0p+0",), scale=(bad,))
        with pytest.raises(FormatError):
            normaliser_from_record(changed)
    one, zero = "0x1.0000000000000p+0", "0x0.0p+0"
    assert normaliser_from_record(type(record)(columns=("a",), mean=(zero,), scale=(one,)))
    for other in ("0x0.8000000000000p+1", "0x1.0000000000000p+00", "0x1.0000000000000p-0"):
        for mean, scale in ((other, one), (zero, other)):
            with pytest.raises(FormatError, match="another spelling"):
                normaliser_from_record(type(record)(columns=("a",), mean=(mean,), scale=(scale,)))
    for means, scales in (((), ()), ((), (one,)), ((zero,), ()), ((zero, zero), (one,))):
        with pytest.raises(FormatError, match="expected 1 means and scales"):
            normaliser_from_record(type(record)(columns=("a",), mean=means, scale=scales))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_normaliser_holds_finite_numbers_one_of_each_for_every_column(value: float) -> None:
    good = np.array([1.0])
    for mean, scale in ((np.array([value]), good), (good, np.array([value]))):
        with pytest.raises(UsageError, match="finite means and scales"):
            Normaliser(("a",), mean, scale)
    for shape in ((2,), (0,), (1, 1)):
        for mean, scale in ((np.ones(shape), good), (good, np.ones(shape))):
            with pytest.raises(UsageError, match="expected 1 means and scales"):
                Normaliser(("a",), mean, scale)
    with pytest.raises(UsageError, match=r"shape \(n, 1\), got \(1,\)"):
        Normaliser(("a",), good, good).apply(good)
    with pytest.raises(UsageError, match=r"shape \(n, 1\), got \(1, 1, 1\)"):
        Normaliser(("a",), good, good).apply(np.ones((1, 1, 1)))


def test_impossible_sums_are_refused() -> None:
    possible: dict[str, object] = {
        "count": 3,
        "sums": [0] * 6,
        "squares": [0] * 6,
        "scale_bits": 20,
        "contributors": 1,
    }
    normaliser_from_sums(example_contract(), **possible)  # type: ignore[arg-type]  # by name
    for name, wrong in (
        ("count", 0),
        ("contributors", 0),
        ("scale_bits", -1),
        ("sums", [0] * 5),
        ("squares", [0] * 5),
        ("squares", [0] * 7),
    ):
        with pytest.raises(UsageError, match=name.removesuffix("_bits")):
            normaliser_from_sums(example_contract(), **possible | {name: wrong})  # type: ignore[arg-type]  # by name
