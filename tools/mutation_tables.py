"""Which checks are disabled in turn, which tests are asked of each, and which nobody can notice.

The tables of `tools.mutate_checks`: a module without tests of its own is asked of those of its
package. What is asked of a module is the cheapest that is adequate: its own unit tests and the
attacks that its checks stop, so that a judgement takes seconds.
"""

__all__ = ["FIRST", "MODULES", "REDUNDANT", "TESTS", "TESTS_OF", "WHOLE"]

MODULES = (
    "accession",
    "consortium",
    "differencing",
    "gate",
    "ledger_trail",
    "membership",
    "model_release",
    "proposal",
    "releases",
    "secagg_audit",
    "secagg_claims",
    "secagg_coordinator",
    "secagg_enrolment",
    "secagg_epoch",
    "secagg_expected",
    "secagg_graph",
    "secagg_keys",
    "secagg_member",
    "secagg_opening",
    "secagg_pairs",
    "secagg_roster",
    "secure_round",
    "study",
    "study_checks",
    "surplus",
    "governance/accession",
    "governance/amendment",
    "governance/quorum",
    "tlog/checkpoint",
    "tlog/merkle",
    "tlog/notes",
    "tlog/policy",
    "tlog/proof",
    "tlog/witness",
    "provenance/bundle",
    "provenance/contents",
    "provenance/fraud",
    "provenance/record",
    "provenance/verify",
    "crypto/canonical",
    "crypto/commitment",
    "crypto/derivation",
    "crypto/ed25519",
    "crypto/envelope",
    "crypto/key_agreement",
    "crypto/keys",
    "crypto/prg",
    "crypto/sealing",
    "crypto/shamir",
    "crypto/transport_keys",
    "statements",
    "compact",
    "frames",
    "machine",
    "secagg_degree",
    "secagg_dealing",
    "node/admission",
    "node/amending",
    "node/budget",
    "node/contribution",
    "node/dataset",
    "node/founding",
    "node/intake",
    "node/log_keeper",
    "node/mirror",
    "node/noise_kept",
    "node/releasing",
    "node/spending",
    "privacy/certificate",
    "privacy/ledger",
    "privacy/ledger_budget",
    "privacy/ledger_fold",
    "privacy/surplus",
    "privacy/terms",
    "stores/ledger_file",
    "stores/secret_files",
    "governance/charter",
    "governance/data_use",
    "governance/exposure",
    "governance/rotation",
    "governance/site_policy",
    "governance/template",
    "contracts/alignment",
    "contracts/calendar",
    "contracts/conformance",
    "contracts/decimals",
    "contracts/diff",
    "contracts/findings",
    "contracts/normalisation",
    "contracts/operations",
    "contracts/schema",
    "contracts/splitting",
    "contracts/table",
    "contracts/units",
    "aggregation/masking",
    "aggregation/quantization",
    "aggregation/sketch",
    "aggregation/tensors",
    "models/averaging",
    "models/descent",
    "models/fixed_point",
    "models/linear_solve",
    "models/newton",
    "models/quadratic",
    "models/specification",
    "models/task",
    "evaluation/comparison",
    "evaluation/forecast",
    "evaluation/metrics",
    "evaluation/noised_figures",
    "studies/calibrating",
    "studies/certificates",
    "studies/lint",
    "studies/noise",
    "studies/outcome",
    "studies/plan",
    "studies/private_lint",
    "studies/progress",
    "studies/queries",
)
"""Modules of `treaty.protocol`, and of other packages with the package's name before them."""

WHOLE = frozenset(MODULES[: MODULES.index("provenance/bundle")])
"""Modules whose conditions are taken out whole, also where they are rows of alternatives."""

TESTS = (
    "tests/adversarial/test_secagg_moves.py",
    "tests/unit/protocol/test_secagg_member.py",
    "tests/unit/protocol/test_secagg_rounds.py",
    "tests/unit/protocol/test_secure_round.py",
    "tests/unit/protocol/test_secagg_graph.py",
    "tests/unit/protocol/test_secagg_audit.py",
    "tests/unit/protocol/test_surplus.py",
    "tests/unit/protocol/test_secagg_pairs.py",
    "tests/unit/protocol/test_secagg_claims.py",
    "tests/stateful/test_resumed_questions.py",
    "tests/adversarial/test_two_faced.py",
    "tests/unit/protocol/test_study.py",
    "tests/unit/protocol/test_consortium.py",
    "tests/unit/protocol/test_ledger_trail.py",
    "tests/unit/protocol/test_membership.py",
    "tests/unit/protocol/test_model_release.py",
    "tests/unit/protocol/test_gathered_charters.py",
    "tests/unit/protocol/test_accession.py",
    "tests/unit/protocol/test_secagg_keys.py",
    "tests/unit/protocol/test_gate.py",
    "tests/stateful/test_proposal.py",
    "tests/adversarial/test_fresh_releases.py",
    "tests/adversarial/test_hostile_releases.py",
    "tests/adversarial/test_private_studies.py",
    "tests/adversarial/test_forged_logs.py",
    "tests/adversarial/test_sketched_rounds.py",
)
"""What is asked about the protocol, in this order; the first failure ends a run."""

_SECAGG = (
    "tests/unit/protocol/test_secagg_graph.py",
    "tests/unit/protocol/test_secagg_keys.py",
    "tests/adversarial/test_secagg_moves.py",
)
_DATA = ("tests/unit/node/test_bad_input.py", "tests/unit/node/test_noising.py")

TESTS_OF: dict[str, tuple[str, ...]] = {
    "governance": (
        "tests/unit/governance",
        "tests/property/test_governance_laws.py",
        "tests/unit/cli/test_rules_commands.py",
        "tests/unit/protocol/test_accession.py",
        "tests/unit/protocol/test_membership.py",
    ),
    "tlog": ("tests/unit/tlog", "tests/property/test_log_laws.py"),
    "contracts": ("tests/unit/contracts", "tests/unit/datasets"),
    "aggregation": ("tests/unit/aggregation", "tests/property/test_mask_laws.py"),
    "models": ("tests/unit/models", "tests/property/test_training_laws.py"),
    "evaluation": ("tests/unit/evaluation",),
    "studies": ("tests/unit/studies",),
    "provenance": (
        "tests/adversarial/test_altered_bundles.py",
        "tests/adversarial/test_forged_logs.py",
        "tests/unit/cli/test_bundle_commands.py",
        "tests/adversarial/test_proved_frauds.py",
        "tests/adversarial/test_false_accusations.py",
    ),
    "crypto": ("tests/unit/crypto", "tests/fuzz/test_protocol_parsers.py"),
    "statements": (
        "tests/unit/protocol/test_statements.py",
        "tests/adversarial/test_protocol_core.py",
        "tests/fuzz/test_protocol_parsers.py",
        "tests/adversarial/test_forged_logs.py",
        "tests/adversarial/test_exposure_of_statements.py",
    ),
    "compact": ("tests/unit/protocol/test_compact.py", "tests/fuzz/test_protocol_parsers.py"),
    "frames": (
        "tests/unit/protocol/test_frames.py",
        "tests/unit/protocol/test_compact.py",
        "tests/fuzz/test_protocol_parsers.py",
    ),
    "machine": (
        "tests/unit/protocol/test_machine.py",
        "tests/unit/protocol/test_study.py",
        "tests/stateful/test_proposal.py",
        "tests/unit/protocol/test_secagg_member.py",
    ),
    "secagg_dealing": _SECAGG,
    "secagg_degree": _SECAGG,
    "node": (
        "tests/adversarial/test_secagg_nodes.py",
        "tests/adversarial/test_bad_input_at_nodes.py",
    ),
    "node/founding": (
        "tests/unit/node/test_founding_and_serving.py",
        "tests/unit/node/test_gathering.py",
    ),
    "node/intake": (
        "tests/unit/node/test_intake.py",
        "tests/adversarial/test_bad_input_at_nodes.py",
    ),
    "node/log_keeper": (
        "tests/unit/node/test_mirror.py",
        "tests/unit/node/test_cosigned.py",
        "tests/adversarial/test_bad_input_at_nodes.py",
    ),
    "node/mirror": (
        "tests/unit/node/test_mirror.py",
        "tests/adversarial/test_clock.py",
        "tests/unit/node/test_cosigned.py",
    ),
    "node/admission": (
        "tests/unit/node/test_admission.py",
        "tests/unit/node/test_approval.py",
        "tests/adversarial/test_consents.py",
        "tests/adversarial/test_assessment_required.py",
        "tests/unit/node/test_budget.py",
        "tests/unit/node/test_bad_input.py",
        "tests/adversarial/test_bad_input_at_nodes.py",
        "tests/unit/node/test_spending.py",
        "tests/adversarial/test_person_identity.py",
        "tests/adversarial/test_hostile_spending.py",
        "tests/adversarial/test_how_often.py",
        "tests/adversarial/test_left_out_supporters.py",
        "tests/adversarial/test_secagg_nodes.py",
    ),
    "node/amending": (
        "tests/unit/node/test_amending.py",
        "tests/adversarial/test_hostile_rotations.py",
    ),
    "node/auditing": (
        "tests/adversarial/test_proved_frauds.py",
        "tests/stateful/test_audited_sums.py",
        "tests/adversarial/test_sketched_rounds.py",
        "tests/adversarial/test_secagg_nodes.py",
    ),
    "node/budget": (
        "tests/unit/node/test_budget.py",
        "tests/adversarial/test_hostile_budgets.py",
        "tests/adversarial/test_person_identity.py",
        "tests/crash/test_older_ledger.py",
        "tests/unit/node/test_spending.py",
        "tests/adversarial/test_hostile_spending.py",
    ),
    "node/contribution": (
        "tests/unit/node/test_contribution.py",
        *_DATA,
        "tests/adversarial/test_bad_input_at_nodes.py",
        "tests/adversarial/test_exposure_of_a_trainer.py",
        "tests/adversarial/test_sketched_rounds.py",
    ),
    "node/dataset": (
        "tests/unit/node/test_budget.py",
        "tests/adversarial/test_hostile_budgets.py",
        "tests/unit/node/test_approval.py",
    ),
    "node/guarding": (
        *_DATA,
        "tests/adversarial/test_exposure_of_a_trainer.py",
        "tests/adversarial/test_bad_input_at_nodes.py",
    ),
    "node/noise_kept": (
        "tests/unit/node/test_contribution.py",
        "tests/unit/node/test_noise_keys.py",
        "tests/adversarial/test_surplus_noise.py",
    ),
    "node/noising": (
        "tests/unit/node/test_noising.py",
        "tests/adversarial/test_exposure_of_a_trainer.py",
        "tests/adversarial/test_noised_holdout.py",
    ),
    "node/participant": (
        "tests/adversarial/test_exposure_of_statements.py",
        "tests/adversarial/test_secagg_nodes.py",
        "tests/adversarial/test_bad_input_at_nodes.py",
    ),
    "node/performing": (
        "tests/unit/node/test_noise_keys.py",
        "tests/unit/node/test_bad_input.py",
        "tests/adversarial/test_fresh_releases.py",
        "tests/adversarial/test_exposure_of_statements.py",
    ),
    "node/releasing": (
        "tests/unit/node/test_releasing.py",
        "tests/adversarial/test_hostile_releases.py",
    ),
    "node/spending": (
        "tests/unit/node/test_spending.py",
        "tests/unit/node/test_budget.py",
        "tests/adversarial/test_hostile_spending.py",
        "tests/adversarial/test_hostile_budgets.py",
    ),
    "privacy": (
        "tests/unit/privacy/test_ledger.py",
        "tests/unit/node/test_budget.py",
        "tests/adversarial/test_hostile_budgets.py",
        "tests/unit/cli/test_budget_commands.py",
    ),
    "privacy/certificate": (
        "tests/unit/privacy/test_certificate.py",
        "tests/unit/privacy/test_terms.py",
        "tests/unit/studies/test_private_plans.py",
    ),
    "privacy/surplus": (
        "tests/unit/privacy/test_surplus.py",
        "tests/unit/protocol/test_surplus.py",
    ),
    "privacy/terms": (
        "tests/unit/privacy/test_terms.py",
        "tests/unit/studies/test_private_plans.py",
    ),
    "stores": (
        "tests/contract/test_ledger.py",
        "tests/contract/test_secret_file.py",
        "tests/contract/test_files.py",
        "tests/crash/test_older_ledger.py",
    ),
}
"""What is asked about a package's modules or about one module, where that is not `TESTS`."""

FIRST: dict[str, tuple[str, ...]] = {
    "crypto/canonical": ("tests/unit/crypto/test_canonical.py",),
    "crypto/ed25519": ("tests/unit/crypto/test_ed25519.py",),
    "crypto/envelope": ("tests/unit/crypto/test_envelope.py",),
    "crypto/commitment": ("tests/unit/crypto/test_agreement_and_sealing.py",),
    "crypto/derivation": ("tests/unit/crypto/test_sharing_and_masks.py",),
    "crypto/key_agreement": ("tests/unit/crypto/test_agreement_and_sealing.py",),
    "crypto/keys": ("tests/unit/crypto/test_keys.py",),
    "crypto/prg": ("tests/unit/crypto/test_sharing_and_masks.py",),
    "crypto/sealing": ("tests/unit/crypto/test_agreement_and_sealing.py",),
    "crypto/shamir": ("tests/unit/crypto/test_sharing_and_masks.py",),
    "statements": ("tests/unit/protocol/test_statements.py",),
    "stores/ledger_file": ("tests/contract/test_ledger.py",),
    "crypto/transport_keys": ("tests/unit/crypto/test_transport_keys.py",),
    "provenance/fraud": (
        "tests/adversarial/test_proved_frauds.py",
        "tests/adversarial/test_false_accusations.py",
    ),
    "stores/secret_files": ("tests/contract/test_secret_file.py",),
    "accession": ("tests/unit/protocol/test_accession.py",),
    "consortium": ("tests/unit/protocol/test_consortium.py", "tests/unit/protocol/test_study.py"),
    "gate": ("tests/unit/protocol/test_gate.py",),
    "ledger_trail": ("tests/unit/protocol/test_ledger_trail.py",),
    "membership": (
        "tests/unit/protocol/test_membership.py",
        "tests/unit/protocol/test_gathered_charters.py",
    ),
    "model_release": ("tests/unit/protocol/test_model_release.py",),
    "proposal": ("tests/stateful/test_proposal.py",),
    "releases": (
        "tests/adversarial/test_hostile_releases.py",
        "tests/adversarial/test_fresh_releases.py",
        "tests/adversarial/test_private_studies.py",
    ),
    "study": ("tests/unit/protocol/test_study.py", "tests/unit/protocol/test_secagg_audit.py"),
    "study_checks": ("tests/unit/protocol/test_study.py",),
}
"""By module, what is asked before all others where no test is known to notice."""

REDUNDANT: dict[str, str] = {
    "governance/exposure.require[exposure]|2": (
        "a decision that allows names its row; the check tells the types so"
    ),
    "aggregation/tensors._manifest_of[check_manifest]": (
        "`NamedTensors` looks at the manifest that it is made of; here it is looked at before an "
        "array is made"
    ),
    "aggregation/tensors._manifest_of[FormatError]|1": (
        "`check_manifest` refuses the same, after the header has been read; here no product of "
        "many sizes is formed"
    ),
    "secagg_audit.plan[UsageError]": (
        "cases are made of published sums alone, whose epoch and survivors are sealed; the check "
        "tells the types so"
    ),
    "secagg_audit.result[UsageError]": (
        "cases are made of published sums alone; the check tells the types so"
    ),
    "secagg_coordinator.graph[UsageError]": (
        "rounds are opened in epochs whose dealing is over; the check tells the types so"
    ),
    "secagg_enrolment._on_roster[wrong-epoch]": (
        "the coordinator logs keys of its own epoch alone, and `check_roster` refuses a roster "
        "that differs from its entries, with the same code; it stands so that neither depends on "
        "the other"
    ),
    "study._on_audited[not-a-member]": (
        "members alone may say it, the group of a running study is that of all members who are not "
        "suspended, and no charter changes meanwhile; it stands so that an audit rests on neither"
    ),
    "study._on_epoch[out-of-order]#1": (
        "an epoch is not closed while a round is open, and what ends an epoch otherwise, a "
        "suspension or a halt, cuts the round off with it; it stands so that neither is relied on"
    ),
    "study._on_round[out-of-order]#2": (
        "`use_slot` refuses a round before the dealing is sealed, and the graph comes with the "
        "seal; the check tells the types so"
    ),
    "secagg_member._on_survivors[UsageError]": (
        "a round has a lock from its input on, and the table admits survivors only after it; the "
        "check tells the types so"
    ),
    "study_checks.check_report[not-a-member]": (
        "who sent a histogram was asked as a member of the study, and nothing that a member signs "
        "is taken once it is suspended; it stands so that a report rests on neither"
    ),
    "provenance/contents.open_log[FormatError]": (
        "`tiles_of_size` divides the size among its bundles and `parse_entry_bundle` refuses "
        "another number of entries in any of them; it stands so that the count rests on neither"
    ),
    "provenance/fraud.verify_fraud[out-of-order]": (
        "the fold, by `Study._open_round`, refuses a result outside of a round that is "
        "open; the check tells the types so"
    ),
    "provenance/record._follow[out-of-order]": (
        "the fold refuses a result without a running study with the same code; the check tells "
        "the types so"
    ),
    "provenance/record._proved[out-of-order]": (
        "the fold refuses a dispute without a running study with the same code; the check tells "
        "the types so"
    ),
    "provenance/record._recompute[out-of-order]": (
        "the fold refuses a result outside of a round that is open with the same code; the "
        "check tells the types so"
    ),
    "provenance/verify._checkpoint[root-mismatch]|2": (
        "`open_log` has compared the size of the same note with the manifest and with the "
        "number of entries; it stands so that a checkpoint is judged in one place"
    ),
    "provenance/verify._checkpoint[require]": (
        "`_freshness` asks when the quorum cosigned, and `Policy.quorum_time_s` begins with the "
        "same refusal; it stands so that the quorum does not rest on the freshness"
    ),
    "crypto/derivation._length[UsageError]": (
        "nothing of 4 GiB comes through the limits of frames and blobs, and `int.to_bytes` "
        "raises in its place; the check makes that an error of ours"
    ),
    "crypto/transport_keys.certificate_pin[FormatError]#1": (
        "nothing stands behind the certificate and `_element` lets no element reach beyond the "
        "bytes; with both taken out a body that reaches beyond is noticed by a test"
    ),
    "crypto/transport_keys._element[FormatError]#1": (
        "the ends of certificate, body and key are compared by `certificate_pin`, and what "
        "stands behind a shorter element has no tag; it stands so that no reader rests on the "
        "other's order"
    ),
    "statements.peek[FormatError]": (
        "`envelope.parse` is given the same limit and `canonical.decode` refuses what is larger "
        "before it reads; here the refusal says that an entry was expected"
    ),
    "compact.expanded[FormatError]#1|2": (
        "an address that is cut short names no type in `_kind`, or leaves nothing behind it for "
        "`canonical.decode`; the check says what was expected"
    ),
    "compact._stretched[FormatError]": (
        "a digest that is cut short is not shrunk again, so that `expanded` refuses it as "
        "another spelling; the check says what was expected"
    ),
    "frames._split[FormatError]#1": (
        "a header of no bytes is refused by `canonical.decode`; the check says what was "
        "expected of a frame"
    ),
    "frames._split[FormatError]#2|1": (
        "`canonical.decode` is given the same limit for the header; the check says what was "
        "expected of a frame"
    ),
    "frames._split[FormatError]#2|2": (
        "a header that is cut short is refused by `canonical.decode`; the check says what was "
        "expected of a frame"
    ),
    "privacy/ledger_budget._size[budget]|1": (
        "the accountant gives every event that an entry can hold a finite epsilon, and "
        "`gaussian_mu` refuses another; the check makes that a refusal of the plan"
    ),
    "privacy/ledger_budget._size[budget]|2": (
        "the accountant rounds up, so that no epsilon is 0, and `gaussian_mu` refuses it; the "
        "check makes that a refusal of the plan"
    ),
    "privacy/ledger_fold._on_rebased[rebase-too-low]#1|1": (
        "an envelope that is not counted has mu squared 0 for `total_signal_to_noise`, below "
        "every limit; the check tells the types so"
    ),
    "stores/ledger_file._opened[UsageError]": (
        "its callers have opened the file, or found it open, before; the check tells the types so"
    ),
    "stores/secret_files.read[ResourceError]|1": (
        "what is shorter than a digest is not the digest of nothing, which is compared next; it "
        "stands so that an erased end is never taken for a check"
    ),
}
"""Mutants that no test can kill, by name, and why the check stands all the same."""
