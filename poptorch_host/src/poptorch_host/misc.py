"""What a program asks of its surroundings."""

from __future__ import annotations

__version__ = "0.1.0"


def ipuHardwareIsAvailable(num_ipus: int = 1) -> bool:  # noqa: ARG001
    """Say whether `num_ipus` IPUs can be used: never on a host."""
    return False


def ipuHardwareVersion() -> int:
    """Return the generation of the IPUs; AssertionError, as there are none."""
    raise AssertionError("There is no IPU: ask poptorch.ipuHardwareIsAvailable() first")
