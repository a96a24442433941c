"""Confined trainer: the `Trainer` port, answered by approved code in a process of its own.

Guarantees (docs/spec/sandbox.md, sections 2 and 3):
  * Only the copied code runs; nothing is downloaded, and under bubblewrap nothing can be.
  * A call ends within `Limits.call_s`: the process is killed with everything it started.
  * Whatever the process does, callers see an answer of the right kind or a `TrainerFailure` with a
    closed code. Its standard error goes nowhere, since it could hold rows.

The process lives from the first call to `close` and is started again after a failure.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors
from treaty.errors import FormatError, ResourceError
from treaty.models.specification import ModelSpecification
from treaty.models.task import FailureCode, GradientPart, TrainerFailure, TrainingTask
from treaty.sandbox.confinement import Confinement, Limits, command, environment
from treaty.sandbox.package import write_copy
from treaty.sandbox.wire import (
    LENGTH_BYTES,
    Answer,
    Operation,
    Request,
    body_size,
    decode_answer,
    encode_request,
)

__all__ = ["ConfinedTrainer"]

_PIECE = 1 << 20

_Kind = TypeVar("_Kind")


class ConfinedTrainer:
    """A trainer whose code runs apart. `statement` starts its worker, in Python."""

    def __init__(
        self,
        files: Mapping[str, bytes] | Iterable[tuple[str, bytes]],
        statement: str,
        *,
        confinement: Confinement,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="treaty-code-")
        code = Path(self._directory.name) / "code"
        write_copy(files, code)
        self._command = command(confinement, code, statement, self._limits)

    # --- the port -----------------------------------------------------------------------------

    def compute(self, task: TrainingTask) -> NamedTensors:
        """See `treaty.ports.Trainer.compute`."""
        return self._asked("compute", task, NamedTensors)

    def site_state(self, task: TrainingTask) -> bytes:
        """See `treaty.ports.Trainer.site_state`."""
        return self._asked("site-state", task, bytes)

    def alone(self, task: TrainingTask) -> NamedTensors:
        """See `treaty.ports.Trainer.alone`."""
        return self._asked("alone", task, NamedTensors)

    def layers(self, task: TrainingTask) -> Sequence[GradientPart]:
        """See `treaty.ports.Trainer.layers`."""
        found = self._asked("layers", task, tuple)
        return tuple(one for one in found if isinstance(one, GradientPart))

    def predict(
        self,
        specification: ModelSpecification,
        model: NamedTensors,
        features: NDArray[np.float64],
        site_state: bytes = b"",
    ) -> NDArray[np.float64]:
        """See `treaty.ports.Trainer.predict`."""
        nothing = np.zeros(0, dtype=np.float64)
        request = Request("predict", specification, model, features, nothing, b"", site_state)
        return _of(self._ask(request), np.ndarray)

    def close(self) -> None:
        """End the process and remove the copy of the code; a second call does nothing."""
        with self._lock:
            self._end()
            self._directory.cleanup()

    # --- parts --------------------------------------------------------------------------------

    def _asked(self, operation: Operation, task: TrainingTask, kind: type[_Kind]) -> _Kind:
        request = Request(
            operation, task.specification, task.model, task.features, task.label, task.entropy
        )
        return _of(self._ask(request), kind)

    def _ask(self, request: Request) -> Answer:
        with self._lock:
            try:
                return self._exchange(encode_request(request))
            except TrainerFailure:
                self._end()
                raise
            except FormatError as error:
                self._end()
                raise TrainerFailure(FailureCode.WORKER_GARBLED) from error
            except BaseException:
                # Prevents an answer to this call from being taken for the next one's.
                self._end()
                raise

    def _exchange(self, data: bytes) -> Answer:
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise ResourceError("the confined process has no pipes")
        until = time.monotonic() + self._limits.call_s
        with selectors.DefaultSelector() as ready:
            rest = memoryview(data)
            ready.register(process.stdin, selectors.EVENT_WRITE)
            ready.register(process.stdout, selectors.EVENT_READ)
            got, needed = bytearray(), LENGTH_BYTES
            while len(got) < needed:
                events = ready.select(until - time.monotonic())
                if not events and time.monotonic() >= until:
                    raise TrainerFailure(FailureCode.WORKER_TIME)
                for key, _ in events:
                    if key.fileobj is process.stdin:
                        rest = _written(process.stdin.fileno(), rest)
                        if not rest:
                            ready.unregister(process.stdin)
                        continue
                    piece = os.read(process.stdout.fileno(), min(_PIECE, needed - len(got)))
                    if not piece:
                        raise TrainerFailure(FailureCode.WORKER_DIED)
                    got += piece
                    if needed == LENGTH_BYTES and len(got) == needed:
                        needed += body_size(bytes(got))
            if rest:
                # An answer before the whole question was read answers something else.
                raise TrainerFailure(FailureCode.WORKER_GARBLED)
        return decode_answer(bytes(memoryview(got)[LENGTH_BYTES:]))

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        try:
            self._process = subprocess.Popen(  # words of `command`, no shell
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=environment(),
                cwd=self._directory.name,
            )
        except OSError as error:
            raise ResourceError(f"cannot start training code: {error.strerror}") from error
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # The group, not only the process: code that starts others takes them along.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _written(handle: int, rest: memoryview) -> memoryview:
    try:
        return rest[os.write(handle, rest[:_PIECE]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError as error:
        raise TrainerFailure(FailureCode.WORKER_DIED) from error


def _of(answer: Answer, kind: type[_Kind]) -> _Kind:
    if isinstance(answer, FailureCode):
        raise TrainerFailure(answer)
    if not isinstance(answer, kind):
        raise TrainerFailure(FailureCode.WORKER_GARBLED)
    return answer
