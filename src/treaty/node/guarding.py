"""Guarding: a trainer is foreign code; what it returns and throws is brought to a closed form.

Guarantees (docs/spec/training.md, section 3):
  * A call returns plain arrays of the right kind and shape, copied, or raises `PolicyError`:
    `TrainerFailure` with its closed code, ``trainer-failed`` for anything else that is thrown,
    ``contribution-type`` or ``contribution-shape`` for a result of another kind.
  * No text of an exception passes, for it may hold rows: only the name of its class does, for the
    site's own journal. The site lives on and declines.

LIMIT: the values of a result are a channel that only clipping and noise can bound; what a trainer
writes to files or the network is the sandbox's business.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors
from treaty.errors import PolicyError
from treaty.models.specification import ModelSpecification
from treaty.models.task import FailureCode, GradientPart, TrainerFailure, TrainingTask
from treaty.ports import Trainer
from treaty.privacy.mechanisms import Layer

__all__ = ["GuardedTrainer"]

_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z_]{0,63}")
"""Without digits: even a class may be named after a row."""


class GuardedTrainer:
    """A `Trainer` around another one that is not trusted."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def compute(self, task: TrainingTask) -> NamedTensors:
        """See `treaty.ports.Trainer.compute`."""
        with _declining():
            return _plain(self._trainer.compute(task))

    def site_state(self, task: TrainingTask) -> bytes:
        """See `treaty.ports.Trainer.site_state`."""
        with _declining():
            return bytes(self._trainer.site_state(task))

    def predict(
        self,
        specification: ModelSpecification,
        model: NamedTensors,
        features: NDArray[np.float64],
        site_state: bytes = b"",
    ) -> NDArray[np.float64]:
        """See `treaty.ports.Trainer.predict`. The result has one element for each row."""
        with _declining():
            found = self._trainer.predict(specification, model, features, site_state)
            scores = np.array(found, dtype=np.float64, copy=True)
        if scores.shape != (len(features),):
            raise PolicyError(
                "expected one prediction for each row from the trainer", code="contribution-shape"
            )
        return scores

    def alone(self, task: TrainingTask) -> NamedTensors:
        """See `treaty.ports.Trainer.alone`."""
        with _declining():
            return _plain(self._trainer.alone(task))

    def layers(self, task: TrainingTask) -> tuple[GradientPart, ...]:
        """See `treaty.ports.Trainer.layers`. Every matrix has one row for each of the task."""
        with _declining():
            parts = tuple(_part(one) for one in self._trainer.layers(task))
        for part in parts:
            for matrix in (part.layer.inputs, part.layer.errors):
                if matrix.ndim != 2 or len(matrix) != len(task.label):
                    raise PolicyError(
                        "expected one row of activations and errors for each row from the trainer",
                        code="contribution-shape",
                    )
                if not np.all(np.isfinite(matrix)):
                    raise PolicyError(
                        "expected finite activations and errors from the trainer",
                        code="contribution-not-finite",
                    )
        return parts


def _plain(result: object) -> NamedTensors:
    """Return `result` as tensors that nobody else holds; a subclass could change its answers."""
    if type(result) is not NamedTensors:
        raise _WrongKind
    return NamedTensors(result.manifest, result.arrays)


def _part(result: object) -> GradientPart:
    """Return `result` with arrays that nobody else holds."""
    if type(result) is not GradientPart or type(result.layer) is not Layer:
        raise _WrongKind
    layer = Layer(
        np.array(result.layer.inputs, dtype=np.float64, copy=True, order="C"),
        np.array(result.layer.errors, dtype=np.float64, copy=True, order="C"),
        bool(result.layer.has_bias),
    )
    bias = None if result.bias is None else str(result.bias)
    return GradientPart(str(result.weight), bias, layer, bool(result.transposed))


class _WrongKind(Exception):  # noqa: N818  # never leaves this module
    """The trainer returned something else than named tensors."""


@contextmanager
def _declining() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise
    except _WrongKind:
        raise PolicyError(
            "expected named tensors from the trainer", code="contribution-type"
        ) from None
    # Not the outermost loop, and meant: foreign code throws anything, `SystemExit` among it. What
    # passed would stop the node in the middle of a round, and its text might hold rows.
    except BaseException as error:  # noqa: BLE001  # see above
        reason = error.__dict__.get("reason") if type(error) is TrainerFailure else None
        if isinstance(reason, FailureCode):
            raise TrainerFailure(reason) from None
        raise PolicyError(
            f"the trainer failed with {_class_of(error)}", code="trainer-failed"
        ) from None


def _class_of(error: BaseException) -> str:
    name = type(error).__name__
    return name if _CLASS_NAME.fullmatch(name) else "an exception"
