"""Rounds: how fast a protected round is, beside frameworks whose rounds are not protected."""
