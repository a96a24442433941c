"""The Python interface: a consortium, its studies, and what comes out of them.

```python
import treaty

consortium = treaty.simulate(sites={"cleveland": "cleveland.csv", ...}, contract="heart.toml")
study = consortium.train(treaty.LogisticRegression(), privacy=treaty.Privacy(epsilon=1.0))
print(study.compare())
print(study.certificate())
study.report("report.html")
study.bundle("bundle").verify(study.anchor)
```

Training is differentially private: every site clips each person's contribution and adds its share
of noise, and the charter allows nothing else. `simulate(..., exact_sums=True)` founds a consortium
whose charter accepts exact sums instead: hidden from everybody but in total, with no epsilon.

The same study runs between real institutions where `consortium` is a joined one (`treaty.joined`).
What only a simulation can say is missing there: what pooled rows would give.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import msgspec

from treaty.aggregation.tensors import NamedTensors
from treaty.contracts.normalisation import with_public_bounds
from treaty.contracts.schema import Contract, contract_digest
from treaty.errors import PolicyError, ResourceError, UsageError
from treaty.governance.charter import Charter
from treaty.governance.terms import PrivacyMode
from treaty.ids import Digest
from treaty.models.specification import LogisticRegression, ModelSpecification, known_model
from treaty.privacy.terms import ExactSums, NoisedTerms, PrivacyTerms
from treaty.protocol.consortium import Consortium as State
from treaty.protocol.messages import ComparisonPublished, HaltCode
from treaty.protocol.study import Study as StudyState
from treaty.provenance.bundle import Edition
from treaty.provenance.privacy import study_privacy
from treaty.provenance.verify import Verdict, anchor_of, verify_bundle
from treaty.reports.comparison_table import ComparisonTable, compared
from treaty.reports.summary import report_html
from treaty.simulation.federation import COORDINATOR, Federation, SiteFilesToWrite
from treaty.simulation.intake import contract_in, member_name, sites_in
from treaty.simulation.pooled import compare_with_pooled, compare_without_noise
from treaty.studies.calibrating import Privacy, private_model, scaled, terms_for, with_bins
from treaty.studies.certificates import PrivacyStatement, statement_text
from treaty.studies.outcome import EvaluationOutcome
from treaty.studies.plan import (
    AggregationSettings,
    EvaluationSettings,
    Plan,
    SplitSettings,
    checked_plan,
)
from treaty.studies.surplus import default_tiers
from treaty.wiring import (
    SystemEntropy,
    code_digest,
    dataset_adapter,
    read_bundle,
    write_bundle,
    write_file,
)

if TYPE_CHECKING:
    from treaty.wiring import Dataset

__all__ = [
    "SIMULATION_ONLY",
    "Bundle",
    "ComparisonTable",
    "Consortium",
    "Privacy",
    "SimulatedConsortium",
    "Study",
    "from_dataset",
    "simulate",
]

SIMULATION_ONLY = (
    "Pooled training, and each site alone on everyone's rows, exist in a simulation only: nobody "
    "has all rows here."
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An exported bundle on disk."""

    path: Path

    def verify(self, anchor: str) -> Verdict:
        """Return the verdict on the bundle; raises `FormatError` or `VerificationError`.

        Raises `UsageError` for an anchor that is none.
        """
        return verify_bundle(read_bundle(self.path), anchor_of(anchor))


class Study:
    """A finished study of a consortium."""

    def __init__(self, consortium: "Consortium", identity: Digest) -> None:
        self._consortium = consortium
        self.identity = identity

    @property
    def anchor(self) -> str:
        """The 64 hexadecimal digits from which everything can be checked."""
        return self._consortium.anchor

    @property
    def state(self) -> StudyState:
        """The study as the log tells it."""
        return self._consortium.state.studies[self.identity]

    @property
    def model(self) -> NamedTensors:
        """The final model; raises `UsageError` when the study halted."""
        if self.state.final_model is None:
            raise UsageError(f"the study halted: {self._halt}")
        return self.state.progress.model

    @property
    def evaluation(self) -> EvaluationOutcome:
        """The registered evaluation; raises `UsageError` when the study halted."""
        outcome = self.state.progress.evaluation
        if outcome is None:
            raise UsageError(f"the study halted before its evaluation: {self._halt}")
        return outcome

    @property
    def comparison(self) -> ComparisonPublished | None:
        """The pooled comparison (simulation only), where there is one."""
        return self._consortium.state.comparisons.get(self.identity)

    def compare(self) -> ComparisonTable:
        """Return federated against alone, per site where the charter shows it, and pooled.

        Pooled exists in a simulation alone; elsewhere the table says that it is missing.
        """
        _ = self.evaluation  # Raises where the study halted before it.
        state = self._consortium.state
        only = "" if state.charter.simulation else SIMULATION_ONLY
        return compared(self.state, self.comparison, missing=only)

    @property
    def _halt(self) -> str:
        """The code with which the study halted, and where its cause is written."""
        code = self.state.halt_code
        if code is HaltCode.TOO_FEW_MEMBERS:
            return f"{code.value}; why a site declined is in its own journal"
        return "no code" if code is None else code.value

    @property
    def privacy(self) -> PrivacyStatement | None:
        """What training and evaluation cost a person; None where sums are exact."""
        return study_privacy(self.state)

    def certificate(self) -> str:
        """Return the privacy certificates in plain words, one line for each partition first."""
        statement = self.privacy
        if statement is None:
            return "Sums are exact: no differential privacy is claimed.\n"
        return statement_text(statement)

    @property
    def released(self) -> bool:
        """Whether the stewards have released the model, and have not taken it back."""
        state, model = self._consortium.state, self.state.final_model
        return model in state.releases and model not in state.withdrawn

    def release(self) -> None:
        """Have the model released by the stewards; return when it is.

        A simulation has released it already. A joined consortium's stewards are asked and waited
        for; with `vote` this site's approves too. Raises `UsageError` for a halted study,
        `PolicyError` where this site or the stewards say no, `ResourceError` when the wait is over.
        """
        _ = self.model  # Raises where the study halted.
        if self.state.final_model in self._consortium.state.withdrawn:
            raise PolicyError("the stewards have taken this model back", code="withdrawn")
        if not self.released:
            self._consortium._release(self.identity)

    def bundle(self, path: str | Path, *, edition: Edition | None = None) -> Bundle:
        """Export the consortium's bundle to the new directory `path`.

        By default it is the full edition, but the attested one at a site, which does not have the
        other members' masked inputs. Over the network it is waited for cosignatures of the whole
        study; raises `ResourceError` when they do not come.
        """
        target = Path(path)
        write_bundle(target, self._consortium.files(edition))
        return Bundle(target)

    def report(self, path: str | Path) -> Path:
        """Write the self-contained HTML report of a verified bundle to `path`."""
        files = self._consortium.files(None)
        verdict = verify_bundle(files, Digest(self.anchor))
        target = Path(path)
        write_file(target, report_html(verdict, files).encode())
        return target


class Consortium(ABC):
    """A consortium, simulated on this machine or joined over the network (`treaty.joined`).

    `contract` is the data contract that its studies are about.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract

    @property
    @abstractmethod
    def anchor(self) -> str:
        """The SHA-256 of the founding charter: the one trust anchor."""

    @property
    @abstractmethod
    def state(self) -> State:
        """The consortium as its log tells it."""

    @abstractmethod
    def files(self, edition: Edition | None) -> dict[str, bytes]:
        """Return the bundle's files by path; without an edition the fullest that there can be."""

    def train(
        self,
        model: ModelSpecification | None = None,
        *,
        privacy: Privacy | None = None,
        name: str = "study",
        seed: int = 0,
        support_rows: int = 1,
        site_figures: bool = False,
        compare_pooled: bool = False,
        progress: Callable[[State], None] | None = None,
    ) -> Study:
        """Plan, ratify and run one study; return it when it is finished.

        Under a differentially private charter `privacy` says what training may cost a person, by
        default epsilon 1, and what the evaluation, which is exact by default; a logistic regression
        is trained on rows of length one with a common intercept, and columns are scaled by the
        contract's public bounds. Under a charter of exact sums there is no `privacy`.

        `seed` fixes the split; `site_figures` asks for per-site figures, which the charter must
        allow; `compare_pooled` adds the simulation-only comparison, and is refused elsewhere. A
        simulation also releases the model; in a joined consortium that is the stewards' decision.
        Raises `PolicyError` when the plan does not pass its lint or the members do not approve it,
        `ResourceError` when too few sites answer, or not in time.
        """
        self._begin(compare_pooled)
        state = self.state
        charter, policy = state.charter, state.charter.privacy
        aggregation = AggregationSettings(support_rows=support_rows)
        spec = known_model(model or LogisticRegression())
        contract = self.contract
        terms: PrivacyTerms = ExactSums()
        evaluation = EvaluationSettings(site_figures=site_figures)
        if policy.mode is PrivacyMode.DIFFERENTIAL:
            spec, contract = private_model(spec), with_public_bounds(contract)
            bound = min(aggregation.max_persons_per_site, contract.max_persons_per_site)
            aggregation = msgspec.structs.replace(aggregation, max_persons_per_site=bound)
            asked = privacy or Privacy()
            members = len(state.members.active)
            terms = terms_for(
                asked,
                spec,
                contract,
                policy,
                members=members,
                max_persons_per_site=bound,
                surplus_tiers=default_tiers(charter, spec, contract, one_round=asked.one_round),
            )
            evaluation = with_bins(evaluation, asked, members * bound)
        elif privacy is not None:
            raise UsageError(
                "the charter's sums are exact and have no budget: found the consortium without "
                "exact_sums, or leave privacy out"
            )
        plan = _plan(charter, state.members.directory.charter, name, contract, spec)
        plan = checked_plan(
            msgspec.structs.replace(
                plan,
                split=SplitSettings(seed=seed),
                evaluation=evaluation,
                aggregation=aggregation,
                privacy=terms,
            )
        )
        return Study(self, self._run(plan, contract, progress, compare_pooled))

    @abstractmethod
    def _begin(self, compare_pooled: bool) -> None:
        """Bring the log as far as its charter; refuse a comparison that there cannot be."""

    @abstractmethod
    def _run(
        self,
        plan: Plan,
        contract: Contract,
        progress: Callable[[State], None] | None,
        compare_pooled: bool,
    ) -> Digest:
        """Run the study to its end; return the digest of its plan."""

    @abstractmethod
    def _release(self, study: Digest) -> None:
        """Let the stewards release the model of the study with this plan."""

    def study(self, name: str) -> Study:
        """Return the last study of this name that the log holds, whoever led it."""
        known = [one for one in self.state.studies.values() if one.plan.study == name]
        if not known:
            names = sorted({one.plan.study for one in self.state.studies.values()})
            raise UsageError(f"expected one of {', '.join(names) or 'no studies yet'}, got {name}")
        return Study(self, known[-1].identity)


def _plan(
    charter: Charter, digest: Digest, name: str, contract: Contract, spec: ModelSpecification
) -> Plan:
    """Return a plan with the default settings, bound to the charter in force."""
    return Plan(
        study=name,
        title=name,
        purpose="research",
        charter=digest,
        contract=contract_digest(contract),
        code=code_digest(),
        model=spec,
        data_use=tuple(term.code for term in charter.data_use.terms),
    )


class SimulatedConsortium(Consortium):
    """A simulated consortium, every party in its own directory."""

    def __init__(self, federation: Federation, contract: Contract) -> None:
        super().__init__(contract)
        self.federation = federation

    @property
    def anchor(self) -> str:
        """See `Consortium.anchor`."""
        return self.federation.anchor

    @property
    def state(self) -> State:
        """See `Consortium.state`."""
        return self.federation.coordinator.state

    def files(self, edition: Edition | None) -> dict[str, bytes]:
        """See `Consortium.files`."""
        return self.federation.bundle(edition or "full")

    def _begin(self, compare_pooled: bool) -> None:
        self.federation.establish()

    def _run(
        self,
        plan: Plan,
        contract: Contract,
        progress: Callable[[State], None] | None,
        compare_pooled: bool,
    ) -> Digest:
        federation = self.federation
        study = federation.run_study(
            plan, contract, None if progress is None else lambda: progress(self.state)
        )
        if study.final_model is not None:
            if compare_pooled:
                self._compare(study)
            federation.release(study)
        return study.identity

    def _release(self, study: Digest) -> None:
        self.federation.release(self.state.studies[study])

    def _compare(self, study: StudyState) -> None:
        federation = self.federation
        if study.identity in federation.coordinator.state.comparisons:
            return
        sites = {name: federation.local_study(name, study) for name in study.rounds[-1].members_in}
        charter = federation.coordinator.state.members.directory.charter
        if isinstance(study.plan.privacy, NoisedTerms):
            fresh = SystemEntropy().bytes(32)
            body = compare_without_noise(study, sites, COORDINATOR, charter, fresh)
        else:
            body = compare_with_pooled(study, sites, COORDINATOR, charter)
        federation.coordinator.submit(federation.coordinator.sign(body))
        identity = study.identity
        if not federation.run(lambda state: identity in state.comparisons):
            raise ResourceError("the comparison was not logged: see the coordinator's journal")

    def close(self) -> None:
        """Close the parties' stores."""
        self.federation.close()


def simulate(
    sites: Mapping[str, str | Path],
    contract: str | Path,
    *,
    adapters: Mapping[str, str | Path] | None = None,
    directory: str | Path | None = None,
    site_figures: bool = False,
    consortium: str = "simulated.example",
    exact_sums: bool = False,
    epsilon_budget: float = 3.0,
) -> SimulatedConsortium:
    """Return a simulated consortium of `sites` (name -> CSV file) under the contract file.

    Its charter allows noised sums over training rows only, within `epsilon_budget` for a person
    over all studies; with `exact_sums` it accepts exact sums by name, and states no epsilon.
    `adapters` (name -> TOML file) say how a site's columns reach the contract; without one the
    file must already be in the contract's terms. `directory` keeps the parties' state, by
    default a temporary one.
    """
    parsed = contract_in(contract)
    member_name(consortium, "a consortium's name")
    budget = _budget(exact_sums, epsilon_budget)
    files = sites_in(sites, adapters, parsed)
    place = Path(directory) if directory else Path(tempfile.mkdtemp(prefix="treaty-"))
    Federation.found(
        place,
        files,
        consortium=consortium,
        site_figures=site_figures,
        **budget,
    )
    return SimulatedConsortium(Federation(place), parsed)


def from_dataset(
    dataset: "Dataset",
    directory: Path,
    *,
    consortium: str,
    title: str = "",
    exact_sums: bool = False,
    epsilon_budget: float = 3.0,
) -> SimulatedConsortium:
    """Return the simulated consortium of a known data set in `directory`, founded or resumed.

    With `exact_sums` the charter lets sums be exact and every site's own figures leave, by name.
    """
    if not (directory / "anchor.txt").exists():
        files = {
            site: SiteFilesToWrite(source.csv_bytes(), dataset_adapter(dataset, site))
            for site, source in dataset.sites.items()
        }
        Federation.found(
            directory,
            files,
            consortium=consortium,
            title=title,
            site_figures=exact_sums,
            **_budget(exact_sums, epsilon_budget),
        )
    return SimulatedConsortium(Federation(directory), dataset.contract)


class _Budget(TypedDict):
    epsilon_budget_milli: int
    delta: str


def _budget(exact_sums: bool, epsilon: float) -> _Budget:
    """Return the charter's budget: none for exact sums."""
    if exact_sums:
        return _Budget(epsilon_budget_milli=0, delta="0")
    milli = scaled("epsilon_budget", epsilon, 1000)
    if milli > 100_000:
        raise UsageError(f"expected an epsilon_budget of 0.001 to 100, got {epsilon}")
    return _Budget(epsilon_budget_milli=milli, delta="1e-5")
