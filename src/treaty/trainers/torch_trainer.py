"""The trainer of PyTorch modules: a fixed list, built by this code, never loaded from anywhere.

A plan names an entry of `MODULES` and its widths. The module is built here, its parameters are
compared with the plan's manifest, and only named tensors go in and out: no pickled state, no
code from a plan. PyTorch is an extra and is imported at first need, here alone.

Guarantees: as `numpy_trainer`. LIMIT: a contribution may differ in its last bits between builds of
PyTorch; nobody recomputes contributions, and the next model follows from their sum alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treaty.aggregation.tensors import NamedTensors, TensorSpec
from treaty.models.specification import ModelSpecification, TorchModule, model_manifest
from treaty.models.task import FailureCode, GradientPart, TrainerFailure, TrainingTask
from treaty.privacy.mechanisms import Layer
from treaty.trainers.updates import batches, check_task, train_alone, weighted_update

if TYPE_CHECKING:
    import torch

__all__ = ["MODULES", "TorchTrainer", "module_specification"]

Vector = npt.NDArray[np.float64]


def _tanh(columns: int, hidden: tuple[int, ...]) -> torch.nn.Module:
    import torch

    return _stack(columns, hidden, torch.nn.Tanh)


def _relu(columns: int, hidden: tuple[int, ...]) -> torch.nn.Module:
    import torch

    return _stack(columns, hidden, torch.nn.ReLU)


def _stack(
    columns: int, hidden: tuple[int, ...], activation: Callable[[], torch.nn.Module]
) -> torch.nn.Module:
    import torch

    parts: list[torch.nn.Module] = []
    inputs = columns
    for outputs in hidden:
        parts += [torch.nn.Linear(inputs, outputs), activation()]
        inputs = outputs
    return torch.nn.Sequential(*parts, torch.nn.Linear(inputs, 1))


MODULES: Mapping[str, Callable[[int, tuple[int, ...]], torch.nn.Module]] = MappingProxyType(
    {"mlp-tanh": _tanh, "mlp-relu": _relu}
)
"""The modules a plan may name: from design columns and widths to a module with one logit."""


def module_specification(module: str, columns: int, hidden: tuple[int, ...] = (16,)) -> TorchModule:
    """Return a description with the manifest filled in, for whoever writes a plan.

    Raises `TrainerFailure` for a module outside the list or when PyTorch is not installed.
    """
    empty = TorchModule(module=module, hidden=hidden, manifest=())
    manifest = tuple(
        TensorSpec(name=name, shape=tuple(value.shape), dtype="F32")
        for name, value in sorted(_build(empty, columns).state_dict().items())
    )
    return TorchModule(module=module, hidden=hidden, manifest=manifest)


class TorchTrainer:
    """Local computation of the PyTorch modules on the fixed list."""

    def compute(self, task: TrainingTask) -> NamedTensors:
        """Return the site's contribution at `task.model`; raises `TrainerFailure`."""
        spec = _supported(task.specification)
        check_task(task)
        if not np.all(np.isin(task.label, (0.0, 1.0))):
            raise TrainerFailure(FailureCode.LABEL_OUT_OF_RANGE)
        module = _loaded(spec, task.model, task.features.shape[1])
        import torch

        features = torch.from_numpy(task.features.astype(np.float32))
        label = torch.from_numpy(task.label.astype(np.float32))[:, None]
        loss = torch.nn.BCEWithLogitsLoss()
        descent = torch.optim.SGD(module.parameters(), lr=spec.learning_rate_micro / 10**6)
        module.train()
        for rows in batches(spec, len(task.label), task.entropy):
            chosen = torch.from_numpy(rows)
            descent.zero_grad()
            loss(module(features[chosen]), label[chosen]).backward()
            descent.step()
        trained = NamedTensors.from_arrays(
            {name: value.detach().numpy() for name, value in module.state_dict().items()}
        )
        return weighted_update(spec, task.model, trained, len(task.label))

    def site_state(self, task: TrainingTask) -> bytes:
        """Return no bytes: these models keep nothing at the site. Raises `TrainerFailure`."""
        _supported(task.specification)
        return b""

    def predict(
        self,
        specification: ModelSpecification,
        model: NamedTensors,
        features: Vector,
        site_state: bytes = b"",
    ) -> Vector:
        """Return each row's probability, float64 (n,); raises `TrainerFailure`."""
        spec = _supported(specification)
        if features.ndim != 2 or not model.conforms_to(model_manifest(spec, features.shape[1])):
            raise TrainerFailure(FailureCode.MODEL_MISMATCH)
        module = _loaded(spec, model, features.shape[1])
        import torch

        module.eval()
        with torch.no_grad():
            logit = module(torch.from_numpy(features.astype(np.float32)))[:, 0]
            probability: Vector = torch.sigmoid(logit.double()).numpy()
        return probability

    def alone(self, task: TrainingTask) -> NamedTensors:
        """Return the site's own model, trained on its rows only; raises `TrainerFailure`."""
        _supported(task.specification)
        return train_alone(task, self.compute)

    def layers(self, task: TrainingTask) -> tuple[GradientPart, ...]:
        """Return activations and errors of every linear layer; raises `TrainerFailure`.

        One pass forward and one backward over the sum of the rows' log losses: the gradient at a
        layer's output is then each row's own error, and no row's gradient is formed.
        """
        spec = _supported(task.specification)
        check_task(task)
        if not np.all(np.isin(task.label, (0.0, 1.0))):
            raise TrainerFailure(FailureCode.LABEL_OUT_OF_RANGE)
        # In double precision: how a kernel adds a row up may depend on the rows beside it, and the
        # sensitivity allows for that in the last digits of a double only.
        module = _loaded(spec, task.model, task.features.shape[1]).double()
        import torch

        module.train()
        value = torch.from_numpy(task.features)
        seen: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        for name, child in module.named_children():
            before = value
            value = child(before)
            if isinstance(child, torch.nn.Linear):
                value.retain_grad()
                seen.append((name, before, value))
            elif next(child.parameters(), None) is not None:
                raise TrainerFailure(FailureCode.UNSUPPORTED_MODEL)
        label = torch.from_numpy(task.label)[:, None]
        torch.nn.BCEWithLogitsLoss(reduction="sum")(value, label).backward()
        parts: list[GradientPart] = []
        for name, before, after in seen:
            if after.grad is None:
                raise TrainerFailure(FailureCode.UNSUPPORTED_MODEL)
            layer = Layer(before.detach().numpy(), after.grad.detach().numpy())
            parts.append(GradientPart(f"{name}.weight", f"{name}.bias", layer, transposed=True))
        return tuple(parts)


def _supported(spec: ModelSpecification) -> TorchModule:
    if not isinstance(spec, TorchModule):
        raise TrainerFailure(FailureCode.UNSUPPORTED_MODEL)
    return spec


def _build(spec: TorchModule, columns: int) -> torch.nn.Module:
    if spec.module not in MODULES:
        raise TrainerFailure(FailureCode.UNSUPPORTED_MODEL)
    try:
        return MODULES[spec.module](columns, spec.hidden)
    except ImportError as error:
        raise TrainerFailure(FailureCode.MODULE_UNAVAILABLE) from error


def _loaded(spec: TorchModule, model: NamedTensors, columns: int) -> torch.nn.Module:
    """Return the module with the parameters of `model`, whose manifest is already the plan's."""
    module = _build(spec, columns)
    import torch

    state = module.state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    if wanted != {tensor.name: tensor.shape for tensor in model.manifest} or any(
        tensor.dtype != "F32" for tensor in model.manifest
    ):
        raise TrainerFailure(FailureCode.MODULE_MISMATCH)
    module.load_state_dict(
        {name: torch.from_numpy(model[name].astype(np.float32)) for name in model.names}
    )
    return module
