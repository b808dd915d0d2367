"""ImageNet's images to TFRecord shards.

python preprocess_imagenet.py --raw_data_dir=$IMAGENET_HOME --local_scratch_dir=$IMAGENET_HOME/imagenet/tf_records
python preprocess_imagenet.py --local_scratch_dir=$IMAGENET_HOME/imagenet/tf_records --verify

The raw data are class folders, flat validation images with synset_labels.txt, Kaggle's tree, or ILSVRC 2012's archives
as they are downloaded. What a killed run has finished is kept: the same command goes on.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Optional, Sequence, Set

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported, here and in the processes

from command_line import Parser, no_effect, number
from dataset.bad_images import DEFAULT_RATIO
from errors import UsageError, UserError, entry_point
from preprocessing.conversion import BAD_IMAGES, Settings, convert, processes, verify

SPLITS = ("train", "validation")
_WRITING = (
    "limit", "seed", "train_shards", "validation_shards", "short_side", "image_format", "quality", "bad_image_ratio",
)  # fmt: skip
_positive = number(int, 1)


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: anything unknown, out of range or without an effect.
    """
    lines = (__doc__ or "").splitlines()
    parser = Parser(description=lines[0], epilog="\n".join(lines[-3:]), allow_abbrev=False)
    parser.add_argument("--raw_data_dir", type=Path, help="folder with the images or archives")
    parser.add_argument("--local_scratch_dir", type=Path, required=True, help="folder that the shards are written to")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="default: both")
    parser.add_argument("--train_shards", type=_positive, default=1024, help="default: %(default)s")
    parser.add_argument("--validation_shards", type=_positive, default=128, help="default: %(default)s")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only N images of each split, drawn at random")
    parser.add_argument("--seed", type=number(int), default=0, help="of the images' order (default: %(default)s)")
    parser.add_argument("--workers", type=_positive, help="processes (default: one per core)")
    parser.add_argument(
        "--short_side", type=_positive, metavar="PIXELS",
        help="shrink images whose shorter side is longer; 256, for 224-pixel training, reads twice as fast",
    )  # fmt: skip
    parser.add_argument(
        "--image_format", choices=("JPEG", "PPM"), default="JPEG",
        help="PPM stores pixels: two to three times faster to read, five times as large (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--quality", type=_positive, help="of JPEGs that are encoded anew (default: 100; shrunk: 85)")
    parser.add_argument(
        "--bad_image_ratio", type=_share, default=DEFAULT_RATIO,
        help=f"share of images that may be unreadable, left out and listed in {BAD_IMAGES} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--verify", action="store_true", help="write nothing; check every record of the shards")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    args = parser.read(argv)
    _refuse_idle(args, {name for name in _WRITING if getattr(args, name) != parser.get_default(name)})
    return args


def _refuse_idle(args: argparse.Namespace, given: Set[str]) -> None:
    """UsageError if --raw_data_dir is missing, or a flag that was given has no effect beside the others."""
    if bool(args.raw_data_dir) == args.verify:
        raise UsageError("--verify reads the shards alone: leave --raw_data_dir out" if args.verify else
                         "--raw_data_dir is missing: give the folder with the images")  # fmt: skip
    for name in sorted(given if args.verify else ()):
        raise no_effect(name, "without --verify")
    if "quality" in given and args.image_format != "JPEG":
        raise no_effect("quality", "with --image_format JPEG")


def _share(text: str) -> float:
    share = float(number(float)(text))
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to 1")
    return share


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Make the shards, or verify them.

    Raises:
        UserError: as the message says.
    """
    args = parse(argv)
    with processes(args.workers or len(os.sched_getaffinity(0))) as run:
        if args.verify:
            counts, problems = verify(args.local_scratch_dir, args.splits, run)
            for problem in problems:
                print(f"problem: {problem}")
            if problems:
                raise UserError(
                    f"{args.local_scratch_dir} has {len(problems)} problems: "
                    "remove the shards that are named above and make them again"
                )
            print("ok: " + ", ".join(f"{count:,} {split} images" for split, count in counts.items()))
            return
        shards = {split: getattr(args, f"{split}_shards") for split in SPLITS if split in args.splits}
        quality = args.quality or (85 if args.short_side else 100)
        settings = Settings(shards, args.limit, args.seed, args.short_side, args.image_format, quality)
        convert(args.raw_data_dir, args.local_scratch_dir, settings, run, args.bad_image_ratio)
    print(f"shards are in {args.local_scratch_dir}")


if __name__ == "__main__":
    entry_point(main)
