"""Known data sets: where their files are, what they must hash to, which contract they meet.

Order of search for `heart` and `ist`: the directory given, then the environment variable
``TREATY_DATA``, then ``../shared/data``. Heart may also be downloaded once into a cache directory
that the caller names. `load_or_substitute` falls back to the set bundled with scikit-learn and says
so in `Dataset.note`.

Guarantees (docs/spec/contract.md, section 10):
  * A file is used only when its SHA-256 is the pinned one, wherever it came from.
  * Without a network a download fails within the timeout, as a `ResourceError`.
  * Sites are a function of the files: no random number takes part.
"""

import csv
import http.client
import io
import os
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import msgspec

from treaty.contracts.alignment import Adapter, align, check_adapter, parse_adapter
from treaty.contracts.conformance import ConformedData, conform
from treaty.contracts.schema import Contract, parse_contract
from treaty.contracts.table import RawTable
from treaty.crypto import canonical
from treaty.datasets.readers import read_bytes, table_from_bytes
from treaty.errors import ResourceError, UsageError
from treaty.ids import Digest, MemberId

__all__ = [
    "KNOWN_SETS",
    "Dataset",
    "SiteSource",
    "load",
    "load_or_substitute",
    "packaged_adapter",
    "packaged_contract",
    "packaged_text",
]

_HEART_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"

_HEART_FILES: dict[MemberId, tuple[str, Digest]] = {
    MemberId(site): (f"processed.{site}.data", Digest(digest))
    for site, digest in (
        ("cleveland", "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"),
        ("hungarian", "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796"),
        ("switzerland", "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"),
        ("va", "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"),
    )
}

_IST_FILE = "ist_baseline.csv"
_IST_DIGEST = Digest("d5307c7d754da74a09d427b5fab9831e65c510010250c6954b58d221b81f1412")
_IST_MIN_ROWS = 100
"""A country with fewer usable rows belongs to the site `other`."""

_DOWNLOAD_LIMIT_BYTES = 1 << 20

_BREAST_CANCER_SITES = ("north",) * 4 + ("east",) * 3 + ("south",) * 2 + ("west",)

KNOWN_SETS = ("heart", "ist", "breast-cancer")


@dataclass(frozen=True, slots=True)
class SiteSource:
    """One site's file as it would lie at the site, with the adapter that reads it."""

    adapter: Adapter
    table: RawTable = field(repr=False)

    def aligned(self, contract: Contract) -> RawTable:
        """Return the contract's columns; `UsageError` when the adapter does not lead there."""
        check_adapter(self.adapter, contract, self.table.names)
        return align(self.adapter, self.table)

    def csv_bytes(self) -> bytes:
        """Return the site's file as the adapter's source describes it, to write to disk."""
        text = io.StringIO(newline="")
        source = self.adapter.source
        writer = csv.writer(text, delimiter=source.delimiter, lineterminator="\n")
        if source.header:
            writer.writerow(self.table.names)
        writer.writerows(zip(*self.table.columns.values(), strict=True))
        return text.getvalue().encode(source.encoding)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A known set: its contract, its sites in alphabetical order, and where it came from."""

    name: str
    note: str
    contract: Contract
    sites: Mapping[MemberId, SiteSource] = field(repr=False)

    def conformed(self) -> dict[MemberId, ConformedData]:
        """Return every site's design matrix."""
        return {
            site: conform(self.contract, source.aligned(self.contract), site=site)
            for site, source in self.sites.items()
        }


def packaged_contract(name: str) -> Contract:
    """Return the contract that comes with the package for a known set."""
    return parse_contract(packaged_text("contracts", name))


def packaged_adapter(name: str, site: MemberId) -> Adapter:
    """Return the adapter that comes with the package for one site of a known set."""
    stem = f"{name}-{site}" if name == "heart" else name
    return msgspec.structs.replace(parse_adapter(packaged_text("adapters", stem)), site=site)


def packaged_text(folder: str, stem: str) -> str:
    """Return a packaged TOML text, comments and all, for people to copy and change."""
    if stem.split("-")[0] not in {"heart", "ist", "breast"}:
        raise UsageError(f"expected one of {', '.join(KNOWN_SETS)}, got {stem!r}")
    file = resources.files("treaty.datasets") / folder / f"{stem.replace('-', '_')}.toml"
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"the package holds no {folder} file for {stem}") from error


def load(
    name: str,
    *,
    directory: Path | None = None,
    cache: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 3.0,
) -> Dataset:
    """Return the known set `name`.

    Args:
        name: one of `KNOWN_SETS`.
        directory: where ``heart/`` and ``ist/`` lie; by default the search order above.
        cache: where a downloaded heart file may be kept; None forbids downloading.
        environment: in place of the process environment.
        timeout_seconds: for each connection of a download.

    Raises `UsageError` for another name, `ResourceError` when the files are nowhere or wrong.
    """
    variables = os.environ if environment is None else environment
    match name:
        case "heart":
            return _load_heart(_root(directory, variables), cache, timeout_seconds)
        case "ist":
            return _load_ist(_root(directory, variables))
        case "breast-cancer":
            return _load_breast_cancer()
        case _:
            raise UsageError(f"expected one of {', '.join(KNOWN_SETS)}, got {name!r}")


def load_or_substitute(
    name: str,
    *,
    directory: Path | None = None,
    cache: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 3.0,
) -> Dataset:
    """Return `name`, or the bundled breast cancer set where its files cannot be had.

    `Dataset.name` and `Dataset.note` say which set it is; callers must show them.
    """
    try:
        return load(
            name,
            directory=directory,
            cache=cache,
            environment=environment,
            timeout_seconds=timeout_seconds,
        )
    except ResourceError as error:
        substitute = _load_breast_cancer()
        note = f"in place of {name} ({error}): {substitute.note}"
        return Dataset(substitute.name, note, substitute.contract, substitute.sites)


def _root(directory: Path | None, environment: Mapping[str, str]) -> Path:
    if directory is not None:
        return directory
    named = environment.get("TREATY_DATA", "")
    return Path(named) if named else Path("..") / "shared" / "data"


def _pinned(path: Path, digest: Digest) -> bytes:
    data = read_bytes(path)
    found = canonical.sha256(data)
    if found != digest:
        raise ResourceError(f"{path.name}: expected SHA-256 {digest[:16]}.., got {found[:16]}..")
    return data


def _load_heart(root: Path, cache: Path | None, timeout_seconds: float) -> Dataset:
    sites: dict[MemberId, SiteSource] = {}
    for site, (name, digest) in _HEART_FILES.items():
        path = root / "heart" / name
        if path.exists():
            data = _pinned(path, digest)
        elif cache is not None:
            data = _from_cache(cache / name, digest, timeout_seconds)
        else:
            raise ResourceError(f"{name}: not found; set TREATY_DATA to the folder above heart/")
        adapter = packaged_adapter("heart", site)
        sites[site] = SiteSource(adapter, table_from_bytes(data, adapter.source, name=name))
    note = "UCI heart disease, four hospitals, FLamby recipe"
    return Dataset("heart", note, packaged_contract("heart"), sites)


def _from_cache(path: Path, digest: Digest, timeout_seconds: float) -> bytes:
    if path.exists():
        return _pinned(path, digest)
    data = _download(_HEART_URL + path.name, timeout_seconds)
    if canonical.sha256(data) != digest:
        raise ResourceError(f"{path.name}: the download has another SHA-256 than the pinned one")
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise ResourceError(f"{path.name}: cannot be kept in the cache directory") from error
    return data


def _download(url: str, timeout_seconds: float) -> bytes:
    try:
        # The scheme is the constant above, never a caller's.
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:
            data: bytes = answer.read(_DOWNLOAD_LIMIT_BYTES + 1)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise ResourceError(
            f"{url.rsplit('/', 1)[1]}: not found here and the download failed; "
            "set TREATY_DATA to the folder above heart/"
        ) from error
    if len(data) > _DOWNLOAD_LIMIT_BYTES:
        raise ResourceError(f"expected a download of at most {_DOWNLOAD_LIMIT_BYTES} bytes")
    return data


def _load_ist(root: Path) -> Dataset:
    data = _pinned(root / "ist" / _IST_FILE, _IST_DIGEST)
    contract = packaged_contract("ist")
    adapter = packaged_adapter("ist", MemberId("any"))
    table = table_from_bytes(data, adapter.source, name=_IST_FILE)
    countries, outcomes = table.columns["COUNTRY"], table.columns["OCCODE"]
    known = {*contract.label.positive, *contract.label.negative}
    usable = Counter(
        country for country, outcome in zip(countries, outcomes, strict=True) if outcome in known
    )
    rows: dict[MemberId, list[int]] = {}
    for row, country in enumerate(countries):
        large = usable[country] >= _IST_MIN_ROWS
        rows.setdefault(MemberId(country.lower() if large else "other"), []).append(row)
    sites = {
        site: SiteSource(msgspec.structs.replace(adapter, site=site), table.select(rows[site]))
        for site in sorted(rows)
    }
    note = "International Stroke Trial, 24 countries and the rest"
    return Dataset("ist", note, contract, sites)


def _load_breast_cancer() -> Dataset:
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise ResourceError(
            "no data set at hand: install scikit-learn or set TREATY_DATA"
        ) from error
    bunch = load_breast_cancer()
    contract = packaged_contract("breast-cancer")
    names = [feature.name for feature in contract.features]
    wanted = ["mean " + name.replace("_", " ") for name in names]
    positions = [list(bunch.feature_names).index(name) for name in wanted]
    rows: dict[MemberId, list[list[str]]] = {}
    for number, (values, target) in enumerate(zip(bunch.data, bunch.target, strict=True)):
        # A digest of the row number divides the rows: sites of about 4, 3, 2 and 1 tenths.
        draw = int(canonical.sha256(b"treaty.breast-cancer-sites/v1:%d" % number)[:8], 16) % 10
        site = MemberId(_BREAST_CANCER_SITES[draw])
        cells = [format(float(values[position]), ".10g") for position in positions]
        rows.setdefault(site, []).append([*cells, ("malignant", "benign")[int(target)]])
    sites = {
        site: SiteSource(
            packaged_adapter("breast-cancer", site),
            RawTable.from_rows([*names, contract.label.name], rows[site]),
        )
        for site in sorted(rows)
    }
    note = "Wisconsin breast cancer as bundled with scikit-learn, divided into four made-up sites"
    return Dataset("breast-cancer", note, contract, sites)
