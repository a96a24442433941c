"""Intake: what a person hands to `treaty.simulate`, checked before anything is written.

In a simulation one person holds every site's file, so each is examined as its site's own engineer
would (`treaty data check`): between real institutions a file that does not conform lets its site
decline in silence, and here nobody else would say why it is missing from the result.

Guarantees: what comes back conforms to the contract; the error names the site and what to mend,
and repeats no cell. Nothing is written.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from treaty import wiring
from treaty.contracts.alignment import align, check_adapter, parse_adapter
from treaty.contracts.conformance import conform
from treaty.contracts.schema import Contract, Number, parse_contract
from treaty.crypto.canonical import MemberName
from treaty.datasets.readers import read_bytes, table_from_bytes
from treaty.errors import UsageError
from treaty.ids import MemberId
from treaty.simulation.federation import COORDINATOR, SiteFilesToWrite

__all__ = ["contract_in", "member_name", "sites_in"]

_LEAST_SITES = 3


def contract_in(path: str | Path) -> Contract:
    """Return the contract that the TOML file `path` holds; `UsageError` names the file."""
    place = _path(path, "the contract")
    text = wiring.read_text(place)
    try:
        return parse_contract(text)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error


def sites_in(
    sites: Mapping[str, str | Path], adapters: Mapping[str, str | Path] | None, contract: Contract
) -> dict[MemberId, SiteFilesToWrite]:
    """Return the sites' files by name, each read through its adapter and found to conform.

    A site without an adapter must have a file in the contract's own columns, codes and units.
    Raises `UsageError` for a name that no member can have, an adapter of no site, or a file
    that does not conform, and `ResourceError` for one that cannot be read.
    """
    handed: object = sites
    if not isinstance(handed, Mapping):
        kind = type(handed).__name__
        raise UsageError(f'expected sites as {{"name": "file.csv", ...}}, got a {kind}')
    if len(sites) < _LEAST_SITES:
        raise UsageError(f"expected at least {_LEAST_SITES} sites, got {len(sites)}")
    given = adapters or {}
    strangers = sorted(str(name) for name in given if name not in sites)
    if strangers:
        names = ", ".join(sorted(str(name) for name in sites))
        raise UsageError(f"expected adapters of {names} only, got one for {strangers[0]!r}")
    return {
        member_name(name, "a site's name"): _files(name, path, given.get(name), contract)
        for name, path in sites.items()
    }


def member_name(name: object, what: str) -> MemberId:
    """Return `name`, if a party can be called so; `what` says in the error what it names."""
    try:
        found = MemberId(msgspec.convert(name, MemberName, strict=True))
    except msgspec.ValidationError as error:
        raise UsageError(
            f"expected {what} of 1 to 63 lower-case letters, digits, dots and hyphens, starting "
            f"with a letter or digit, got {name!r}"
        ) from error
    if found == COORDINATOR:
        raise UsageError(f"expected {what} other than {COORDINATOR!r}, which is the coordinator's")
    return found


def _files(
    name: str, path: str | Path, adapter: str | Path | None, contract: Contract
) -> SiteFilesToWrite:
    where = _path(path, f"the file of {name}")
    try:
        data = read_bytes(where)
        if adapter is None:
            spelled = _plain_adapter(contract, name)
        else:
            place = _path(adapter, f"the adapter of {name}")
            spelled = wiring.read_text(place).encode()
        reader = parse_adapter(spelled.decode())
        table = table_from_bytes(data, reader.source, name=where.name)
        check_adapter(reader, contract, table.names)
        conform(contract, align(reader, table), site=MemberId(name))
    except UsageError as error:
        raise UsageError(f"site {name}: {error}") from error
    return SiteFilesToWrite(data, spelled)


def _path(path: object, what: str) -> Path:
    if not isinstance(path, str | Path):
        raise UsageError(f"expected the path of {what}, got {type(path).__name__}")
    return Path(path)


def _plain_adapter(contract: Contract, site: str) -> bytes:
    """Return the adapter of a file that is in the contract's own columns, codes and units."""
    units = [
        f'{feature.name} = "{feature.unit}"'
        for feature in contract.features
        if isinstance(feature, Number)
    ]
    head = ['format = "treaty.adapter/v1"', f'contract = "{contract.name}"', f'site = "{site}"']
    return ("\n".join([*head, "[units]", *units]) + "\n").encode()
