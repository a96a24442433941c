"""Wiring: the one place that names concrete stores, engines, trainers and data sources.

Each party has a directory of its own: keys (mode 0600), store, blobs, secrets, journal, and at a
site its data, adapter and policy. `open_*` functions put a node together from such a directory.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from treaty.crypto.keys import SigningKey, decode_key_file, encode_key_file
from treaty.datasets.readers import read_site
from treaty.datasets.site_files import SiteFiles
from treaty.errors import FormatError, ResourceError, UsageError
from treaty.governance.site_policy import SitePolicy, site_policy_from_toml
from treaty.ids import Digest, MemberId
from treaty.node.mirror import CHECKPOINT_KEY, LOG_STREAM
from treaty.node.participant import Participant, ParticipantKeys
from treaty.node.phase_clock import SINCE_KEY
from treaty.ports import (
    BlobStore,
    Clock,
    Engine,
    Entropy,
    EventStore,
    Journal,
    Ledger,
    SecretFile,
    Trainer,
)
from treaty.registration import open_budget, pending_rebase
from treaty.sandbox.confinement import chosen
from treaty.sandbox.package import PackageReading
from treaty.sandbox.trainer import ConfinedTrainer
from treaty.stores.files import (
    TEXT_LIMIT_BYTES,
    as_text,
    make_directory,
    read_file,
    read_private_file,
    read_text,
    remove_file,
    write_chunks,
    write_file,
    write_new_private_file,
)
from treaty.stores.memory import MemorySecrets, MemoryStore
from treaty.stores.secret_files import SecretDirectory
from treaty.stores.shared import open_shared, parse_shared_store, shared_store
from treaty.stores.sqlite import SqliteStore
from treaty.stores.system import FileJournal, SystemClock, SystemEntropy, worker_threads
from treaty.trainers.local_trainer import LocalTrainer

if TYPE_CHECKING:
    from treaty.datasets.registry import Dataset
    from treaty.node.coordinator import Coordinator

__all__ = [
    "CONSENTS",
    "COORDINATOR_ROLES",
    "MEMBER_ROLES",
    "TEXT_LIMIT_BYTES",
    "Dataset",
    "LocalTrainer",
    "Storage",
    "StoredLog",
    "SystemClock",
    "SystemEntropy",
    "as_text",
    "code_digest",
    "confined_trainer",
    "create_keys",
    "dataset_adapter",
    "has_store",
    "load_dataset",
    "load_key",
    "make_directory",
    "open_coordinator",
    "open_participant",
    "parse_shared_store",
    "read_assessments",
    "read_bundle",
    "read_consents",
    "read_file",
    "read_policy",
    "read_private_file",
    "read_site",
    "read_text",
    "remove_file",
    "replace_file",
    "stored_log",
    "write_bundle",
    "write_file",
    "write_new_file",
    "write_new_private_file",
]

WORKER = (
    "from treaty.sandbox.worker import serve\n"
    "from treaty.trainers.local_trainer import LocalTrainer\n"
    "serve(LocalTrainer())\n"
)
"""What a confined process runs, on the copied code."""

CONSENTS = "consents"
"""The directory of an officer's signed decisions on plans, below a site's own."""

MEMBER_ROLES = ("approval", "runner", "witness")
COORDINATOR_ROLES = ("coordinator", "log")

_MAX_BUNDLE_FILE = 1 << 31
_MAX_RECORD = 1 << 16


@dataclass(frozen=True, slots=True)
class Storage:
    """A party's durable state."""

    store: EventStore
    blobs: BlobStore
    secrets: SecretFile

    @staticmethod
    def on_disk(directory: Path) -> "Storage":
        """Return the state in `directory`, created if missing."""
        make_directory(directory)
        store = SqliteStore(directory / "store.db")
        return Storage(store, store.blobs, SecretDirectory(directory / "secrets"))

    @staticmethod
    def of_coordinator(directory: Path, epoch: int = 0) -> "Storage":
        """Return the state of the coordinator in `directory`: in it, or where replicas share it.

        `epoch` is that of the lease under which a replica writes.
        """
        shared = shared_store(directory)
        if shared is None:
            return Storage.on_disk(directory)
        store = open_shared(directory, shared, epoch=epoch)
        return Storage(store, store.blobs, SecretDirectory(directory / "secrets"))

    @staticmethod
    def in_memory() -> "Storage":
        """Return state that ends with the process (tests and sweeps)."""
        store = MemoryStore()
        return Storage(store, store.blobs, MemorySecrets())


@dataclass(frozen=True, slots=True)
class StoredLog:
    """A party's log as its store holds it: entries, newest checkpoint, and blobs by digest.

    `since` is the party's note on when its present phase began, `value` gives what the party keeps
    under a key.
    """

    entries: tuple[bytes, ...] = field(repr=False)
    checkpoint: str
    find: Callable[[Digest], bytes] = field(repr=False)
    has: Callable[[Digest], bool] = field(repr=False)
    since: bytes | None = field(default=None, repr=False)
    value: Callable[[str], bytes | None] = field(default=lambda _: None, repr=False)


@contextmanager
def stored_log(directory: Path, first: int = 0) -> Iterator[StoredLog]:
    """Open the log of the party in `directory` for reading; nothing on the disk changes.

    With `first` the entries before that one are left out.
    Raises `UsageError` where no party keeps its state, `ResourceError` when it cannot be read.
    """
    if not has_store(directory):
        raise UsageError(f"{directory} holds no party's state: name a consortium's directory")
    shared = shared_store(directory)
    store = (
        SqliteStore(directory / "store.db", read_only=True)
        if shared is None
        else open_shared(directory, shared, read_only=True)
    )
    try:
        yield StoredLog(
            tuple(store.read(LOG_STREAM, first)),
            (store.get(CHECKPOINT_KEY) or b"").decode(),
            store.blobs.get,
            store.blobs.has,
            store.get(SINCE_KEY),
            store.get,
        )
    finally:
        store.close()


def has_store(directory: Path) -> bool:
    """Say whether a party keeps its state in `directory`, or says there where it is kept."""
    return (directory / "store.db").is_file() or shared_store(directory) is not None


def create_keys(directory: Path, roles: Iterable[str], entropy: Entropy) -> dict[str, SigningKey]:
    """Return one key for each role in `directory`/keys, mode 0600, making those that are missing.

    An existing key is never replaced: a set-up that was cut off goes on with what it has.
    """
    folder = directory / "keys"
    make_directory(folder)
    keys = {}
    for role in roles:
        path = folder / f"{role}.key"
        if path.exists():
            keys[role] = load_key(directory, role)
            continue
        key = SigningKey.generate(entropy.bytes(32))
        write_new_private_file(path, encode_key_file(role, key), label="key")
        keys[role] = key
    return keys


def load_key(directory: Path, role: str) -> SigningKey:
    """Return the key of `role` in `directory`/keys. Raises `ResourceError` or `UsageError`."""
    path = directory / "keys" / f"{role}.key"
    try:
        found = decode_key_file(read_private_file(path))
    except FormatError as error:
        raise ResourceError(f"{path} is damaged: {error}; restore it from its backup") from error
    if found.role != role:
        raise UsageError(f"{path} holds a key for {found.role}, expected {role}")
    return found.key


@functools.cache
def code_digest() -> Digest:
    """Return the digest of the installed package: what a plan binds as its code.

    SHA-256 over the canonical list of every source file's path and SHA-256.
    """
    reading = PackageReading(Path(__file__).parent)
    for _ in reading:
        # One file at a time is enough to hash them.
        pass
    return reading.digest()


def confined_trainer(policy: SitePolicy | None, journal: Journal) -> tuple[ConfinedTrainer, Digest]:
    """Return the trainer of a site whose code runs apart, and the digest of that code.

    The bytes that were hashed are the bytes that run. What confinement this machine offers is noted
    in the journal; raises `PolicyError` (``not-confined``) when the policy asks for more.
    """
    reading = PackageReading(Path(__file__).parent)
    confinement = chosen(policy is not None and policy.confinement == "required")
    journal.note(f"confinement.{confinement.value}", confinement.words)
    trainer = ConfinedTrainer(reading, WORKER, confinement=confinement)
    return trainer, reading.digest()


def read_consents(directory: Path) -> list[bytes]:
    """Return the officer's signed decisions on plans, as they lie in the site's directory now."""
    place = directory / CONSENTS
    if not place.is_dir():
        return []
    return [read_file(path, 1 << 16) for path in sorted(place.glob("*.json"))]


def read_policy(directory: Path) -> SitePolicy | None:
    """Return the site's policy, or None where there is none: then nothing is allowed."""
    path = directory / "policy.toml"
    if not path.exists():
        return None
    return site_policy_from_toml(read_text(path))


def read_assessments(directory: Path) -> tuple[bytes, ...]:
    """Return the records of assessments in the site's folder ``assessments``, in order of name."""
    folder = directory / "assessments"
    if not folder.is_dir():
        return ()
    return tuple(read_file(path, _MAX_RECORD) for path in sorted(folder.glob("*.json")))


def open_coordinator(
    directory: Path,
    *,
    name: MemberId,
    members: Iterable[MemberId],
    anchor: Digest,
    engine: Engine,
    storage: Storage | None = None,
    clock: Clock | None = None,
    slots_per_epoch: int | None = None,
    journal: Journal | None = None,
) -> "Coordinator":
    """Return the coordinator whose keys and state lie in `directory`, as by default its journal."""
    # A site's process never needs it.
    from treaty.node.coordinator import Coordinator, CoordinatorKeys

    state = storage or Storage.on_disk(directory)
    return Coordinator(
        name=name,
        members=members,
        keys=CoordinatorKeys(load_key(directory, "coordinator"), load_key(directory, "log")),
        anchor=anchor,
        store=state.store,
        blobs=state.blobs,
        engine=engine,
        journal=journal or FileJournal(directory / "journal.jsonl"),
        clock=clock or SystemClock(),
        slots_per_epoch=slots_per_epoch,
        spread=worker_threads().map,
    )


def open_participant(
    directory: Path,
    *,
    name: MemberId,
    coordinator: MemberId,
    anchor: Digest,
    engine: Engine,
    storage: Storage | None = None,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
    confined: bool = False,
    journal: Journal | None = None,
    ledger: Ledger | None = None,
) -> Participant:
    """Return the node of the site whose keys, data, policy and state lie in `directory`.

    With `confined` training code runs in a process of its own (`confined_trainer`). `ledger` stands
    in for the one that ``dataset.toml`` names (in memory: tests and sweeps).
    """
    state = storage or Storage.on_disk(directory)
    journal = journal or FileJournal(directory / "journal.jsonl")
    policy = read_policy(directory)
    trainer: Trainer = LocalTrainer()
    code: Digest | None = None
    if confined:
        trainer, code = confined_trainer(policy, journal)
    return Participant(
        name=name,
        coordinator=coordinator,
        keys=ParticipantKeys(load_key(directory, "runner"), load_key(directory, "witness")),
        anchor=anchor,
        store=state.store,
        blobs=state.blobs,
        secrets=state.secrets,
        engine=engine,
        journal=journal,
        clock=clock or SystemClock(),
        entropy=entropy or SystemEntropy(),
        source=SiteFiles(name, directory / "data.csv", directory / "adapter.toml"),
        trainer=trainer,
        policy=policy,
        code=code or code_digest(),
        consents=lambda: read_consents(directory),
        assessments=read_assessments(directory),
        spread=worker_threads().map,
        budget=open_budget(directory, ledger=ledger),
        rebase=pending_rebase(directory),
    )


def write_bundle(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write a bundle's files below `directory`, which must be new or empty."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file: name a new directory for the bundle")
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty: name a new directory for the bundle")
    for path, data in sorted(files.items()):
        target = directory / path
        make_directory(target.parent, mode=0o755)
        write_file(target, data)


def read_bundle(directory: Path) -> dict[str, bytes]:
    """Return every file below `directory` by its relative path.

    Raises `UsageError` when there is no such directory, `FormatError` for a link or special file.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory: name an exported bundle")
    files: dict[str, bytes] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise FormatError(f"expected plain files in a bundle, found {path.name}")
        if path.is_file():
            files[path.relative_to(directory).as_posix()] = read_file(path, _MAX_BUNDLE_FILE)
    return files


def write_new_file(path: Path, data: bytes) -> None:
    """Create a file that others may read. Raises `ResourceError` if the name exists."""
    write_chunks(path, (data,), replace=False)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, in place of what stands there. Raises `ResourceError`."""
    make_directory(path.parent, mode=0o755)
    write_file(path, data)


def load_dataset(name: str, *, cache: Path | None = None, substitute: bool = False) -> "Dataset":
    """Return the known data set `name`; with `substitute`, the bundled one where it cannot be had.

    Raises `UsageError` for another name, `ResourceError` when its files are nowhere or wrong.
    """
    # At first need: it can download, and a site agent should not carry what that takes.
    from treaty.datasets.registry import load, load_or_substitute

    return (load_or_substitute if substitute else load)(name, cache=cache)


def dataset_adapter(dataset: "Dataset", site: MemberId) -> bytes:
    """Return the adapter by which `site` of a known data set reads its file, as TOML."""
    from treaty.datasets.registry import packaged_text

    stem = f"{dataset.name}-{site}" if dataset.name == "heart" else dataset.name
    lines = packaged_text("adapters", stem).splitlines()
    named = [f'site = "{site}"' if line.startswith("site = ") else line for line in lines]
    return ("\n".join(named) + "\n").encode()
