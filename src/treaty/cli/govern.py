"""Commands on rules: keys, charters, contracts, site data and plans. All work on files.

Declarations only: what a command does is in `charter_files` and `study_files`, which are
imported when it runs, so that help stays light.
"""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from treaty.cli.options import FormatOption
from treaty.cli.output import Format, aligned, emit
from treaty.errors import PolicyError, UsageError

__all__ = ["attach", "keys"]


class KeyRole(StrEnum):
    """What a key file is for; the charter lists the public half under the same word."""

    APPROVAL = "approval"
    RUNNER = "runner"
    WITNESS = "witness"
    COORDINATOR = "coordinator"
    LOG = "log"


CharterFile = Annotated[Path, typer.Argument(help="A charter, TOML or canonical JSON.")]
CharterOption = Annotated[Path, typer.Option("--charter", help="The charter in force.")]
ContractOption = Annotated[Path, typer.Option("--contract", help="The data contract.")]
PlanOption = Annotated[Path, typer.Option("--plan", help="The study plan.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="A new file; else it is printed.")]

keys = typer.Typer(help="Signing keys.", rich_markup_mode=None)
_charters = typer.Typer(help="The charter that all members sign.", rich_markup_mode=None)
_contracts = typer.Typer(help="The data contract.", rich_markup_mode=None)
_data = typer.Typer(help="A site's own data.", rich_markup_mode=None)
_plans = typer.Typer(help="The plan of a study, before the vote.", rich_markup_mode=None)


def attach(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for name, group in (
        ("key", keys),
        ("charter", _charters),
        ("contract", _contracts),
        ("data", _data),
        ("plan", _plans),
    ):
        app.add_typer(group, name=name)


@keys.command("new")
def key_new(
    role: Annotated[KeyRole, typer.Argument(help="What the key is for.")],
    out: Annotated[Path, typer.Option("--out", help="A new file, mode 0600.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Make a signing key. The public half is printed, the secret half stays in the file."""
    from treaty.cli.charter_files import make_key

    public = make_key(role.value, out)
    _show_key(form, role.value, public.hex, out)


@keys.command("show")
def key_show(
    file: Annotated[Path, typer.Argument(help="A key file.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Print the role and the public half of a key file."""
    from treaty.cli.charter_files import read_key

    held = read_key(file)
    _show_key(form, held.role, held.key.public.hex, file)


def _show_key(form: Format, role: str, public: str, file: Path) -> None:
    emit(
        form,
        {"file": str(file), "public_key": public, "role": role},
        aligned([("role", role), ("public key", public), ("file", file)]),
    )


@_charters.command("new")
def charter_new(
    consortium: Annotated[str, typer.Argument(help="Its name, such as hearts.example.")],
    member: Annotated[list[str], typer.Option("--member", help="A member; repeat it.")],
    coordinator: Annotated[
        str, typer.Option("--coordinator", help="Who relays messages and sequences the log.")
    ] = "coordinator.example",
    title: Annotated[str, typer.Option("--title", help="What people call it.")] = "",
    purpose: Annotated[str, typer.Option("--purpose", help="What it is for.")] = "",
    expires: Annotated[
        str, typer.Option("--expires", help="A date and time such as 2030-12-31T00:00:00Z.")
    ] = "",
    max_colluders: Annotated[
        int, typer.Option("--max-colluders", help="How many members may collude.")
    ] = 1,
    simulation: Annotated[
        bool, typer.Option("--simulation", help="For simulations only; no site will run it.")
    ] = False,
    out: OutOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Write a commented charter with empty places for keys, documents and contacts."""
    from dataclasses import replace

    from treaty.governance.charter import time_from_text
    from treaty.governance.template import CharterOptions, template_toml

    options = CharterOptions(title=title, max_colluders=max_colluders, simulation=simulation)
    if purpose:
        options = replace(options, purpose=purpose)
    if expires:
        options = replace(options, expires=time_from_text(expires))
    text = template_toml(consortium, member, options, coordinator=coordinator)
    _deliver(form, text, out)


@_charters.command("check")
def charter_check(
    charter: CharterFile,
    signed: Annotated[
        Path | None, typer.Option("--signed", help="A statement: is it signed as it must be?")
    ] = None,
    previous: Annotated[
        Path | None, typer.Option("--previous", help="The version before an amendment.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say everything that is wrong with a charter, and its digest."""
    from treaty import wiring
    from treaty.cli.charter_files import read_charter, read_statement, require_complete
    from treaty.governance.charter import charter_digest, time_to_text
    from treaty.governance.validity import problems
    from treaty.ids import Timestamp

    document = read_charter(charter)
    found = problems(document)
    digest = charter_digest(document)
    if signed is not None and not found:
        before = None if previous is None else read_charter(previous)
        require_complete(document, read_statement(signed), before)
    lines = [f"charter of {document.consortium}, version {document.version}"]
    lines.append(f"{'anchor' if document.version == 1 else 'digest'} {digest}")
    if not found:
        limits = document.parameters()
        lines.append(
            f"{limits.members} members, sums over at least {limits.min_survivors}, "
            f"witness quorum {limits.witness_quorum}"
        )
        lines.append("holds" if signed is None else "holds and is signed as it must be")
    # No fault: what was done under it stays checkable from it.
    expired = wiring.SystemClock().now() >= document.expires
    if expired:
        end = time_to_text(Timestamp(document.expires))
        lines.append(f"expired at {end}: nothing is allowed under it but its amendment")
    lines += aligned([(one.code, one.sentence) for one in found])
    emit(
        form,
        {
            "consortium": document.consortium,
            "digest": digest,
            "expired": expired,
            "problems": [{"code": one.code, "sentence": one.sentence} for one in found],
            "signed": signed is not None and not found,
            "simulation": document.simulation,
            "version": document.version,
        },
        lines,
    )
    _exit_if(bool(found), PolicyError.exit_code)


@_charters.command("show")
def charter_show(
    charter: CharterFile,
    explain: Annotated[
        tuple[str, str, str] | None,
        typer.Option(
            "--explain",
            metavar="ROLE ARTEFACT FORM",
            help="Ask the exposure matrix one question instead.",
        ),
    ] = None,
    over: Annotated[
        int | None,
        typer.Option("--members", help="How many members' data stand behind it, for --explain."),
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Print the charter as a page to read, or its canonical JSON, which is what is signed."""
    from treaty.cli.charter_files import canonical_text, explain_exposure, read_charter

    document = read_charter(charter)
    if explain is not None:
        decision = explain_exposure(document, *explain, members=over)
        emit(
            form,
            {"allowed": decision.allowed, "explanation": decision.explanation},
            [decision.explain()],
        )
        return
    if form is Format.JSON:
        typer.echo(canonical_text(document))
        return
    from treaty.governance.page import charter_page

    emit(form, None, charter_page(document).splitlines())


@_charters.command("sign")
def charter_sign(
    sources: Annotated[
        list[Path],
        typer.Option("--in", help="The charter; and statements about it to merge. Repeat it."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The statement with all signatures.")],
    keys: Annotated[
        list[Path] | None, typer.Option("--key", help="A key file to sign with; repeat it.")
    ] = None,
    previous: Annotated[
        Path | None, typer.Option("--previous", help="The version before an amendment.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Sign a charter with key files, merge signatures, and say which are missing."""
    from treaty.cli.charter_files import sign_charter

    state = sign_charter(sources, keys or [], out, previous)
    emit(form, state.record(), state.lines())


@_charters.command("amend")
def charter_amend(
    charter: CharterFile,
    out: OutOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Write the next version of a charter, to be edited."""
    from treaty.cli.charter_files import successor_toml

    _deliver(form, successor_toml(charter), out)


@_charters.command("diff")
def charter_diff(
    old: CharterFile,
    new: CharterFile,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say what an amendment changes, and who must sign it."""
    from treaty.cli.charter_files import read_charter
    from treaty.governance.page import charter_diff as difference_of

    found = difference_of(read_charter(old), read_charter(new))
    emit(
        form,
        {
            "fields": list(found.fields),
            "sentences": list(found.sentences),
            "signers": list(found.signers),
        },
        [
            *_section("What changes", found.sentences),
            *_section("Changed fields", found.fields),
            *_section("Who must sign", found.signers),
        ],
    )


@_contracts.command("check")
def contract_check(
    contract: Annotated[Path, typer.Argument(help="A contract, TOML or canonical JSON.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Check a data contract; print its digest and the model's columns."""
    from treaty.cli.study_files import read_contract
    from treaty.contracts.design import design_columns
    from treaty.contracts.schema import contract_digest

    agreed = read_contract(contract)
    digest = contract_digest(agreed)
    columns = [column.name for column in design_columns(agreed)]
    emit(
        form,
        {
            "columns": columns,
            "digest": digest,
            "label": agreed.label.name,
            "name": agreed.name,
            "version": agreed.version,
        },
        [
            f"contract {agreed.name} {agreed.version}",
            f"digest {digest}",
            f"label {agreed.label.name}: {agreed.label.meaning}",
            f"{len(columns)} columns: {', '.join(columns)}",
            "holds",
        ],
    )


@_contracts.command("diff")
def contract_diff(
    old: Annotated[Path, typer.Argument(help="The contract as it was.")],
    new: Annotated[Path, typer.Argument(help="The contract as it would be.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Classify what changes; exit 4 when the new version number claims less."""
    from treaty.cli.study_files import change_of, read_contract

    change = change_of(read_contract(old), read_contract(new))
    emit(form, change.record(), change.lines())
    _exit_if(bool(change.fault), PolicyError.exit_code)


@_data.command("check")
def data_check(
    contract: ContractOption,
    adapter: Annotated[Path, typer.Option("--adapter", help="How the site's file is read.")],
    data: Annotated[Path, typer.Option("--data", help="The site's file.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Check a site's file against the contract. Prints counts, no values; sends nothing."""
    from treaty.cli.study_files import check_data, read_contract

    report = check_data(read_contract(contract), adapter, data)
    emit(form, report.record(), report.lines())
    _exit_if(bool(report.findings), UsageError.exit_code)


@_plans.command("check")
def plan_check(
    plan: PlanOption,
    contract: ContractOption,
    charter: CharterOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Find what a plan would disclose or break; exit 4 when there is anything."""
    from treaty.cli.study_files import check_plan

    asked, findings = check_plan(plan, contract, charter)
    emit(
        form,
        {
            "findings": [{"code": one.code, "message": one.message} for one in findings],
            "study": asked.study,
        },
        aligned([(one.code, one.message) for one in findings])
        or [f"plan of {asked.study}: nothing found, it may be put to the vote"],
    )
    _exit_if(bool(findings), PolicyError.exit_code)


@_plans.command("explain")
def plan_explain(
    plan: PlanOption,
    contract: ContractOption,
    charter: CharterOption,
    form: FormatOption = Format.TABLE,
) -> None:
    """Say which sums a plan asks for, what each discloses, and to whom."""
    from treaty.cli.study_files import explain_plan

    found = explain_plan(plan, contract, charter)
    emit(form, found.record(), found.lines())


def _deliver(form: Format, text: str, out: Path | None) -> None:
    """Write `text` to the new file `out`, or print it."""
    if out is None:
        emit(form, {"text": text}, text.splitlines())
        return
    from treaty import wiring

    wiring.write_new_file(out, text.encode())
    emit(form, {"file": str(out)}, [f"written {out}"])


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return [title, *([f"  {line}" for line in lines] or ["  nothing"])]


def _exit_if(found: bool, code: int) -> None:
    """End with `code` where the findings, already printed, are the answer."""
    if found:
        raise typer.Exit(code)
