"""Class-folder trees: `train/CLASS/image` beside `validation/CLASS/image` or `val/CLASS/image`.

What the five apps read; a data set of torchvision's ImageFolder kind numbers its classes by alphabetical
folder order, so whatever would shift that numbering silently is a problem here.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

from common.labels import check_class_index, check_flat_labels
from common.listing import Listing, list_folder
from common.splits import explain_missing, find_split, other_split
from common.verdict import Findings, plural

IMAGENET_COUNTS = {"train": 1_281_167, "validation": 50_000}
# SHA-256 of the 1000 synsets of ILSVRC 2012, sorted and joined by newlines.
IMAGENET_CLASSES_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"

_SYNSET = re.compile(r"n\d{8}$")
_NUMBERED = re.compile(r"(\D*)(\d+)$")


def check_tree(findings: Findings, base: Path, splits: Sequence[str], labels_at: Sequence[Path] = ()) -> None:
    """Check the splits below `base`. Flat validation images are accepted only with their labels in a `labels_at`."""
    listings = {}
    for split in splits:
        found = _find_split(findings, base, split)
        if found is None:
            if explain_missing(findings, base, split, splits):
                return
            continue
        findings.splits[split] = found
        try:
            listings[split] = list_folder(found)
        except OSError as error:
            findings.problem(f"{error.filename} cannot be read ({error.strerror})", "give yourself read permission")
    for split, listing in listings.items():
        folder = findings.splits[split]
        findings.counts[split] = listing.total()
        if split == "validation" and labels_at and listing.images and not listing.classes:
            check_flat_labels(findings, folder, listing.images, listings.get("train"), labels_at)
        else:
            _check_split(findings, split, folder, listing)
    named = [listing for listing in listings.values() if listing.classes]
    if named:
        findings.classes = tuple(sorted(named[0].classes))
        check_class_index(findings, [base, *(folder for folder in labels_at if folder != base)])
    if len(named) == 2:
        _check_same_classes(findings, set(named[0].classes), set(named[1].classes))
    _check_imagenet_counts(findings, listings)


def _find_split(findings: Findings, base: Path, split: str) -> Optional[Path]:
    found = find_split(base, split)
    long, short = base / "validation", base / "val"
    if split == "validation" and long.is_dir() and short.is_dir() and not long.samefile(short):
        findings.problem(f"{base} has both validation and val", "remove or rename the one that is not meant")
    return found


def _check_split(findings: Findings, split: str, folder: Path, listing: Listing) -> None:
    _check_files(findings, folder, listing)
    if not listing.classes:
        _explain_no_classes(findings, split, folder, listing)
        return
    if len(listing.classes) == 1:
        ((name, only),) = listing.classes.items()
        if not only.images and any(inner.images for inner in only.classes.values()) and len(only.classes) > 1:
            findings.problem(
                f"the class folders of {folder} lie one level too deep, in {folder / name}",
                f"move them up into {folder}",
            )
            return
    empty = sorted(name for name, inner in listing.classes.items() if not inner.total())
    if empty:
        findings.problem(
            f"{folder} has {plural(len(empty), 'class folder')} without an image, first {empty[0]}",
            "fill them or remove them from every split" if len(empty) > 1 else "fill it or remove it from every split",
        )
    if listing.images:
        findings.problem(
            f"{plural(len(listing.images), 'image')} in {folder} outside any class folder, first {min(listing.images)}",
            "move each into the folder of its class",
        )
    _check_class_names(findings, folder, sorted(listing.classes))


def _check_files(findings: Findings, folder: Path, listing: Listing) -> None:
    named = [("", listing), *((f"{name}/", inner) for name, inner in listing.classes.items())]
    broken = [where + name for where, inner in named for name in inner.broken]
    hidden = [where + name for where, inner in named for name in inner.hidden]
    others = [where + name for where, inner in named for name in inner.others]
    if broken:
        what = f"{folder} has {plural(len(broken), 'dangling link')}, first {min(broken)}"
        findings.problem(what, "mend or remove what leads nowhere")
    if hidden:
        what = f"{folder} has {plural(len(hidden), 'hidden file')} that would be read as images, first {min(hidden)}"
        findings.problem(what, "remove what is hidden")
    if others:
        what = f"{folder} has {plural(len(others), 'file')} that no app reads, first {min(others)}"
        findings.note(what, "they may be removed")


def _explain_no_classes(findings: Findings, split: str, folder: Path, listing: Listing) -> None:
    archives = sorted(name for name in listing.others if name.endswith(".tar"))
    if listing.images:
        findings.problem(
            f"{folder} has {plural(len(listing.images), 'image')} but no class folders",
            "move each image into a folder named by its class"
            + (", as the devkit's or LOC_val_solution.csv's labels say" if split == "validation" else ""),
        )
    elif archives:
        findings.problem(
            f"{folder} has {plural(len(archives), 'class archive')} that nobody has unpacked, first {archives[0]}",
            "unpack each into a folder named like it, without .tar",
        )
    else:
        findings.problem(f"{folder} is empty", "put one folder per class there")


def _check_class_names(findings: Findings, folder: Path, names: List[str]) -> None:
    odd = [name for name in names if not _SYNSET.match(name)]
    if odd and len(odd) < len(names):
        findings.problem(
            f"{folder} mixes WordNet synsets with other folder names, first {odd[0]}",
            "rename or move it, because class numbers follow alphabetical folder order",
        )
        return
    hidden = [name for name in names if name.startswith(".")]
    if hidden:
        findings.problem(f"{folder / hidden[0]} would count as a class", "remove it")
    numbered = [match for match in (_NUMBERED.match(name) for name in names) if match]
    if len(numbered) == len(names) and len({match[1] for match in numbered}) == 1:
        first, second = _first_swapped([(int(match[2]), match[0]) for match in numbered])
        if first:
            findings.problem(
                f"class {second} comes after {first} in the alphabetical folder order of {folder}",
                "pad the numbers with zeros, because class numbers follow that order",
            )


def _first_swapped(numbered: List[Tuple[int, str]]) -> Tuple[str, str]:
    for (a, first), (b, second) in zip(numbered, numbered[1:]):
        if a > b:
            return first, second
    return "", ""


def _check_same_classes(findings: Findings, train: Set[str], validation: Set[str]) -> None:
    for lacking, have, where in ((train, validation, "validation"), (validation, train, "train")):
        extra = sorted(have - lacking)
        if extra:
            other = findings.splits[other_split(where)]
            findings.problem(
                f"{plural(len(extra), 'class')} of {findings.splits[where]} missing from {other}, first {extra[0]}",
                "give both splits the same class folders",
            )


def _check_imagenet_counts(findings: Findings, listings: Dict[str, Listing]) -> None:
    """ILSVRC 2012's own numbers: insisted on with `full`, else only noted where the folders look like it."""
    names = findings.classes
    text = "\n".join(names)
    is_imagenet = hashlib.sha256(text.encode()).hexdigest() == IMAGENET_CLASSES_SHA256
    if findings.full and names and not is_imagenet:
        findings.problem(
            f"{findings.path} does not have the 1000 classes of ImageNet-1k but {plural(len(names), 'class')}",
            "fetch ILSVRC 2012 anew or check without --full",
        )
    for split, listing in listings.items():
        count, expected = findings.counts[split], IMAGENET_COUNTS[split]
        if count == expected or not (findings.full or is_imagenet):
            continue
        what = f"{findings.splits[split]} has {plural(count, 'image')}, not ImageNet-1k's {expected:,}"
        if listing.classes:
            least = min(sorted(listing.classes), key=lambda name: listing.classes[name].total())
            what += f" (fewest in {least}: {listing.classes[least].total():,})"
        (findings.problem if findings.full else findings.note)(what, "unpack its archive again")
