"""Benchmarks: what is claimed in figures, measured. See README.md in this folder."""
