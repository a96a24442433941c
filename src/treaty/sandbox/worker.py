"""Worker: the confined side. It reads tasks, asks the trainer, writes answers, and keeps nothing.

Runs from the copied code, in a process whose network and files are gone. What it writes is not
believed by the other side; what it raises ends it, and the other side sees a closed code.
"""

import sys
from typing import BinaryIO

from treaty.errors import FormatError, PolicyError
from treaty.models.task import FailureCode, TrainerFailure, TrainingTask
from treaty.ports import Trainer
from treaty.sandbox.wire import (
    LENGTH_BYTES,
    Answer,
    Request,
    body_size,
    decode_request,
    encode_answer,
)

__all__ = ["perform", "serve"]


def serve(trainer: Trainer, source: BinaryIO | None = None, sink: BinaryIO | None = None) -> None:
    """Answer requests from `source` on `sink` (standard input and output) until it ends."""
    tasks, answers = source or sys.stdin.buffer, sink or sys.stdout.buffer
    while length := tasks.read(LENGTH_BYTES):
        if len(length) != LENGTH_BYTES:
            raise FormatError("a task was cut off")
        body = tasks.read(body_size(length))
        answers.write(encode_answer(perform(trainer, decode_request(body))))
        answers.flush()


def perform(trainer: Trainer, request: Request) -> Answer:
    """Return what `trainer` says to `request`, or why it says nothing."""
    try:
        if request.operation == "predict":
            return trainer.predict(
                request.specification, request.model, request.features, request.state
            )
        task = TrainingTask(
            request.specification, request.model, request.features, request.label, request.entropy
        )
        match request.operation:
            case "compute":
                return trainer.compute(task)
            case "alone":
                return trainer.alone(task)
            case "site-state":
                return trainer.site_state(task)
            case "layers":
                return tuple(trainer.layers(task))
    except TrainerFailure as failure:
        return failure.reason
    except PolicyError:
        return FailureCode.MODEL_MISMATCH
