"""Train a Swin Transformer: python train_swin.py --cfg SWIN_TINY --data-path DATA --output RUN."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

from common.imagenet import ImageNetLayoutError
from options import read_training
from run.errors import entry_point
from run.folder import open_run
from run.signals import StopOnSignal
from training import train


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Read the options and train in the run folder."""
    options = read_training(arguments, __doc__ or "")
    run = open_run(Path(options.output), resume=options.resume, overwrite=options.overwrite)
    with run as folder, StopOnSignal() as stop:
        train(options, folder, stop)


if __name__ == "__main__":
    entry_point(main, expected=(ImageNetLayoutError,))
