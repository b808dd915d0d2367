"""Name what is on images, or draw what a fine-tuned model looked at: python predict.py --checkpoint RUN IMAGE …

Runs in plain torch, also beside an IPU: compiling a program for one takes longer than some images on a CPU, and
attention pictures need the model itself. For a whole data set there is finetune_validate.py.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, cast

import torch
from torch import Tensor

from checkpoint import Loaded, device, load_model
from image_files import find_images, picture_paths, prepared
from models import VisionTransformer
from prediction_options import PredictionOptions
from rollout import attention_rollout, draw_rollout
from run.errors import UserError, entry_point
from run.options import parse
from weights import read_class_names

PICTURE = ".attention.png"
# SHA-256 of ImageNet-1k's synsets in order, with a space between them.
_SYNSETS = "791ce0333040dd249d13133f90d28ef0263ffc01e5de0afd85b3e32048d7d456"


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
    model, preparation = cast(VisionTransformer, loaded.model).to(device()), loaded.preparation
    labels = read_class_names(loaded.place) or [f"LABEL_{index}" for index in range(model.config.num_classes)]
    records: List[Dict[str, Any]] = []
    for names, pixels in prepared(paths, preparation, options.micro_batch_size, bad):
        images = preparation.normalise(pixels).to(device())
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


def top(logits: Tensor, labels: List[str], count: int = 5) -> List[List[Dict[str, Any]]]:
    """The likeliest classes of each row of logits (B, C), best first: index, label, name, probability."""
    values, indices = logits.float().softmax(dim=-1).topk(min(count, logits.shape[-1]), dim=-1)
    names = readable(labels)
    return [
        [{"index": i, "label": labels[i], "name": names[i], "probability": p} for i, p in zip(row, probabilities)]
        for row, probabilities in zip(indices.tolist(), values.tolist())
    ]


def readable(labels: List[str]) -> List[str]:
    """ImageNet-1k's words for its 1000 synsets in order, or for 1000 classes without names; else the labels."""
    unnamed = [f"LABEL_{index}" for index in range(1000)]
    if labels != unnamed and hashlib.sha256(" ".join(labels).encode()).hexdigest() != _SYNSETS:
        return labels
    from torchvision.models import ViT_B_16_Weights  # its list is in the order of the synsets

    return list(ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"])


def table(record: Dict[str, Any]) -> str:
    """The image's path, then a line per class."""
    lines = [record["image"]]
    for best in record["top5"]:
        label = "" if best["label"] == best["name"] else f"  ({best['label']})"
        lines.append("  %6.2f %%  %s%s" % (100 * best["probability"], best["name"], label))
    if "attention" in record:
        lines.append("  attention: " + record["attention"])
    return "\n".join(lines)


if __name__ == "__main__":
    entry_point(main)
