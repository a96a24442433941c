"""A site's data source: its own file, read through its own adapter, checked and divided.

Everything stays at the site. The same file, adapter, contract and split give the same rows.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from treaty.contracts.alignment import parse_adapter, person_naming
from treaty.contracts.conformance import ConformedData, conform
from treaty.contracts.schema import Contract
from treaty.contracts.splitting import split_persons, split_rows
from treaty.datasets.readers import read_bytes, read_site
from treaty.errors import UsageError
from treaty.ids import MemberId
from treaty.ports import SiteData

__all__ = ["SiteFiles", "divided"]


class SiteFiles:
    """The `DataSource` of a site whose rows lie in one delimited text file."""

    def __init__(self, site: MemberId, data: Path, adapter: Path) -> None:
        self._site = site
        self._data = data
        self._adapter = adapter

    def load(
        self,
        contract: Contract,
        *,
        holdout_permille: int,
        seed: int,
        held_out: Callable[[str], bool] | None = None,
    ) -> SiteData:
        """See `treaty.ports.DataSource.load`."""
        try:
            text = read_bytes(self._adapter).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(f"expected the adapter {self._adapter.name} in UTF-8") from error
        adapter = parse_adapter(text)
        table = read_site(self._data, adapter, contract)
        found = divided(
            conform(contract, table, site=self._site),
            site=self._site,
            holdout_permille=holdout_permille,
            seed=seed,
            each_by_itself=contract.normalise == "public_bounds",
            held_out=held_out,
        )
        return replace(found, naming=person_naming(adapter, contract))


def divided(
    data: ConformedData,
    *,
    site: MemberId,
    holdout_permille: int,
    seed: int,
    each_by_itself: bool = False,
    held_out: Callable[[str], bool] | None = None,
) -> SiteData:
    """Return `data` divided into training and holdout rows by the keyed, stratified order.

    With `each_by_itself` every person is decided by its own digest: studies under noise need it,
    because a stratified order lets one person more move another to the other side. With
    `held_out` that alone decides.
    """
    if held_out is not None:
        kept = {person: held_out(person) for person in set(data.persons)}
        mask = np.array([kept[person] for person in data.persons], dtype=np.bool_)
        training, holdout = np.flatnonzero(~mask), np.flatnonzero(mask)
    elif each_by_itself:
        training, holdout = split_persons(
            data.persons, site=site, seed=seed, holdout_permille=holdout_permille
        )
    else:
        training, holdout = split_rows(
            data.label, keys=data.persons, site=site, seed=seed, holdout_permille=holdout_permille
        )
    return SiteData(_rows(data, training), _rows(data, holdout))


def _rows(data: ConformedData, rows: NDArray[np.int64]) -> ConformedData:
    return replace(
        data,
        features=np.ascontiguousarray(data.features[rows]),
        label=data.label[rows],
        persons=tuple(data.persons[row] for row in rows.tolist()),
        index_months=None if data.index_months is None else data.index_months[rows],
        subgroups={name: mask[rows] for name, mask in data.subgroups.items()},
    )
