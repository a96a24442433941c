"""The privacy certificates in a report: what a person risks, in plain words.

Every number is one of the privacy statement, which follows from plan, charter and log.
"""

from treaty.privacy.certificate import Certificate, shown_epsilon
from treaty.reports.document import PrivacyLine
from treaty.studies.certificates import (
    PrivacyStatement,
    happened_line,
    holdout_line,
    partition_lines,
)

__all__ = ["privacy_lines"]


def privacy_lines(statement: PrivacyStatement) -> tuple[PrivacyLine, ...]:
    """Return the lines of the report's privacy section, one for each partition."""
    training, evaluated = statement.certificates
    first = training.lines[0].add_remove_micro
    exponent = _exponent(training.delta_inverse)
    _, holdout = partition_lines(statement)
    noised = holdout_line(statement)
    tested = evaluated.lines[0].add_remove_micro
    return (
        PrivacyLine(
            partition="Training rows",
            sentence=" ".join(
                (
                    _sentence(training),
                    _curve(training),
                    f"{_capital(happened_line(statement))}.",
                )
            ),
            epsilon=None if first is None else shown_epsilon(first),
            delta=None if exponent is None else f"1e-{exponent}",
        ),
        PrivacyLine(
            partition="Test rows",
            sentence=(
                f"{_capital(holdout.removeprefix('holdout: '))}."
                if noised is None
                else " ".join((_sentence(evaluated), _curve(evaluated), f"{_capital(noised)}."))
            ),
            epsilon=None if noised is None or tested is None else shown_epsilon(tested),
            delta=None if noised is None or exponent is None else f"1e-{exponent}",
        ),
    )


def _sentence(certificate: Certificate) -> str:
    parts = [
        (
            f"Protected is one {certificate.unit.replace('-', ' ')}, at delta "
            f"1/{certificate.delta_inverse}."
        )
    ]
    for line in certificate.lines:
        sites = "one site" if line.sites == 1 else f"{line.sites} sites"
        parts.append(
            f"A person at {sites}: epsilon {shown_epsilon(line.add_remove_micro)} when added or "
            f"removed, {shown_epsilon(line.replace_one_micro)} when replaced by another."
        )
    attack = certificate.attack
    parts.append(
        "The best possible membership attack reaches an area under its curve of at most "
        f"{attack.area_micro / 1e6:.3f} (guessing: 0.5), and finds at most "
        f"{attack.rate_at_one_percent_micro / 1e4:.1f} % of members at 1 % false alarms."
    )
    return " ".join(parts)


def _curve(certificate: Certificate) -> str:
    removed = bool(certificate.surplus_removed)
    whole = certificate.min_survivors if removed else certificate.members
    points = [
        (f"{whole - point.honest_shares} of {whole}: epsilon {shown_epsilon(point.epsilon_micro)}")
        for point in certificate.curve
    ]
    honest = certificate.min_survivors - certificate.max_colluders
    if removed:
        return (
            f"The epsilon above counts the noise of {honest} of {certificate.members} members; "
            "noise that a sum does not need is taken off, and who drops out changes nothing. If so "
            "many members of a sum collude, at worst: " + "; ".join(points) + "."
        )
    return (
        f"The epsilon above counts the noise of {honest} of {certificate.members} members. With "
        "the noise of so many members known or missing: " + "; ".join(points) + "."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _exponent(inverse: int) -> int | None:
    """Return n when `inverse` is 10^n."""
    power = len(str(inverse)) - 1
    return power if inverse == 10**power else None
