"""Treaty: institutions jointly improve a model without sharing raw data, checkably.

The public names are loaded when they are first used, so that importing the package is cheap.
"""

import importlib
from typing import TYPE_CHECKING

from treaty.version import VERSION

if TYPE_CHECKING:
    from treaty.api import Bundle, Consortium, Study, simulate
    from treaty.joined import JoinedConsortium, join
    from treaty.models.specification import (
        LogisticRegression,
        MultilayerPerceptron,
    )
    from treaty.studies.calibrating import Privacy

__all__ = [
    "Bundle",
    "Consortium",
    "JoinedConsortium",
    "LogisticRegression",
    "MultilayerPerceptron",
    "Privacy",
    "Study",
    "__version__",
    "join",
    "simulate",
]

__version__ = VERSION

_HOMES = {
    "Bundle": "treaty.api",
    "Consortium": "treaty.api",
    "Study": "treaty.api",
    "simulate": "treaty.api",
    "JoinedConsortium": "treaty.joined",
    "join": "treaty.joined",
    "LogisticRegression": "treaty.models.specification",
    "MultilayerPerceptron": "treaty.models.specification",
    "Privacy": "treaty.studies.calibrating",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'treaty' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
