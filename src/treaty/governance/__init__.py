"""Governance: the charter, who decides what, what may leave a site, and how that changes."""
