"""Shows where each app is: a line for each that is kept up to date on a terminal, lines as things happen elsewhere."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path
from typing import IO, Dict, Optional, Sequence

from .running import AppRun

STEP = re.compile(r"Step (\d+)/(\d+)")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
EVERY = 15.0  # seconds between two lines of an app that is on the same step, where there is no terminal


class View:
    """Call `show` often; on a terminal it draws over what it drew before.

    Args:
        stream: where to write.
        terminal: whether to draw over; None asks the stream.
    """

    def __init__(self, stream: IO[str] = sys.stdout, terminal: Optional[bool] = None) -> None:
        self._stream = stream
        self._terminal = stream.isatty() if terminal is None else terminal
        self._drawn = 0
        self._said: Dict[str, object] = {}
        self._when: Dict[str, float] = {}

    def show(self, runs: Sequence[AppRun]) -> None:
        """Show the state of all apps."""
        if not self._terminal:
            for run in runs:
                self._say(run)
            return
        width = shutil.get_terminal_size((120, 24)).columns or 120
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._stream.write(up + "".join(f"\x1b[2K{line(run)[: width - 1]}\n" for run in runs))
        self._stream.flush()
        self._drawn = len(runs)

    def _say(self, run: AppRun) -> None:
        """A line when a step begins or ends and, so that one sees it move, every few seconds."""
        if not run.step and not run.done:
            return
        key, state, now = run.app.key, (len(run.done), run.step), time.monotonic()
        begins = self._said.get(key) != state
        if begins and run.step:
            print(f"{run.app.title}: $ cd {run.app.folder} && {run.step.text}", file=self._stream, flush=True)
        elif begins or (run.step and now - self._when[key] >= EVERY):
            print(line(run).rstrip(), file=self._stream, flush=True)
        else:
            return
        self._said[key], self._when[key] = state, now


def line(run: AppRun) -> str:
    """App, its step and how much of it is done, seconds, and what it printed last."""
    said = last_line(run.log(run.step)) if run.step else ""
    share = STEP.search(said)
    percent = "%3.0f %%" % (100 * int(share[1]) / int(share[2])) if share and int(share[2]) else ""
    if run.step:
        state = f"{run.step.name} {len(run.done) + 1}/{len(run.app.steps)}"
    elif run.failed:
        state, said = f"{run.done[-1].step.name} failed", last_line(run.log(run.done[-1].step))
    else:
        state = "done" if run.finished else "waiting"
    return "%-10s %-16s %5s %2d:%02d  %s" % (run.app.title, state, percent, *divmod(round(run.seconds), 60), said)


def last_line(log: Path) -> str:
    """What a program printed last, without colours."""
    if not log.exists():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        text = ESCAPES.sub("", file.read().decode(errors="replace"))
    lines = [part.strip() for part in text.replace("\r", "\n").splitlines()]
    return next((part for part in reversed(lines) if part), "")
