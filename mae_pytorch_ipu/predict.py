"""Name what is on images, or draw what a fine-tuned model looked at: python predict.py --checkpoint RUN IMAGE …

Runs in plain torch, also beside an IPU: compiling a program for one takes longer than some images on a CPU, and
attention pictures need the model itself. For a whole data set there is finetune_validate.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, cast

import torch

from checkpoint import Loaded, load_model
from image_files import find_images, picture_paths, prepared
from ipu import host
from models import VisionTransformer
from prediction_options import PredictionOptions
from ranking import table, top
from rollout import attention_rollout, draw_rollout
from run.errors import UserError, entry_point
from run.options import parse
from weights import read_class_names

PICTURE = ".attention.png"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → model → a table of the five likeliest classes for each image."""
    about = (__doc__ or "").split("\n")[0]
    options = parse(PredictionOptions, arguments, configs=None, script="predict.py", description=about, rest="images")
    paths = find_images(options.images)
    pictures = picture_paths(paths, PICTURE, options.output) if options.attention else {}
    loaded = load_model(
        options.checkpoint, reconstructs=False, image_size=options.image_size, eval_resize=options.eval_resize
    )
    print(f"{loaded.report}\nimages: {loaded.preparation}", file=sys.stderr, flush=True)
    bad: Dict[str, str] = {}
    records = predict(options, loaded, paths, pictures, bad)
    if options.json:
        listed = [{"image": name, "reason": reason} for name, reason in bad.items()]
        content = {"checkpoint": str(loaded.place), "predictions": records, "bad_images": listed}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    if bad:
        raise UserError(f"{len(bad)} of {len(paths)} images can't be read: repair them or leave them out")


def predict(
    options: PredictionOptions, loaded: Loaded, paths: List[Path], pictures: Dict[Path, Path], bad: Dict[str, str]
) -> List[Dict[str, Any]]:
    """A record for each readable image, printed as it comes unless as JSON; the unreadable go to `bad`."""
    device = host.device()
    model, preparation = cast(VisionTransformer, loaded.model).to(device), loaded.preparation
    labels = read_class_names(loaded.place) or [f"LABEL_{index}" for index in range(model.config.num_classes)]
    records: List[Dict[str, Any]] = []
    for names, pixels in prepared(paths, preparation, options.micro_batch_size, bad):
        images = preparation.normalise(pixels).to(device)
        with torch.inference_mode():
            ranked = top(model(images), labels)
        for index, (path, best) in enumerate(zip(names, ranked)):
            record: Dict[str, Any] = {"image": str(path), "top5": best}
            if path in pictures:
                maps = model.attention_maps(images[index : index + 1])
                shares = attention_rollout(maps, model.config.global_pool)[0]
                title = "%s  %.1f %%" % (best[0]["name"], 100 * best[0]["probability"])
                draw_rollout(pixels[index], shares, model.config.grid, title, pictures[path])
                record["attention"] = str(pictures[path])
            records.append(record)
            if not options.json:
                print(table(record), flush=True)
    for name, reason in bad.items():
        print(f"bad image {name}: {reason}", file=sys.stderr, flush=True)
    return records


if __name__ == "__main__":
    entry_point(main)
