"""Pretrain a masked autoencoder on ImageNet-1k or any class folders: python main_pretrain.py --config CONFIG."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

from common.imagenet import ImageNetLayoutError
from options import REFUSED_IN_PRETRAINING, PretrainOptions
from pretraining import pretrain
from run.errors import entry_point
from run.folder import open_run
from run.options import parse
from run.signals import StopOnSignal

CONFIGS = Path(__file__).resolve().parent / "configs.yml"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Read the options and pretrain in the run folder."""
    options = parse(
        PretrainOptions,
        arguments,
        configs=CONFIGS,
        script="main_pretrain.py",
        description=__doc__ or "",
        refused=REFUSED_IN_PRETRAINING,
    )
    run = open_run(Path(options.output), resume=options.resume, overwrite=options.overwrite)
    with run as folder, StopOnSignal() as stop:
        pretrain(options, folder.path, stop)


if __name__ == "__main__":
    entry_point(main, expected=(ImageNetLayoutError,))
