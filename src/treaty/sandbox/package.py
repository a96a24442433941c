"""Package: the very bytes of the training code that a plan names, and nothing else.

Guarantees (docs/spec/sandbox.md, section 1):
  * `read_package` reads every source file once; its digest and the copy that runs are of the same
    bytes, so what was compared is what runs, whatever happens to the installed files meanwhile.
  * `write_copy` writes into a new directory that only this user can read.
  * With `PackageReading` the copy is written while the files are read and hashed, one at a time: a
    site's process never holds the whole package.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from treaty.crypto.canonical import digest_of, sha256
from treaty.errors import PolicyError, ResourceError, UsageError
from treaty.ids import Digest

__all__ = ["PackageReading", "package_digest", "read_package", "require_code", "write_copy"]

MAX_FILE_BYTES = 1 << 20
PACKAGE = "treaty"


class PackageReading:
    """The source files below `root`, read once, in order, while they are iterated over.

    Raises `ResourceError` when one cannot be read or exceeds a mebibyte.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._digests: dict[str, Digest] = {}

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Return each file's relative path and bytes."""
        for path in sorted(self._root.rglob("*.py")):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise ResourceError(f"cannot read {path.name}: {error.strerror}") from error
            if len(data) > MAX_FILE_BYTES:
                raise ResourceError(f"{path.name}: expected at most {MAX_FILE_BYTES} bytes")
            name = path.relative_to(self._root).as_posix()
            self._digests[name] = sha256(data)
            yield name, data

    def digest(self) -> Digest:
        """Return the digest of the files that were read; see `package_digest`."""
        return digest_of(self._digests)


def read_package(root: Path) -> dict[str, bytes]:
    """Return the source files below `root` by relative path; see `PackageReading`."""
    return dict(PackageReading(root))


def package_digest(files: Mapping[str, bytes]) -> Digest:
    """Return SHA-256 over the canonical list of every file's path and SHA-256."""
    return digest_of({name: sha256(data) for name, data in files.items()})


def require_code(files: Mapping[str, bytes], approved: Digest) -> None:
    """Raise `PolicyError` (code ``wrong-code``) unless `files` are the code that was approved."""
    found = package_digest(files)
    if found != approved:
        raise PolicyError(
            f"the plan names the code {approved[:16]}, this site runs {found[:16]}: install the "
            "version that the members ratified",
            code="wrong-code",
        )


def write_copy(files: Mapping[str, bytes] | Iterable[tuple[str, bytes]], directory: Path) -> None:
    """Write `files` as the package below `directory`, which must be new or empty.

    Raises `UsageError` when it is neither, `ResourceError` when it cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty: code is copied into a new directory only")
        for name, data in files.items() if isinstance(files, Mapping) else files:
            path = directory / PACKAGE / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o400)
    except OSError as error:
        raise ResourceError(f"cannot copy the code to {directory}: {error.strerror}") from error
