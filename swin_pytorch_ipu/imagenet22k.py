"""The 21,841 ImageNet classes of the official 22k checkpoints, and which of them are those of ImageNet-1k.

Their order is not that of sorted folder names. Of the 21,843 WordNet ids of the fall 2011 release, sorted, two have no
images; the last two ids stand in their places.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, Union

from run.errors import UserError

CLASSES = 21841
_WITHOUT_IMAGES = ("n03931044", "n09859684")
# "Teddy bear" is no class among the 22k. Microsoft's fine-tuning starts it from a class of another "teddy", a garment;
# so does this, to reproduce it. A file of rows with another one in this line starts it otherwise.
TEDDY_BEAR, GARMENT = "n04399382", "n03013580"
NOTE = (
    f"class 850 ({TEDDY_BEAR}, teddy bear) is none of the 22k and starts from the row of {GARMENT}, "
    "a garment called teddy, as in Microsoft's fine-tuning"
)


def synsets() -> List[str]:
    """WordNet ids of the classes, in the order of the head's rows."""
    from timm.data import ImageNetInfo

    listed = sorted([*ImageNetInfo("imagenet22k").label_names(), *_WITHOUT_IMAGES])
    order, moved = listed[:CLASSES], listed[CLASSES:]
    for empty, synset in zip(_WITHOUT_IMAGES, moved):
        order[order.index(empty)] = synset
    return order


def rows_of_imagenet1k() -> List[int]:
    """The head's row for each class of ImageNet-1k."""
    from timm.data import ImageNetInfo

    return _rows([GARMENT if synset == TEDDY_BEAR else synset for synset in ImageNetInfo("imagenet1k").label_names()])


def read_rows(path: Union[str, Path]) -> List[int]:
    """Rows from a file with a line for each class of the new head: a row's number, or a WordNet id.

    Raises:
        UserError: there is no such file, or a line is neither.
    """
    try:
        words = Path(path).read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: give a text file with a row or a WordNet id per class") from error
    named = [word for word in words if not word.isdecimal()]
    if not named:
        return [int(word) for word in words]
    if len(named) < len(words):
        raise UserError(f"{path} has numbers and names such as {named[0]}: give one kind")
    return _rows(words)


def _rows(names: List[str]) -> List[int]:
    row = {synset: index for index, synset in enumerate(synsets())}
    unknown = [name for name in names if name not in row]
    if unknown:
        raise UserError(f"{unknown[0]} is none of the {CLASSES} classes of the 22k checkpoints: give a row instead")
    return [row[name] for name in names]
