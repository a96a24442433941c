"""Engines: carry opaque signed frames between the parties; never trusted."""
