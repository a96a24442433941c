"""Nothing of a trainer's own passes its guard: neither its classes nor its words.

Planted and caught: a layer of the trainer's own class; a reason that is no code of ours.
"""

from types import SimpleNamespace
from typing import NoReturn, cast

import numpy as np
import pytest

from tests.worlds import refused
from treaty.errors import PolicyError
from treaty.models.task import FailureCode, GradientPart, TrainerFailure, TrainingTask
from treaty.node.guarding import GuardedTrainer
from treaty.ports import Trainer
from treaty.privacy.mechanisms import Layer

TASK = cast("TrainingTask", SimpleNamespace(label=np.zeros(1)))


class _OwnLayer(Layer):
    """A layer whose answers its own class decides."""


def _guarded(**methods: object) -> GuardedTrainer:
    return GuardedTrainer(cast("Trainer", SimpleNamespace(**methods)))


def test_a_layer_is_of_our_class_and_of_no_other() -> None:
    matrix = np.ones((1, 1))
    for kind, passes in ((Layer, True), (_OwnLayer, False)):
        part = GradientPart("w", None, kind(matrix, matrix, False), False)
        guarded = _guarded(layers=lambda _, part=part: (part,))
        if passes:
            assert type(guarded.layers(TASK)[0].layer) is Layer
            continue
        with refused("contribution-type"):
            guarded.layers(TASK)


def test_a_failure_says_a_code_of_ours_or_nothing() -> None:
    """A reason is shown to nobody unless it is one of those that anybody may see."""
    code = next(iter(FailureCode))

    def failing(reason: object) -> GuardedTrainer:
        def compute(_: object) -> NoReturn:
            failure = TrainerFailure(code)
            failure.__dict__["reason"] = reason
            raise failure

        return _guarded(compute=compute)

    with pytest.raises(TrainerFailure):
        failing(code).compute(TASK)
    with pytest.raises(PolicyError, match="the trainer failed with TrainerFailure") as caught:
        failing("the patient in row 7").compute(TASK)
    assert caught.value.code == "trainer-failed" and "row" not in str(caught.value)
