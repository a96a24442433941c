"""T-12, T-27, T-50, T-52: a trainer that tries to carry rows out is declined, and nothing leaves.

One of four sites runs a trainer that knows its rows and hides them in everything it can return or
throw. The round goes on without it; its site says ``site-declined`` and no more. Afterwards every
byte that left the site, every log, journal, blob and file of the others, and every statement is
searched for the planted values: as text, hexadecimal, base64, decimal, and as binary floats of 32
and 64 bits in both orders. The search itself is tested on a trainer whose values it must find.

LIMIT (R-3): the values of an allowed contribution are a channel; they are not what is tested here.

Planted faults that these tests caught: no guard; a guard that lets subclasses of tensors pass,
hands on their arrays uncopied, catches `Exception` only, keeps the text, the chain or any class
name of what was thrown, lets refusals pass, takes predictions of any shape; names, shapes or
types of tensors unchecked; another code than ``site-declined``.
"""

import base64
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.small_federation import (
    SITES,
    SmallFederation,
    contract,
    found,
    rows_of,
    sentinels,
    site_files,
    small_plan,
)
from treaty.aggregation.tensors import NamedTensors, TensorSpec
from treaty.errors import PolicyError, ResourceError, VerificationError
from treaty.ids import MemberId
from treaty.models.specification import ModelSpecification
from treaty.models.task import FailureCode, TrainerFailure, TrainingTask
from treaty.node.contribution import LocalStudy
from treaty.node.guarding import GuardedTrainer
from treaty.protocol.frames import decode_post
from treaty.protocol.secagg_messages import DeclineCode, InputDeclined
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.trainers.numpy_trainer import NumpyTrainer

HOSTILE = SITES[0]
PLANTED = sentinels(HOSTILE)
TEXT = ",".join(row[1] for row in rows_of(HOSTILE))

Act = Callable[[NamedTensors], object]


class Smuggler:
    """The honest trainer, but for what `act` makes of its contribution."""

    def __init__(self, act: Act, *, where: str = "compute") -> None:
        self._honest = NumpyTrainer()
        self._act = act
        self._where = where

    def compute(self, task: TrainingTask) -> NamedTensors:
        result = self._honest.compute(task)
        return self._act(result) if self._where == "compute" else result  # type: ignore[return-value]  # hostile

    def site_state(self, task: TrainingTask) -> bytes:
        result = self._honest.site_state(task)
        if self._where == "site_state":
            return self._act(task.model)  # type: ignore[return-value]  # hostile
        return result

    def predict(
        self,
        specification: ModelSpecification,
        model: NamedTensors,
        features: NDArray[np.float64],
        site_state: bytes = b"",
    ) -> NDArray[np.float64]:
        if self._where == "predict":
            return self._act(model)  # type: ignore[return-value]  # hostile
        return self._honest.predict(specification, model, features, site_state)

    def alone(self, task: TrainingTask) -> NamedTensors:
        if self._where == "alone":
            return self._act(task.model)  # type: ignore[return-value]  # hostile
        return self._honest.alone(task)


# --- what it tries ----------------------------------------------------------------------------


def arrays_of(tensors: NamedTensors) -> dict[str, NDArray[np.number]]:
    return {name: np.array(tensors[name]) for name in tensors.names}


def with_rows_as_names(tensors: NamedTensors) -> object:
    arrays = arrays_of(tensors)
    first = next(iter(arrays))
    return NamedTensors.from_arrays(
        {**{name: one for name, one in arrays.items() if name != first}, TEXT[:60]: arrays[first]}
    )


def with_rows_as_shapes(tensors: NamedTensors) -> object:
    arrays = arrays_of(tensors)
    name = next(iter(arrays))
    whole = int(PLANTED[0])
    return NamedTensors.from_arrays({**arrays, name: np.zeros((whole, 3))})


def with_more_dimensions(tensors: NamedTensors) -> object:
    return NamedTensors.from_arrays(
        {name: one.reshape((1,) * 2 + one.shape) for name, one in arrays_of(tensors).items()}
    )


def with_an_extra_tensor(tensors: NamedTensors) -> object:
    return NamedTensors.from_arrays({**arrays_of(tensors), "zz-rows": np.array(PLANTED)})


def with_a_tensor_less(tensors: NamedTensors) -> object:
    arrays = arrays_of(tensors)
    arrays.popitem()
    return NamedTensors.from_arrays(arrays)


def with_another_type(tensors: NamedTensors) -> object:
    return NamedTensors.from_arrays(
        {name: one.astype(np.float32) for name, one in arrays_of(tensors).items()}
    )


def as_integers(tensors: NamedTensors) -> object:
    bits = np.array(PLANTED[:1], np.float64).view(np.int64)[0]
    return NamedTensors.from_arrays(
        {name: np.full(one.shape, bits) for name, one in arrays_of(tensors).items()}
    )


def with_payloads_in_nan(tensors: NamedTensors) -> object:
    """A NaN has 51 bits that nobody looks at."""
    payload = int(PLANTED[0] * 1e6)
    word = np.array([0x7FF8_0000_0000_0000 | payload], np.uint64).view(np.float64)[0]
    return NamedTensors.from_arrays(
        {name: np.full(one.shape, word) for name, one in arrays_of(tensors).items()}
    )


def with_infinities(tensors: NamedTensors) -> object:
    return NamedTensors.from_arrays(
        {name: np.full(one.shape, np.inf) for name, one in arrays_of(tensors).items()}
    )


def above_the_bound(tensors: NamedTensors) -> object:
    return NamedTensors.from_arrays(
        {name: np.full(one.shape, PLANTED[0] * 1e12) for name, one in arrays_of(tensors).items()}
    )


def as_a_dictionary(tensors: NamedTensors) -> object:
    return {"tensors": arrays_of(tensors), "metrics": {"rows": PLANTED}, "note": TEXT}


def as_a_pair_with_metrics(tensors: NamedTensors) -> object:
    return tensors, {"loss": PLANTED[0]}


def as_text(tensors: NamedTensors) -> object:
    return TEXT


def as_nothing(tensors: NamedTensors) -> object:
    return None


class Changing(NamedTensors):
    """Honest when it is checked, full of rows when it is used."""

    __slots__ = ()

    def float64(self, name: str) -> NDArray[np.float64]:
        return np.resize(np.array(PLANTED), self[name].shape)


def as_a_subclass(tensors: NamedTensors) -> object:
    return Changing(tensors.manifest, tensors.arrays)


def with_exchanged_innards(tensors: NamedTensors) -> object:
    """The manifest is the plan's; the arrays behind it are longer."""
    result = NamedTensors(tensors.manifest, tensors.arrays)
    result._arrays = tuple(np.array(PLANTED) for _ in tensors.arrays)
    return result


def with_objects_for_elements(tensors: NamedTensors) -> object:
    result = NamedTensors(tensors.manifest, tensors.arrays)
    result._arrays = tuple(np.full(one.shape, TEXT, object) for one in tensors.arrays)  # type: ignore[assignment]  # hostile
    return result


def with_a_manifest_of_rows(tensors: NamedTensors) -> object:
    result = NamedTensors(tensors.manifest, tensors.arrays)
    result._manifest = tuple(
        TensorSpec(name=f"r{value}", shape=(1,), dtype="F64") for value in PLANTED
    )
    return result


class Telling(TrainerFailure):
    """A failure of the closed list, with rows for its text and its code."""

    def __init__(self) -> None:
        super().__init__(FailureCode.NO_ROWS)
        self.code = f"no-rows-{TEXT}"
        self.args = (TEXT,)

    def __str__(self) -> str:
        return TEXT


def telling_failure(tensors: NamedTensors) -> object:
    raise Telling


def failure_with_a_note(tensors: NamedTensors) -> object:
    error = TrainerFailure(FailureCode.NO_CONVERGENCE)
    error.add_note(TEXT)
    error.args = (TEXT,)
    error.code = TEXT
    raise error


def failure_with_a_made_up_reason(tensors: NamedTensors) -> object:
    error = TrainerFailure(FailureCode.NO_CONVERGENCE)
    error.reason = TEXT  # type: ignore[assignment]  # hostile
    raise error


def refusal_with_text(tensors: NamedTensors) -> object:
    raise PolicyError(TEXT, code=TEXT)


def doubt_with_text(tensors: NamedTensors) -> object:
    raise VerificationError(TEXT, code="site-declined")


def failing_disk(tensors: NamedTensors) -> object:
    """A `ResourceError` would be tried again for ever, or stop the node."""
    raise ResourceError(TEXT)


def any_exception(tensors: NamedTensors) -> object:
    raise ValueError(TEXT)


def exception_group(tensors: NamedTensors) -> object:
    raise ExceptionGroup(TEXT, [ValueError(TEXT)])


def class_named_after_a_row(tensors: NamedTensors) -> object:
    raise type(f"Row{PLANTED[0]}", (Exception,), {})(TEXT)


def leaving_the_process(tensors: NamedTensors) -> object:
    raise SystemExit(TEXT)


class Unprintable(Exception):  # noqa: N818  # hostile
    def __str__(self) -> str:
        raise RuntimeError(TEXT)

    def __repr__(self) -> str:
        raise RuntimeError(TEXT)


def unprintable(tensors: NamedTensors) -> object:
    raise Unprintable


def too_deep(tensors: NamedTensors) -> object:
    return too_deep(tensors)


RETURNED: tuple[Act, ...] = (
    with_rows_as_shapes,
    with_more_dimensions,
    with_an_extra_tensor,
    with_a_tensor_less,
    with_another_type,
    as_integers,
    with_payloads_in_nan,
    with_infinities,
    above_the_bound,
    as_a_dictionary,
    as_a_pair_with_metrics,
    as_text,
    as_nothing,
    as_a_subclass,
    with_exchanged_innards,
    with_objects_for_elements,
    with_a_manifest_of_rows,
    with_rows_as_names,
)
THROWN: tuple[Act, ...] = (
    telling_failure,
    failure_with_a_note,
    failure_with_a_made_up_reason,
    refusal_with_text,
    doubt_with_text,
    failing_disk,
    any_exception,
    exception_group,
    class_named_after_a_row,
    leaving_the_process,
    unprintable,
    too_deep,
)
CODES = {
    "contribution-type",
    "contribution-names",
    "contribution-shape",
    "contribution-not-finite",
    "contribution-over-bound",
    "trainer-failed",
    *(code.value for code in FailureCode),
}


# --- the search -------------------------------------------------------------------------------


def spellings(value: float, following: float) -> Iterator[bytes]:
    """Yield the ways in which a value of a row may stand in bytes.

    32-bit floats are looked for in pairs: four bytes alone occur by chance.
    """
    text = f"{value:.6f}"
    for plain in (text, text.replace(".", ""), text.replace(".", ",")):
        yield plain.encode()
        yield plain.encode().hex().encode()
        yield plain.encode("utf-16-le")
    scaled = round(value * 1e6)
    for packed in (
        struct.pack("<d", value),
        struct.pack(">d", value),
        struct.pack("<ff", value, following),
        struct.pack(">ff", value, following),
        scaled.to_bytes(8, "little"),
        scaled.to_bytes(8, "big"),
    ):
        yield packed
        yield packed.hex().encode()
        yield packed.hex().upper().encode()


def base64_cores(value: float, following: float) -> Iterator[bytes]:
    """Yield what stays of the base64 of two values, wherever they begin in a group of three."""
    for data in (
        f"{value:.6f},{following:.6f}".encode(),
        struct.pack("<dd", value, following),
        struct.pack(">dd", value, following),
        struct.pack("<ff", value, following),
    ):
        for shift in range(3):
            encoded = base64.b64encode(bytes(shift) + data)
            core = encoded[4 if shift else 0 : len(encoded) - 4]
            if len(core) >= 8:
                yield core


NEEDLES = tuple(
    {
        needle
        for pair in pairwise(PLANTED[:12])
        for needle in (*spellings(*pair), *base64_cores(*pair))
    }
)
"""Of the first rows alone: whoever carries rows out here carries those too."""


def found_in(data: bytes) -> list[bytes]:
    """Return the planted spellings that stand in `data`."""
    return [needle for needle in NEEDLES if needle in data]


def everything_outside(federation: SmallFederation) -> Iterator[tuple[str, bytes]]:
    """Yield all that another party could see: what left the site, and what the others hold."""
    for record in federation.network.egress:
        if record.sender == HOSTILE and record.content is not None:
            yield f"frame to {record.recipient}", record.content
            if record.passage.value == "frame":
                post = decode_post(record.content)
                for entry in post.statements:
                    yield "payload of a statement", peek(entry)[0].payload
                for digest, blob in post.blobs.items():
                    yield f"blob {digest}", blob
    for entry in federation.coordinator.entries:
        yield "log entry", entry
        yield "payload of a log entry", peek(entry)[0].payload
    own = federation.directory / "parties" / HOSTILE
    for path in sorted(federation.directory.rglob("*")):
        if path.is_file() and own not in path.parents:
            yield str(path), path.read_bytes()


def assert_nothing_left(federation: SmallFederation) -> None:
    """Fail when a planted value stands anywhere outside the site."""
    places: dict[bytes, str] = {}
    for place, data in everything_outside(federation):
        places.setdefault(data, place)
    everything = bytes(16).join(places)
    assert len(everything) > 50_000
    hits = found_in(everything)
    assert not hits, {place for data, place in places.items() if any(hit in data for hit in hits)}
    # The journal is the site's own, and still holds no row.
    assert not found_in(federation.journal_of(HOSTILE).encode())


def run(directory: Path, trainer: object) -> tuple[SmallFederation, Study]:
    """Run a study in which the hostile site has `trainer`; return it when it has ended."""
    federation = found(directory, trainers={HOSTILE: trainer}, in_memory=False)
    study = federation.run_study(small_plan(federation), contract())
    return federation, study


# --- tests ------------------------------------------------------------------------------------


def test_the_search_finds_what_is_there() -> None:
    """A search that could not find a row would pass every other test here."""
    value = PLANTED[7]
    for shift in range(3):
        padding = b"x" * shift
        for data in (
            f"{value:.6f}".encode(),
            struct.pack("<d", value),
            struct.pack(">d", value),
            struct.pack("<ff", value, PLANTED[8]),
            struct.pack(">ff", value, PLANTED[8]),
            struct.pack(">d", value).hex().encode(),
            base64.b64encode(padding + f"{value:.6f},{PLANTED[8]:.6f}".encode()),
            base64.b64encode(padding + np.array(PLANTED).tobytes()),
            np.array(PLANTED, ">f8").tobytes(),
            np.array(PLANTED, "<f4").tobytes(),
            site_files(HOSTILE).data,
        ):
            assert found_in(padding + data + padding)
    assert not found_in(site_files(SITES[1]).data)


@dataclass(frozen=True)
class _Answered:
    local: LocalStudy
    study: Study

    def code(self) -> str:
        """Return the code by which the site declines."""
        progress = self.study.progress
        with pytest.raises(PolicyError) as caught:
            self.local.answer(progress.expected_query(), progress, bytes(32))
        assert type(caught.value) in (PolicyError, TrainerFailure)
        assert not found_in(str(caught.value).encode())
        assert caught.value.__cause__ is None
        return caught.value.code


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallFederation, Study]:
    """A federation, and a study as it stood when it asked for its first training round."""
    federation = found(tmp_path_factory.mktemp("federation"), in_memory=True, capture=False)
    seen: list[Study] = []

    def look() -> None:
        study = federation.coordinator.state.running
        if study is not None and study.progress.index == 2 and not seen:
            seen.append(study)

    federation.run_study(small_plan(federation), contract(), look)
    return federation, seen[0]


@pytest.mark.parametrize("act", RETURNED + THROWN, ids=lambda act: act.__name__)
def test_what_a_trainer_returns_or_throws_becomes_a_closed_code(
    training: tuple[SmallFederation, Study], act: Act
) -> None:
    federation, study = training
    honest = federation.participants[HOSTILE].local_study(study)
    local = LocalStudy(honest.plan, honest.data, Smuggler(act))
    assert _Answered(local, study).code() in CODES


def test_an_honest_trainer_answers_through_the_guard(
    training: tuple[SmallFederation, Study],
) -> None:
    """The control: without smuggling the same call gives the same vector as without a guard."""
    federation, study = training
    progress = study.progress
    honest = federation.participants[HOSTILE].local_study(study)
    guarded = LocalStudy(honest.plan, honest.data, Smuggler(lambda tensors: tensors))
    assert isinstance(guarded.trainer, GuardedTrainer)
    query = progress.expected_query()
    one = guarded.answer(query, progress, bytes(32)).vector
    assert np.array_equal(one, honest.answer(query, progress, bytes(32)).vector)
    assert np.any(one)


@pytest.mark.parametrize("where", ["site_state", "predict", "alone"])
@pytest.mark.parametrize("act", (*THROWN, as_text, as_nothing, as_a_dictionary))
def test_every_call_of_a_trainer_is_guarded(
    training: tuple[SmallFederation, Study], act: Act, where: str
) -> None:
    federation, _ = training
    done = list(federation.coordinator.state.studies.values())[-1]
    honest = federation.participants[HOSTILE].local_study(done)
    local = LocalStudy(honest.plan, honest.data, Smuggler(act, where=where))
    with pytest.raises(PolicyError) as caught:
        local.figures(done.progress, bytes(32))
    assert caught.value.code in CODES
    assert not found_in(str(caught.value).encode())


@pytest.mark.parametrize(
    "act",
    [with_an_extra_tensor, with_payloads_in_nan, any_exception, telling_failure, failing_disk],
    ids=lambda act: act.__name__,
)
def test_a_site_with_a_smuggling_trainer_declines_and_nothing_leaves(
    tmp_path: Path, act: Act
) -> None:
    federation, study = run(tmp_path, Smuggler(act))
    assert study.phase is Phase.COMPLETED
    declined = [
        body
        for body in (peek(entry)[1] for entry in federation.coordinator.entries)
        if isinstance(body, InputDeclined)
    ]
    assert {body.author for body in declined} == {HOSTILE}
    assert {body.code for body in declined} == {DeclineCode.SITE_DECLINED}
    # Support, statistics and evaluation do not use what this trainer computes for training.
    assert [HOSTILE in one.members_in for one in study.rounds] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]
    assert "declined." in federation.journal_of(HOSTILE)
    assert_nothing_left(federation)


@pytest.mark.parametrize("act", [any_exception, telling_failure], ids=lambda act: act.__name__)
def test_figures_that_cannot_be_computed_are_withheld(tmp_path: Path, act: Act) -> None:
    """A failure while predicting: the evaluation round is declined, the report does not come."""
    federation = found(tmp_path, trainers={HOSTILE: Smuggler(act, where="predict")})
    study = federation.run_study(small_plan(federation), contract())
    assert HOSTILE not in study.rounds[-1].members_in
    assert HOSTILE not in study.reports
    assert set(study.reports) == set(SITES[1:])
    assert_nothing_left(federation)


def test_an_honest_study_lets_no_row_leave(tmp_path: Path) -> None:
    federation, study = run(tmp_path, NumpyTrainer())
    assert study.phase is Phase.COMPLETED
    assert MemberId(HOSTILE) in study.reports
    assert_nothing_left(federation)
