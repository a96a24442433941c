"""Confinement: the command line under which foreign code runs, and what it then cannot do.

With bubblewrap the process has namespaces of its own: no network at all, no process but its own, no
file but the interpreter, its packages and the approved code, all read only, and an empty temporary
directory of bounded size. Without it the code runs in a process of its own with the limits of
`Limits` only, and `Confinement.words` says so.

LIMIT: no system-call filter beyond what bubblewrap sets; a flaw of the kernel can be reached.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from treaty.errors import PolicyError, ResourceError, UsageError

__all__ = ["CODE_PLACE", "Confinement", "Limits", "available", "chosen", "command", "environment"]

CODE_PLACE = "/code"
_PROBE_S = 60
_COMPUTING = (
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_NUM_THREADS",
)
"""Variables that choose kernels and threads: without them the same task may give other bits."""

_LIMITER = (
    "import os, resource, sys\n"
    "memory, cpu, size = (int(word) for word in sys.argv[1:4])\n"
    "resource.setrlimit(resource.RLIMIT_AS, (memory, memory))\n"
    "resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
    "os.execv(sys.argv[4], sys.argv[4:])\n"
)


class Confinement(Enum):
    """How foreign code is kept apart."""

    BUBBLEWRAP = "bubblewrap"
    PROCESS = "process"

    @property
    def words(self) -> str:
        """Say what it does and what it does not."""
        if self is Confinement.BUBBLEWRAP:
            return (
                "training code runs without network, without this site's files, within limits of "
                "time and memory (bubblewrap)"
            )
        return (
            "training code runs in a process of its own within limits of time and memory; its "
            "network and its access to files are NOT limited: install bubblewrap"
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one trainer's process may use.

    `call_s` seconds of wall time for a call, `cpu_s` of processor time for the process' whole
    life, `memory_bytes` of address space, `file_bytes` for one file or the temporary directory.
    """

    call_s: float = 600.0
    cpu_s: int = 24 * 3600
    memory_bytes: int = 8 << 30
    file_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if self.call_s <= 0 or min(self.cpu_s, self.memory_bytes, self.file_bytes) < 1:
            raise UsageError("expected positive limits of time, memory and file size")


@functools.cache
def available() -> Confinement:
    """Return the strictest confinement that this machine really offers: bubblewrap is tried.

    Raises `ResourceError` when it does not answer. That it is slow is no reason to run code without
    it: a machine under load must not confine less than an idle one.
    """
    program = shutil.which("bwrap")
    if program is None:
        return Confinement.PROCESS
    probe = [*_wrapped(program, None, Limits()), shutil.which("true") or "/bin/true"]
    try:
        done = subprocess.run(  # fixed words and this machine's own programs
            probe, capture_output=True, timeout=_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ResourceError(
            f"{program} did not answer within {_PROBE_S} s, expected at once: this machine is "
            "overloaded or its disk stalls; start again once it is not"
        ) from error
    except OSError:
        return Confinement.PROCESS
    return Confinement.BUBBLEWRAP if done.returncode == 0 else Confinement.PROCESS


def chosen(required: bool) -> Confinement:
    """Return the confinement to use; `PolicyError` (``not-confined``) when it must be the full one.

    `required` is the site's policy.
    """
    found = available()
    if required and found is not Confinement.BUBBLEWRAP:
        raise PolicyError(
            "the site's policy asks for confined training code and bubblewrap does not run here: "
            'install it, or let the policy say confinement = "preferred"',
            code="not-confined",
        )
    return found


def command(
    confinement: Confinement, code: Path, statement: str, limits: Limits
) -> tuple[str, ...]:
    """Return the words that run the Python `statement` on the package below `code`, confined."""
    limited = (
        sys.executable, "-I", "-S", "-c", _LIMITER,
        str(limits.memory_bytes), str(limits.cpu_s), str(limits.file_bytes),
    )  # fmt: skip
    if confinement is Confinement.PROCESS:
        return (*limited, *_python(str(code), statement))
    program = shutil.which("bwrap")
    if program is None:
        raise ResourceError("bubblewrap is gone: install it again")
    return (*limited, *_wrapped(program, code, limits), *_python(CODE_PLACE, statement))


def environment() -> dict[str, str]:
    """Return all that foreign code learns of this process' environment: how to compute."""
    kept = {name: os.environ[name] for name in _COMPUTING if name in os.environ}
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"} | kept


def _python(code: str, statement: str) -> tuple[str, ...]:
    start = f"import sys; sys.path.insert(0, {code!r}); sys.dont_write_bytecode = True\n"
    return (sys.executable, "-I", "-B", "-c", start + statement)


def _wrapped(program: str, code: Path | None, limits: Limits) -> tuple[str, ...]:
    """Return bubblewrap's words: an empty world, with the interpreter and the code read only."""
    words = [
        program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
        "--clearenv", "--setenv", "HOME", "/tmp",
    ]  # fmt: skip
    for name, value in environment().items():
        words += ["--setenv", name, value]
    for place in _system_places():
        words += ["--ro-bind", place, place]
    for link in ("/bin", "/lib", "/lib64", "/sbin"):
        path = Path(link)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), link]
    words += ["--proc", "/proc", "--dev", "/dev"]
    words += [
        "--size",
        str(limits.file_bytes),
        "--tmpfs",
        "/tmp",
        "--chdir",
        "/tmp",
    ]  # inside the namespace
    if code is not None:
        words += ["--ro-bind", str(code), CODE_PLACE]
    return tuple(words)


def _system_places() -> Sequence[str]:
    """Return what an interpreter needs: the system's programs and its own directories."""
    places = ["/usr", *(link for link in ("/bin", "/lib", "/lib64") if Path(link).is_dir())]
    places = [place for place in places if not Path(place).is_symlink()]
    places += ["/etc/ld.so.cache"] if Path("/etc/ld.so.cache").exists() else []
    for prefix in dict.fromkeys((sys.base_prefix, sys.prefix)):
        if not any(Path(prefix).is_relative_to(place) for place in places):
            places.append(prefix)
    return places
