"""Plans: what a person may write, and one byte string for it.

Planted and caught: the bound digests taken from the text; a limit of one field lifted; titles with
characters that hide or reorder text; deeply nested text ending in another error than ours; a plan
that asks by default for more slots than charters allow.
"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import digest
from treaty.errors import FormatError, UsageError
from treaty.governance.template import CharterOptions
from treaty.governance.terms import SecureAggregationPolicy
from treaty.models.specification import LogisticRegression, MultilayerPerceptron
from treaty.privacy.terms import ExactSums
from treaty.studies.plan import (
    AggregationSettings,
    EvaluationSettings,
    Plan,
    SplitSettings,
    parse_plan,
    plan_bytes,
    plan_digest,
    plan_from_toml,
)

TEXT = """
study = "small"
title = "A small study"
purpose = "see it move"
data_use = ["DUO:0000006"]

[model]
kind = "logistic-regression"
ridge_milli = 500

[split]
holdout_permille = 300
seed = 7

[evaluation]
bins = 32

[aggregation]
max_persons_per_site = 512

[privacy]
kind = "exact"
"""
NOISED = 'kind = "distributed-gaussian"\nepsilon_milli = 1000\ndelta_inverse = 100000\n'
BOUND = {"charter": digest("charter"), "contract": digest("contract"), "code": digest("code")}


def read(text: str) -> Plan:
    return plan_from_toml(text, **BOUND)


PLAN = read(TEXT)


def test_a_plan_is_read_with_its_defaults() -> None:
    assert PLAN.model == LogisticRegression(ridge_milli=500)
    assert PLAN.split == SplitSettings(holdout_permille=300, seed=7)
    assert PLAN.evaluation == EvaluationSettings(bins=32)
    assert PLAN.aggregation == AggregationSettings(max_persons_per_site=512)
    assert PLAN.privacy == ExactSums()
    assert (PLAN.charter, PLAN.contract, PLAN.code) == tuple(BOUND.values())


def test_a_plan_has_one_byte_string_and_one_digest() -> None:
    assert parse_plan(plan_bytes(PLAN)) == PLAN
    reordered = "\n\n".join(reversed(TEXT.split("\n\n")[1:]))
    same = read(TEXT.split("\n\n")[0] + "\n\n" + reordered)
    assert plan_digest(same) == plan_digest(PLAN)
    assert read('format = "treaty.plan/v1"\n' + TEXT) == PLAN
    with pytest.raises(FormatError):
        parse_plan(plan_bytes(PLAN) + b" ")


@pytest.mark.parametrize("name", sorted(BOUND))
def test_the_digest_of_a_plan_depends_on_what_it_binds(name: str) -> None:
    other = plan_from_toml(TEXT, **(BOUND | {name: digest("another")}))
    assert plan_digest(other) != plan_digest(PLAN)


@pytest.mark.parametrize("name", sorted(BOUND))
def test_what_is_bound_is_not_written(name: str) -> None:
    with pytest.raises(UsageError, match=f"leave {name} out"):
        read(f'{name} = "{digest("mine")}"\n' + TEXT)


@pytest.mark.parametrize(
    "old, new, named",
    [
        ('study = "small"\n', "", "study"),
        ('study = "small"', 'study = "Not A Name"', "study"),
        ('title = "A small study"\n', "", "title"),
        ('title = "A small study"', "title = 3", "title"),
        ('title = "A small study"', 'title = "two\\nlines"', "title"),
        ('title = "A small study"', 'title = "turned\\u202eround"', "title"),
        ('purpose = "see it move"', 'purpose = "hidden\\u200b"', "purpose"),
        ('purpose = "see it move"\n', "", "purpose"),
        ('["DUO:0000006"]', '["not a code"]', "data_use"),
        ('["DUO:0000006"]', '"DUO:0000006"', "data_use"),
        ('kind = "logistic-regression"\n', "", "kind"),
        ('"logistic-regression"', '"oracle"', "oracle"),
        ("ridge_milli = 500", "ridge_milli = -1", "ridge_milli"),
        ("ridge_milli = 500", "ridge_milli = 0.5", "ridge_milli"),
        ("ridge_milli = 500", "ridge = 500", "ridge"),
        ("holdout_permille = 300", "holdout_permille = 0", "holdout_permille"),
        ("holdout_permille = 300", "holdout_permille = 1000", "holdout_permille"),
        ("seed = 7", "seed = 4294967296", "seed"),
        ("bins = 32", "bins = 33", "bins"),
        ("bins = 32", "bins = 0", "bins"),
        ("bins = 32", "bins = 2048", "bins"),
        ("bins = 32", "threshold_permille = 1000", "threshold_permille"),
        ("bins = 32", 'site_figures = "yes"', "site_figures"),
        ("max_persons_per_site = 512", "max_persons_per_site = 0", "max_persons_per_site"),
        ("max_persons_per_site = 512", "feature_clip = 65", "feature_clip"),
        ("max_persons_per_site = 512", "statistics_scale_bits = 41", "statistics_scale_bits"),
        ("max_persons_per_site = 512", "scale_bits = 45", "scale_bits"),
        ("max_persons_per_site = 512", "update_scale_bits = 3", "update_scale_bits"),
        ("max_persons_per_site = 512", "slots_per_epoch = 65", "slots_per_epoch"),
        ("max_persons_per_site = 512", "support_rows = 0", "support_rows"),
        ("max_persons_per_site = 512", "noise = 1", "noise"),
        ("[aggregation]", "[agregation]", "agregation"),
        ('study = "small"', 'study = "small"\nformat = "treaty.plan/v2"', "format"),
        ('[privacy]\nkind = "exact"\n', "", "privacy"),
        ('kind = "exact"', 'kind = "secret"', "privacy"),
        ('[privacy]\nkind = "exact"\n', "[[privacy]]\n", "privacy"),
        ('kind = "exact"', NOISED.replace("epsilon_milli = 1000", ""), "epsilon_milli"),
        ('kind = "exact"', NOISED.replace("= 1000\n", "= 0\n"), "epsilon_milli"),
        ('kind = "exact"', NOISED.replace("delta_inverse = 100000", ""), "delta_inverse"),
        ('kind = "exact"', NOISED.replace("= 100000", "= 1"), "delta_inverse"),
        ('kind = "exact"', NOISED + "clip_micro = 0", "clip_micro"),
        ('kind = "exact"', NOISED + "grid_bits = 23", "grid_bits"),
        ('kind = "exact"', NOISED + "rounds = 0", "rounds"),
        ('kind = "exact"', NOISED + "sampling = 0", "sampling"),
        ('kind = "exact"', NOISED + "sampling = 9007199254740992", "sampling"),
        ('kind = "exact"', NOISED + "variance = 5", "variance"),
        ('kind = "exact"', NOISED + 'variance = "0"', "variance"),
        ('kind = "exact"', NOISED + 'unit = "household"', "unit"),
        ('kind = "exact"', NOISED + 'holdout = { kind = "secret" }', "holdout"),
    ],
)
def test_a_field_that_does_not_hold_is_named(old: str, new: str, named: str) -> None:
    assert old in TEXT
    with pytest.raises(UsageError, match=named):
        read(TEXT.replace(old, new))


@pytest.mark.parametrize("text", ["=", "a = 1\na = 2", "x = " + "[" * 100_000])
def test_what_is_not_toml_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a plan in TOML"):
        read(text)


@given(st.text(max_size=60))
def test_any_text_is_a_plan_or_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        read(text)


def test_every_kind_of_model_can_stand_in_a_plan() -> None:
    plan = msgspec.structs.replace(PLAN, model=MultilayerPerceptron(hidden=(8, 4)))
    assert parse_plan(plan_bytes(plan)) == plan
    assert plan_digest(plan) != plan_digest(PLAN)


def test_a_plan_that_says_nothing_asks_for_the_slots_that_charters_allow() -> None:
    """docs/adr/0029: more would be refused everywhere, fewer would be paid for in every round."""
    asked = AggregationSettings().slots_per_epoch
    assert asked == CharterOptions().slots_per_epoch_max
    assert asked == SecureAggregationPolicy().slots_per_epoch_max == 32
