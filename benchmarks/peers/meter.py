"""Processor time and memory of one call in this process. Standard library only.

Memory is what the call held at its peak beyond what was held before it: the kernel's high-water
mark of resident memory, put back first. What the allocator keeps for later is handed back before,
or a call could fill it unseen. Linux with glibc only.
"""

import ctypes
import gc
import time
from pathlib import Path

__all__ = ["Meter"]

_LIBC = ctypes.CDLL(None)


class Meter:
    """Context manager; then `seconds` of processor time (all threads) and `mebibytes` at peak."""

    def __enter__(self):
        gc.collect()
        _LIBC.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _resident("VmRSS")
        self._wall = time.perf_counter()
        self._start = time.process_time()
        return self

    def __exit__(self, *_):
        self.seconds = time.process_time() - self._start
        self.wall = time.perf_counter() - self._wall
        self.mebibytes = _resident("VmHWM") - self._before


def _resident(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
