"""Validate a trained Swin on a whole validation split: python validate.py --cfg SWIN_TINY --checkpoint RUN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional, Sequence

from building import load_trained_model
from common.imagenet import ImageNetLayoutError
from dataset import create_dataset
from ipu.evaluation import Evaluator
from ipu.recipe import describe_precision
from ipu_options import create_program
from options import read_validation
from poptorch_host.backend import reason
from run import distributed
from run.errors import entry_point
from run.options import show, write
from training import supervised


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → data → model → score, printed and written to validation.json in the output folder."""
    options = read_validation(arguments, __doc__ or "")
    program, folder = create_program(options), Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    if distributed.is_main():
        write(options, folder / "config.yaml")
        print(f"{show(options)}\nprecision {describe_precision(program.precision)}; {reason}", flush=True)
    if options.dry_run:
        return

    bad_images = folder / "bad_images.txt"
    if distributed.is_main() and bad_images.exists():
        bad_images.unlink()  # of an earlier validation
    data = create_dataset(options, "validation", str(bad_images))
    network, source = load_trained_model(options, data.classes)
    distributed.barrier()
    score = Evaluator(program, supervised(network).eval(), data)()
    assert score, "only a run in training is asked to stop"
    assert score.top1 is not None
    assert score.top5 is not None

    if distributed.is_main():
        result = dict(score._asdict(), checkpoint=str(source), data_path=options.data_path)
        (folder / "validation.json").write_text(json.dumps(result, indent=2) + "\n")
        print(f"Checkpoint: {source}")
        print(f"Loss: {score.loss:.5f}")
        print(f"Number of samples: {score.samples}")
        print(f" * Acc@1 {100 * score.top1:.3f} Acc@5 {100 * score.top5:.3f}", flush=True)


if __name__ == "__main__":
    entry_point(main, expected=(ImageNetLayoutError,))
