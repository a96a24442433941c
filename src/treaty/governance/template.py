"""Templates: a founding charter to start from, as commented TOML or as a value.

Guarantees:
  * What `template_toml` returns passes `check` once its keys, documents and contacts are filled.
  * What `build_charter` returns passes `check`, or `PolicyError` says why it cannot.

The defaults are conservative: sums over at least `min_survivors` members, nothing of a single site
in the clear, two stewards for a release, the majority for everything that widens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from treaty.errors import UsageError
from treaty.governance.charter import Charter, charter_from_toml, charter_to_toml, time_to_text
from treaty.governance.data_use import DataUse, DataUseTerm
from treaty.governance.exposure import (
    Artefact,
    ExposureRule,
    Form,
    HowOften,
    RiskTolerance,
)
from treaty.governance.quorum import DerivedParameters
from treaty.governance.roles import Action, Role
from treaty.governance.terms import (
    Contact,
    Coordinator,
    DecisionRule,
    Document,
    LogPolicy,
    Member,
    MemberKeys,
    PrivacyMode,
    PrivacyPolicy,
    SecureAggregationPolicy,
)
from treaty.governance.validity import check
from treaty.ids import Timestamp

__all__ = [
    "CharterOptions",
    "build_charter",
    "default_decisions",
    "default_exposure",
    "template_toml",
    "terms_charter",
]

_EXPIRES = Timestamp(1_924_992_000_000)
_READERS = (Role.COORDINATOR, Role.MEMBER, Role.AUDITOR)
_EVERYONE = (Role.COORDINATOR, Role.MEMBER, Role.AUDITOR, Role.OBSERVER)

_STOP = "halt the study, open an incident and amend this row before the study resumes"
_ROTATE = "halt the epoch, replace the keys concerned and start a new epoch"
_CORRECT = "publish a correction in the log and amend this row"


@dataclass(frozen=True, slots=True)
class CharterOptions:
    """What a founding charter may choose. The defaults are those of `template_toml`.

    `epsilon_budget_milli` above 0 makes the charter differentially private: sums over training
    rows are then noised only. `min_survivors` and `least_support` None take the derived values.
    """

    title: str = ""
    purpose: str = "train and evaluate models together without sharing data"
    simulation: bool = False
    expires: Timestamp = _EXPIRES
    max_colluders: int = 1
    min_survivors: int | None = None
    least_support: int | None = None
    epsilon_budget_milli: int = 0
    delta: str = "0"
    max_sites_per_person: int = 2
    health_data: bool = True
    post_quantum: bool | None = None
    slots_per_epoch_max: int = 32
    data_use: tuple[DataUseTerm, ...] = (DataUseTerm(code="DUO:0000006"),)
    documents: tuple[Document, ...] = ()
    escalation: tuple[Contact, ...] = (
        Contact(
            name="Data protection officer of the consortium",
            duty="incidents, complaints, questions of data subjects",
            address="to be filled in",
        ),
    )


def default_decisions(members: int, max_colluders: int = 1) -> Mapping[Action, DecisionRule]:
    """Return who decides what among `members` members, all of them stewards.

    What changes the charter takes more members than may collude.
    """
    majority = members // 2 + 1
    amending = max(majority, max_colluders + 1)
    pair = min(2, members)

    def by_members(threshold: int) -> DecisionRule:
        return DecisionRule(role=Role.MEMBER, threshold=threshold)

    def by_stewards(threshold: int) -> DecisionRule:
        return DecisionRule(role=Role.STEWARD, threshold=threshold)

    coordinator = DecisionRule(role=Role.COORDINATOR, threshold=1)
    return {
        Action.CHARTER_AMEND: by_members(amending),
        Action.MEMBER_ACCEPT: by_members(amending),
        Action.MEMBER_SUSPEND: by_members(pair),
        Action.KEY_ROTATE: by_members(1),
        Action.CONTRACT_ADOPT: by_members(majority),
        Action.STUDY_PROPOSE: by_members(1),
        Action.STUDY_APPROVE: by_members(majority),
        Action.STUDY_HALT: by_members(1),
        Action.STUDY_RESUME: by_members(majority),
        Action.ROUND_OPEN: coordinator,
        Action.UPDATE_COMMIT: by_members(1),
        Action.ROUND_CLOSE: coordinator,
        Action.EVALUATION_SUBMIT: by_members(1),
        Action.RELEASE_APPROVE: by_stewards(pair),
        Action.RELEASE_ROLLBACK: by_stewards(1),
        Action.LEDGER_REBASE: by_members(1),
        Action.SITE_WITHDRAW: by_members(1),
        Action.INCIDENT_OPEN: by_members(1),
        Action.INCIDENT_CLOSE: by_stewards(pair),
        Action.EXPOSURE_GRANT: by_members(amending),
    }


def default_exposure(
    min_survivors: int, *, differential: bool = False, simulation: bool = False
) -> tuple[ExposureRule, ...]:
    """Return the rows that a study needs, and no more.

    With `differential` sums over training rows are noised only, noise that a sum does not need may
    come off, and the holdout's histograms stay exact, as accepted by name. Only a simulation may
    compare with pooled data.
    """
    rows: list[ExposureRule] = []

    def row(
        artefact: Artefact,
        form: Form,
        recipients: tuple[Role, ...],
        often: HowOften,
        remediation: str,
        *,
        least: int = 1,
        risk: RiskTolerance = RiskTolerance.LOW,
        allow: bool = True,
    ) -> None:
        rows.append(
            ExposureRule(
                artefact=artefact,
                recipients=recipients,
                form=form,
                allow=allow,
                how_often=often,
                least_members=least,
                risk_tolerance=risk,
                remediation=remediation,
            )
        )

    trained = Form.NOISED if differential else Form.EXACT
    medium = RiskTolerance.MEDIUM
    row(Artefact.MASKED_INPUT, Form.MASKED, _READERS, HowOften.PER_ROUND, _ROTATE)
    for artefact in (
        Artefact.STATISTICS_SUM,
        Artefact.SUPPORT_SUM,
        Artefact.GRADIENT_HESSIAN_SUM,
        Artefact.MODEL_UPDATE_SUM,
    ):
        row(
            artefact, trained, _READERS, HowOften.PER_ROUND, _STOP, least=min_survivors, risk=medium
        )
    row(
        Artefact.EVALUATION_HISTOGRAM,
        Form.EXACT,
        _READERS,
        HowOften.PER_ROUND,
        _STOP,
        least=min_survivors,
        risk=medium,
    )
    row(
        Artefact.EVALUATION_HISTOGRAM,
        Form.NOISED,
        _READERS,
        HowOften.PER_ROUND,
        _STOP,
        least=min_survivors,
    )
    row(
        Artefact.EVALUATION_VERDICT,
        Form.EXACT,
        _EVERYONE,
        HowOften.PER_STUDY,
        _CORRECT,
        least=min_survivors,
    )
    row(
        Artefact.MODEL,
        trained,
        _READERS,
        HowOften.PER_ROUND,
        "roll the release back and open an incident",
        least=min_survivors,
        risk=medium,
    )
    row(
        Artefact.SITE_METRIC,
        Form.EXACT,
        _EVERYONE,
        HowOften.PER_STUDY,
        "",
        allow=False,
        risk=RiskTolerance.HIGH,
    )
    row(Artefact.SITE_METRIC, Form.DIGEST, _READERS, HowOften.PER_ROUND, _STOP)
    row(Artefact.MONITORING_SIGNAL, Form.CODE, _READERS, HowOften.ALWAYS, _CORRECT)
    if simulation:
        row(Artefact.SIMULATION_COMPARISON, Form.EXACT, _READERS, HowOften.PER_STUDY, _CORRECT)
    for artefact in (Artefact.PROTOCOL_KEY, Artefact.SECRET_SHARE):
        row(artefact, Form.PLAIN, _READERS, HowOften.PER_ROUND, _ROTATE)
    if differential:
        row(
            Artefact.SURPLUS_NOISE_KEY,
            Form.PLAIN,
            _READERS,
            HowOften.PER_ROUND,
            _STOP,
            least=min_survivors,
        )
    for artefact in (
        Artefact.SIGNATURE,
        Artefact.LOG_POSITION,
        Artefact.IDENTIFIER,
        Artefact.SCHEDULE,
        Artefact.PRIVACY_CERTIFICATE,
        Artefact.ATTESTATION,
    ):
        row(artefact, Form.PLAIN, _EVERYONE, HowOften.ALWAYS, _CORRECT)
    for artefact in (Artefact.COMMITMENT, Artefact.ADAPTER_DIGEST):
        row(artefact, Form.DIGEST, _READERS, HowOften.ALWAYS, _CORRECT)
    for artefact in (Artefact.REFUSAL_CODE, Artefact.VOTE, Artefact.RELEASE_STAGE):
        row(artefact, Form.CODE, _EVERYONE, HowOften.ALWAYS, _CORRECT)
    for artefact in (
        Artefact.GOVERNANCE_DOCUMENT,
        Artefact.CONTRACT,
        Artefact.PLAN,
        Artefact.MODEL_CARD,
        Artefact.DATASET_CARD,
        Artefact.INCIDENT_REPORT,
        Artefact.REMARK,
    ):
        row(artefact, Form.TEXT, _EVERYONE, HowOften.ALWAYS, _CORRECT)
    return tuple(rows)


def build_charter(
    consortium: str,
    members: Mapping[str, MemberKeys],
    coordinator: Coordinator,
    options: CharterOptions | None = None,
    *,
    titles: Mapping[str, str] | None = None,
) -> Charter:
    """Return the founding charter of `consortium`, checked.

    `members` maps names to public keys; every one is member, witness and steward. Raises
    `PolicyError` when the result would not pass `check`.
    """
    charter = _assemble(consortium, members, coordinator, options or CharterOptions(), titles or {})
    check(charter)
    return charter


def _assemble(
    consortium: str,
    members: Mapping[str, MemberKeys],
    coordinator: Coordinator,
    options: CharterOptions,
    titles: Mapping[str, str],
) -> Charter:
    parameters = DerivedParameters(len(members), options.max_colluders, options.min_survivors)
    differential = options.epsilon_budget_milli > 0
    hybrid = options.health_data if options.post_quantum is None else options.post_quantum
    return Charter(
        consortium=consortium,
        title=options.title or f"Charter of {consortium}",
        purpose=options.purpose,
        simulation=options.simulation,
        expires=options.expires,
        coordinator=coordinator,
        members={
            name: Member(
                title=titles.get(name, name),
                roles=(Role.MEMBER, Role.WITNESS, Role.STEWARD),
                keys=keys,
            )
            for name, keys in sorted(members.items())
        },
        decisions=default_decisions(len(members), options.max_colluders),
        exposure=default_exposure(
            parameters.min_survivors, differential=differential, simulation=options.simulation
        ),
        data_use=DataUse(terms=options.data_use, health_data=options.health_data),
        documents=options.documents,
        escalation=options.escalation,
        privacy=PrivacyPolicy(
            mode=PrivacyMode.DIFFERENTIAL if differential else PrivacyMode.EXACT,
            epsilon_budget_milli=options.epsilon_budget_milli,
            delta=options.delta,
            max_sites_per_person=options.max_sites_per_person,
        ),
        secure_aggregation=SecureAggregationPolicy(
            max_colluders=options.max_colluders,
            min_survivors=options.min_survivors,
            suite="cesa1-x25519-mlkem768" if hybrid else "cesa1-x25519",
            slots_per_epoch_max=options.slots_per_epoch_max,
        ),
        log=LogPolicy(origin=f"{consortium}/log/1"),
        least_support=options.least_support or options.max_colluders + 2,
    )


_COMMENTS: Mapping[str, str] = {
    "format = ": "The charter of a consortium. Fill in keys, documents and contacts, then run\n"
    "`treaty charter check` and `treaty charter show`.",
    "simulation = ": "true founds a charter for simulations only; no site will run it.",
    "expires = ": "From this moment nothing is allowed but an amendment.",
    "least_support = ": "The least number of members that can make a coordinate of a sum non-zero.",
    "[coordinator]": "Relays messages and sequences the log. It sees no single site's input and "
    "cannot approve releases.",
    "[members.": "Public keys only, each made at the member by `treaty key new`; the private\n"
    "halves never leave it. `approval` is kept offline and votes; `runner` sends masked\n"
    "contributions and nothing else; `witness` cosigns the log.",
    "[decisions": "Who may do what. An action that is not listed is refused.",
    "[[exposure]]": "What may leave a site, to whom and in which form. What has no row does not "
    "leave.\n`least_members` of a sum is at least the derived number of survivors.",
    "[data_use]": "Data-use terms, GA4GH DUO codes. Every study plan acknowledges each of them.",
    "[[escalation]]": "Whom to call, in this order.",
    "[[documents]]": "Legal texts, bound by digest.",
    "[privacy]": "exact: sums are exact where a row above accepts it by name. differential: sums\n"
    "over training rows are noised, within epsilon (in thousandths) and delta per person.",
    "[secure_aggregation]": "max_colluders is how many members may collude with the coordinator. "
    "Thresholds follow\nfrom it and from the number of members; min_survivors may raise one.",
    "[log]": "The one log. Its witness quorum is derived. The origin never changes.",
}

_BLANK = "0" * 64
_LEGAL = """
# The legal texts, bound by digest (`sha256sum agreement.pdf`):
# [[documents]]
# name = "agreement"
# title = "Consortium agreement"
# sha256 = "..."
#
# Where things may be held; regions are those of members and coordinator:
# [[localisation]]
# artefact = "masked-input"
# regions = ["EU", "CH"]
# basis = "Clause 7 of the consortium agreement"
"""


def terms_charter(
    consortium: str,
    members: Sequence[str],
    options: CharterOptions | None = None,
    *,
    coordinator: str = "coordinator.example",
) -> Charter:
    """Return a founding charter whose places for keys are empty, the coordinator's zero.

    Raises `UsageError` for names or numbers of members that no charter can have.
    """
    if len(set(members)) != len(members):
        raise UsageError("a member is named twice: expected distinct names")
    charter = _assemble(
        consortium,
        {name: MemberKeys() for name in members},
        Coordinator(name=coordinator, title="Coordinator", runner=_BLANK, log=_BLANK),
        options or CharterOptions(),
        {},
    )
    return charter_from_toml(charter_to_toml(charter))


def template_toml(
    consortium: str,
    members: Sequence[str],
    options: CharterOptions | None = None,
    *,
    coordinator: str = "coordinator.example",
) -> str:
    """Return a commented founding charter with empty places for every key.

    Raises `UsageError` for names or numbers of members that no charter can have.
    """
    charter = terms_charter(consortium, members, options, coordinator=coordinator)
    text = charter_to_toml(charter)
    pending = dict(_COMMENTS)
    lines: list[str] = []
    for line in text.splitlines():
        for start in tuple(pending):
            if line.startswith(start):
                lines += [f"# {part}" for part in pending.pop(start).split("\n")]
        shown = f'{line[: line.index("=")]}= "" # fill in' if line.endswith(f'"{_BLANK}"') else line
        lines.append(shown)
    expires = time_to_text(Timestamp(charter.expires))
    return "\n".join(lines).replace(f'"{expires}"', expires) + "\n" + _LEGAL
