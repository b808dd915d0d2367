"""Fine-tune a ViT: python train.py --name NAME --dataset cifar10|cifar100|imagenet1K|folder …"""

from __future__ import annotations

import sys
from typing import Optional, Sequence

from common.imagenet import ImageNetLayoutError
from device import set_environment
from options import parse_options
from run.errors import entry_point
from run.launcher import say


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Read the options and train in the run folder."""
    options = parse_options(sys.argv[1:] if arguments is None else arguments)
    for warning in options.warnings():
        say(warning)
    hpu = set_environment(options)

    from loop import run  # torch, which may import Habana's packages, comes after the environment

    run(options, hpu)


if __name__ == "__main__":
    entry_point(main, expected=(ImageNetLayoutError,))
