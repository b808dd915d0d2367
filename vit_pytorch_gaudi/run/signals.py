"""Stopping on request: SIGTERM, SIGINT or SIGUSR1 sets a flag, a second SIGTERM or SIGINT ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType
from typing import Any, Dict, Optional

from .launcher import place

_SAME_REQUEST = 0.1  # seconds; launchers and `timeout` signal a process and then once more its group
_WARNING = signal.SIGUSR1  # Slurm's before a job's time is up; mpirun passes it on, where a SIGTERM makes it kill


class StopOnSignal:
    """Inside, SIGTERM, SIGINT and SIGUSR1 set `requested`, so that the loop can finish its step and save.

    A second SIGTERM or SIGINT ends the process at once with 128 + its number, as shells do for a process that a signal
    killed: not 75, since nothing has been saved. A SIGUSR1 never does, however many senders agree that time is short.
    The handlers from before come back at the end. Main thread only.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.requested = False
        self._quiet = quiet or place().rank != 0
        self._process = os.getpid()
        self._before: Dict[int, Any] = {}
        self._when: Optional[float] = None  # of the first SIGTERM or SIGINT

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGTERM, signal.SIGINT, _WARNING):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Optional[FrameType]) -> None:  # noqa: ARG002
        if not self.requested:
            self.requested = True
            more = "" if number == _WARNING else "; once more to stop at once"
            self._tell("%s: finishing this step, then saving%s\n" % (signal.Signals(number).name, more))
        if number == _WARNING:
            return
        now = time.monotonic()
        if self._when is None:
            self._when = now
        elif now - self._when > _SAME_REQUEST:
            os._exit(128 + number)

    def _tell(self, message: str) -> None:
        """Write past Python's buffers, which may be in use when the signal comes; not from forked children."""
        if not self._quiet and os.getpid() == self._process:
            with contextlib.suppress(OSError):
                os.write(2, message.encode())


def worker_init(worker_id: int = 0) -> None:  # noqa: ARG001
    """`worker_init_fn` of a loader: the first signal leaves its processes at work, so that the step can be finished.

    A terminal and most schedulers signal all processes of a run. The second signal ends a worker.
    """
    StopOnSignal(quiet=True).__enter__()
