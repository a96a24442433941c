"""Admission: may this site take part in a study, and with which rows?

Guarantees:
  * No policy loaded means nothing is allowed; the matrix is the charter's, narrowed by the site's.
  * Where the policy asks for it, a study's family must have passed an assessment at this site.
  * Rows are read only for a study that the log has opened. Causes of a refusal stay in the journal.
"""

from collections.abc import Callable, Sequence

from treaty.crypto.keys import PublicKey
from treaty.errors import PolicyError, ResourceError, UsageError
from treaty.governance.consents import Standing, standing
from treaty.governance.exposure import ExposureMatrix
from treaty.governance.site_policy import SitePolicy, StudyRequest, effective_matrix, permit_study
from treaty.ids import Digest
from treaty.node.budget import BudgetKeeper
from treaty.node.contribution import LocalStudy
from treaty.ports import Batch, DataSource, EventStore, Journal, Trainer
from treaty.privacy.ledger_entries import HOLDOUT
from treaty.privacy.terms import NoisedTerms
from treaty.protocol.column_support import require_support
from treaty.protocol.consortium import Consortium
from treaty.protocol.frequency import require_rare
from treaty.protocol.gate import check_sum
from treaty.protocol.membership import Membership
from treaty.protocol.secure_round import RoundRecord
from treaty.protocol.study import Study
from treaty.studies.queries import sums_at_most
from treaty.studies.surplus import may_open

__all__ = ["Admission"]

APPROVED_KEY = "approved/"

MOST_ATTEMPTS = 8
"""Rounds of one question to which a site contributes. An honest coordinator gives up after five."""

MENDABLE = frozenset({"data", "consent-unreadable", "known-content", "person-naming", "rows-moved"})
"""Refusals that the site's people can mend while the study runs."""


class Admission:
    """A site's own policy over its data, and its side of the study under way."""

    def __init__(
        self,
        *,
        store: EventStore,
        journal: Journal,
        source: DataSource,
        trainer: Trainer,
        policy: SitePolicy | None,
        code: Digest | None = None,
        assessments: Sequence[bytes] = (),
        assessor: PublicKey | None = None,
        consents: Callable[[], Sequence[bytes]] = tuple,
        budget: BudgetKeeper | None = None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._source = source
        self._trainer = trainer
        self._policy = policy
        self._code = code
        self._assessments = tuple(assessments)
        self._assessor = assessor
        self._consents = consents
        self._budget = budget
        self._waiting: set[Digest] = set()
        self._local: LocalStudy | None = None
        self._refused: set[Digest] = set()
        self._narrowed: tuple[Membership, ExposureMatrix] | None = None

    @property
    def keeps_noise_keys(self) -> bool:
        """Say whether the site's policy keeps the keys of its noise for an audit of its own."""
        return self._policy is not None and self._policy.noise_keys == "keep"

    @property
    def local(self) -> LocalStudy | None:
        """Return this site's side of the study that it prepared last, if any."""
        return self._local

    def matrix(self, state: Consortium) -> ExposureMatrix:
        """Return what may leave this site now."""
        members = state.members
        if self._narrowed is None or self._narrowed[0] is not members:
            matrix = effective_matrix(members.charter, self._policy, matrix=members.matrix)
            self._narrowed = (members, matrix)
        return self._narrowed[1]

    def opens_surplus(self, state: Consortium) -> bool:
        """Say whether this site may open keys of surplus noise: charter and own policy allow it."""
        return may_open(self.matrix(state), len(state.members.active))

    def permits(self, state: Consortium, study: Study) -> bool:
        """Say whether this site takes part: its policy, and its officer where that asks for one."""
        if study.identity in self._refused:
            return False
        try:
            if self._code is not None and study.plan.code != self._code:
                raise PolicyError(
                    f"the plan names the code {study.plan.code[:16]}, this site runs "
                    f"{self._code[:16]}: install the version that the members ratified",
                    code="wrong-code",
                )
            if self._policy is not None and self._policy.require_assessment:
                self._require_assessment(self._policy.site, study)
            said = self._said(state, study)
            local = self.prepared(study)
            at_once = permit_study(
                state.charter,
                self._policy,
                StudyRequest(
                    study=study.plan.study,
                    plan_digest=study.identity,
                    purpose=study.plan.purpose,
                    model_kind=str(type(study.plan.model).__struct_config__.tag),
                    rounds=sums_at_most(study.plan),
                    rows=local.data.training.rows + local.data.holdout.rows,
                    data_use=study.plan.data_use,
                ),
            )
        except PolicyError as refusal:
            self._journal.note(f"study-refused.{refusal.code}", str(refusal))
            if refusal.code not in MENDABLE:
                self._refused.add(study.identity)
            return False
        if said is Standing.WITHDRAWN:
            self._note_waiting(study, "study-withdrawn", "was withdrawn by the officer")
            return False
        if said is Standing.APPROVED or at_once or self._approved_here(study):
            return True
        self._note_waiting(study, "study-waits", "waits for the officer's approval")
        return False

    def require_sum(self, state: Consortium, study: Study, record: RoundRecord, site: str) -> None:
        """Raise `PolicyError` unless `site` may contribute to the open round `record` of `study`.

        1 the matrix lets its class of sum be opened over so many members, and so often; 2 enough
        of those asked stand behind every column; 3 the officer has not withdrawn; 4 it was not
        asked too often before: every round leaves a masked vector on this site's disk.
        """
        kind = study.progress.expected_query().kind
        least = study.group.min_survivors
        masked, shown = check_sum(self.matrix(state), kind.artefact, members=least, form=kind.form)
        require_rare(state.studies.values(), study, record, site, masked=masked, shown=shown)  # 1
        require_support(study, record.participants)  # 2
        self.require_consent(state, study)  # 3
        if record.opened.predicate.attempt >= MOST_ATTEMPTS:  # 4
            raise PolicyError(
                f"this question was asked {record.opened.predicate.attempt} times before, expected "
                f"at most {MOST_ATTEMPTS} rounds of it: let the coordinator halt the study",
                code="attempts",
            )

    def require_consent(self, state: Consortium, study: Study) -> None:
        """Raise `PolicyError` (``withdrawn``) when the officer has taken consent back since.

        Asked before every contribution, so that a withdrawal counts at the next one.
        """
        if self._said(state, study) is Standing.WITHDRAWN:
            raise PolicyError(
                f"the officer has withdrawn from plan {study.identity}: nothing more is computed "
                "for it until a new approval is signed",
                code="withdrawn",
            )

    def _said(self, state: Consortium, study: Study) -> Standing:
        """Return what the site's officer has signed on the plan, read anew each time."""
        if self._policy is None:
            return Standing.NOTHING
        records = self._consents()
        if not records:
            return Standing.NOTHING
        terms = state.charter.members.get(self._policy.site)
        keys = [PublicKey.from_hex(text) for text in (terms.keys.approval if terms else ())]
        return standing(
            records,
            {key.keyid: key for key in keys},
            site=self._policy.site,
            plan=study.identity,
            code=self._code,
        )

    def _approved_here(self, study: Study) -> bool:
        return self._store.get(APPROVED_KEY + study.identity) is not None

    def _note_waiting(self, study: Study, event: str, words: str) -> None:
        if study.identity not in self._waiting:
            self._waiting.add(study.identity)
            self._journal.note(event, f"plan {study.identity} {words}")

    def _require_assessment(self, site: str, study: Study) -> None:
        """Raise `PolicyError` unless this family passed an assessment here, by a signed record."""
        # Few policies ask for it; the attacks behind it load numpy's generators, 3 MB.
        from treaty.assessment.findings import protection_of
        from treaty.assessment.record import AssessmentNeed, require_assessment

        if self._assessor is None:
            raise PolicyError(
                "the policy asks for an assessment and no key is known to check its record: "
                "expected the site's runner key",
                code="not-assessed",
            )
        plan = study.plan
        terms = plan.privacy if isinstance(plan.privacy, NoisedTerms) else None
        need = AssessmentNeed(
            site=site,
            family=str(type(plan.model).__struct_config__.tag),
            protection=protection_of(terms),
            epsilon_micro=None if terms is None else terms.epsilon_milli * 1000,
            delta_inverse=2 if terms is None else terms.delta_inverse,
            contract=plan.contract,
            code=plan.code,
        )
        require_assessment(need, self._assessments, self._assessor)

    def approve(self, plan: Digest) -> None:
        """Record the officer's approval of a plan that the policy does not approve by itself."""
        self._store.commit(
            Batch(puts=((APPROVED_KEY + plan, b"approved"),), label="participant-approve")
        )
        self._refused.discard(plan)
        self._waiting.discard(plan)

    def prepared(self, study: Study) -> LocalStudy:
        """Return this site's side of `study`, its rows read and divided as the plan says.

        What is read is under the registered data set's ledger before anything is computed from it,
        also in the middle of a study. Raises `PolicyError` (code ``data``) when the rows cannot be
        read or do not conform, or as `BudgetKeeper.register_content` and `name_persons`.
        """
        if self._local is not None and self._local.plan == study.plan:
            return self._local
        # A ledger that is locked or lost takes no entry, and lets nothing be charged either.
        budget = None if self._budget is None or self._budget.lock else self._budget
        split, held_out = study.plan.split, self._held_out(study)
        try:
            registered = None if budget is None else budget.register_content()
            data = self._source.load(
                study.contract,
                holdout_permille=split.holdout_permille,
                seed=split.seed,
                held_out=held_out,
            )
            if budget is not None:
                if isinstance(study.plan.privacy, NoisedTerms):
                    by_place = not study.contract.entity.person_id
                    budget.name_persons(data.naming, by_place=by_place)
                if budget.register_content() != registered:
                    raise UsageError("expected a file that stays as it is while it is read")
        except (ResourceError, UsageError) as error:
            # Rows that cannot be read keep this site out of a study; they do not stop it.
            raise PolicyError(str(error), code="data") from error
        local = LocalStudy(study.plan, data, self._trainer)
        if budget is self._budget:
            self._local = local
        return local

    def _held_out(self, study: Study) -> Callable[[str], bool] | None:
        """Return who is in the holdout under noise: the registered data set's partition.

        Persons keep their partition over all studies, so what is spent on one is not spent on the
        other (docs/spec/privacy.md, 7.8). Raises `PolicyError` (``partition-share``) when the
        plan expects another share.
        """
        dataset = None if self._budget is None else self._budget.dataset
        if dataset is None or not isinstance(study.plan.privacy, NoisedTerms):
            return None
        asked = study.plan.split.holdout_permille
        if asked != dataset.holdout_permille:
            raise PolicyError(
                f"the plan holds out {asked} thousandths of the persons, this data set was "
                f"registered with {dataset.holdout_permille}: propose a plan with that share",
                code="partition-share",
            )
        return lambda person: dataset.partition_of(person) == HOLDOUT
