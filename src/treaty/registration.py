"""Registration: a site's data set, its ledger and its officer's statements, from its own files.

Beside `wiring` the one place that names concrete stores, for what the node, the commands and the
simulator share. Guarantees (docs/spec/privacy.md, section 7):
  * A ledger is opened once: a registration that was cut off goes on with what it had signed, and a
    missing ledger of a registered data set is lost, never begun anew in silence.
  * Content that another data set of the same home has held is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from treaty.crypto.canonical import sha256
from treaty.errors import PolicyError, UsageError
from treaty.ids import Digest, MemberId
from treaty.node.budget import BudgetKeeper
from treaty.node.dataset import RegisteredDataset, content_digest, fingerprint_of, new_ledger
from treaty.node.mirror import LOG_STREAM
from treaty.node.spending import LEDGER_KEY, shown_head
from treaty.ports import Entropy, Ledger
from treaty.privacy.ledger import replay
from treaty.privacy.ledger_entries import LedgerHead
from treaty.protocol.consortium import Consortium
from treaty.protocol.ledger_trail import LedgerTrail
from treaty.protocol.statements import peek
from treaty.stores.dataset_home import DatasetFile, DatasetHome, read_dataset_file
from treaty.stores.files import read_file
from treaty.stores.sqlite import SqliteStore

__all__ = [
    "DatasetHome",
    "LedgerLog",
    "keep_rebase",
    "ledger_log",
    "open_budget",
    "open_budgets",
    "pending_rebase",
    "recovering_budget",
    "register_dataset",
]


@dataclass(frozen=True, slots=True)
class LedgerLog:
    """What a site's own store knows of its ledgers: the folded log, and the head shown last."""

    state: Consortium
    trail: LedgerTrail
    shown: LedgerHead | None


def register_dataset(
    directory: Path,
    identity: str,
    statement: bytes,
    entropy: Entropy,
    *,
    home: str = "ledger",
    holdout_permille: int = 340,
) -> LedgerHead:
    """Register the rows of the site in `directory` as the data set `identity`; open its ledger.

    `statement` is what the officer signed (`DatasetRegistered`). `home` is a directory, relative
    to the site's, that several consortia may share. Raises `PolicyError` (``known-content``) when
    another registered data set has held the same content, `ResourceError` when the identity is
    taken.
    """
    place = DatasetHome(directory / home)
    place.create()
    statement = place.begin(identity, statement)
    site_key = place.site_key(entropy.bytes(32))
    data = directory / "data.csv"
    content = read_file(data) if data.exists() else None
    if content is not None:
        _refuse_known(place, identity, site_key, content)
    dataset = RegisteredDataset(
        identity=identity,
        statement=sha256(statement),
        holdout_permille=holdout_permille,
        partition_key=place.partition_key(identity, entropy.bytes(32)),
        fingerprint_key=site_key,
    )
    own = place.ledger(identity)
    try:
        if not own.read():
            new_ledger(own, dataset, entropy.bytes(32))
        keeper = BudgetKeeper(own, dataset, content=None if content is None else lambda: content)
        keeper.register_content()
        head = keeper.head
    finally:
        own.close()
    place.finish(identity)
    place.point(directory, identity, home, holdout_permille)
    return head


def open_budget(
    directory: Path, *, ledger: Ledger | None = None, read_only: bool = False
) -> BudgetKeeper | None:
    """Return the keeper of the site's registered data set, None where it registered none.

    Raises `ResourceError` or `UsageError` when its files do not hold.
    """
    named = read_dataset_file(directory)
    if named is None:
        return None
    place = DatasetHome(directory / named.home)
    dataset = _dataset(place, named)

    def content() -> bytes:
        found = read_file(directory / "data.csv")
        _refuse_known(place, named.identity, dataset.fingerprint_key, found)
        return found

    own = ledger or place.ledger(named.identity, read_only=read_only)
    return BudgetKeeper(own, dataset, content=None if read_only else content)


def _dataset(place: DatasetHome, named: DatasetFile) -> RegisteredDataset:
    """Return the registered data set that `named` means, with its keys from `place`."""
    return RegisteredDataset(
        identity=named.identity,
        statement=sha256(place.statement(named.identity)),
        holdout_permille=named.holdout_permille,
        partition_key=place.partition_key(named.identity),
        fingerprint_key=place.site_key(),
    )


def _refuse_known(place: DatasetHome, identity: str, site_key: bytes, content: bytes) -> None:
    """Refuse content that another registered data set of the home holds or held."""
    digest = content_digest(content)
    for other in place.identities():
        if other == identity or not place.ledger_path(other).exists():
            continue
        ledger = place.ledger(other, read_only=True)
        try:
            known = replay(ledger.read()).fingerprints
        finally:
            ledger.close()
        if fingerprint_of(site_key, digest) in known:
            raise PolicyError(
                f"this content belongs to the registered data set {other}: expected content of "
                f"{identity}; a second identity for the same persons would spend twice",
                code="known-content",
            )


def open_budgets(directory: Path) -> Iterator[tuple[str, BudgetKeeper]]:
    """Yield every registered data set of the home that a site's directory names, for reading."""
    named = read_dataset_file(directory)
    if named is None:
        return
    place = DatasetHome(directory / named.home)
    for identity in place.identities():
        # The share is checked against the ledger of the site's own data set alone.
        share = named.holdout_permille if identity == named.identity else None
        ledger = place.ledger(identity, read_only=True)
        if share is None:
            entries = ledger.read()
            share = replay(entries).opening.holdout_permille if entries else 0
        dataset = _dataset(place, DatasetFile(identity=identity, holdout_permille=share))
        yield identity, BudgetKeeper(ledger, dataset)


def ledger_log(directory: Path, member: MemberId) -> LedgerLog:
    """Return what the store in a site's directory says of its ledgers; nothing is changed.

    Raises `UsageError` where the site has no log yet.
    """
    path = directory / "store.db"
    if not path.is_file():
        raise UsageError(f"{directory} holds no mirror of a log: run the site's node first")
    store = SqliteStore(path, read_only=True)
    try:
        entries = store.read(LOG_STREAM)
        if not entries:
            raise UsageError(f"{directory} holds an empty mirror: run the site's node first")
        state = Consortium(_founding(entries[0]))
        for entry in entries:
            state, _ = state.apply(entry, store.blobs.get)
        trail = state.trail(member)
        return LedgerLog(state, trail, shown_head(store.get(LEDGER_KEY), trail))
    finally:
        store.close()


def recovering_budget(directory: Path, entropy: Entropy) -> BudgetKeeper:
    """Return the keeper of the site's data set, for an officer who accepts a loss.

    A ledger that is gone is opened anew, to charge nothing before the re-base.
    """
    named = read_dataset_file(directory)
    if named is None:
        raise UsageError(f"{directory} registered no data set: run treaty budget register")
    place = DatasetHome(directory / named.home)
    dataset = _dataset(place, named)
    ledger = place.ledger(named.identity)
    if not ledger.read():
        new_ledger(ledger, dataset, entropy.bytes(32), recovers=True)
    return BudgetKeeper(ledger, dataset)


def keep_rebase(directory: Path, statement: bytes) -> None:
    """Store an officer's statement on a loss, for the node to send when it starts."""
    named = read_dataset_file(directory)
    if named is None:
        raise UsageError(f"{directory} registered no data set: run treaty budget register")
    DatasetHome(directory / named.home).keep_rebase(named.identity, statement)


def pending_rebase(directory: Path) -> bytes | None:
    """Return the officer's statement on a loss that waits in the site's home, if any."""
    named = read_dataset_file(directory)
    return None if named is None else DatasetHome(directory / named.home).rebase(named.identity)


def _founding(entry: bytes) -> Digest:
    """Return the anchor that the first entry of a mirror claims; the mirror checked it once."""
    return Digest(peek(entry)[1].charter)
