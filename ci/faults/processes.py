"""Running the apps' commands, each as a process of its own, and what they say when they end."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = {name: str(ROOT / ".venv" / name / "bin" / "python") for name in ("torch", "tensorflow")}
VARIABLES = {
    "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "2",
    "POPTORCH_HOST": "1", "POPTORCH_HOST_DEVICE": "cpu", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}  # fmt: skip
LOADED = {
    "torch": ["torch", "torch.distributed", "torchvision.transforms.v2", "torchvision.datasets", "safetensors.torch",
              "poptorch_host.executor", "timm.data", "matplotlib.pyplot", "tqdm", "yaml", "PIL.Image"],
    "tensorflow": ["tensorflow", "h5py", "matplotlib.pyplot", "tqdm", "PIL.Image"],
}  # fmt: skip
_UNFORESEEN = "run again with --debug"  # how the apps end a sentence about an error that nobody thought of
PATIENCE = 180.0  # seconds after which a command hangs
_STEP = re.compile(r"Step (\d+)/")
_ERROR = re.compile(r"(\[rank \d+\] )?error: .+")


class Finished(NamedTuple):
    """Exit status (minus a signal's number; None: it hung and was ended) and what the command wrote."""

    status: Optional[int]
    output: str
    error: str

    @property
    def sentence(self) -> str:
        """The one sentence that the command ended with; empty where it was more, less or of the wrong kind."""
        said = [line for line in self.error.splitlines() if line.strip() and "%|" not in line]  # but for progress bars
        one = len(said) == 1 and _ERROR.fullmatch(said[0]) and _UNFORESEEN not in said[0]
        one = one and "Traceback" not in self.output
        return said[0] if one and self.status in (1, 2) else ""

    def __str__(self) -> str:
        last = (self.error.strip() or self.output.strip() or "nothing").splitlines()
        return f"status {self.status}, said: {' / '.join(last[-4:])[-500:]}"


class Command:
    """A command that was started through a server."""

    def __init__(self, server: Server, process: int, log: Path) -> None:
        self.process, self._server, self._log = process, server, log
        self._status: Optional[int] = None

    def running(self) -> bool:
        """Whether it has not ended."""
        if self._status is None:
            self._status = self._server.ask(poll=self.process)
        return self._status is None

    def step(self) -> int:
        """The last step that it has reported, 0 before the first."""
        path = Path(f"{self._log}.out")
        reported = _STEP.findall(path.read_text(errors="replace")) if path.exists() else []
        return int(reported[-1]) if reported else 0

    def signal(self, number: int) -> None:
        """Send a signal to it alone, if it runs."""
        if self.running():
            os.kill(self.process, number)

    def kill(self) -> bool:
        """SIGKILL; whether it was still running."""
        alive = self.running()
        self.signal(signal.SIGKILL)
        self.wait()
        return alive

    def wait(self, seconds: float = PATIENCE) -> Finished:
        """Wait for its end, which is brought about after some seconds; what it left behind is ended in any case."""
        until = time.monotonic() + seconds
        while self.running() and time.monotonic() < until:
            time.sleep(0.01)
        hung = self.running()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)  # its own session, which its loading processes share
        while self.running():
            time.sleep(0.01)
        paths = [Path(f"{self._log}.{kind}") for kind in ("out", "err")]  # not there if it was killed at its birth
        output, error = (path.read_text(errors="replace") if path.exists() else "" for path in paths)
        return Finished(None if hung else self._status, output, error)

    def wait_until(self, condition: Callable[[], Any], seconds: float = PATIENCE, pause: float = 0.002) -> bool:
        """Wait until `condition()` or the command's end, not beyond `seconds`; whether it holds."""
        until = time.monotonic() + seconds
        checked = itertools.count()
        while not condition():
            if time.monotonic() > until or (next(checked) % 20 == 0 and not self.running()):
                return bool(condition())
            time.sleep(pause)
        return True


class Server:
    """The client of ci.faults.server; threads may share it.

    Args:
        environment: "torch" or "tensorflow".
        logs: folder for what the commands write.
    """

    def __init__(self, environment: str, logs: Path) -> None:
        self._logs, self._numbers, self._lock = logs, itertools.count(), threading.Lock()
        self._name = environment
        pipes: Dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [PYTHONS[environment], "-m", "ci.faults.server", *LOADED[environment]]
        self._process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **VARIABLES}, **pipes)
        assert self._process.stdout is not None
        if json.loads(self._process.stdout.readline() or "null") != "ready":
            raise RuntimeError(f"{' '.join(command)} did not start")

    def ask(self, **request: Any) -> Any:
        """One request, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())

    def start(
        self,
        words: Sequence[object],
        folder: Path,
        *,
        file_limit: Optional[int] = None,
        saboteur: Optional[Dict[str, Any]] = None,
        **variables: str,
    ) -> Command:
        """Start `python3 WORDS` in `folder`, with no file above `file_limit` bytes, with a saboteur inside."""
        log = self._logs / f"{self._name}-{next(self._numbers)}"
        request = {"words": list(map(str, words)), "folder": str(folder), "log": str(log), "variables": variables}
        process = self.ask(**request, file_limit=file_limit, saboteur=saboteur)
        return Command(self, process, log)

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def children(process: int) -> List[int]:
    """Processes that `process` has started and that still run."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []
