"""Check an ImageNet or CIFAR-10 folder before anything slow starts, or write a small real data set in those layouts.

python -m common.imagenet check PATH [--layout LAYOUT] [--full] [--decode]
python -m common.imagenet sample PATH [--format FORMAT] [--size N] [--seed N]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

from common import sample
from common.cifar10 import FOLDER, check_cifar10, find_batches
from common.decode import decode_all
from common.folders import check_tree
from common.listing import IMAGE_SUFFIXES
from common.shards import ARCHIVES, check_archives, check_tfrecord, find_shards
from common.splits import find_split
from common.verdict import SPLITS, Findings, ImageNetLayoutError, Problem, Verdict, plural

__all__ = ["LAYOUTS", "ImageNetLayoutError", "Problem", "Verdict", "check", "require"]

KAGGLE_TREE = Path("ILSVRC", "Data", "CLS-LOC")
NAMES = {
    "folders": "class folders below train and validation",
    "flat": "class folders below train, and unsorted validation images with labels",
    "kaggle": "Kaggle's tree",
    "tfrecord": "TFRecord shards",
    "archives": "ILSVRC 2012's archives",
    "cifar10": "CIFAR-10's Python batches",
}
LAYOUTS = ("auto", *NAMES)
_TO_FOLDERS = {
    "kaggle": f"pass {KAGGLE_TREE} in it, with val sorted into class folders by LOC_val_solution.csv",
    "tfrecord": "pass the class folders that the shards were made from",
    "archives": "unpack them, for instance with torchvision.datasets.ImageNet(PATH, 'train') and (PATH, 'val')",
    "cifar10": "choose the CIFAR-10 data set, or pass class folders",
}
_TO_OTHER = {
    "flat": "pass the folder that has train and unsorted validation images",
    "kaggle": f"pass the folder that has {KAGGLE_TREE}",
    "tfrecord": "make shards with the TensorFlow app's preprocess_imagenet.py",
    "archives": f"pass the folder that has {ARCHIVES['train']}",
    "cifar10": f"pass the folder that has {FOLDER}",
}


def check(
    path: Union[str, os.PathLike[str]],
    layout: str = "auto",
    *,
    splits: Sequence[str] = SPLITS,
    full: bool = False,
    decode: bool = False,
    workers: Optional[int] = None,
) -> Verdict:
    """Check the data set at `path` by listing its folders; no image is opened unless `decode`.

    layout   one of LAYOUTS; "auto" takes what is there
    splits   the splits that must be there, of "train" and "validation"
    full     insist on all of ImageNet-1k (1,281,167 and 50,000 images) or CIFAR-10
    decode   also decode every image, with `workers` processes (default: one per core)
    """
    if layout not in LAYOUTS or not set(splits) <= set(SPLITS) or not splits:
        raise ValueError(f"layout {layout!r} must be one of {LAYOUTS} and splits {splits!r} of {SPLITS}")
    root = Path(path)
    findings = Findings("", root, full=full)
    try:
        if _is_folder(findings, layout):
            _check_folder(findings, layout, splits)
    except OSError as error:
        findings.problem(f"{error.filename} cannot be read ({error.strerror})", "give yourself read permission")
    if decode and findings.splits:
        decode_all(findings, workers)
    return findings.verdict()


def require(
    path: Union[str, os.PathLike[str]], layout: str = "folders", split: Optional[str] = None, *, full: bool = False
) -> Verdict:
    """The verdict on `path`, or ImageNetLayoutError with the first problem and its remedy in one sentence.

    `split` is the only one that has to be there; None asks for both. Nothing is decoded.
    """
    verdict = check(path, layout, splits=SPLITS if split is None else (split,), full=full)
    if not verdict.ok:
        raise ImageNetLayoutError(verdict)
    return verdict


def _is_folder(findings: Findings, layout: str) -> bool:
    root = findings.path
    if root.is_dir():
        return True
    if root.is_symlink() and not root.exists():
        findings.problem(f"{root} is a link to {os.readlink(root)}, which is not there", "mend the link")
    elif root.exists():
        findings.problem(f"{root} is a file, not a folder", f"pass the folder it belongs in, {root.parent}")
    else:
        remedy = f"correct the path, or write sample data there with python -m common.imagenet sample {root}"
        option = f" --format {layout}" if layout in sample.WRITERS and layout != "folders" else ""
        findings.problem(f"{root} does not exist", remedy + option)
    return False


def _check_folder(findings: Findings, layout: str, splits: Sequence[str]) -> None:
    root = findings.path
    present = [name for name, is_there in _DETECT.items() if is_there(root)]
    findings.layout = (present or ["folders"])[0] if layout == "auto" else layout
    # A flat tree becomes a folder tree by sorting one split, so the tree's own check has the better remedy.
    alike = {"folders", "flat"}
    if present and findings.layout not in present and not (findings.layout in alike and alike & set(present)):
        remedy = _TO_FOLDERS[present[0]] if findings.layout == "folders" else _TO_OTHER[findings.layout]
        findings.problem(f"{root} has {NAMES[present[0]]} where {NAMES[findings.layout]} are expected", remedy)
    elif findings.layout == "tfrecord":
        check_tfrecord(findings, root, splits)
    elif findings.layout == "archives":
        check_archives(findings, root, splits)
    elif findings.layout == "cifar10":
        check_cifar10(findings, root, splits)
    elif findings.layout == "kaggle":
        check_tree(findings, root / KAGGLE_TREE, splits, labels_at=[root])
    else:
        labels_at = [root, *_kaggle_root(root)] if findings.layout == "flat" else []
        check_tree(findings, root, splits, labels_at)


def _kaggle_root(root: Path) -> List[Path]:
    return [root.parents[2]] if root.parts[-3:] == KAGGLE_TREE.parts else []


def _has_folders(root: Path) -> bool:
    return any(folder and _first_kinds(folder)[0] for folder in (find_split(root, split) for split in SPLITS))


def _is_flat(root: Path) -> bool:
    folder = find_split(root, "validation")
    return folder is not None and _first_kinds(folder) == (False, True)


def _first_kinds(folder: Path) -> Tuple[bool, bool]:
    """Whether there are folders, and images, among the first entries of `folder`."""
    with os.scandir(folder) as entries:
        some = [entry for _, entry in zip(range(200), entries) if not entry.name.startswith(".")]
    return any(e.is_dir() for e in some), any(e.name.lower().endswith(IMAGE_SUFFIXES) for e in some)


# In the order that "auto" prefers them: leftover archives beside an unpacked tree are not what is meant.
_DETECT: Dict[str, Callable[[Path], bool]] = {
    "cifar10": lambda root: find_batches(root).is_dir(),
    "kaggle": lambda root: (root / KAGGLE_TREE).is_dir(),
    "tfrecord": lambda root: any(find_shards(root, split) for split in SPLITS),
    "flat": _is_flat,
    "folders": _has_folders,
    "archives": lambda root: any((root / name).is_file() for name in ARCHIVES.values()),
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line: 0 if all is well, 1 if there are problems, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    if options.command == "sample":
        return _sample(options)
    verdict = check(options.path, options.layout, full=options.full, decode=options.decode, workers=options.workers)
    _print(verdict)
    return 0 if verdict.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m common.imagenet", description="ImageNet and CIFAR-10 folders.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check", help="say what a folder holds and what is wrong with it (exit status 1)")
    one.add_argument("path", type=Path)
    one.add_argument("--layout", choices=LAYOUTS, default="auto", help="what it should hold (default: what it does)")
    one.add_argument("--full", action="store_true", help="insist on every image of ImageNet-1k or CIFAR-10")
    one.add_argument("--decode", action="store_true", help="decode every image and list the bad ones")
    one.add_argument("--workers", type=_positive, help="decoding processes (default: one per core)")
    two = commands.add_parser("sample", help="write scikit-learn's 1,797 scanned digits as a data set")
    two.add_argument("path", type=Path)
    two.add_argument("--format", choices=(*sample.WRITERS, "all"), default="folders", help="(default: %(default)s)")
    two.add_argument("--size", type=_positive, default=32, help="pixels per side, 8 to 1024 (default: %(default)s)")
    two.add_argument("--seed", type=_seed, default=0, help="of the train/validation split (default: %(default)s)")
    return parser


def _positive(text: str) -> int:
    return _number(text, 1, "no positive whole number")


def _seed(text: str) -> int:
    return _number(text, 0, "no whole number from 0 to 4294967295", 2**32 - 1)


def _number(text: str, least: int, wrong: str, most: Optional[int] = None) -> int:
    number = int(text) if text.isdecimal() else -1
    if number < least or (most is not None and number > most):
        raise argparse.ArgumentTypeError(f"{text} is {wrong}")
    return number


def _print(verdict: Verdict) -> None:
    print(f"{verdict.path}: {NAMES.get(verdict.layout, 'nothing to check')}")
    for split, where in verdict.splits.items():
        count = f"{plural(verdict.counts[split], 'image')} in " if split in verdict.counts else ""
        print(f"  {split}: {count}{where}")
    if verdict.classes:
        print(f"  {plural(len(verdict.classes), 'class')}: {verdict.classes[0]} to {verdict.classes[-1]}")
    for note in verdict.notes:
        print(f"note: {note}")
    for problem in verdict.problems:
        print(f"problem: {problem}")
    print("ok" if verdict.ok else plural(len(verdict.problems), "problem"))


def _sample(options: argparse.Namespace) -> int:
    try:
        written = sample.write_sample(options.path, format=options.format, size=options.size, seed=options.seed)
    except sample.SampleError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        remedy = "choose another folder, or give yourself the permission and the space."
        print(f"{options.path} cannot be written ({error.strerror or error}): {remedy}", file=sys.stderr)
        return 1
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
