"""Person identifiers as written: which of them are the same to a reader.

A person whose rows carry "A12", "a12 " and "A12" is one person. Told apart by their bytes they
would be clipped as two, and could stand on both sides of training and holdout.
"""

import unicodedata

__all__ = ["person_form"]


def person_form(text: str) -> str:
    """Return what spellings of one identifier have in common; empty where nothing is written.

    Compatibility characters (NFKC) and letter case are folded, white space, control and invisible
    characters go; of a whole number leading zeros and a decimal part of zeros go as well.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(
        one for one in folded if not one.isspace() and unicodedata.category(one) not in {"Cc", "Cf"}
    )
    whole, point, rest = kept.partition(".")
    if whole.isdecimal() and (not point or (rest and not rest.strip("0"))):
        return whole.lstrip("0") or "0"
    return kept
