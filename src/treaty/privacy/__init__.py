"""Differential privacy: events, accounting, exact noise, clipping, certificates, ledger rules.

Pure: no input or output, no clock, no entropy. Noise comes from a keystream that the caller
passes in. `dp_accounting` (and with it scipy) is imported by `accountant` at first need only,
and never when nothing is sampled (docs/adr/0005-privacy-accountant.md).
"""
