"""Data contracts: meaning, units and codes of every column, agreed before training.

The public names of the layer; each module's docstring says what it guarantees. Pure: no input or
output, no clock, no entropy.
"""

from treaty.contracts.alignment import Adapter, adapter_digest, align, check_adapter, parse_adapter
from treaty.contracts.conformance import ConformedData, conform, examine, support_indicator
from treaty.contracts.design import Column, coordinate_support, design_columns
from treaty.contracts.findings import DECLINED_CODE, Fault, Finding
from treaty.contracts.normalisation import (
    Moments,
    Normaliser,
    NormaliserRecord,
    moment_bounds,
    moments,
    normaliser_from_bounds,
    normaliser_from_record,
    normaliser_from_sums,
)
from treaty.contracts.schema import (
    Contract,
    contract_bytes,
    contract_digest,
    contract_from_bytes,
    parse_contract,
)
from treaty.contracts.table import RawTable

__all__ = [
    "DECLINED_CODE",
    "Adapter",
    "Column",
    "ConformedData",
    "Contract",
    "Fault",
    "Finding",
    "Moments",
    "Normaliser",
    "NormaliserRecord",
    "RawTable",
    "adapter_digest",
    "align",
    "check_adapter",
    "conform",
    "contract_bytes",
    "contract_digest",
    "contract_from_bytes",
    "coordinate_support",
    "design_columns",
    "examine",
    "moment_bounds",
    "moments",
    "normaliser_from_bounds",
    "normaliser_from_record",
    "normaliser_from_sums",
    "parse_adapter",
    "parse_contract",
    "support_indicator",
]
