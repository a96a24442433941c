"""The heart data at its four hospitals, and dealt to ten sites of about equal size."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.pipeline import site_files
from treaty.contracts.alignment import parse_adapter
from treaty.contracts.schema import Number
from treaty.contracts.table import RawTable
from treaty.crypto import canonical
from treaty.datasets.registry import Dataset, SiteSource, load
from treaty.ids import MemberId
from treaty.simulation.federation import SiteFilesToWrite

__all__ = ["dealt", "files", "write_arrays"]


def dealt(sites: int) -> Dataset:
    """Return the heart data at its 4 hospitals, or its rows dealt to `sites` sites by a digest."""
    heart = load("heart")
    if sites == len(heart.sites):
        return heart
    contract = heart.contract
    names = [contract.label.name, *(feature.name for feature in contract.features)]
    rows: list[list[list[str]]] = [[] for _ in range(sites)]
    usable: list[list[str]] = []
    for source in heart.sites.values():
        table = source.aligned(contract)
        columns = [table.columns[name] for name in names]
        absent = {feature.name: {"", *feature.missing} for feature in contract.features} | {
            contract.label.name: {""}
        }
        usable += [
            list(row)
            for row in zip(*columns, strict=True)
            if not any(cell in absent[name] for name, cell in zip(names, row, strict=True))
        ]
    usable.sort(key=lambda row: canonical.sha256("\0".join(row).encode()))
    for number, row in enumerate(usable):
        rows[number % sites].append(row)
    adapter = parse_adapter(_adapter_text(heart))
    return Dataset(
        "heart",
        f"{heart.note}, dealt to {sites} sites",
        contract,
        {
            MemberId(f"site-{number:02}"): SiteSource(adapter, RawTable.from_rows(names, own))
            for number, own in enumerate(rows)
        },
    )


def files(dataset: Dataset) -> dict[MemberId, SiteFilesToWrite]:
    """Return what each site of `dealt` keeps in its directory."""
    if len(dataset.sites) == 4:
        return site_files(dataset)
    text = _adapter_text(dataset).encode()
    return {
        site: SiteFilesToWrite(source.csv_bytes(), text) for site, source in dataset.sites.items()
    }


def write_arrays(dataset: Dataset, path: Path) -> None:
    """Write features, standardised over all rows, and labels of every site, for the peers."""
    data = list(dataset.conformed().values())
    pooled = np.concatenate([one.features for one in data])
    mean, scale = pooled.mean(axis=0), pooled.std(axis=0)
    arrays: dict[str, NDArray[np.float64]] = {}
    for number, one in enumerate(data):
        arrays[f"features{number}"] = (one.features - mean) / scale
        arrays[f"label{number}"] = one.label
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _adapter_text(dataset: Dataset) -> str:
    units = "".join(
        f'{feature.name} = "{feature.unit}"\n'
        for feature in dataset.contract.features
        if isinstance(feature, Number)
    )
    return (
        f'format = "treaty.adapter/v1"\ncontract = "{dataset.contract.name}"\nsite = "any"\n'
        f'text = "Columns in the contract\'s own terms."\n\n[units]\n{units}'
    )
