"""Images that cannot be decoded: listed once, counted, and too many of them stop the run."""

from __future__ import annotations

import fcntl
import io
import os
import re
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Union

import tensorflow as tf
from PIL import Image

from errors import UserError

DEFAULT_RATIO = 0.001
_SENTENCE = re.compile(r"UserError: (.*)")


class BadImages:
    """The list of bad images, `name<TAB>reason`, shared by all workers of a run through one file.

    Args:
        path: the file, made when the first one turns up; None for a new one in the temporary folder.
        samples: in the data set.
        ratio: share of them that may be bad; one is always tolerated.
        shards: names of the set's shards, whose images alone count; None for all that the file lists. Training and
            validation share a file, of which the smaller set would else exceed its share by the other's images.
    """

    def __init__(
        self,
        path: Union[str, Path, None],
        samples: int,
        ratio: float = DEFAULT_RATIO,
        shards: Optional[Iterable[str]] = None,
    ) -> None:
        self.path = Path(path or os.path.join(tempfile.gettempdir(), f"bad_images-{uuid.uuid4().hex[:12]}.txt"))
        self.samples = samples
        self.ratio = ratio
        self._shards = None if shards is None else set(shards)

    def record(self, name: str, reason: str) -> None:
        """List image `name` unless any worker has done so.

        Raises:
            UserError: there are too many now.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # held until the file is closed
            file.seek(0)
            names = _names(file.read())
            if name not in names:
                file.write(f"{name}\t{reason}\n")
                names.append(name)
        if self._shards is not None:
            names = [other for other in names if shard_of(other) in self._shards]
        if len(names) > 1 and len(names) > self.ratio * self.samples:
            raise UserError(
                f"{len(names)} of {self.samples} images cannot be decoded, more than the tolerated share of "
                f"{self.ratio:g}: make the shards again from whole images; {self.path} lists the bad ones"
            )

    def names(self) -> List[str]:
        """Names of all images listed so far by any worker, in order of discovery."""
        return _names(self.path.read_text(encoding="utf-8")) if self.path.exists() else []


def shard_of(name: str) -> str:
    """Shard of an image that `dataset.index.Index.name` named."""
    return name.rsplit(" record ", 1)[0]


def _names(lines: str) -> List[str]:
    return [line.split("\t", 1)[0] for line in lines.splitlines() if line]


def reason(data: bytes) -> str:
    """Why `data` is no image, in a few words."""
    if not data:
        return "it has no bytes"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:  # decoders raise almost anything on hostile bytes
        text = (str(error).splitlines() or [type(error).__name__])[0]
        return "not an image file" if "cannot identify" in text else text.replace("\t", " ")
    return "TensorFlow cannot decode it"


@contextmanager
def readable_errors() -> Iterator[None]:
    """Around the iteration of a data set: a UserError from inside the pipeline comes out as one."""
    try:
        yield
    except tf.errors.OpError as error:
        sentence: Optional[re.Match[str]] = _SENTENCE.search(error.message or "")
        if sentence is None:
            raise
        raise UserError(sentence[1].strip()) from None
