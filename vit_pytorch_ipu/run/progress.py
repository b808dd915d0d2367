"""Progress of a training run: a bar on a terminal, plain lines elsewhere, and its speed."""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import contextmanager
from typing import IO, Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from .distributed import is_main
from .launcher import place


class Summary(NamedTuple):
    """Speed of a run without its warm-up, loading included; nan where nothing was measured.

    `throughput` in samples/s is that of the median step; `step_median` and `step_p95` in seconds.
    """

    throughput: float
    step_median: float
    step_p95: float
    steps: int

    def __str__(self) -> str:
        if not self.steps:
            return "too few steps to measure the speed"
        return "median %.1f samples/sec, step time %.4f s median, %.4f s p95, over %d steps after warm-up" % (
            self.throughput,
            self.step_median,
            self.step_p95,
            self.steps,
        )


class Progress:
    """Progress of the steps `start` … `total`; only the first process shows it.

    Time is measured between reports, so over loading and computing, without waiting for a device that computes
    ahead: a report is where the program reads the loss from it anyway.

    Args:
        total: steps of the whole run.
        steps_per_epoch: to name the epoch; may be a fraction.
        samples_per_step: over all processes.
        start: steps done before, by a run that is resumed.
        log_every: steps between reports; the last step is always reported.
        warmup: steps of this process that don't count in `summary`.
        stream: where to write; standard output by default.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        total: int,
        *,
        steps_per_epoch: float,
        samples_per_step: int,
        start: int = 0,
        log_every: int = 1,
        warmup: int = 2,
        stream: Optional[IO[str]] = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.total = total
        self._steps_per_epoch = steps_per_epoch
        self._samples = samples_per_step
        self._start = self._reported = start
        self._log_every = max(1, log_every)
        self._warmup = warmup
        self._clock = clock
        self._since = clock()
        self._step_times: List[float] = []
        self._measured = 0
        self._stream = sys.stdout if stream is None else stream
        self._bar: Optional[Any] = None
        if _shows_bars(self._stream):
            self._bar = tqdm(total=total, initial=start, unit="step", file=self._stream, **_size(self._stream))

    def due(self, step: int) -> bool:
        """Whether `report` is to be called after this step (counted from 1)."""
        return step % self._log_every == 0 or step >= self.total

    def report(self, step: int, *, learning_rate: float, loss: float, accuracy: Optional[float] = None) -> float:
        """Show where the run is after `step` steps; return samples/s since the last report, pauses left out."""
        now = self._clock()
        steps = max(1, step - self._reported)
        step_time = max(now - self._since, 1e-9) / steps
        if self._reported - self._start >= self._warmup:
            self._step_times.append(step_time)
            self._measured += steps
        self._since, self._reported = now, step
        throughput = self._samples / step_time
        if is_main():
            self._show(step, learning_rate, loss, accuracy, throughput)
        return throughput

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of the step times what happens inside, such as an evaluation or a checkpoint."""
        before = self._clock()
        try:
            yield
        finally:
            self._since += self._clock() - before

    def note(self, message: str) -> None:
        """Print a line of text without tearing the bar; on the first process."""
        if is_main():
            tqdm.write(message, file=self._stream)
            self._stream.flush()

    def summary(self) -> Summary:
        """Speed so far."""
        if not self._step_times:
            return Summary(math.nan, math.nan, math.nan, 0)
        median, p95 = np.percentile(self._step_times, [50, 95])
        return Summary(self._samples / float(median), float(median), float(p95), self._measured)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, step: int, learning_rate: float, loss: float, accuracy: Optional[float], throughput: float) -> None:
        hits = "" if accuracy is None else "accuracy: %.3f, " % accuracy
        if self._bar is not None:
            rate = "lr: %.3e, %.1f samples/sec" % (learning_rate, throughput)
            self._bar.set_postfix_str("loss: %.3f, %s%s" % (loss, hits, rate), refresh=False)
            self._bar.update(step - self._bar.n)
            return
        epochs, epoch = (math.ceil(count / self._steps_per_epoch - 1e-9) for count in (self.total, step))
        usual = float(np.median(self._step_times[-50:])) if self._step_times else self._samples / throughput
        print(
            "Epoch %d/%d, Step %d/%d, Lr %.3e, loss: %.3f, %sthroughput: %.1f samples/sec, ETA %s"
            % (
                epoch,
                epochs,
                step,
                self.total,
                learning_rate,
                loss,
                hits,
                throughput,
                _clock_time(usual * (self.total - step)),
            ),
            file=self._stream,
            flush=True,
        )


def nothing_left(done: int, steps: int) -> str:
    """What to tell of a resumed run that has done the steps asked for, or more."""
    if done > steps:
        return "%d steps are done and %d are asked for: nothing is left to resume, ask for more to train on" % (
            done,
            steps,
        )
    return "all %d steps are done: nothing is left to resume" % steps


def _shows_bars(stream: IO[str]) -> bool:
    """Whether this is the first process, on a terminal; mpirun makes one of its own, whose content goes into a log."""
    by_mpi = place().launcher in ("mpirun", "poprun")
    return is_main() and not by_mpi and bool(getattr(stream, "isatty", bool)())


def _size(stream: IO[str]) -> Dict[str, Any]:
    """The bar follows the terminal's size; some terminals, as of containers, say 0 × 0 and would show nothing."""
    try:
        known = os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 120, "nrows": 24}


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return "%d:%02d:%02d" % (minutes // 60, minutes % 60, rest)
