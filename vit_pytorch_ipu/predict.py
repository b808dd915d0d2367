"""Name what is on images, draw what the model looked at, or export it: python predict.py --checkpoint RUN IMAGE …

Runs in plain torch, also beside an IPU: compiling a program for one takes longer than some images on a CPU, and
attention pictures and exports need the model itself. For a whole data set there is validation.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch

from classifier import Classifier, load_classifier
from export import export
from image_files import find_images, picture_paths, prepared
from ipu import host
from prediction_options import PredictionOptions
from ranking import table, top
from rollout import attention_rollout, draw_rollout
from run.errors import UserError, entry_point
from run.options import parse

PICTURE = ".attention.png"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → model → export, or a table of the five likeliest classes for each image."""
    about = (__doc__ or "").split("\n")[0]
    options = parse(PredictionOptions, arguments, configs=None, script="predict.py", description=about, rest="images")
    paths = find_images(options.images)
    pictures = picture_paths(paths, PICTURE, options.output) if options.attention else {}
    classifier = load_classifier(options)
    print(f"{classifier.report}\nimages: {classifier.preparation}", file=sys.stderr, flush=True)
    if options.export:
        print(export(options, classifier), file=sys.stderr, flush=True)
    bad: Dict[str, str] = {}
    records = predict(options, classifier, paths, pictures, bad)
    if options.json:
        listed = [{"image": name, "reason": reason} for name, reason in bad.items()]
        content = {"checkpoint": str(classifier.place), "predictions": records, "bad_images": listed}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    if bad:
        raise UserError(f"{len(bad)} of {len(paths)} images can't be read: repair them or leave them out")


def predict(
    options: PredictionOptions,
    classifier: Classifier,
    paths: List[Path],
    pictures: Dict[Path, Path],
    bad: Dict[str, str],
) -> List[Dict[str, Any]]:
    """A record for each readable image, printed as it comes unless as JSON; the unreadable go to `bad`."""
    device = host.device()
    model, preparation, records = classifier.model.to(device), classifier.preparation, []
    for names, pixels in prepared(paths, preparation, options.micro_batch_size, bad):
        images = preparation.normalise(pixels).to(device)
        with torch.inference_mode():
            ranked = top(model(images), classifier.labels)
        for index, (path, best) in enumerate(zip(names, ranked)):
            record: Dict[str, Any] = {"image": str(path), "top5": best}
            if path in pictures:
                shares = attention_rollout(model.attention_maps(images[index : index + 1]))[0]
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
