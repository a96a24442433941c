"""Verdicts over fresh randomness: what chance does to one run in a thousand, it must do twice."""

from collections.abc import Callable

__all__ = ["assert_within"]


def assert_within(low: float, high: float, first: float, again: Callable[[], float]) -> None:
    """See that a figure lies between `low` and `high`, or else that of another, independent run.

    A sound run leaves the bounds with a small probability, two of them with its square; a wrong
    one leaves them every time. So the bounds may be narrow.
    """
    if low < first < high:
        return
    second = again()
    assert low < second < high, f"expected from {low} to {high}, got {first:.3f}, then {second:.3f}"
