"""Local trainer: a site's own trainer, which hands each plan's model to the trainer of its kind.

It stands in a module of its own because a confined process loads it and little else: its start
and its memory are those of numpy (docs/spec/sandbox.md, section 2).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors
from treaty.models.specification import ModelSpecification, TorchModule
from treaty.models.task import GradientPart, TrainingTask
from treaty.ports import Trainer
from treaty.trainers.numpy_trainer import NumpyTrainer

__all__ = ["LocalTrainer"]


class LocalTrainer:
    """The trainer of a site: numpy for what numpy can do, PyTorch where the plan names a module."""

    def __init__(self) -> None:
        self._numpy = NumpyTrainer()

    def compute(self, task: TrainingTask) -> NamedTensors:
        """See `treaty.ports.Trainer.compute`."""
        return self._for(task.specification).compute(task)

    def site_state(self, task: TrainingTask) -> bytes:
        """See `treaty.ports.Trainer.site_state`."""
        return self._for(task.specification).site_state(task)

    def predict(
        self,
        specification: ModelSpecification,
        model: NamedTensors,
        features: NDArray[np.float64],
        site_state: bytes = b"",
    ) -> NDArray[np.float64]:
        """See `treaty.ports.Trainer.predict`."""
        return self._for(specification).predict(specification, model, features, site_state)

    def alone(self, task: TrainingTask) -> NamedTensors:
        """See `treaty.ports.Trainer.alone`."""
        return self._for(task.specification).alone(task)

    def layers(self, task: TrainingTask) -> Sequence[GradientPart]:
        """See `treaty.ports.Trainer.layers`."""
        return self._for(task.specification).layers(task)

    def _for(self, specification: ModelSpecification) -> Trainer:
        if not isinstance(specification, TorchModule):
            return self._numpy
        # PyTorch is an extra: everything else works without it.
        from treaty.trainers.torch_trainer import TorchTrainer

        return TorchTrainer()
