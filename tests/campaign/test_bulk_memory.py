"""Memory of the bulk work, measured: one vector and a little, however many members there are.

`tracemalloc` counts what Python and numpy allocate. The kernel's parts are measured over files;
then a whole coordinator takes the inputs of four sites and adds them up. `TREATY_CAMPAIGN=full`
takes 10 M words and 24 inputs, `ci` 1 M and 12.

Planted faults that this campaign caught: every input read before the first is added; a masked copy
of the vector beside it; a large input kept in memory until it is sequenced.
"""

import os
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from tests.small_federation import SITES, contract, found, small_plan
from treaty.aggregation.masking import CHUNK_WORDS, MaskPlan, mask_input, open_sum
from treaty.aggregation.quantization import Layout, Segment, encode
from treaty.contracts.schema import contract_bytes
from treaty.governance.roles import Action
from treaty.ids import Digest
from treaty.models.specification import MultilayerPerceptron
from treaty.node.runtime import deliver
from treaty.protocol.consortium import Consortium
from treaty.stores.blobs import CHUNK_BYTES, BlobDirectory
from treaty.studies.plan import plan_bytes, plan_digest

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
WORDS = 10_000_000 if FULL else 1_000_000
INPUTS = 24 if FULL else 12
VECTOR = 4 * WORDS
CHUNK = 4 * CHUNK_WORDS
THREADS = 3


def peak(call: Callable[[], object]) -> int:
    """Return the bytes that `call` holds at its peak, its result among them."""
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        del result


def plan_of(count: int) -> MaskPlan:
    return tuple((sha256(b"%d" % k).digest(), 1 if k % 2 else -1) for k in range(count))


def test_a_member_needs_one_vector_beside_its_input() -> None:
    values = np.linspace(-1, 1, WORDS)
    layout = Layout((Segment("update", WORDS, 20, 1),), 32, 10)

    def masked() -> object:
        vector = encode(values, layout)
        mask_input(vector, plan_of(10), 32)
        return vector

    assert peak(masked) < VECTOR + 8 * CHUNK


def test_a_sum_needs_one_vector_and_one_piece(tmp_path: Path) -> None:
    """With threads one chunk for each of them is added."""
    store = BlobDirectory(tmp_path / "blobs")
    one = np.arange(WORDS, dtype="<u4")
    blobs = []
    for _ in range(INPUTS):
        one += 1
        blobs.append(store.put_chunks([one.data.cast("B")]))
    del one

    def opened() -> object:
        return open_sum((store.chunks(blob) for blob in blobs), plan_of(INPUTS), 32, WORDS)

    assert peak(opened) < VECTOR + 2 * CHUNK_BYTES + 4 * CHUNK
    with ThreadPoolExecutor(THREADS) as pool:

        def shared_out() -> object:
            return open_sum(
                (store.chunks(blob) for blob in blobs),
                plan_of(INPUTS),
                32,
                WORDS,
                spread=pool.map,
            )

        assert peak(shared_out) < VECTOR + 2 * CHUNK_BYTES + (4 + THREADS) * CHUNK


@pytest.mark.timeout(400)
def test_a_coordinator_holds_one_input_while_four_arrive(tmp_path: Path) -> None:
    """Frames that wait in the mailbox are the engine's, and were there before."""
    federation = found(tmp_path / "rivers", capture=False)
    plan = small_plan(federation, model=MultilayerPerceptron(hidden=(4096, 24), rounds=1))
    federation.decide(Action.CONTRACT_ADOPT, Digest(plan.contract), contract_bytes(contract()))
    federation.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan))

    def length(state: Consortium) -> int:
        if state.running is None or state.running.round is None:
            return 0
        return int(state.running.round.opened.predicate.length)

    assert federation.run(lambda state: length(state) > 100_000)
    coordinator = federation.coordinator
    vector = 4 * length(coordinator.state)
    assert peak(lambda: deliver(coordinator)) < 2 * vector
    study = coordinator.state.running
    assert study is not None and study.round is not None
    assert len(study.round.inputs) == len(SITES)
    assert federation.run(lambda state: bool(state.studies[plan_digest(plan)].progress.trace))
    federation.close()
