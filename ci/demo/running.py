"""Runs the apps' steps, as many apps side by side as there are cores, and ends what it started when it is stopped."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from .apps import ROOT, App, Step

TICK = 0.25  # seconds between looks at what runs
GRACE = 45.0  # seconds to save and end after SIGTERM; torchrun gives its processes 30 of them


class Done(NamedTuple):
    """A step that has ended: when it began, in seconds of the demo, wall-clock and processor seconds, exit status."""

    step: Step
    began: float
    seconds: float
    cpu: float
    status: int


class AppRun:
    """The steps of one app, one after another, up to the first that fails.

    Args:
        app: what to run.
        folder: for its run folders and logs.
        root: of the repository.
        since: `time.monotonic()` when the demo began.
    """

    def __init__(self, app: App, folder: Path, root: Path = ROOT, since: Optional[float] = None) -> None:
        self.app = app
        self.folder = folder
        self.done: List[Done] = []
        self._root = root
        self._since = time.monotonic() if since is None else since
        self._began = 0.0
        self._process: Optional[subprocess.Popen[bytes]] = None

    @property
    def failed(self) -> bool:
        """Whether a step ended with an error."""
        return bool(self.done) and self.done[-1].status != 0

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to run."""
        return self.failed or len(self.done) == len(self.app.steps)

    @property
    def step(self) -> Optional[Step]:
        """The step that runs now."""
        return self.app.steps[len(self.done)] if self._process else None

    @property
    def seconds(self) -> float:
        """Since its first step began, up to now or its end."""
        if self._process:
            return time.monotonic() - self._since - (self.done[0].began if self.done else self._began)
        return self.done[-1].began + self.done[-1].seconds - self.done[0].began if self.done else 0.0

    def log(self, step: Step) -> Path:
        """Where a step's output and errors go."""
        return self.folder / f"{step.name}.log"

    def start(self) -> None:
        """Begin the next step, in a process group of its own."""
        step = self.app.steps[len(self.done)]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic() - self._since
        with open(self.log(step), "wb") as log, open(self.folder / (step.output or os.devnull), "wb") as output:
            self._process = subprocess.Popen(
                shlex.split(step.text),
                cwd=self._root / self.app.folder,
                env=variables(self._root / ".venv" / self.app.environment / "bin"),
                stdin=subprocess.DEVNULL,
                stdout=output if step.output else log,
                stderr=log,
                start_new_session=True,
            )

    def look(self) -> bool:
        """Go on to the next step if this one has ended; whether the app is finished."""
        assert self._process
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if not pid:
            return False
        self._process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - self._since - self._began
        cpu, step = usage.ru_utime + usage.ru_stime, self.app.steps[len(self.done)]
        self.done.append(Done(step, self._began, seconds, cpu, self._process.returncode))
        self._process = None
        if not self.finished:
            self.start()
        return self.finished

    def signal(self, number: int) -> None:
        """Send a signal to the running step and what it has started."""
        if self._process:
            os.killpg(self._process.pid, number)

    def ended(self, until: float) -> bool:
        """Whether the running step has ended, after waiting until `time.monotonic()` says so."""
        try:
            return not self._process or self._process.wait(max(0.0, until - time.monotonic())) is not None
        except subprocess.TimeoutExpired:
            return False


def variables(programs: Path) -> Dict[str, str]:
    """Environment of a step: one thread, since several apps share the cores, and the programs of its environment."""
    return {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PET_STANDALONE": "1",  # torchrun takes a free port instead of 29500
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def run_all(runs: Sequence[AppRun], show: Callable[[Sequence[AppRun]], None], slots: int) -> None:
    """Run to the end, in this order where there is room; an exception ends all that was started.

    Args:
        runs: one for each app.
        show: called some times per second.
        slots: processes that may compute at the same time.
    """
    waiting = list(runs)
    active: List[AppRun] = []
    try:
        while waiting or active:
            start_what_fits(waiting, active, slots)
            active[:] = [run for run in active if not run.look()]
            show(runs)
            time.sleep(TICK)
    except BaseException:
        stop(active)
        raise


def start_what_fits(waiting: List[AppRun], active: List[AppRun], slots: int) -> None:
    """Start those waiting for which there is room beside the active ones, and move them there."""
    for run in list(waiting):
        # Who wants more processes than there are slots takes them all.
        if sum(min(one.app.processes, slots) for one in [*active, run]) <= slots:
            waiting.remove(run)
            active.append(run)
            run.start()


def stop(runs: Sequence[AppRun]) -> None:
    """SIGTERM, on which the apps save and end, and SIGKILL to what is still there after `GRACE` seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("\nstopping: what runs saves and ends", file=sys.stderr, flush=True)
    for run in runs:
        run.signal(signal.SIGTERM)
    until = time.monotonic() + GRACE
    for run in runs:
        if not run.ended(until):
            run.signal(signal.SIGKILL)
            run.ended(until + GRACE)
