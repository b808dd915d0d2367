"""Validate a fine-tuned ViT on a whole validation split: python finetune_validate.py --resume RUN --data_path DATA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional, Sequence

from building import check_classes, load_trained_classifier
from common.imagenet import ImageNetLayoutError
from dataset import validation_data
from ipu.evaluation import Evaluator
from ipu_options import evaluation_program
from models import VisionTransformer
from models.supervised import Supervised
from options import ValidationOptions, refused_in_validation
from poptorch_host.backend import reason
from run import distributed
from run.errors import entry_point
from run.options import parse, show, write

CONFIGS = Path(__file__).resolve().parent / "configs.yml"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → model → data → score, printed and written to validation.json in the output folder."""
    options = parse(
        ValidationOptions,
        arguments,
        configs=CONFIGS,
        script="finetune_validate.py",
        description=__doc__ or "",
        refused=refused_in_validation(),
    )
    program, folder = evaluation_program(options), Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    if distributed.is_main():
        write(options, folder / "config.yaml")
        print(f"{show(options)}\n{reason}", flush=True)
    if options.dry_run:
        return

    bad_images = folder / "bad_images.txt"
    if distributed.is_main() and bad_images.exists():
        bad_images.unlink()  # of an earlier validation
    loaded = load_trained_classifier(options)
    model, preparation = loaded.model, loaded.preparation
    assert isinstance(model, VisionTransformer)
    data = validation_data(options, preparation, model.config.num_classes, str(bad_images))
    if not options.generated_data:
        check_classes(loaded, data.classes)
    distributed.barrier()
    score = Evaluator(program, Supervised(model, preparation.mean, preparation.std).eval(), data)()
    assert score, "only a run in training is asked to stop"
    assert score.top1 is not None
    assert score.top5 is not None

    if distributed.is_main():
        result = dict(score._asdict(), checkpoint=str(loaded.place), data=options.data_path)
        (folder / "validation.json").write_text(json.dumps(result, indent=2) + "\n")
        print(f"Checkpoint: {loaded.place}\nImages: {preparation}")
        print(f"Loss: {score.loss:.5f}")
        print(f"Accuracy: {100 * score.top1:.3f} % (top-1), {100 * score.top5:.3f} % (top-5)")
        print(f"Number of samples: {score.samples}", flush=True)


if __name__ == "__main__":
    entry_point(main, expected=(ImageNetLayoutError,))
