"""What the variables POPTORCH_HOST_DEVICE and POPTORCH_HOST_NUMERICS say, or one sentence that they say nothing."""

from __future__ import annotations

from typing import Callable, TypeVar

import torch

from run.errors import UsageError

T = TypeVar("T")


def device() -> torch.device:
    """Where this process computes without IPUs: as the variable says, else on a GPU if there is one.

    Raises:
        UsageError: it names no device, or a GPU that is not there.
    """
    from poptorch_host.distributed import device_for
    from poptorch_host.launcher import world

    return _read(lambda: device_for(world()))


def is_exact() -> bool:
    """Whether half precision is float16 as on an IPU; bfloat16 otherwise.

    Raises:
        UsageError: the variable is neither fast nor exact.
    """
    from poptorch_host.precision import numerics

    return _read(numerics) == "exact"


def check() -> None:
    """Read both: the executor does so too late for one sentence."""
    device()
    is_exact()


def _read(setting: Callable[[], T]) -> T:
    from poptorch_host.errors import SettingError

    try:
        return setting()
    except SettingError as error:
        raise UsageError(str(error)) from error
