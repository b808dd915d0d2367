"""What a run measured: history.jsonl, TensorBoard, W&B on request, and a picture of the curves."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Tuple

from .distributed import is_main
from .errors import UserError
from .files import write_atomically

Record = Dict[str, Any]


class History:
    """Measurements by step, in `folder`/history.jsonl, a JSON object per line; the first process writes.

    A record is {"step", "split", values…, "time"}: seconds since 1970, values that are not finite as null. A kill
    loses nothing that was logged; half a line at the end is dropped.

    Args:
        folder: run folder.
        tensorboard: also write event files to `folder`/tensorboard.
        wandb: also log to Weights & Biases, with these arguments of `wandb.init`; None for no.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, wandb: Optional[Mapping[str, Any]] = None) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "history.jsonl"
        self._tensorboard = tensorboard
        self._writer: Optional[Any] = None
        self._purge_step: Optional[int] = None
        self._file: Optional[IO[str]] = None
        self._wandb = _start_wandb(self.folder, wandb) if wandb is not None and is_main() else None
        if self._tensorboard:
            _summary_writer()  # a missing package is told before the training, not after the first step

    def log(self, step: int, split: str, **values: Optional[float]) -> None:
        """Record values measured after `step` steps on a split such as "train" or "validation"; None is left out."""
        if not is_main():
            return
        measured = {name: float(value) for name, value in values.items() if value is not None}
        finite = {name: value if math.isfinite(value) else None for name, value in measured.items()}
        record = {"step": int(step), "split": split, **finite, "time": round(time.time(), 3)}
        self._lines().write(json.dumps(record) + "\n")
        tags = {"%s/%s" % (name, split): value for name, value in measured.items()}
        if self._tensorboard:
            for tag, value in tags.items():
                self._events().add_scalar(tag, value, step)
            self._events().flush()
        if self._wandb is not None:
            self._wandb.log(tags, step=step)

    def rewind(self, step: int) -> None:
        """Forget everything after `step`, from which the run goes on; in TensorBoard too."""
        if not is_main():
            return
        self._close_files()
        if self.path.exists():
            kept = [line for line, record in _read(self.path) if record["step"] <= step]
            write_atomically(self.path, b"".join(kept))
        self._purge_step = step + 1

    def records(self) -> List[Record]:
        """All records in the order of writing; null values as nan."""
        return [record for _, record in _read(self.path)]

    def best(self, metric: str, split: str = "validation") -> Optional[Record]:
        """Record of a split with the highest value of a metric, the earliest of equals; None without one."""
        measured = [record for record in self.records() if record["split"] == split and metric in record]
        return max((r for r in measured if not math.isnan(r[metric])), key=lambda r: float(r[metric]), default=None)

    def curves(self, path: Path) -> None:
        """Draw all metrics over the steps into a PNG; without records, nothing."""
        records = self.records()
        if is_main() and records:
            from .curves import draw  # matplotlib takes a second to load

            draw(records, path)

    def close(self) -> None:
        """Flush and close everything."""
        self._close_files()
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_files(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()
        self._file, self._writer = None, None

    def _lines(self) -> IO[str]:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            _drop_half_line(self.path)
            self._file = open(self.path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (closed in close)
        return self._file

    def _events(self) -> Any:
        if self._writer is None:
            self._writer = _summary_writer()(str(self.folder / "tensorboard"), purge_step=self._purge_step)
            self._purge_step = None
        return self._writer


def _read(path: Path) -> Iterator[Tuple[bytes, Record]]:
    """Lines as written and the records in them."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError("%s holds a line that is no JSON: repair or remove it" % path) from error
            yield line, {name: math.nan if value is None else value for name, value in record.items()}


def _drop_half_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        os.truncate(path, whole)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard is not installed: pip install tensorboard, or give --tensorboard false") from error
    return SummaryWriter


def _start_wandb(folder: Path, arguments: Mapping[str, Any]) -> Any:
    """Start or continue the run in W&B; its id is kept in the run folder."""
    try:
        import wandb
    except ImportError as error:
        raise UserError("Weights & Biases is not installed: pip install wandb, or give --wandb false") from error
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "wandb-id.txt"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex[:8])
    return wandb.init(**{"dir": str(folder), "id": path.read_text().strip(), "resume": "allow", **arguments})
