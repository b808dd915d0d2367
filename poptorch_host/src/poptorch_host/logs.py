"""PopTorch's logger: `setLogLevel` and POPTORCH_LOG_LEVEL."""

from __future__ import annotations

import functools
import logging
import os
import sys
from typing import Any, Union

_NAMES = {"TRACE": 0, "DEBUG": 1, "INFO": 2, "WARN": 3, "ERR": 4, "OFF": 6}
_LEVELS = {
    0: 5,
    1: logging.DEBUG,
    2: logging.INFO,
    3: logging.WARNING,
    4: logging.ERROR,
    6: logging.CRITICAL + 10,
}

logger = logging.getLogger("poptorch")


class _Stderr(logging.StreamHandler):
    """Looks `sys.stderr` up for every record, so that redirections after the import count."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """The present `sys.stderr`."""
        return sys.stderr


def setLogLevel(level: Union[str, int]) -> None:
    """Print messages of this level and above.

    `level`: TRACE, DEBUG, INFO, WARN, ERR, OFF or 0, 1, 2, 3, 4, 6. ValueError for anything else.
    """
    number = _NAMES.get(level) if isinstance(level, str) else level
    if number not in _LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(_NAMES)} or {sorted(_LEVELS)}")
    logger.setLevel(_LEVELS[number])


@functools.lru_cache(maxsize=None)
def without_effect(name: str) -> None:
    """Say once per process, at debug level, that `name` means nothing on a host."""
    logger.debug("%s is accepted and has no effect on a host", name)


def _start() -> None:
    logging.addLevelName(5, "TRACE")
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("[poptorch] %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    level = os.environ.get("POPTORCH_LOG_LEVEL", "WARN")
    setLogLevel(int(level) if level.isdigit() else level)


_start()
