"""Keras callbacks of the first process: history.jsonl with its picture, progress, TensorBoard, a profile.

A batch of Keras is a micro-step here. The logs of the last micro-step of a reported update hold `update` and what was
measured; it is reported where --log_every or --save_summary_steps asks for it. Those of an epoch hold `update`, means
over the epoch and, with the prefix val_, the validation's.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import IO, Any, Callable, Dict, List, Mapping, Optional, Tuple

import tensorflow as tf
from tqdm import tqdm

from curves import draw
from errors import UserError
from files import write_atomically
from launcher import place
from options import TrainOptions
from recipe import Recipe

Logs = Mapping[str, Any]


class HistoryFile(tf.keras.callbacks.Callback):
    """Appends a JSON object per report and validation to `folder`/history.jsonl; draws curves.png at the end.

    Args:
        folder: run folder.
        start: update from which the run goes on; what the file says about later ones is forgotten.
        is_due: says whether a report after so many updates is for this file.
    """

    def __init__(self, folder: Path, start: int, is_due: Callable[[int], bool]) -> None:
        super().__init__()
        self._folder, self._path, self._is_due = folder, folder / "history.jsonl", is_due
        kept = [record for record in read_history(self._path) if record["step"] <= start]
        write_atomically(self._path, "".join(json.dumps(record) + "\n" for record in kept))

    def on_train_batch_end(self, batch: int, logs: Optional[Logs] = None) -> None:  # noqa: ARG002
        """Record a reported update."""
        if logs and self._is_due(int(logs["update"])):
            self._append("train", logs)

    def on_epoch_end(self, epoch: int, logs: Optional[Logs] = None) -> None:  # noqa: ARG002
        """Record a validation."""
        measured = {name[4:]: value for name, value in (logs or {}).items() if name.startswith("val_")}
        if logs and measured:
            self._append("validation", {"update": logs["update"], **measured})

    def on_train_end(self, logs: Optional[Logs] = None) -> None:  # noqa: ARG002
        """Draw the curves."""
        records = read_history(self._path)
        if records:
            draw(records, self._folder / "curves.png")

    def _append(self, split: str, logs: Logs) -> None:
        values = {name: float(value) for name, value in logs.items() if name != "update"}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        record = {"step": int(logs["update"]), "split": split, **finite, "time": round(time.time(), 3)}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_history(path: Path) -> List[Dict[str, Any]]:
    """Records of a history file; half a line, which a kill leaves at the end, is none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise UserError(f"{path} holds a line that is no JSON: repair or remove it") from error


class Progress(tf.keras.callbacks.Callback):
    """A bar on a terminal, plain lines elsewhere.

    Args:
        recipe: of the run.
        start: updates done before.
        stream: where to write; standard output by default.
    """

    def __init__(self, recipe: Recipe, *, start: int, stream: Optional[IO[str]] = None) -> None:
        super().__init__()
        self._updates, self._start, self._per_epoch = recipe.updates, start, recipe.updates_per_epoch
        self._is_due = recipe.is_reported
        self._stream = stream or sys.stdout
        self._since = time.monotonic()
        self._bar: Optional[Any] = None
        if self._stream.isatty() and place().launcher != "mpirun":  # whose own terminal ends in a log
            self._bar = tqdm(total=recipe.updates, initial=start, unit="update", file=self._stream, dynamic_ncols=True)

    def on_train_batch_end(self, batch: int, logs: Optional[Logs] = None) -> None:  # noqa: ARG002
        """Show a reported update."""
        if not logs or not self._is_due(int(logs["update"])):
            return
        update = int(logs["update"])
        rest = "Lr %.3e, loss: %.3f, accuracy: %.3f, throughput: %.1f samples/sec" % (
            logs["learning_rate"],
            logs["loss"],
            logs["accuracy"],
            logs["throughput"],
        )
        if self._bar is not None:
            self._bar.set_postfix_str(rest, refresh=False)
            self._bar.update(update - self._bar.n)
            return
        left = (time.monotonic() - self._since) / (update - self._start) * (self._updates - update)
        minutes, seconds = divmod(round(left), 60)
        eta = "%d:%02d:%02d" % (minutes // 60, minutes % 60, seconds)
        epoch = -(-update // self._per_epoch)
        epochs = -(-self._updates // self._per_epoch)
        self._say(f"Epoch {epoch}/{epochs}, Step {update}/{self._updates}, {rest}, ETA {eta}")

    def on_epoch_end(self, epoch: int, logs: Optional[Logs] = None) -> None:
        """Show a validation."""
        if logs and "val_accuracy" in logs:
            found = "accuracy %.4f, top-5 %.4f, loss %.4f" % tuple(
                logs["val_" + k] for k in ("accuracy", "top5", "loss")
            )
            self._say(f"Epoch {epoch + 1}: validation {found} ({int(logs['val_samples']):,} samples)")

    def on_train_end(self, logs: Optional[Logs] = None) -> None:  # noqa: ARG002
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _say(self, text: str) -> None:
        tqdm.write(text, file=self._stream)
        self._stream.flush()


class TensorBoardScalars(tf.keras.callbacks.Callback):
    """Event files: the epoch's scalars in `folder`, the validation's in `folder`/eval, the updates' every so often.

    Args:
        folder: of the event files.
        start: micro-steps done before.
        every: micro-steps between entries during an epoch; 0 for none.
        options: shown on the HParams page.
    """

    def __init__(self, folder: Path, *, start: int, every: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._train = tf.summary.create_file_writer(str(folder))
        self._validation = tf.summary.create_file_writer(str(folder / "eval"))
        self._every, self._last = every, (start, time.monotonic())
        from tensorboard.plugins.hparams import api as hparams

        with self._train.as_default():
            shown = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in options.items()}
            hparams.hparams(shown)

    def on_train_batch_end(self, batch: int, logs: Optional[Logs] = None) -> None:
        """Write an entry if one is due."""
        if not logs or not self._every or (batch + 1) // self._every == self._last[0] // self._every:
            return
        now, (before, since) = time.monotonic(), self._last
        with self._train.as_default(step=batch + 1):
            for name, value in logs.items():
                tag = {"throughput": "examples/sec"}.get(name, f"batch_{name}")
                if name != "update":
                    tf.summary.scalar(tag, value)
            tf.summary.scalar("global_step/sec", (batch + 1 - before) / max(now - since, 1e-9))
        self._last = batch + 1, now

    def on_epoch_end(self, epoch: int, logs: Optional[Logs] = None) -> None:
        """Write the epoch's entries."""
        for name, value in (logs or {}).items():
            writer, tag = (self._validation, name[4:]) if name.startswith("val_") else (self._train, name)
            with writer.as_default(step=epoch):
                tf.summary.scalar({"learning_rate": "lr"}.get(tag, tag), value)
        for name in ("accuracy", "loss"):
            if logs and "val_" + name in logs:
                with self._validation.as_default(step=int(logs["update"])):
                    tf.summary.scalar(f"evaluation_{name}_vs_iterations", logs["val_" + name])
        self._train.flush()
        self._validation.flush()

    def on_train_end(self, logs: Optional[Logs] = None) -> None:  # noqa: ARG002
        """Close the files."""
        self._train.close()
        self._validation.close()


class Profile(tf.keras.callbacks.Callback):
    """TensorFlow's profiler over micro-steps `first` … `last`, counted from 1, for TensorBoard's profile page."""

    def __init__(self, folder: Path, window: Tuple[int, int]) -> None:
        super().__init__()
        self._folder, self._window, self._running = str(folder), window, False

    def on_train_batch_begin(self, batch: int, logs: Optional[Logs] = None) -> None:  # noqa: ARG002
        """Start before the first micro-step of the window."""
        if batch + 1 == self._window[0]:
            tf.profiler.experimental.start(self._folder)
            self._running = True

    def on_train_batch_end(self, batch: int, logs: Optional[Logs] = None) -> None:  # noqa: ARG002
        """Stop after the last one."""
        if batch + 1 >= self._window[1]:
            self.on_train_end()

    def on_train_end(self, logs: Optional[Logs] = None) -> None:  # noqa: ARG002
        """Stop if the run ends first."""
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False


def of_run(
    options: TrainOptions, folder: Path, recipe: Recipe, start: int, config: Mapping[str, Any]
) -> List[tf.keras.callbacks.Callback]:
    """All that a run in `folder` has, going on after `start` updates."""
    every = options.save_summary_steps
    found = [
        HistoryFile(folder, start, recipe.is_reported),
        Progress(recipe, start=start),
        TensorBoardScalars(folder / "logs", start=recipe.place(start)[1], every=every, options=config["options"]),
    ]
    window = options.profile_window()
    return [*found, Profile(folder / "logs", window)] if window else found
