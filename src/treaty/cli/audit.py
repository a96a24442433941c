"""Commands of whoever checks: verify a bundle, read its log, prove an entry.

Declarations only: what a command does is in `bundle_files` and `audit_files`, which are imported
when it runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from treaty.cli.options import FormatOption
from treaty.cli.output import Format, aligned, emit
from treaty.errors import VerificationError

__all__ = ["attach"]

BundleDirectory = Annotated[Path, typer.Argument(help="The directory of the bundle.")]
AnchorOption = Annotated[
    str,
    typer.Option(
        "--anchor", help="Digest of the founding charter, from a source other than the bundle."
    ),
]

LogBundleOption = Annotated[
    Path | None, typer.Option("--bundle", help="The directory of a bundle that holds the log.")
]
LogAnchorOption = Annotated[
    str | None,
    typer.Option("--anchor", help="Digest of the founding charter; a bundle needs it."),
]
LogDirectoryOption = Annotated[
    Path | None,
    typer.Option("--dir", help="A party's directory, or a simulated consortium's, in its place."),
]
LogMemberOption = Annotated[
    str | None,
    typer.Option("--member", help="Read this member's copy in a simulated consortium."),
]

_logs = typer.Typer(help="The log inside a bundle.", rich_markup_mode=None)
_audits = typer.Typer(help="Audits of published sums, and proofs of fraud.", rich_markup_mode=None)


def attach(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command("verify")(verify)
    app.add_typer(_logs, name="log")
    app.add_typer(_audits, name="audit")


def verify(
    bundle: BundleDirectory,
    anchor: AnchorOption,
    min_size: Annotated[
        int | None, typer.Option("--min-size", min=1, help="Refuse a log with fewer entries.")
    ] = None,
    max_age: Annotated[
        str | None,
        typer.Option("--max-age", help="Refuse a log cosigned longer ago, such as 1h."),
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Replay a bundle offline and say what it proves; exit 3 when it does not hold."""
    from treaty.cli.bundle_files import verdict_on

    verdict = verdict_on(bundle, anchor, min_size=min_size, max_age=max_age)
    emit(form, verdict.to_record(), verdict.lines())


@_logs.command("show")
def log_show(
    bundle: BundleDirectory,
    anchor: AnchorOption,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Only entries of this kind, such as BallotCast.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Verify a bundle, then list the entries of its log."""
    from treaty.cli.bundle_files import entries_of

    entries = entries_of(bundle, anchor, kind)
    emit(
        form,
        [
            {
                "author": entry.author,
                "digest": entry.digest,
                "index": entry.index,
                "kind": entry.kind,
            }
            for entry in entries
        ],
        aligned(
            [(entry.index, entry.kind, entry.author, entry.digest[:16]) for entry in entries],
            ("entry", "kind", "author", "digest"),
        ),
    )


@_logs.command("prove")
def log_prove(
    bundle: BundleDirectory,
    anchor: AnchorOption,
    entry: Annotated[int, typer.Option("--entry", help="Which entry, counted from 0.")],
    out: Annotated[Path, typer.Option("--out", help="A new file for the tlog-proof.")],
    content: Annotated[
        Path | None, typer.Option("--content", help="A new file for the entry itself.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Verify a bundle, then write the proof that one entry is in its log."""
    from treaty import wiring
    from treaty.cli.bundle_files import prove_entry

    data, proof = prove_entry(bundle, anchor, entry)
    wiring.write_new_file(out, proof)
    if content is not None:
        wiring.write_new_file(content, data)
    emit(form, {"entry": entry, "proof": str(out)}, [f"written {out}"])


@_audits.command("show")
def audit_show(
    bundle: LogBundleOption = None,
    anchor: LogAnchorOption = None,
    directory: LogDirectoryOption = None,
    member: LogMemberOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="An existing directory for the proofs' files.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say what was audited and which sums are proved false; exit 3 when there is one."""
    from treaty.cli.audit_files import Source, show_audits

    found = show_audits(Source(bundle, anchor, directory, member))
    written = [] if out is None else found.write(out)
    record = {**found.record(), "files": [str(path) for path in written]}
    emit(form, record, [*found.lines(), *(f"written {path}" for path in written)])
    if found.proved:
        raise typer.Exit(VerificationError.exit_code)


@_audits.command("check")
def audit_check(
    proof: Annotated[Path, typer.Argument(help="The file of the proof.")],
    bundle: LogBundleOption = None,
    anchor: LogAnchorOption = None,
    directory: LogDirectoryOption = None,
    member: LogMemberOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Hold a proof of fraud against a log; exit 3 when it proves nothing."""
    from treaty.cli.audit_files import Source, check_proof, fraud_lines, fraud_record

    fraud = check_proof(proof, Source(bundle, anchor, directory, member))
    emit(form, fraud_record(fraud), fraud_lines(fraud))
