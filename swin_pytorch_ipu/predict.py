"""Name what is on images, draw where it saw that, or export it: python predict.py --checkpoint RUN IMAGE …

Runs in plain torch, also beside an IPU, where compiling takes longer. For a whole data set there is validate.py.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from activation import class_activation, draw_activation
from classifier import Classifier, load_classifier, prepared, top
from export import export
from prediction_options import PredictionOptions
from run.errors import UserError, entry_point
from run.options import parse

PICTURE = ".activation.png"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → model → export, or a table of the five likeliest classes for each image."""
    about = (__doc__ or "").split("\n")[0]
    options = parse(PredictionOptions, arguments, configs=None, script="predict.py", description=about, rest="images")
    paths = find_images(options.images)
    pictures = picture_paths(paths, options.output) if options.activation else {}
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
    device = os.environ.get("POPTORCH_HOST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    model, preparation, records = classifier.model.to(device), classifier.preparation, []
    for names, pixels in prepared(paths, preparation, options.micro_batch_size, bad):
        images = preparation.normalise(pixels).to(device)
        with torch.inference_mode():
            ranked = top(classifier, model(images))
        for index, (path, best) in enumerate(zip(names, ranked)):
            record: Dict[str, Any] = {"image": str(path), "top5": best}
            if path in pictures:
                label = torch.tensor([best[0]["index"]], device=device)
                activation = class_activation(model, images[index : index + 1], label)[0]
                title = "%s  %.1f %%" % (best[0]["name"], 100 * best[0]["probability"])
                draw_activation(pixels[index], activation, model.config.covered, title, pictures[path])
                record["activation"] = str(pictures[path])
            records.append(record)
            if not options.json:
                print(table(record), flush=True)
    for name, reason in bad.items():
        print(f"bad image {name}: {reason}", file=sys.stderr, flush=True)
    return records


def table(record: Dict[str, Any]) -> str:
    """The image's path, then a line per class."""
    lines = [record["image"]]
    for best in record["top5"]:
        label = "" if best["label"] == best["name"] else f"  ({best['label']})"
        lines.append("  %6.2f %%  %s%s" % (100 * best["probability"], best["name"], label))
    if "activation" in record:
        lines.append("  activation: " + record["activation"])
    return "\n".join(lines)


def find_images(words: Sequence[str]) -> List[Path]:
    """Image files that files, folders (with all below them) and globs name, each once, no pictures of activations."""
    found: Dict[Path, None] = {}
    for word in words:
        matches = [word] if os.path.exists(word) else sorted(glob.glob(word, recursive=True))
        files = [Path(match) for match in matches if os.path.isfile(match)]
        below = [file for match in matches if os.path.isdir(match) for file in sorted(Path(match).rglob("*"))]
        files += [file for file in below if file.suffix.lower() in IMG_EXTENSIONS and file.is_file()]
        if not files:
            raise UserError(f"{word} holds no image: check the path")
        found.update(dict.fromkeys(file for file in files if not file.name.endswith(PICTURE)))
    if words and not found:
        raise UserError(f"{words[0]} holds pictures of activations only: check the path")
    return list(found)


def picture_paths(paths: Sequence[Path], folder: Optional[str]) -> Dict[Path, Path]:
    """Image → its picture: beside it, or below `folder` as the images lie below what they share."""
    top_folder = Path(os.path.commonpath([path.resolve().parent for path in paths]))
    pictures: Dict[Path, Path] = {}
    for path in paths:
        place = path.parent if folder is None else Path(folder) / path.resolve().parent.relative_to(top_folder)
        pictures[path] = place / (path.stem + PICTURE)
    picture, images = Counter(pictures.values()).most_common(1)[0]
    if images > 1:
        raise UserError(f"{images} images would have the picture {picture}: give them in two commands")
    return pictures


if __name__ == "__main__":
    entry_point(main)
