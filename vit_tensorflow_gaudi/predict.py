"""Name what is on images: python predict.py --checkpoint RUN IMAGE …"""

from __future__ import annotations

import glob
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: errors only

from command_line import Only, option, parse
from errors import UserError, entry_point
from options import MODELS

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_FILE = Only("with a weight file as --checkpoint", lambda given: Path(given.checkpoint).is_file())
_BATCH = 32


@dataclass(frozen=True)
class PredictOptions:
    """What predict.py takes."""

    checkpoint: str = option("output/ViT-B_16", "run folder (its best checkpoint), checkpoint, or .npz or .h5 file")
    model: str = option("ViT-B_16", "variant of the weight file", choices=MODELS, only=_FILE)
    image_size: int = option(384, "side of the square input in pixels", minimum=1, only=_FILE)
    top: int = option(5, "classes per image", minimum=1)
    eval_resize: Optional[str] = option(
        None,
        "crop: short side, then the centre; squash: both sides",
        choices=("crop", "squash"),
        shown="as the run evaluates, else crop",
    )
    json: bool = option(False, "print JSON")
    debug: bool = option(False, "show where in the program an error comes from")
    images: Tuple[str, ...] = ()


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → model → the likeliest classes of each image."""
    about = (__doc__ or "").split(":")[0]
    options = parse(PredictOptions, arguments, script="predict.py", description=about, rest="images")
    paths = find_images(options.images)
    model, names, resize = load(options)
    bad: Dict[str, str] = {}
    records = []
    for begin in range(0, len(paths), _BATCH):
        for record in predict(model, names, paths[begin : begin + _BATCH], resize, options.top, bad):
            records.append(record)
            if not options.json:
                print(table(record), flush=True)
    for name, why in bad.items():
        print(f"bad image {name}: {why}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"checkpoint": options.checkpoint, "predictions": records, "bad_images": bad}, indent=2))
    if bad:
        raise UserError(f"{len(bad)} of {len(paths)} images can't be read: repair them or leave them out")


def find_images(words: Sequence[str]) -> List[Path]:
    """Image files that files, folders (with all below them) and globs name, each once.

    Raises:
        UserError: a word names no image.
    """
    found: Dict[Path, None] = {}
    for word in words:
        matches = [Path(word)] if os.path.exists(word) else [Path(path) for path in sorted(glob.glob(word))]
        files = [path for path in matches if path.is_file()]
        below = [path for match in matches if match.is_dir() for path in sorted(match.rglob("*"))]
        files += [path for path in below if path.suffix.lower() in _SUFFIXES and path.is_file()]
        if not files:
            raise UserError(f"there is no image at {word}: check the path")
        found.update(dict.fromkeys(files))
    if not found:
        raise UserError("no image was given: name files or folders")
    return list(found)


def load(options: PredictOptions) -> Tuple[Any, Sequence[str], str]:
    """The model, the names of its classes and how images are resized: a run's own, else numbers from 1 and "crop"."""
    import building
    import weights
    from models import ViTConfig, create_model

    path = Path(options.checkpoint)
    if path.is_file() and path.suffix != ".index":
        arrays = weights.read_file(path)
        head, representation = arrays.get("head/bias"), "pre_logits/kernel" in arrays
        if head is None:
            raise UserError(f"{path} holds no head: fine-tune it first")
        model = create_model(
            options.model, image_size=options.image_size, num_classes=len(head), representation=representation
        )
        weights.assign(model, arrays, str(path), new_head=False)
        return model, [str(number + 1) for number in range(len(head))], options.eval_resize or "crop"
    config = building.run_config(path)
    model = create_model(config=ViTConfig(**config["vit"]))
    print(building.load_any(model, path), file=sys.stderr, flush=True)
    return model, config["class_names"], options.eval_resize or config["options"].get("eval_resize", "crop")


def predict(
    model: Any, names: Sequence[str], paths: Sequence[Path], resize: str, top: int, bad: Dict[str, str]
) -> List[Dict[str, Any]]:
    """A record for each image that can be read; the others go to `bad`, name → reason."""
    import tensorflow as tf

    from dataset.augmentation import plain_image
    from dataset.bad_images import reason
    from training import normalise

    size, good, pixels = model.vit_config.image_size, [], []
    for path in paths:
        data = path.read_bytes()
        try:
            pixels.append(plain_image(tf.constant(data), size, resize))
            good.append(path)
        except tf.errors.InvalidArgumentError:
            bad[str(path)] = reason(data)
    if not good:
        return []
    shares = tf.nn.softmax(model(normalise(tf.stack(pixels)), training=False))  # (B, S, S, 3) -> (B, C)
    best = tf.math.top_k(shares, min(top, shares.shape[1]))
    return [
        {
            "image": str(path),
            "top": [
                {"name": names[label] if label < len(names) else str(label + 1), "label": int(label), "probability": p}
                for p, label in zip(map(float, values), labels)
            ],
        }
        for path, values, labels in zip(good, best.values.numpy(), best.indices.numpy())
    ]


def table(record: Dict[str, Any]) -> str:
    """The image's path, then a line per class."""
    return "\n".join(
        [record["image"], *("  %6.2f %%  %s" % (100 * best["probability"], best["name"]) for best in record["top"])]
    )


if __name__ == "__main__":
    entry_point(main)
