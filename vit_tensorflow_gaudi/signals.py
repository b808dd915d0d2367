"""Stopping on request: the first SIGTERM or SIGINT sets a flag, the second ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType
from typing import Any, Dict, Optional

from launcher import place

_SAME_REQUEST = 0.1  # seconds; launchers and `timeout` signal a process and then once more its group


class StopOnSignal:
    """Inside, SIGTERM and SIGINT set `requested`, so that the loop can finish its update and save. Main thread only."""

    def __init__(self) -> None:
        self.requested = False
        self._before: Dict[int, Any] = {}
        self._when = 0.0

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.requested

    def _handle(self, number: int, frame: Optional[FrameType]) -> None:  # noqa: ARG002
        now = time.monotonic()
        if self.requested and now - self._when > _SAME_REQUEST:
            os._exit(128 + number)  # as shells do for a process that a signal killed: nothing has been saved
        if not self.requested:
            self.requested, self._when = True, now
            if place().rank == 0:
                text = f"{signal.Signals(number).name}: finishing this update, then saving; once more to stop at once\n"
                with contextlib.suppress(OSError):
                    os.write(2, text.encode())
