"""Registry: pinned files only, sites that nobody had to draw, recipes that give known counts.

Planted and seen to fail: digest not compared; countries under 100 rows kept as sites.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from treaty.contracts import contract_digest, coordinate_support, examine, support_indicator
from treaty.contracts.alignment import check_adapter
from treaty.datasets.readers import table_from_bytes
from treaty.datasets.registry import (
    Dataset,
    load,
    load_or_substitute,
    packaged_adapter,
    packaged_contract,
    packaged_text,
)
from treaty.datasets.splits import FROZEN_SEEDS, split_indices
from treaty.errors import ResourceError, UsageError
from treaty.ids import MemberId

HEART_ROWS = {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}


@pytest.fixture(scope="module")
def heart(data_root: Path) -> Dataset:
    return load("heart", directory=data_root)


@pytest.fixture(scope="module")
def ist(data_root: Path) -> Dataset:
    return load("ist", directory=data_root)


@pytest.mark.data
def test_heart_has_the_rows_and_columns_of_the_published_recipe(heart: Dataset) -> None:
    sites = heart.conformed()
    assert {site: data.rows for site, data in sites.items()} == HEART_ROWS
    assert sum(data.rows for data in sites.values()) == 740
    assert {data.features.shape[1] for data in sites.values()} == {13}
    assert [int(data.label.sum()) for data in sites.values()] == [139, 98, 45, 101]
    # Switzerland writes a missing cholesterol as 0 in every row.
    assert not sites[MemberId("switzerland")].features[:, 6].any()


@pytest.mark.data
def test_ist_has_twenty_five_sites(ist: Dataset) -> None:
    sites = ist.conformed()
    assert len(sites) == 25
    assert MemberId("other") in sites
    assert sum(data.rows for data in sites.values()) == 19_285
    assert min(data.rows for data in sites.values()) >= 100
    positive = sum(data.label.sum() for data in sites.values()) / 19_285
    assert positive == pytest.approx(0.629, abs=0.001)
    dated = [data.index_months for data in sites.values() if data.index_months is not None]
    months = np.concatenate(dated)
    assert months.shape == (19_285,)
    assert (months.min(), months.max()) == (12 * 1991, 12 * 1996 + 4)
    # Most broken month names belong to October.
    assert int((months % 12 == 9).sum()) > 1_500


@pytest.mark.data
@pytest.mark.parametrize("name", ["heart", "ist"])
def test_no_coordinate_is_possible_at_one_site_only(name: str, data_root: Path) -> None:
    data = load(name, directory=data_root)
    assert min(coordinate_support(data.contract, tuple(data.sites))) >= 3
    measured = sum(support_indicator(site, 5) for site in data.conformed().values())
    assert int(np.min(measured)) >= 3


@pytest.mark.data
def test_clean_sites_raise_no_alarm(heart: Dataset, ist: Dataset) -> None:
    for data in (heart, ist):
        for site, source in data.sites.items():
            assert examine(data.contract, source.aligned(data.contract), site=site) == ()


@pytest.mark.data
def test_a_site_file_written_out_reads_back(heart: Dataset, ist: Dataset) -> None:
    for data, site in ((heart, MemberId("va")), (ist, MemberId("usa"))):
        source = data.sites[site]
        again = table_from_bytes(source.csv_bytes(), source.adapter.source)
        assert again == source.table


@pytest.mark.data
def test_the_frozen_splits_have_the_sizes_of_the_published_one(heart: Dataset) -> None:
    sites = heart.conformed()
    assert tuple(range(50)) == FROZEN_SEEDS
    splits = [split_indices(sites, seed) for seed in FROZEN_SEEDS]
    sizes = {tuple(len(holdout) for _, holdout in split.values()) for split in splits}
    assert sizes == {(103, 88, 15, 44)}
    distinct = {tuple(split[MemberId("va")][1].tolist()) for split in splits}
    assert len(distinct) == 50
    # Pins the fifty splits: figures quoted from them stay comparable.
    text = repr([[holdout.tolist() for _, holdout in split.values()] for split in splits])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "50dae5fac4fc7d7d"


def test_a_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "heart"
    folder.mkdir()
    (folder / "processed.cleveland.data").write_text("63.0,1.0\n")
    with pytest.raises(ResourceError, match="SHA-256"):
        load("heart", directory=tmp_path)


def test_files_that_are_nowhere_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="TREATY_DATA"):
        load("heart", environment={"TREATY_DATA": str(tmp_path)})
    with pytest.raises(ResourceError, match="ist_baseline"):
        load("ist", directory=tmp_path)
    with pytest.raises(UsageError, match="heart"):
        load("hearts", directory=tmp_path)


def test_a_cached_file_must_be_the_pinned_one_too(tmp_path: Path) -> None:
    (tmp_path / "processed.cleveland.data").write_text("63.0\n")
    with pytest.raises(ResourceError, match="SHA-256"):
        load("heart", directory=tmp_path / "nowhere", cache=tmp_path)


def test_the_substitute_says_what_it_is(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = load_or_substitute("heart", directory=tmp_path)
    assert data.name == "breast-cancer"
    assert "in place of heart" in data.note
    assert "made-up sites" in data.note
    sites = data.conformed()
    assert {site: site_data.rows for site, site_data in sites.items()} == {
        "east": 185,
        "north": 212,
        "south": 126,
        "west": 46,
    }
    assert sum(int(site_data.label.sum()) for site_data in sites.values()) == 212


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("heart", ("cleveland", "hungarian", "switzerland", "va")),
        ("ist", ("uk", "other")),
        ("breast-cancer", ("north", "west")),
    ],
)
def test_packaged_texts_parse_and_fit_together(name: str, sites: tuple[str, ...]) -> None:
    contract = packaged_contract(name)
    assert contract.name == name
    assert contract_digest(contract) == contract_digest(packaged_contract(name))
    for site in sites:
        adapter = packaged_adapter(name, MemberId(site))
        assert adapter.site == site
        columns = adapter.source.columns
        if name == "breast-cancer":
            columns = (*(feature.name for feature in contract.features), contract.label.name)
        if columns:
            check_adapter(adapter, contract, columns)


def test_only_packaged_names_are_opened() -> None:
    with pytest.raises(UsageError):
        packaged_text("contracts", "../../errors")
    with pytest.raises(ResourceError):
        packaged_adapter("heart", MemberId("nowhere"))
