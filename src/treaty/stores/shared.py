"""Shared store: how a coordinator's directory names the database that its replicas share.

``store.json`` in the directory says where the database is and how long the lease runs. It holds no
secret: the password lies in ``postgres.password`` beside it, mode 0600, or where libpq looks. A
directory without ``store.json`` has a store of its own, in a file.

PostgreSQL is an extra: nothing of it is imported before a directory asks for it.
"""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from treaty.crypto import canonical
from treaty.crypto.canonical import Record
from treaty.errors import FormatError, ResourceError, UsageError
from treaty.stores.files import read_file, read_private_file, write_file

if TYPE_CHECKING:
    from treaty.stores.postgres import PostgresStore
    from treaty.stores.postgres_lease import LeaseState, PostgresLease

__all__ = [
    "LEASE_MS",
    "SharedStore",
    "lease_on",
    "lease_state",
    "open_shared",
    "parse_shared_store",
    "replica_name",
    "shared_store",
    "write_shared_store",
]

LEASE_MS = 10_000
PREFIX = "postgres:"
FILE = "store.json"
PASSWORD_FILE = "postgres.password"
_PASSWORD_LIMIT = 4096
_ADDRESS_LIMIT = 2048


class SharedStore(Record):
    """Where replicas keep their state: libpq's words for the database; how long a lease runs."""

    format: Literal["treaty.store/v1"] = "treaty.store/v1"
    address: Annotated[str, msgspec.Meta(min_length=1, max_length=_ADDRESS_LIMIT)]
    lease_ms: Annotated[int, msgspec.Meta(ge=1_000, le=600_000)] = LEASE_MS


def shared_store(directory: Path) -> SharedStore | None:
    """Return what ``store.json`` in `directory` says, None where there is none."""
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        return canonical.decode(read_file(path).removesuffix(b"\n"), SharedStore)
    except FormatError as error:
        raise ResourceError(f"{path} is damaged: {error}; restore it from a backup") from error


def parse_shared_store(text: str, lease_ms: int) -> SharedStore:
    """Return what ``postgres:ADDRESS`` and a lease of so many milliseconds say.

    Raises `UsageError` for another text, for an address that holds a password or names no
    database, and for a lease that is not from 1 to 600 seconds.
    """
    _require_client()
    from treaty.stores.postgres_link import parse_address

    if not text.startswith(PREFIX):
        raise UsageError(f"expected a store such as {PREFIX}host=db.example dbname=treaty")
    if not 1_000 <= lease_ms <= 600_000:
        raise UsageError(f"a lease of {lease_ms} ms: expected 1 to 600 seconds")
    address = parse_address(text.removeprefix(PREFIX))
    if len(address) > _ADDRESS_LIMIT:
        raise UsageError(
            f"an address of {len(address)} characters: expected at most {_ADDRESS_LIMIT}"
        )
    return SharedStore(address=address, lease_ms=lease_ms)


def write_shared_store(directory: Path, settings: SharedStore) -> None:
    """Let the coordinator in `directory` keep its state there."""
    write_file(directory / FILE, canonical.encode(settings), mode=0o600)


def open_shared(
    directory: Path, settings: SharedStore, *, epoch: int = 0, read_only: bool = False
) -> "PostgresStore":
    """Open the shared store; `epoch` is that of the lease under which this process writes."""
    _require_client()
    from treaty.stores.postgres import PostgresStore

    return PostgresStore(settings.address, _password(directory), epoch=epoch, read_only=read_only)


def lease_on(directory: Path, settings: SharedStore) -> "PostgresLease":
    """Return the way of the replica in `directory` to the lease."""
    _require_client()
    from treaty.stores.postgres_lease import PostgresLease

    return PostgresLease(
        settings.address,
        _password(directory),
        holder=replica_name(directory),
        duration_ms=settings.lease_ms,
    )


def lease_state(directory: Path, settings: SharedStore) -> "LeaseState":
    """Return who holds the lease; nothing changes."""
    _require_client()
    from treaty.stores.postgres_lease import look_at_lease

    return look_at_lease(settings.address, _password(directory))


def replica_name(directory: Path) -> str:
    """Return the name by which people know the replica in `directory`: machine and path."""
    return f"{socket.gethostname()}:{directory.resolve()}"


def _password(directory: Path) -> str | None:
    path = directory / PASSWORD_FILE
    if not path.exists():
        return None
    data = read_private_file(path)
    try:
        text = data.decode().rstrip("\n")
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) > _PASSWORD_LIMIT or "\0" in text or "\n" in text:
        # The cause would quote the file.
        raise ResourceError(f"{path}: expected one line with the password of the database")
    return text


def _require_client() -> None:
    try:
        import treaty.stores.postgres_link  # noqa: F401 - is it there
    except ImportError as error:
        raise ResourceError(
            "the client of PostgreSQL is not installed: pip install 'treaty[postgres]'"
        ) from error
