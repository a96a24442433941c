"""T-09, R-1: what the coordinator and two of four members can work out about the other two.

The attackers pool everything: every frame that was ever sent (all pass the coordinator), both
members' stores and the slot secrets that they should have erased, the published seeds, and their
own contributions. From the masked inputs of the two honest sites they take off every mask whose
key they know. The control is that this machinery works: it gives the exact joint contribution of
the two to every sum, and the exact contribution of a site whose partner helps them. What is left of
one site alone is uniform noise: none of its row count, positives, means, Newton terms or histogram.

The plan asks for no site figures: whoever accepts those by name shows them.

Planted faults that these tests caught: no self mask, pair masks under a constant key, or under one
that does not depend on the agreement; lint, or the study, without least support.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.small_federation import (
    SITES,
    SmallFederation,
    contract,
    found,
    rows_of,
    site_files,
    small_plan,
)
from treaty.aggregation.masking import apply_masks
from treaty.aggregation.quantization import ring_vector
from treaty.contracts.schema import Contract, Level, contract_digest
from treaty.crypto import canonical
from treaty.crypto.derivation import kdf
from treaty.crypto.key_agreement import AgreementKey
from treaty.errors import PolicyError
from treaty.ids import Digest, MemberId
from treaty.protocol.frames import decode_post
from treaty.protocol.messages import HaltCode
from treaty.protocol.secagg_keys import Group, SlotSecrets, pair_key
from treaty.protocol.secagg_messages import MaskedInput, RoundOpened, RoundResult
from treaty.protocol.statements import SignerKind, peek, registered
from treaty.protocol.study import Phase, Study
from treaty.stores.memory import MemorySecrets, MemoryStore
from treaty.studies.lint import lint_plan, require_clean
from treaty.studies.plan import EvaluationSettings
from treaty.studies.progress import StudyProgress
from treaty.studies.queries import Query, QueryKind
from treaty.wiring import Storage

HONEST = SITES[:2]
COLLUDERS = SITES[2:]
SIZES = {HONEST[0]: 60, HONEST[1]: 41, COLLUDERS[0]: 60, COLLUDERS[1]: 60}

Words = NDArray[np.unsignedinteger]


class HoardedSecrets(MemorySecrets):
    """A colluder's secret file: what is erased is kept all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.hoard: dict[str, bytes] = {}

    def write(self, name: str, data: bytes) -> None:
        self.hoard[name] = data
        super().write(name, data)

    def write_all(self, items: Mapping[str, bytes]) -> None:
        self.hoard.update(items)
        super().write_all(items)


class Collusion(SmallFederation):
    """A federation in which some members keep what they should erase."""

    hoards: dict[str, HoardedSecrets]

    def _storage(self, place: Path) -> Storage:
        self.hoards = getattr(self, "hoards", {})
        store = MemoryStore()
        secrets = self.hoards.setdefault(place.name, HoardedSecrets())
        storage = Storage(store, store.blobs, secrets)
        self._storages.append(storage)
        return storage


@dataclass(frozen=True)
class Sum:
    """One opened sum: what was asked at which state, what was logged, what came out."""

    query: Query
    progress: StudyProgress
    context: str
    headers: Mapping[str, MaskedInput]
    opened: RoundOpened
    result: RoundResult
    total: Words


@dataclass(frozen=True)
class Seen:
    """Everything that the attackers have."""

    federation: Collusion
    study: Study
    sums: tuple[Sum, ...]
    masked: Mapping[Digest, bytes]

    @property
    def group(self) -> Group:
        return self.study.group

    def stripped(self, one: Sum, target: str, helpers: tuple[MemberId, ...] = COLLUDERS) -> Words:
        """Return the target's masked input without every mask whose key the attackers know."""
        bits = one.opened.ring_bits
        header = one.headers[target]
        vector = ring_vector(self.masked[Digest(header.blob)], bits, one.opened.length).copy()
        bound = bytes.fromhex(one.context)
        plan = [(kdf(bytes.fromhex(one.result.self_seeds[target]), "self", bound), -1)]
        mine = self.group.index(target)
        for helper in helpers:
            secrets = self.slot_secrets(helper, one.opened.slot)
            theirs = self.group.index(helper)
            key = pair_key(
                AgreementKey(bytes.fromhex(secrets.agreement)),
                secrets.peers[target],
                secrets.pair_seeds.get(target),
                one.opened.epoch_hash,
                bound,
                theirs,
                mine,
            )
            plan.append((key, -1 if mine < theirs else 1))
        apply_masks(vector, tuple(plan), bits)
        return vector

    def slot_secrets(self, helper: str, slot: int) -> SlotSecrets:
        """Return what a helper once held for a slot."""
        for data in self.federation.hoards[helper].hoard.values():
            try:
                secrets = canonical.decode(data, SlotSecrets)
            except Exception:  # noqa: BLE001  # the hoard holds other secrets too
                continue
            if secrets.slot == slot:
                return secrets
        raise AssertionError(f"{helper} held no secrets for slot {slot}")

    def own(self, one: Sum, name: str) -> Words:
        """Return a site's true contribution; only its own people, and the tests, can compute it."""
        local = self.federation.participants[MemberId(name)].local_study(self.study)
        return np.asarray(local.answer(one.query, one.progress, bytes(32)).vector)


@pytest.fixture(scope="module", params=[False, True], ids=["classical", "hybrid"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    def shorten(directory: Path) -> None:
        for name, rows in SIZES.items():
            path = directory / "parties" / name / "data.csv"
            path.write_bytes(site_files(name, rows).data)

    directory = tmp_path_factory.mktemp("federation")
    Collusion.found(
        directory,
        {name: site_files(name) for name in SITES},
        consortium="rivers.example",
        post_quantum=request.param,
    )
    shorten(directory)
    federation = Collusion(directory, capture=True)
    federation.establish()
    states: list[StudyProgress] = []

    def look() -> None:
        running = federation.coordinator.state.running
        if running is not None and len(states) == running.progress.index:
            states.append(running.progress)

    plan = small_plan(federation, evaluation=EvaluationSettings(bins=8, site_figures=False))
    study = federation.run_study(plan, contract(), look)
    assert study.phase is Phase.COMPLETED
    assert [record.members_in for record in study.rounds] == [SITES] * len(study.rounds)
    blobs = federation._storages[0].blobs
    sums = []
    bodies = [peek(entry)[1] for entry in federation.coordinator.entries]
    asked = [body for body in bodies if isinstance(body, RoundOpened)]
    results = [body for body in bodies if isinstance(body, RoundResult)]
    for record, progress, opened, result in zip(study.rounds, states, asked, results, strict=True):
        assert record.sum == result.sum and record.context == result.context
        query = progress.expected_query()
        assert query.digest == opened.query
        total = ring_vector(blobs.get(Digest(result.sum)), opened.ring_bits, opened.length)
        headers = {
            body.author: body
            for body in bodies
            if isinstance(body, MaskedInput) and body.context == record.context
        }
        sums.append(Sum(query, progress, record.context, headers, opened, result, total))
    return Seen(federation, study, tuple(sums), dict(frames_of(federation)))


def frames_of(federation: SmallFederation) -> Iterator[tuple[Digest, bytes]]:
    """Yield the blobs of every frame that any site sent."""
    for record in federation.network.egress:
        if record.content is not None and record.sender in SITES and record.recipient != "*":
            yield from decode_post(record.content).blobs.items()


def facts(query: Query, vector: Words) -> dict[str, list[int]]:
    """Return what a vector says, segment by segment, as signed numbers, plausible or not."""
    signed = vector.view(np.dtype(f"i{vector.dtype.itemsize}"))
    found, start = {}, 0
    for part in query.layout.segments:
        found[part.name] = [int(value) for value in signed[start : start + part.length]]
        start += part.length
    return found


def test_the_control_attackers_know_the_joint_contribution_of_the_others(seen: Seen) -> None:
    """R-1: a sum minus one's own shares is known, exactly, to whoever pools them."""
    for one in seen.sums:
        joint = one.total - seen.own(one, COLLUDERS[0]) - seen.own(one, COLLUDERS[1])
        truth = seen.own(one, HONEST[0]) + seen.own(one, HONEST[1])
        assert np.array_equal(joint, truth)
        unmasked = seen.stripped(one, HONEST[0]) + seen.stripped(one, HONEST[1])
        assert np.array_equal(unmasked, truth)


def test_the_control_a_site_is_open_once_all_others_collude(seen: Seen) -> None:
    """With three of four against it nothing is left of a mask: the tools below would see a leak."""
    for one in seen.sums:
        helpers = (HONEST[1], *COLLUDERS)
        assert np.array_equal(seen.stripped(one, HONEST[0], helpers), seen.own(one, HONEST[0]))


def test_the_mask_between_the_two_needs_one_of_their_keys(seen: Seen) -> None:
    """With every public value and any key but theirs, what is computed is another mask."""
    first, second = HONEST
    for one in seen.sums:
        secrets = seen.slot_secrets(COLLUDERS[0], one.opened.slot)
        bound = bytes.fromhex(one.context)
        for guess in (secrets.agreement, bytes(range(32)).hex()):
            for peer in (first, second):
                key = pair_key(
                    AgreementKey(bytes.fromhex(guess)),
                    secrets.peers[peer],
                    secrets.pair_seeds.get(peer),
                    one.opened.epoch_hash,
                    bound,
                    seen.group.index(first),
                    seen.group.index(second),
                )
                vector = seen.stripped(one, first)
                apply_masks(vector, ((key, -1),), one.opened.ring_bits)
                assert not np.any(vector == seen.own(one, first))


def true_facts(seen: Seen, site: str) -> dict[str, int]:
    """Return the small numbers about one site that must not be found."""
    local = seen.federation.participants[MemberId(site)].local_study(seen.study)
    training, holdout = local.data.training, local.data.holdout
    return {
        "training rows": training.rows,
        "holdout rows": holdout.rows,
        "training positives": int(training.label.sum()),
        "holdout positives": int(holdout.label.sum()),
        "rows": training.rows + holdout.rows,
    }


def test_no_word_of_one_site_is_recovered(seen: Seen) -> None:
    """Coordinate by coordinate, in every sum: what is stripped is never the site's own value."""
    compared = 0
    for one in seen.sums:
        for site in HONEST:
            stripped, truth = seen.stripped(one, site), seen.own(one, site)
            # 1 in 2**32 or 2**64 by chance, a few hundred words.
            assert not np.any(stripped == truth)
            compared += len(truth)
    assert compared > 200


def test_no_count_of_one_site_stands_in_any_view(seen: Seen) -> None:
    """Row counts and positives: not in stripped words, nor in their differences between rounds."""
    for site in HONEST:
        wanted = set(true_facts(seen, site).values())
        views = [facts(one.query, seen.stripped(one, site)) for one in seen.sums]
        counts = [view["rows"][0] for view in views]
        counts += [after - before for before in counts for after in counts if after != before]
        for one, view in zip(seen.sums, views, strict=True):
            if one.query.kind is QueryKind.EVALUATION:
                counts += [sum(view["federated.positive"]), sum(view["federated.negative"])]
                counts += view["federated.positive"] + view["federated.negative"]
        assert not wanted & set(counts)
        assert min(abs(count) for count in counts) > 1000


def test_differences_of_public_sums_do_not_separate_the_two(seen: Seen) -> None:
    """Rows are counted once, in the statistics: a site that misses a round shows no difference."""
    counted = {
        one.query.kind: facts(one.query, one.total)["rows"][0]
        for one in seen.sums
        if one.query.kind in (QueryKind.STATISTICS, QueryKind.NEWTON)
    }
    assert counted[QueryKind.STATISTICS] > 0
    assert counted[QueryKind.NEWTON] == 0
    contributors = {facts(one.query, one.total)["contributors"][0] for one in seen.sums}
    assert contributors == {len(SITES)}
    first, second = (true_facts(seen, site) for site in HONEST)
    joint = counted[QueryKind.STATISTICS] - sum(
        seen.federation.participants[name].local_study(seen.study).data.training.rows
        for name in COLLUDERS
    )
    assert joint == first["training rows"] + second["training rows"]
    assert joint not in (first["training rows"], second["training rows"])


def test_every_coordinate_that_is_known_jointly_mixes_both_sites(seen: Seen) -> None:
    """Statistics and Newton terms: no coordinate is carried by one of the two sites alone."""
    for one in seen.sums:
        if one.query.kind is QueryKind.EVALUATION:
            continue  # which of them a histogram's row comes from, the histogram does not say
        first, second = (facts(one.query, seen.own(one, site)) for site in HONEST)
        for name in first:
            if name == "rows" and one.query.kind is not QueryKind.STATISTICS:
                continue
            for mine, theirs in zip(first[name], second[name], strict=True):
                assert (mine == 0) == (theirs == 0), (one.query.kind, name)


def test_no_sum_has_a_coordinate_for_the_intercept_of_a_site(seen: Seen) -> None:
    """The gradient of a site's intercept would be its positives minus expected ones: it stays."""
    columns = 4
    lengths = {
        part.name: part.length
        for one in seen.sums
        if one.query.kind is QueryKind.NEWTON
        for part in one.query.layout.segments
    }
    assert lengths["gradient"] == columns
    assert lengths["hessian"] == columns * (columns + 1) // 2


def test_what_is_left_of_one_site_is_uniform(seen: Seen) -> None:
    """Chi-square over the bytes of all stripped words; a false alarm once in 10**9 runs."""
    for site in HONEST:
        data = b"".join(seen.stripped(one, site).tobytes() for one in seen.sums)
        counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
        expected = len(data) / 256
        chi_square = float(np.sum((counts - expected) ** 2) / expected)
        # 255 degrees of freedom: mean 255, standard deviation 22.6.
        assert 130 < chi_square < 420
        # The control: a contribution itself is nothing like it.
        truth = b"".join(seen.own(one, site).tobytes() for one in seen.sums)
        raw = np.bincount(np.frombuffer(truth, np.uint8), minlength=256)
        assert float(np.sum((raw - expected) ** 2) / expected) > 1000


def test_t12_sizes_of_frames_do_not_depend_on_the_rows(seen: Seen) -> None:
    """The two honest sites differ in rows and have names of one length: so must their frames."""
    sizes = {
        site: [
            record.size_bytes
            for record in seen.federation.network.egress
            if record.sender == site and speaks_by_itself(record.content)
        ]
        for site in HONEST
    }
    assert sizes[HONEST[0]] == sizes[HONEST[1]]
    assert len(sizes[HONEST[0]]) > len(seen.sums)


def speaks_by_itself(content: bytes | None) -> bool:
    """Say whether a frame holds a statement that the site's software signed, not an officer."""
    if content is None:
        return False
    bodies = [peek(one)[1] for one in decode_post(content).statements]
    return any(registered(type(body)).signer is SignerKind.RUNNER for body in bodies)


def test_no_row_of_an_honest_site_is_in_what_the_attackers_stored(seen: Seen) -> None:
    for site in HONEST:
        values = [row[1].encode() for row in rows_of(site)]
        for record in seen.federation.network.egress:
            assert not any(value in (record.content or b"") for value in values)


# --- T-09: coordinates that one site alone can make non-zero ----------------------------------


def with_level(sites: tuple[str, ...]) -> Contract:
    """Return the contract with a level of ``sex`` that only `sites` can have."""
    base = contract()
    level = Level(code="x", meaning="not recorded", sites=sites)
    return msgspec.structs.replace(
        base,
        features=tuple(
            msgspec.structs.replace(one, levels=(*one.levels, level)) if one.name == "sex" else one  # type: ignore[union-attr]  # a category
            for one in base.features
        ),
    )


@pytest.mark.parametrize("sites", [SITES[:1], SITES[1:2], SITES[:2]])
def test_t09_lint_refuses_a_level_of_too_few_sites(seen: Seen, sites: tuple[str, ...]) -> None:
    narrow = with_level(sites)
    charter = seen.federation.charter
    plan = msgspec.structs.replace(
        small_plan(seen.federation),
        contract=contract_digest(narrow),
        evaluation=EvaluationSettings(bins=8),
    )
    codes = {finding.code for finding in lint_plan(plan, narrow, charter)}
    assert codes == {"least-support"}
    with pytest.raises(PolicyError) as caught:
        require_clean(plan, narrow, charter)
    assert "sex=x" in str(caught.value)


@pytest.mark.parametrize("sites", [(), SITES[:3], SITES])
def test_t09_lint_accepts_a_level_of_enough_sites(seen: Seen, sites: tuple[str, ...]) -> None:
    wide = with_level(sites)
    plan = msgspec.structs.replace(
        small_plan(seen.federation),
        contract=contract_digest(wide),
        evaluation=EvaluationSettings(bins=8),
    )
    assert lint_plan(plan, wide, seen.federation.charter) == ()


def test_t09_a_level_that_two_sites_have_in_fact_ends_the_study_at_the_support_sum(
    tmp_path: Path,
) -> None:
    """The contract lets everybody have it, the data do not: nothing else is summed."""

    def only_men(directory: Path) -> None:
        for name in SITES[2:]:
            path = directory / "parties" / name / "data.csv"
            path.write_bytes(path.read_bytes().replace(b",f,", b",m,"))

    federation = found(tmp_path, edit=only_men, in_memory=True, capture=False)
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.HALTED
    assert study.halt_code is HaltCode.LEAST_SUPPORT
    assert len(study.rounds) == 1
    names = [peek(entry)[1] for entry in federation.coordinator.entries]
    assert sum(isinstance(body, RoundResult) for body in names) == 1
