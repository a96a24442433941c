"""The full protocol beside plain sums: the same noise keys, the same bytes.

A consortium of the simulator runs the study as in deployment: masks, signatures, log, noise keys
drawn at the sites. What the sites drew is written down by their source of entropy; the same keys
over plain sums must end in the same model. So the table may use plain sums for its many cells.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.pipeline import site_files
from benchmarks.privacy.arms import without_surplus
from treaty.aggregation.quantization import ring_vector
from treaty.contracts.normalisation import with_public_bounds
from treaty.datasets.registry import Dataset
from treaty.ids import MemberId
from treaty.node.participant import Participant
from treaty.ports import Entropy
from treaty.privacy.certificate import Cohort
from treaty.privacy.distributed import noise_commitment, noise_key
from treaty.protocol.secagg_messages import MaskedInput
from treaty.protocol.statements import peek
from treaty.protocol.study import Study
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.stores.system import SystemEntropy
from treaty.studies.plan import Plan
from treaty.studies.progress import begin
from treaty.studies.queries import NOISED
from treaty.wiring import open_participant

__all__ = ["Governed", "found_governed"]


@dataclass
class _Remembering:
    """Entropy of the system that keeps what it gave, so that a run can be repeated."""

    drawn: list[bytes] = field(default_factory=list)
    source: Entropy = field(default_factory=SystemEntropy)

    def bytes(self, size: int) -> bytes:
        found = self.source.bytes(size)
        self.drawn.append(found)
        return found


class Governed(Federation):
    """A private consortium whose sites' entropy is written down."""

    def __init__(self, directory: Path) -> None:
        self.entropy: dict[MemberId, _Remembering] = {}
        super().__init__(directory, in_memory=True)

    def _open_participant(self, name: MemberId) -> Participant:
        place = self.directory / "parties" / name
        self.entropy[name] = _Remembering()
        return open_participant(
            place,
            name=name,
            coordinator=COORDINATOR,
            anchor=self.anchor,
            engine=self.network.endpoint(name),
            storage=self._storage(place),
            entropy=self.entropy[name],
        )

    def repeats(self, study: Study) -> bool:
        """Say whether plain sums with the sites' own noise keys end in the study's model."""
        progress = begin(study.plan, study.contract, members=len(self.members), least_support=3)
        cohort = Cohort(len(self.members), study.group.min_survivors, study.group.max_colluders)
        committed = {
            (body.context, body.author): body.noise
            for _, body in map(peek, self.coordinator.entries)
            if isinstance(body, MaskedInput)
        }
        for record in study.rounds[:-1]:
            query = progress.expected_query()
            assert query.kind in NOISED and record.sum is not None
            total = np.zeros(query.layout.length, dtype=np.uint64)
            cleaned = total.copy()
            for name in record.members_in:
                found = committed[record.context, name]
                [entropy] = [
                    drawn
                    for drawn in self.entropy[name].drawn
                    if len(drawn) == 32
                    and noise_commitment(noise_key(drawn), query.digest) == found
                ]
                local = self.participants[name].local_study(study)
                answer = local.answer(query, progress, entropy, cohort, opens=True)
                total += answer.vector
                survivors = len(record.members_in)
                cleaned += without_surplus(study.plan, query, answer, cohort, survivors)
            published = self._storages[0].blobs.get(record.sum)
            if not (ring_vector(published, 64, query.layout.length) == total).all():
                return False
            progress = progress.absorb(query, cleaned, len(record.members_in))
        return progress.model_digest == study.final_model

    def run_private(self, plan: Plan, dataset: Dataset) -> Study:
        """Ratify and run one study on the data set's contract by its public bounds."""
        return self.run_study(plan, with_public_bounds(dataset.contract))


def found_governed(directory: Path, dataset: Dataset) -> Governed:
    """Return a private consortium of the data set's sites, budget epsilon 100."""
    Federation.found(
        directory,
        site_files(dataset),
        consortium="benchmark",
        epsilon_budget_milli=100_000,
        delta="1e-5",
    )
    federation = Governed(directory)
    federation.establish()
    return federation
