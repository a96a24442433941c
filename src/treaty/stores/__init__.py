"""Stores: the durable state of one party, its blobs, secrets and published files."""
