"""Differences between two contracts: what changed, how badly, and the version it asks for.

Guarantees (docs/spec/contract.md, section 9): the class is the worst of its changes.
PATCH touches words only; MINOR accepts more input or asks for stricter release, and old models
stay valid; everything else is MAJOR: models must be trained again. A change not known
to be harmless is MAJOR.
"""

from dataclasses import dataclass
from enum import IntEnum

import msgspec

from treaty.contracts.decimals import exact
from treaty.contracts.schema import Category, Contract, Label, Level, Number
from treaty.errors import PolicyError

__all__ = ["Change", "Compatibility", "compare", "require_version"]


class Compatibility(IntEnum):
    """How much a new contract departs from the old, least first."""

    SAME = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: where, and its class."""

    place: str
    compatibility: Compatibility


def compare(old: Contract, new: Contract) -> tuple[Change, ...]:
    """Return the changes from `old` to `new`, in the contract's order, the version left aside."""
    changes: list[Change] = []
    _note(changes, "name", old.name == new.name, Compatibility.MAJOR)
    for place in ("text", "licence"):
        same = getattr(old, place) == getattr(new, place)
        _note(changes, place, same, Compatibility.PATCH)
    _note(changes, "entity.row", old.entity.row == new.entity.row, Compatibility.PATCH)
    same = msgspec.structs.replace(old.entity, row="") == msgspec.structs.replace(
        new.entity, row=""
    )
    _note(changes, "entity", same, Compatibility.MAJOR)
    _compare_label(old.label, new.label, changes)
    names = [feature.name for feature in old.features]
    _note(changes, "features", names == [item.name for item in new.features], Compatibility.MAJOR)
    others = {feature.name: feature for feature in new.features}
    for feature in old.features:
        other = others.get(feature.name)
        if isinstance(feature, Number) and isinstance(other, Number):
            _compare_numbers(feature, other, changes)
        elif isinstance(feature, Category) and isinstance(other, Category):
            _compare_categories(feature, other, changes)
        elif other is not None:
            _note(changes, f"{feature.name}.kind", False, Compatibility.MAJOR)
    _note(changes, "subgroups", old.subgroups == new.subgroups, Compatibility.MINOR)
    _note(changes, "normalise", old.normalise == new.normalise, Compatibility.MAJOR)
    grown = Compatibility.MINOR if new.min_cell > old.min_cell else Compatibility.MAJOR
    _note(changes, "min_cell", old.min_cell == new.min_cell, grown)
    same = old.max_persons_per_site == new.max_persons_per_site
    _note(changes, "max_persons_per_site", same, Compatibility.MINOR)
    return tuple(changes)


def require_version(old: Contract, new: Contract) -> Compatibility:
    """Return the class of the change; `PolicyError` when the new version number claims less."""
    needed = max((change.compatibility for change in compare(old, new)), default=Compatibility.SAME)
    before, after = _version(old), _version(new)
    if needed is Compatibility.SAME and before == after:
        return needed
    major = after[0] > before[0]
    minor = major or (after[0] == before[0] and after[1] > before[1])
    claimed = {True: Compatibility.PATCH, False: Compatibility.SAME}[after > before]
    claimed = Compatibility.MAJOR if major else Compatibility.MINOR if minor else claimed
    if claimed < needed or after < before:
        raise PolicyError(
            f"expected a {needed.name.lower()} step up from version {old.version}, "
            f"got {new.version}",
            code="contract-version",
        )
    return needed


def _version(contract: Contract) -> tuple[int, ...]:
    return tuple(int(part) for part in contract.version.split("."))


def _note(changes: list[Change], place: str, same: bool, compatibility: Compatibility) -> None:
    if not same:
        changes.append(Change(place, compatibility))


def _compare_label(old: Label, new: Label, changes: list[Change]) -> None:
    _note(changes, "label.meaning", old.meaning == new.meaning, Compatibility.MAJOR)
    same = (old.name, set(old.positive), set(old.negative)) == (
        new.name,
        set(new.positive),
        set(new.negative),
    )
    _note(changes, "label", same, Compatibility.MAJOR)
    _note_growth(changes, "label.unknown", set(old.unknown), set(new.unknown))


def _compare_numbers(old: Number, new: Number, changes: list[Change]) -> None:
    place = old.name
    words = (old.meaning, old.concept) == (new.meaning, new.concept)
    _note(changes, f"{place}.meaning", words, Compatibility.PATCH)
    fixed = ("unit", "analyte", "centre", "spread", "zero_is_missing")
    for name in fixed:
        same = getattr(old, name) == getattr(new, name)
        _note(changes, f"{place}.{name}", same, Compatibility.MAJOR)
    low, high = (exact(bound) for bound in old.range)
    least, most = (exact(bound) for bound in new.range)
    wider = Compatibility.MINOR if least <= low and most >= high else Compatibility.MAJOR
    _note(changes, f"{place}.range", old.range == new.range, wider)
    _note(changes, f"{place}.typical", old.typical == new.typical, Compatibility.MINOR)
    _note_growth(changes, f"{place}.accept_units", set(old.accept_units), set(new.accept_units))
    _note_growth(changes, f"{place}.missing", set(old.missing), set(new.missing))


def _compare_categories(old: Category, new: Category, changes: list[Change]) -> None:
    place = old.name
    words = (old.meaning, old.concept) == (new.meaning, new.concept)
    _note(changes, f"{place}.meaning", words, Compatibility.PATCH)
    kept = [_coded(level) for level in old.levels] == [_coded(level) for level in new.levels]
    _note(changes, f"{place}.levels", kept, Compatibility.MAJOR)
    if kept:
        for one, other in zip(old.levels, new.levels, strict=True):
            where = f"{place}.{one.code}"
            # The meaning of a code is not decoration: another meaning is another variable.
            _note(changes, f"{where}.meaning", one.meaning == other.meaning, Compatibility.MAJOR)
            _note(changes, f"{where}.sites", one.sites == other.sites, Compatibility.MINOR)
            same = one.share_permille == other.share_permille
            _note(changes, f"{where}.share_permille", same, Compatibility.MINOR)
    same = old.missing_level == new.missing_level
    _note(changes, f"{place}.missing_level", same, Compatibility.MAJOR)
    _note_growth(changes, f"{place}.missing", set(old.missing), set(new.missing))


def _coded(level: Level) -> tuple[str, str]:
    return level.code, level.merged_into


def _note_growth(changes: list[Change], place: str, old: set[str], new: set[str]) -> None:
    grown = Compatibility.MINOR if old < new else Compatibility.MAJOR
    _note(changes, place, old == new, grown)
