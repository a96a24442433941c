"""A reader of the Prometheus text format 0.0.4, written from its description, for tests.

It refuses what a scraper would: samples without a type, lines that repeat, names and labels out of
the grammar, a family in two places.
"""

import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*,?)\}})? (\S+)(?: (-?[0-9]+))?")
HELP = re.compile(rf"# HELP ({NAME}) (.*)")
TYPE = re.compile(rf"# TYPE ({NAME}) (counter|gauge|histogram|summary|untyped)")

Series = tuple[str, tuple[tuple[str, str], ...]]


def parse(text: str) -> tuple[dict[str, str], dict[Series, float]]:
    """Return the type of each family and the value of each series; `ValueError` if malformed."""
    if text and not text.endswith("\n"):
        raise ValueError("the last line has no end")
    types: dict[str, str] = {}
    helps: set[str] = set()
    values: dict[Series, float] = {}
    current = ""
    for line in text.splitlines():
        if found := HELP.fullmatch(line):
            if found[1] in helps:
                raise ValueError(f"a second help of {found[1]}")
            helps.add(found[1])
        elif found := TYPE.fullmatch(line):
            if found[1] in types:
                raise ValueError(f"a second type of {found[1]}")
            types[found[1]] = found[2]
            current = found[1]
        elif found := SAMPLE.fullmatch(line):
            if found[1] != current:
                raise ValueError(f"{found[1]} stands below {current or 'nothing'}")
            pairs = re.findall(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"', found[2] or "")
            if len(dict(pairs)) != len(pairs):
                raise ValueError(f"a label twice: {line}")
            series = (found[1], tuple(sorted(pairs)))
            if series in values:
                raise ValueError(f"twice: {line}")
            values[series] = float(found[3])
        else:
            raise ValueError(f"neither comment nor sample: {line!r}")
    if helps - set(types):
        raise ValueError("a help without a type")
    return types, values
