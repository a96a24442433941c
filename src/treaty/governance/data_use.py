"""Data-use terms: GA4GH Data Use Ontology codes, and what a plan must acknowledge.

Guarantees (docs/spec/governance.md, section 6): a charter can carry only codes of the list below;
a code that speaks of something particular (a disease, a region, a date) says which; a
plan that leaves a term unacknowledged is refused.

The list holds the codes of the ontology's release of 2021 that are in use; the wording is our own.
Whether a purpose truly meets a term is judged by people.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import msgspec

from treaty.crypto.canonical import Record
from treaty.errors import PolicyError
from treaty.governance.exposure import Line

__all__ = ["DUO_CODES", "DataUse", "DataUseTerm", "DuoCode", "DuoField", "require_data_use"]

DuoField = Annotated[str, msgspec.Meta(pattern=r"\ADUO:[0-9]{7}\Z")]


@dataclass(frozen=True, slots=True)
class DuoCode:
    """One code: its usual shorthand, our wording, and what it asks for.

    `is_permission` tells a permission from a modifier; `detail` names what a term with this
    code must add, or is empty.
    """

    shorthand: str
    meaning: str
    is_permission: bool = False
    detail: str = ""


DUO_CODES: Mapping[str, DuoCode] = MappingProxyType(
    {
        "DUO:0000004": DuoCode("NRES", "any use", True),
        "DUO:0000006": DuoCode("HMB", "health, medical or biomedical research, not ancestry", True),
        "DUO:0000007": DuoCode("DS", "research on one disease", True, "the disease"),
        "DUO:0000011": DuoCode("POA", "population origins or ancestry research only", True),
        "DUO:0000042": DuoCode("GRU", "research of any kind", True),
        "DUO:0000012": DuoCode(
            "RS", "research of a certain type only", detail="the type of research"
        ),
        "DUO:0000015": DuoCode("NMDS", "no development of general methods"),
        "DUO:0000016": DuoCode("GSO", "genetic studies only"),
        "DUO:0000018": DuoCode("NPUNCU", "non-commercial use by not-for-profit bodies only"),
        "DUO:0000019": DuoCode("PUB", "results must be published"),
        "DUO:0000020": DuoCode("COL", "collaboration with the data's investigators required"),
        "DUO:0000021": DuoCode("IRB", "approval of an ethics board required"),
        "DUO:0000022": DuoCode("GS", "use within a region only", detail="the region"),
        "DUO:0000024": DuoCode("MOR", "no publication before a date", detail="the date"),
        "DUO:0000025": DuoCode("TS", "use for a limited time", detail="the number of months"),
        "DUO:0000026": DuoCode("US", "use by approved users only", detail="the users"),
        "DUO:0000027": DuoCode("PS", "use within an approved project only", detail="the project"),
        "DUO:0000028": DuoCode(
            "IS", "use within an approved institution only", detail="the institution"
        ),
        "DUO:0000029": DuoCode("RTN", "derived data must be returned to the source"),
        "DUO:0000043": DuoCode("CC", "use in clinical care is allowed"),
        "DUO:0000044": DuoCode("NPOA", "no population origins or ancestry research"),
        "DUO:0000045": DuoCode("NPU", "use by not-for-profit bodies only"),
        "DUO:0000046": DuoCode("NCU", "non-commercial use only"),
    }
)


class DataUseTerm(Record, frozen=True, kw_only=True):
    """One term: a code, and the particular it speaks of where it needs one."""

    code: DuoField
    detail: Line = ""


class DataUse(Record, frozen=True, kw_only=True):
    """The terms under which every member's data may be used.

    `health_data` declares data on the health of persons; it makes the hybrid post-quantum suite
    the default.
    """

    terms: tuple[DataUseTerm, ...]
    health_data: bool = True


def require_data_use(data_use: DataUse, acknowledged: Iterable[str]) -> None:
    """Check that `acknowledged`, the codes that a plan declares, covers every term.

    Raises `PolicyError` (code ``data-use``) naming what is missing or not granted.
    """
    granted = {term.code for term in data_use.terms}
    declared = set(acknowledged)
    missing = sorted(granted - declared)
    if missing:
        raise PolicyError(
            f"the plan does not acknowledge the charter's data-use terms {', '.join(missing)}: "
            "list every term in the plan's data_use, or do not run the study",
            code="data-use",
        )
    extra = sorted(declared - granted)
    if extra:
        raise PolicyError(
            f"the plan relies on data-use terms {', '.join(extra)} that the charter does not have: "
            "remove them from the plan or amend the charter",
            code="data-use",
        )
