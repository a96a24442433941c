"""A federation of four small synthetic sites, for tests that need real rounds but no data set.

Rows are a function of the site's name. Every value of the column ``pressure`` is a sentinel: a
decimal with six digits that occurs nowhere else, so that a search through frames, logs and files
finds a row that has left its site. Nothing is shared between the parties but frames.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from treaty.contracts.schema import Contract, parse_contract
from treaty.datasets.site_files import SiteFiles
from treaty.governance.site_policy import SitePolicy
from treaty.ids import MemberId
from treaty.models.specification import LogisticRegression
from treaty.node.coordinator import Coordinator
from treaty.node.participant import Participant, ParticipantKeys
from treaty.ports import Clock, DataSource, Journal, Trainer
from treaty.registration import open_budget
from treaty.simulation.federation import COORDINATOR, Federation, SiteFilesToWrite
from treaty.stores.system import FileJournal, SystemClock, SystemEntropy
from treaty.studies.plan import AggregationSettings, EvaluationSettings, Plan
from treaty.wiring import LocalTrainer, load_key, open_coordinator, read_policy

SITES = tuple(MemberId(name) for name in ("aare", "birs", "emme", "reuss"))
ROWS = 60

CONTRACT = """
format = "treaty.contract/v1"
name = "rivers"
version = "1.0.0"

[label]
name = "died"
positive = [1]
negative = [0]
meaning = "died within a year"

[[features]]
kind = "number"
name = "age"
unit = "a"
range = [0, 120]
meaning = "age"

[[features]]
kind = "number"
name = "pressure"
unit = "mm[Hg]"
range = [40, 260]
meaning = "systolic blood pressure"

[[features]]
kind = "category"
name = "sex"
levels = [{ code = "m", meaning = "male" }, { code = "f", meaning = "female" }]
meaning = "sex"

[[features]]
kind = "category"
name = "smoker"
levels = [{ code = "0", meaning = "no" }, { code = "1", meaning = "yes" }]
meaning = "smokes"
"""

ADAPTER = """
format = "treaty.adapter/v1"
contract = "rivers"
site = "{site}"

[units]
age = "a"
pressure = "mm[Hg]"
"""

Matrix = NDArray[np.float64]


def contract() -> Contract:
    """Return the contract of the small sites: four design columns."""
    return parse_contract(CONTRACT)


def rows_of(site: str, rows: int = ROWS) -> list[tuple[int, str, str, int, int]]:
    """Return (age, pressure, sex, smoker, died) of every row of `site`; pressure is a sentinel."""
    stream = hashlib.shake_256(f"rows of {site}".encode()).digest(rows * 8)
    offset = len(site) + (ord(site[0]) % 7)
    found = []
    for place in range(rows):
        a, b, c, d, e, *more = stream[place * 8 : place * 8 + 8]
        age = 30 + a * 50 // 255 + offset
        whole = 90 + b * 90 // 255 + offset
        part = 100_000 + int.from_bytes(bytes(more), "big") % 900_000
        risk = (age - 55) / 12 + (whole - 135) / 25 + 0.8 * (d & 1)
        chance = 1 / (1 + np.exp(-risk))
        died = int(e / 255 < chance)
        found.append((age, f"{whole}.{part}", "mf"[c & 1], d & 1, died))
    return found


def sentinels(site: str) -> tuple[float, ...]:
    """Return the planted values of `site`."""
    return tuple(float(row[1]) for row in rows_of(site))


def site_files(site: str, rows: int = ROWS) -> SiteFilesToWrite:
    """Return the data file and the adapter of `site`."""
    lines = ["age,pressure,sex,smoker,died"]
    lines += [",".join(map(str, row)) for row in rows_of(site, rows)]
    return SiteFilesToWrite("\n".join(lines).encode() + b"\n", ADAPTER.format(site=site).encode())


class SmallFederation(Federation):
    """A federation whose sites may run a trainer, a data source or a policy of the test's."""

    def __init__(
        self,
        directory: Path,
        *,
        trainers: Mapping[str, Trainer] | None = None,
        sources: Mapping[str, DataSource] | None = None,
        policies: Mapping[str, SitePolicy | None] | None = None,
        consents: Mapping[str, list[bytes]] | None = None,
        clock: Clock | None = None,
        coordinator_clock: Clock | None = None,
        capture: bool = True,
        in_memory: bool = False,
    ) -> None:
        self._clock = clock
        self._coordinator_clock = coordinator_clock or clock
        self._trainers = trainers or {}
        self._sources = sources or {}
        self._policies = policies or {}
        self._consents = consents or {}
        super().__init__(directory, capture=capture, in_memory=in_memory)

    def _open_coordinator(self) -> Coordinator:
        place = self.directory / "parties" / COORDINATOR
        return open_coordinator(
            place,
            name=COORDINATOR,
            members=self.members,
            anchor=self.anchor,
            engine=self.network.endpoint(COORDINATOR),
            storage=self._storage(place),
            clock=self._coordinator_clock,
            journal=self._journal(COORDINATOR),
        )

    def _journal(self, name: MemberId) -> Journal:
        return FileJournal(self.directory / "parties" / name / "journal.jsonl")

    def _open_participant(self, name: MemberId) -> Participant:
        given = (self._trainers, self._sources, self._policies, self._consents)
        if self._clock is None and not any(name in table for table in given):
            return super()._open_participant(name)
        place = self.directory / "parties" / name
        storage = self._storage(place)
        return Participant(
            name=name,
            coordinator=COORDINATOR,
            keys=ParticipantKeys(load_key(place, "runner"), load_key(place, "witness")),
            anchor=self.anchor,
            store=storage.store,
            blobs=storage.blobs,
            secrets=storage.secrets,
            engine=self._endpoint(name),
            journal=self._journal(name),
            clock=self._clock or SystemClock(),
            entropy=SystemEntropy(),
            source=self._sources.get(
                name, SiteFiles(name, place / "data.csv", place / "adapter.toml")
            ),
            trainer=self._trainers.get(name, LocalTrainer()),
            policy=self._policies.get(name, read_policy(place)),
            # The same list each time: what a test adds to it counts from the next look on.
            consents=lambda: tuple(self._consents.get(name, ())),
            budget=open_budget(place, ledger=self._ledger(name) if self._in_memory else None),
        )

    def journal_of(self, name: str) -> str:
        """Return the text of a party's journal, empty where it has written none."""
        path = self.directory / "parties" / name / "journal.jsonl"
        return path.read_text() if path.exists() else ""


def found(
    directory: Path,
    *,
    post_quantum: bool = False,
    site_figures: bool = True,
    rows: int = ROWS,
    edit: Callable[[Path], None] | None = None,
    **options: object,
) -> SmallFederation:
    """Return an established federation in `directory`; `edit` may change what the sites hold."""
    Federation.found(
        directory,
        {name: site_files(name, rows) for name in SITES},
        consortium="rivers.example",
        site_figures=site_figures,
        post_quantum=post_quantum,
    )
    if edit is not None:
        edit(directory)
    federation = SmallFederation(directory, **options)  # type: ignore[arg-type]  # passed through
    federation.establish()
    return federation


def small_plan(federation: Federation, study: str = "rivers-lr", **changes: object) -> Plan:
    """Return a plan of few rounds that lint has nothing against."""
    settings: dict[str, object] = {
        "evaluation": EvaluationSettings(bins=8, site_figures=True),
        "aggregation": AggregationSettings(
            max_persons_per_site=256, slots_per_epoch=16, support_rows=1
        ),
    }
    model = changes.pop("model", LogisticRegression(max_rounds=3))
    return federation.plan(study, contract(), model, **(settings | changes))  # type: ignore[arg-type]
