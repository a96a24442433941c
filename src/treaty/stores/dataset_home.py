"""Dataset home: the directory in which a site keeps its registered data sets' ledgers and keys.

One home may serve several consortia: a ledger belongs to its data set. In it lie, mode 0600:
  * ``site.key``: under it the content of all data sets of the site is fingerprinted;
  * ``IDENTITY.key``: divides the persons of a data set into partitions, made once;
  * ``IDENTITY.statement``: the officer's signed registration;
  * ``IDENTITY.rebase``: the officer's statement on a loss, for the node to send;
  * ``IDENTITY.ledger``: what was reserved, charged and disclosed (`ledger_file`).

Keys and statements never change: back them up. A ledger is never restored from a backup.
A site's own directory names home and identity in ``dataset.toml``.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from treaty.crypto.canonical import Record, in_words
from treaty.errors import ResourceError, UsageError
from treaty.stores.files import (
    make_directory,
    os_errors,
    read_file,
    read_private_file,
    sync_directory,
    write_new_private_file,
    write_private_file,
)
from treaty.stores.kill_points import persist_point
from treaty.stores.ledger_file import LedgerFile, check_directory

__all__ = ["DATASET_FILE", "DatasetFile", "DatasetHome", "IdentityName", "read_dataset_file"]

DATASET_FILE = "dataset.toml"
_KEY_BYTES = 32
_MAX_STATEMENT = 65_535

IdentityName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9.\-]{0,62}\Z")]
"""The site's own name for a data set; it never leaves the site."""


class DatasetFile(Record, frozen=True):
    """What ``dataset.toml`` says: which registered data set the site's rows belong to."""

    format: Literal["treaty.dataset/v1"] = "treaty.dataset/v1"
    identity: IdentityName
    home: str = "ledger"
    holdout_permille: Annotated[int, msgspec.Meta(ge=0, le=999)] = 340


def read_dataset_file(directory: Path) -> DatasetFile | None:
    """Return what ``dataset.toml`` in a site's directory says, None where there is none.

    Raises `UsageError` naming the field that does not hold.
    """
    path = directory / DATASET_FILE
    if not path.exists():
        return None
    try:
        return msgspec.convert(tomllib.loads(read_file(path).decode()), DatasetFile, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} does not hold: {in_words(error)}; correct that field") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected {path} in TOML: {error}") from error


class DatasetHome:
    """The files of the registered data sets in `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            check_directory(path)

    def create(self) -> None:
        """Make the directory if it is missing."""
        make_directory(self.path)
        check_directory(self.path)

    def site_key(self, fresh: bytes | None = None) -> bytes:
        """Return the site's key, storing `fresh` where there is none yet."""
        return self._key(self.path / "site.key", fresh)

    def partition_key(self, identity: str, fresh: bytes | None = None) -> bytes:
        """Return the partition key of `identity`, storing `fresh` where there is none yet."""
        return self._key(self._named(identity, "key"), fresh)

    def statement(self, identity: str) -> bytes:
        """Return the officer's signed registration of `identity`. Raises `ResourceError`."""
        return read_private_file(self._named(identity, "statement"), _MAX_STATEMENT)

    def begin(self, identity: str, statement: bytes) -> bytes:
        """Return the statement to open the ledger with: `statement`, or that of a cut-off begin.

        Raises `ResourceError` when the identity is registered, its ledger lost or not.
        """
        if self._named(identity, "statement").exists():
            raise ResourceError(
                f"the data set {identity} is registered already: expected a new identity; if its "
                "ledger is lost, an officer signs a re-base (treaty budget rebase)"
            )
        pending = self._named(identity, "pending")
        if not pending.exists():
            write_new_private_file(pending, statement, label="dataset-pending")
        return read_private_file(pending, _MAX_STATEMENT)

    def finish(self, identity: str) -> None:
        """Say that the ledger is open: from now on a missing one is lost."""
        pending, statement = self._named(identity, "pending"), self._named(identity, "statement")
        with persist_point("dataset-statement"), os_errors(statement, "write"):
            os.replace(pending, statement)
            sync_directory(self.path)

    def keep_rebase(self, identity: str, statement: bytes) -> None:
        """Store the officer's statement on the ledger's loss, in place of an earlier one."""
        write_private_file(self._named(identity, "rebase"), statement, label="dataset-rebase")

    def rebase(self, identity: str) -> bytes | None:
        """Return the officer's last statement on the ledger's loss, if any."""
        path = self._named(identity, "rebase")
        return read_private_file(path, _MAX_STATEMENT) if path.exists() else None

    def ledger_path(self, identity: str) -> Path:
        """Return where the ledger of `identity` lies."""
        return self._named(identity, "ledger")

    def ledger(self, identity: str, *, read_only: bool = False) -> LedgerFile:
        """Return the ledger of `identity`. Raises `ResourceError` when it cannot be used."""
        return LedgerFile(self.ledger_path(identity), read_only=read_only)

    def identities(self) -> tuple[str, ...]:
        """Return the registered identities, sorted."""
        with os_errors(self.path, "read"):
            found = [path.stem for path in self.path.glob("*.statement")] if self.exists else []
        return tuple(sorted(found))

    @property
    def exists(self) -> bool:
        """Say whether there is such a directory."""
        return self.path.is_dir()

    def point(self, directory: Path, identity: str, home: str, holdout_permille: int) -> None:
        """Write ``dataset.toml`` into a site's directory."""
        text = (
            "# Which registered data set the rows of this site belong to. Written by\n"
            "# `treaty budget register`; the ledger in `home` is never restored from a backup.\n"
            'format = "treaty.dataset/v1"\n'
            f'identity = "{identity}"\nhome = {_quoted(home)}\n'
            f"holdout_permille = {holdout_permille}\n"
        )
        write_private_file(directory / DATASET_FILE, text.encode(), label="dataset")

    def _named(self, identity: str, kind: str) -> Path:
        try:
            msgspec.convert(identity, IdentityName, strict=True)
        except msgspec.ValidationError as error:
            raise UsageError(
                f"data set identity {identity!r}: expected 1 to 63 of a-z 0-9 . -, starting with a "
                "letter or digit"
            ) from error
        return self.path / f"{identity}.{kind}"

    def _key(self, path: Path, fresh: bytes | None) -> bytes:
        if fresh is not None and not path.exists():
            write_new_private_file(path, fresh.hex().encode() + b"\n", label="dataset-key")
        text = read_private_file(path, 256).strip()
        if len(text) != 2 * _KEY_BYTES or not set(text) <= set(b"0123456789abcdef"):
            raise ResourceError(
                f"{path} is damaged: expected {2 * _KEY_BYTES} hexadecimal digits; restore it from "
                "its backup, it never changes"
            )
        return bytes.fromhex(text.decode())


def _quoted(text: str) -> str:
    if any(char in text for char in '"\\\n\r\t') or not text.isprintable():
        raise UsageError("expected a directory name without quotes, backslashes or line ends")
    return f'"{text}"'
