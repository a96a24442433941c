"""Secure aggregation in bulk: processor time and memory, beside peers and the machine's limit."""
