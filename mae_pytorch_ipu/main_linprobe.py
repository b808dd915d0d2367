"""Train a linear classifier on frozen features: python main_linprobe.py --finetune RUN --data_path DATA."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

from common.imagenet import ImageNetLayoutError
from options import REFUSED_IN_PROBING, LinprobeOptions
from probing import probe
from run.errors import entry_point
from run.folder import open_run
from run.options import parse
from run.signals import StopOnSignal

CONFIGS = Path(__file__).resolve().parent / "configs.yml"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Read the options and train a probe in the run folder."""
    options = parse(
        LinprobeOptions,
        arguments,
        configs=CONFIGS,
        script="main_linprobe.py",
        description=__doc__ or "",
        refused=REFUSED_IN_PROBING,
    )
    run = open_run(Path(options.output), resume=options.resume, overwrite=options.overwrite)
    with run as folder, StopOnSignal() as stop:
        probe(options, folder, stop)


if __name__ == "__main__":
    entry_point(main, expected=(ImageNetLayoutError,))
