"""Validate a fine-tuned ViT on a whole validation split: python validation.py --config b16_cifar10_valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional, Sequence

from building import load_trained_model
from common.imagenet import ImageNetLayoutError
from dataset import create_dataset
from dataset.from_options import data_spec
from ipu.evaluation import Evaluator
from ipu_options import create_program
from models.supervised import Supervised
from options import ValidationOptions, refused_in_validation
from poptorch_host.backend import reason
from run import distributed
from run.errors import UsageError, entry_point
from run.folder import TRACES
from run.options import parse, show, write

CONFIGS = Path(__file__).resolve().parent / "configs.yml"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → data → model → score, printed and written to validation.json in the output folder."""
    options = parse(
        ValidationOptions,
        arguments,
        configs=CONFIGS,
        script="validation.py",
        description=__doc__ or "",
        refused=refused_in_validation(),
    )
    folder = Path(options.output)
    if any((folder / name).exists() for name in TRACES):
        raise UsageError(f"{folder} holds a run, whose config.yaml would be replaced: give another --output")
    folder.mkdir(parents=True, exist_ok=True)
    if distributed.is_main():
        write(options, folder / "config.yaml")
        print(f"{show(options)}\n{reason}", flush=True)
    if options.dry_run:
        return

    bad_images = folder / "bad_images.txt"
    if distributed.is_main() and bad_images.exists():
        bad_images.unlink()  # of an earlier validation
    data = create_dataset(data_spec(options, str(bad_images)), "validation")
    model, source = load_trained_model(options, data.classes)
    distributed.barrier()
    score = Evaluator(create_program(options), Supervised(model).eval(), data)()
    assert score, "only a run in training is asked to stop"
    assert score.top1 is not None
    assert score.top5 is not None

    if distributed.is_main():
        result = dict(score._asdict(), checkpoint=str(source), dataset=options.dataset_path)
        (folder / "validation.json").write_text(json.dumps(result, indent=2) + "\n")
        print(f"Checkpoint: {source}")
        print(f"Valid Loss: {score.loss:.5f}")
        print(f"Valid Accuracy: {100 * score.top1:.5f} % (top-1), {100 * score.top5:.5f} % (top-5)")
        print(f"Number of samples: {score.samples}", flush=True)


if __name__ == "__main__":
    entry_point(main, expected=(ImageNetLayoutError,))
