"""A realistic report: four hospitals, one of them lost in a round, in a simulation."""

from hashlib import sha256

from treaty.reports.document import (
    CalibrationLine,
    ColumnLine,
    CountLine,
    Coverage,
    EvaluationResult,
    ExposureLine,
    Guarantee,
    LogLine,
    MemberLine,
    ModelFigures,
    PooledComparison,
    PrivacyLine,
    Refusal,
    ReportData,
    RoundLine,
    SiteFigures,
    Term,
    Verdict,
    Verification,
    WitnessLine,
)

SITES = ("cleveland", "hungarian", "switzerland", "va")


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def figures(
    accuracy: int, auc: int | None, margin: int | None, brier: int, rows: int, positives: int
) -> ModelFigures:
    return ModelFigures(
        accuracy=accuracy,
        brier=brier,
        auc=auc,
        auc_half_width=None if auc is None else 1_412,
        auc_margin=margin,
        rows=rows,
        positives=positives,
    )


def timeline() -> tuple[LogLine, ...]:
    kinds = [("charter", "all members"), ("time", "coordinator"), ("proposal", "cleveland")]
    kinds += [("ballot", site) for site in SITES] + [("study-opened", "coordinator")]
    kinds += [("epoch-opened", "coordinator")] + [("epoch-keys", site) for site in SITES]
    kinds += [("epoch-roster", "coordinator")] + [("epoch-shares", site) for site in SITES]
    kinds += [("epoch-sealed", "coordinator")] + [("epoch-ready", site) for site in SITES]
    for number in range(1, 10):
        there = [site for site in SITES if not (number == 5 and site == "va")]
        kinds += [("time", "coordinator"), ("round-opened", "coordinator")]
        if number == 5:
            kinds.append(("input-declined", "va"))
        kinds += [("masked-input", site) for site in there]
        kinds += [("survivors-sealed", "coordinator")]
        kinds += [("survivors-confirmed", site) for site in there]
        kinds += [("reveal", site) for site in there] + [("round-result", "coordinator")]
    kinds += [("epoch-closed", "coordinator")] + [("site-report", site) for site in SITES]
    kinds += [("comparison", "coordinator"), ("study-completed", "coordinator")]
    kinds += [("proposal", "hungarian"), *(("ballot", site) for site in SITES)]
    kinds += [("provenance", "all members")]
    return tuple(
        LogLine(index=index, kind=f"{kind}/v1", author=author, digest=digest(f"{index}")[:16])
        for index, (kind, author) in enumerate(kinds)
    )


def counts(lines: tuple[LogLine, ...]) -> tuple[CountLine, ...]:
    kinds = [line.kind for line in lines]
    return tuple(CountLine(kind=kind, count=kinds.count(kind)) for kind in sorted(set(kinds)))


def rounds() -> tuple[RoundLine, ...]:
    steps = ("1.3123e0", "4.41e-1", "7.82e-2", "2.93e-3", "4.1e-6", "8.2e-12")
    losses = ("0.693147", "0.4417", "0.4098", "0.40712", "0.407095", "0.407095")
    found = [
        RoundLine(number=1, kind="support of the columns", survivors=4),
        RoundLine(number=2, kind="counts, sums and squares", survivors=4, rows=591),
    ]
    found += [
        RoundLine(
            number=number + 3,
            kind="gradient and Hessian",
            survivors=3 if number == 2 else 4,
            lost=("va",) if number == 2 else (),
            rows=462 if number == 2 else 591,
            step=step,
            loss=loss,
        )
        for number, (step, loss) in enumerate(zip(steps, losses, strict=True))
    ]
    found.append(RoundLine(number=9, kind="evaluation histograms", survivors=4, rows=295))
    return tuple(found)


def exposure() -> tuple[ExposureLine, ...]:
    def line(
        artefact: str, form: str, often: str, times: int, sentence: str, *, data: bool = True
    ) -> ExposureLine:
        return ExposureLine(
            artefact=artefact,
            form=form,
            recipients=("all members", "coordinator"),
            how_often=often,
            times=times,
            sentence=sentence,
            data_dependent=data,
        )

    return (
        line(
            "Contributions to a sum",
            "masked",
            "once per round",
            35,
            "Unreadable until at least three are added up.",
        ),
        line(
            "Sums of counts, values and squares",
            "exact",
            "once per study",
            1,
            "Give the means and spreads over all sites, for scaling.",
        ),
        line(
            "Sums that fit the model",
            "exact",
            "once per round",
            6,
            "Gradient and Hessian over all sites; each round gives the next model.",
        ),
        line(
            "Summed histograms of scores",
            "exact",
            "once per study",
            1,
            "How predicted risks spread over test patients with and without the outcome.",
        ),
        line(
            "Figures of one site",
            "exact",
            "once per study",
            4,
            "Accuracy, AUC and Brier score on the site's own test patients.",
        ),
        line(
            "Signs of drift",
            "noised",
            "once per epoch",
            0,
            "Would show that a released model has aged.",
        ),
        line(
            "Public and encrypted protocol values",
            "plain",
            "once per epoch",
            12,
            "Keys and sealed shares; random numbers to everyone but their recipient.",
            data=False,
        ),
        line("Votes", "code", "whenever it arises", 8, "Who approved what.", data=False),
    )


def guarantees() -> tuple[Guarantee, ...]:
    def line(name: str, status: Coverage, sentence: str) -> Guarantee:
        return Guarantee(name=name, status=status, sentence=sentence)

    proved = Coverage.PROVED
    return (
        line("Charter", proved, "Its founding is signed by all members and leads to the anchor."),
        line("Approval", proved, "The plan was ratified by the charter's rule before training."),
        line("History", proved, "Every entry is in the log whose root a quorum cosigned."),
        line("Sums", proved, "Each opened sum was recomputed from the masked contributions."),
        line("Model", proved, "Replaying the sums gives the released model, byte by byte."),
        line("Figures", proved, "The evaluation follows from the opened histograms."),
        line(
            "Code at the sites",
            Coverage.ATTESTED,
            "Each site's officer signed which code ran; the hardware does not vouch for it.",
        ),
        line("Freshness", Coverage.NOT_COVERED, "Later entries may exist; ask a member."),
        line("Truth of the data", Coverage.NOT_COVERED, "No protocol can see a site's records."),
    )


def sample() -> ReportData:
    log = timeline()
    sites = (
        (
            "cleveland",
            97,
            45,
            (824_742, 902_137, 62_000, 128_400),
            (793_814, 874_786, 70_100, 147_900),
        ),
        (
            "hungarian",
            94,
            34,
            (829_787, 888_725, 69_000, 126_200),
            (797_872, 865_196, 77_000, 143_800),
        ),
        ("switzerland", 40, 37, (925_000, None, None, 68_100), (925_000, None, None, 74_500)),
        ("va", 64, 48, (750_000, 741_536, 134_000, 176_900), (765_625, 748_698, 131_000, 173_100)),
    )
    return ReportData(
        consortium="Four hospitals, heart disease",
        simulation=True,
        anchor=digest("anchor"),
        charter_version=1,
        charter_expires="2027-12-31T00:00:00Z",
        charter_digest=digest("charter"),
        members=(
            MemberLine(name="cleveland", title="Cleveland Clinic Foundation", region="US"),
            MemberLine(name="hungarian", title="Hungarian Institute of Cardiology", region="HU"),
            MemberLine(name="switzerland", title="University Hospitals, Switzerland", region="CH"),
            MemberLine(name="va", title="V.A. Medical Center, Long Beach", region="US"),
        ),
        study="Coronary disease from a first examination",
        purpose="Tell from a first examination whether coronary disease is present, so that fewer "
        "patients need an angiogram.",
        model="Logistic regression with site intercepts that stay at home, ridge 1, Newton rounds",
        contract="heart v1",
        columns=(
            ColumnLine(name="age", meaning="age at examination", kind="number", unit="a"),
            ColumnLine(name="sex", meaning="sex", kind="two levels"),
            ColumnLine(name="cp", meaning="type of chest pain", kind="four levels"),
            ColumnLine(
                name="trestbps", meaning="resting blood pressure", kind="number", unit="mm[Hg]"
            ),
            ColumnLine(name="thalach", meaning="highest heart rate", kind="number", unit="/min"),
            ColumnLine(name="oldpeak", meaning="ST depression", kind="number", unit="mm"),
        ),
        max_colluders=1,
        min_survivors=3,
        witness_quorum=3,
        noised=False,
        verification=Verification(
            status=Coverage.PROVED,
            sentence="The bundle was replayed from its anchor and everything that it claims holds.",
        ),
        guarantees=guarantees(),
        plan_digest=digest("plan"),
        bundle_edition="full: sums recomputed",
        log_size=len(log),
        log_root=digest("root"),
        model_digest=digest("model"),
        label="coronary disease present (narrowing of more than one half)",
        rounds=rounds(),
        evaluation=EvaluationResult(
            sites=4,
            federated=figures(820_339, 893_412, 36_400, 130_211, 295, 164),
            alone=figures(800_000, 818_954, 47_300, 148_733, 295, 164),
            verdict=Verdict.INCONCLUSIVE,
            auc_difference=74_458,
            auc_margin=86_224,
        ),
        sites=tuple(
            SiteFigures(
                site=site,
                federated=figures(*federated, rows, positives),
                alone=figures(*alone, rows, positives),
            )
            for site, rows, positives, federated, alone in sites
        ),
        comparison=PooledComparison(
            pooled=figures(820_339, 893_412, 36_400, 130_211, 295, 164),
            largest_gap="2.914e-10",
            alone_everywhere=(
                ("cleveland", figures(783_051, 861_220, 41_300, 155_070, 295, 164)),
                ("hungarian", figures(766_102, 848_907, 43_000, 163_920, 295, 164)),
                ("switzerland", figures(586_441, 655_128, 62_000, 318_444, 295, 164)),
                ("va", figures(711_864, 789_337, 51_100, 196_351, 295, 164)),
            ),
        ),
        calibration=(
            CalibrationLine(lower=0, upper=109_375, observed=64_516, rows=62),
            CalibrationLine(lower=109_375, upper=296_875, observed=224_490, rows=49),
            CalibrationLine(lower=296_875, upper=546_875, observed=413_043, rows=46),
            CalibrationLine(lower=546_875, upper=796_875, observed=702_128, rows=47),
            CalibrationLine(lower=796_875, upper=937_500, observed=854_167, rows=48),
            CalibrationLine(lower=937_500, upper=1_000_000, observed=953_488, rows=43),
        ),
        exposure=exposure(),
        privacy=(
            PrivacyLine(
                partition="Training rows",
                sentence="Exact, not differentially private; accepted in the charter by name.",
            ),
            PrivacyLine(
                partition="Test rows",
                sentence="Exact, not differentially private; accepted in the charter by name.",
            ),
        ),
        timeline=log,
        counts=counts(log),
        witnesses=tuple(WitnessLine(witness=site, cosigned=site != "va") for site in SITES),
        refusals=(
            Refusal(
                round=5,
                who="va",
                code="site-declined",
                sentence="The site sent no contribution. The round went on with three members.",
            ),
        ),
        terms=(
            Term(label="Release", value="at least 3 of 4 members"),
            Term(label="Retention", value="masked contributions, until they have been audited"),
        ),
    )
