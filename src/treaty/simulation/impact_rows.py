"""The rows of an assessment: the persons of one or several sites, numbered, in one table.

Guarantees: every row keeps its site, its person and its groups; persons of different sites are
different persons. Names of persons stay in `names` and are shown by no `repr`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from treaty.contracts.conformance import ConformedData
from treaty.errors import UsageError
from treaty.ids import MemberId

__all__ = ["MIN_PERSONS", "AssessedRows", "assessed_rows", "divided"]

Matrix = NDArray[np.float64]
Integers = NDArray[np.int64]

MIN_PERSONS = 40
"""With fewer persons no attack on halves of them says anything."""


@dataclass(frozen=True, slots=True)
class AssessedRows:
    """Rows (n) of `people` persons: `features` (n, p) as a model sees them, labels of 0 and 1.

    `person` (n,) is 0 .. people - 1, `site` (n,) the place in `sites`, `groups` masks (n,).
    """

    features: Matrix = field(repr=False)
    label: Matrix = field(repr=False)
    person: Integers = field(repr=False)
    site: Integers = field(repr=False)
    sites: tuple[MemberId, ...]
    groups: Mapping[str, NDArray[np.bool_]] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    @property
    def people(self) -> int:
        """The number of persons."""
        return len(self.names)

    def of(self, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which rows (n,) belong to the chosen persons (people,)."""
        chosen: NDArray[np.bool_] = inside[self.person]
        return chosen

    def only(self, chosen: NDArray[np.bool_]) -> "AssessedRows":
        """Return the chosen rows (n,); persons keep their numbers."""
        return replace(
            self,
            features=self.features[chosen],
            label=self.label[chosen],
            person=self.person[chosen],
            site=self.site[chosen],
            groups={name: mask[chosen] for name, mask in self.groups.items()},
        )


def assessed_rows(
    data: Mapping[MemberId, ConformedData], features: Mapping[MemberId, Matrix]
) -> AssessedRows:
    """Return the rows of all sites; `features` are theirs, normalised.

    Raises `UsageError` for fewer than `MIN_PERSONS` persons, or a label that all of them share.
    """
    sites = tuple(sorted(data))
    names: dict[tuple[str, str], int] = {}
    person = [
        names.setdefault((site, name), len(names)) for site in sites for name in data[site].persons
    ]
    if len(names) < MIN_PERSONS:
        raise UsageError(
            f"an assessment needs at least {MIN_PERSONS} persons, got {len(names)}: "
            "use more rows, or a known set in their place"
        )
    label = np.concatenate([data[site].label for site in sites])
    if label.min() == label.max():
        raise UsageError("an assessment needs persons of both labels, got one label only")
    site = np.concatenate([np.full(data[name].rows, at) for at, name in enumerate(sites)])
    groups = {
        group: np.concatenate([data[name].subgroups[group] for name in sites])
        for group in data[sites[0]].subgroups
    }
    if len(sites) > 1:
        groups |= {f"site {name}": site == at for at, name in enumerate(sites)}
    groups |= {"label 1": label > 0.5, "label 0": label <= 0.5}
    return AssessedRows(
        np.concatenate([features[name] for name in sites]),
        label,
        np.array(person, dtype=np.int64),
        site.astype(np.int64),
        sites,
        groups,
        tuple(f"{of}/{name}" for of, name in names),
    )


def divided(rows: AssessedRows, parts: int, generator: np.random.Generator) -> Integers:
    """Return which of at least `parts` sites each row (n,) counts as, for sums over sites.

    The real sites where there are enough of them, else the persons dealt out at random.
    """
    if len(rows.sites) >= parts:
        return rows.site
    dealt = generator.permutation(rows.people) % parts
    place: Integers = dealt[rows.person].astype(np.int64)
    return place
