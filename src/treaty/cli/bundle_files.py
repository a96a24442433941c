"""Bundles as directories: verify one, read its log, prove one entry of it. Works offline.

Guarantee: nothing of a bundle is shown before the whole bundle has been verified from the anchor.
Whoever asks brings the anchor from elsewhere; it is never read from the bundle.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from treaty import wiring
from treaty.errors import UsageError
from treaty.protocol.statements import statement_kinds
from treaty.provenance.bundle import CHECKPOINT, LOG
from treaty.provenance.record import Entry
from treaty.provenance.verify import Verdict, anchor_of, verify_bundle
from treaty.tlog.merkle import MerkleTree, leaf_hash
from treaty.tlog.proof import LogProof
from treaty.tlog.tiles import parse_entry_bundle, tiles_of_size

__all__ = ["entries_of", "milliseconds_of", "prove_entry", "report_on", "verdict_on"]

_AGE = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def milliseconds_of(age: str) -> int:
    """Return the span that `age` spells (``90s``, ``15m``, ``1h``, ``2d``) in milliseconds."""
    found = _AGE.fullmatch(age)
    if found is None:
        raise UsageError(f"expected a time span such as 90s, 15m, 1h or 2d, got {age!r}")
    return int(found[1]) * _SECONDS[found[2]] * 1000


def verdict_on(
    bundle: Path, anchor: str, *, min_size: int | None = None, max_age: str | None = None
) -> Verdict:
    """Return the verdict on the bundle in the directory `bundle`.

    Raises `UsageError` for an anchor that is none, and what `verify_bundle` raises.
    """
    return _verified(wiring.read_bundle(bundle), anchor, min_size=min_size, max_age=max_age)


def entries_of(bundle: Path, anchor: str, kind: str | None = None) -> tuple[Entry, ...]:
    """Return the entries of a bundle's log, once it is verified; of one `kind` where it is given.

    Raises `UsageError` for a kind that no entry can have.
    """
    if kind is not None and kind not in statement_kinds():
        raise UsageError(f"expected one of {', '.join(statement_kinds())}, got {kind}")
    found = verdict_on(bundle, anchor).history.entries
    return tuple(entry for entry in found if kind is None or entry.kind == kind)


def prove_entry(bundle: Path, anchor: str, index: int) -> tuple[bytes, bytes]:
    """Return entry `index` and its tlog-proof, which a reader can check without the bundle.

    Raises `UsageError` when the log has no such entry.
    """
    files = wiring.read_bundle(bundle)
    size = _verified(files, anchor).record.size
    if not 0 <= index < size:
        raise UsageError(f"the log has entries 0 to {size - 1}, got {index}")
    entries = [
        entry
        for tile in tiles_of_size(size)
        if tile.level is None
        for entry in parse_entry_bundle(files[LOG + tile.path], tile.width)
    ]
    tree = MerkleTree(leaf_hash(entry) for entry in entries)
    proof = LogProof(index, tuple(tree.inclusion_proof(index)), files[CHECKPOINT])
    return entries[index], proof.encode()


def report_on(bundle: Path, anchor: str) -> bytes:
    """Return the page that shows a bundle, which is verified before anything of it is shown."""
    # The page's template engine is needed here only.
    from treaty.reports.summary import report_html

    files = wiring.read_bundle(bundle)
    return report_html(_verified(files, anchor), files).encode()


def _verified(
    files: Mapping[str, bytes],
    anchor: str,
    *,
    min_size: int | None = None,
    max_age: str | None = None,
) -> Verdict:
    return verify_bundle(
        files,
        anchor_of(anchor),
        min_size=min_size,
        max_age_ms=None if max_age is None else milliseconds_of(max_age),
        now=None if max_age is None else wiring.SystemClock().now(),
    )
