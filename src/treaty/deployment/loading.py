"""Loading: what a serving party's process loads, and what it keeps mapped of it.

A process that serves for weeks holds every module that was ever loaded, used or not. Libraries look
for what they can do without (compression of archives, names that newer interpreters have
themselves, the text of a version), and the NATS client loads its own interface to streams, which
the engine does not use. `load` hides these while the party's modules are loaded.

Guarantees: afterwards nothing is hidden, and whoever needs one of these modules gets it. Where a
version of a library cannot do without, everything is loaded as usual: nothing fails that would not
have failed anyway.

`let_go` unmaps the pages of programs and libraries that starting took: a system maps a file's pages
by the dozen around each one that is touched, and most are never looked at again. A site that is
hosted has this from the fork. What is needed again is mapped again, from the file, which stays open
as long as it is mapped, whatever replaces it under its name.

For a process that serves and does nothing else: another's libraries would lack what was hidden.
"""

import contextlib
import importlib
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from treaty.errors import UsageError

__all__ = ["ABSENT", "STAND_INS", "let_go", "load", "untouched"]

ABSENT = (
    # shutil, for kinds of archives.
    "bz2",
    "lzma",
    # The NATS client, for the text of its version; with it come zip files and parsers of mail.
    "importlib.metadata",
    # msgspec, for names that the interpreter's own `typing` has.
    "typing_extensions",
)
"""Modules that are looked for and can be missing."""

STAND_INS: Mapping[str, tuple[str, ...]] = {
    "nats.js.client": ("JetStreamContext",),
    "nats.js.manager": ("JetStreamManager",),
}
"""Modules that must be there with these names, of which nothing here uses any."""


def load(
    modules: Iterable[str],
    *,
    absent: Iterable[str] = ABSENT,
    stand_ins: Mapping[str, tuple[str, ...]] = STAND_INS,
) -> None:
    """Load `modules` without those in `absent` and with empty ones in place of `stand_ins`.

    What has been loaded before is left as it is. Raises what loading raises as usual.
    """
    modules = tuple(modules)
    # What cannot be loaded this way is loaded as usual below, which raises what is really wrong.
    with contextlib.suppress(ImportError, AttributeError, TypeError), _hidden(absent, stand_ins):
        for name in modules:
            importlib.import_module(name)
    for name in modules:
        importlib.import_module(name)


@contextlib.contextmanager
def _hidden(absent: Iterable[str], stand_ins: Mapping[str, tuple[str, ...]]) -> Iterator[None]:
    # None is the interpreter's own marker of a module that is missing.
    put: dict[str, ModuleType | None] = {name: None for name in absent if name not in sys.modules}
    for name, attributes in stand_ins.items():
        if name not in sys.modules:
            put[name] = empty = ModuleType(name)
            vars(empty).update(dict.fromkeys(attributes))
    sys.modules.update(put)  # type: ignore[arg-type]  # the marker
    try:
        yield
    finally:
        for name, marker in put.items():
            if sys.modules.get(name, put) is marker:
                del sys.modules[name]


_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)(?:\s|$)")
_UNWRITTEN = ("r--p", "r-xp")
_MADV_DONTNEED = 4


def let_go() -> int:
    """Unmap the pages of files that this process has not written to; return how many KiB.

    Nothing is lost: they are the file's, and are mapped again when they are touched. 0 where the
    system is not Linux or does not do it. Raises `UsageError` when there are threads, which could
    map something else meanwhile.
    """
    if threading.active_count() > 1:
        raise UsageError("pages are let go before there are threads")
    try:
        smaps = Path("/proc/self/smaps").read_text()
        # numpy has loaded it already.
        import ctypes

        madvise = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, ImportError, AttributeError):
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(
        resident_kib
        for begin, end, resident_kib in untouched(smaps)
        if madvise(begin, end - begin, _MADV_DONTNEED) == 0
    )


def untouched(smaps: str) -> Iterator[tuple[int, int, int]]:
    """Return begin, end and resident KiB of each mapping in `smaps` that is as its file is.

    Private mappings of files that cannot be written to. Those that the loader has relocated are
    such too, and hold pages of their own: what has any is left out.
    """
    place: tuple[int, int] | None = None
    resident_kib = 0
    for line in smaps.splitlines():
        found = _MAPPING.match(line)
        if found is not None:
            mode, inode = found[3], found[4]
            own = mode not in _UNWRITTEN or inode == "0"
            place = None if own else (int(found[1], 16), int(found[2], 16))
        elif line.startswith("Rss:"):
            resident_kib = int(line.split()[1])
        elif line.startswith("Anonymous:"):
            # It follows Rss; a kernel that does not say has nothing let go.
            if place is not None and resident_kib and line.split()[1] == "0":
                yield *place, resident_kib
            place = None
