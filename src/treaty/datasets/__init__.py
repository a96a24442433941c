"""Data sets: site files read as text, and the known sets with their pinned digests."""
