"""Google's pretrained weights by name: a local file first, else fetched, with its checksum verified."""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Optional

from errors import UserError
from files import digest, write_atomically

NAMES = ("imagenet21k", "imagenet21k+imagenet2012")
MIRROR = "https://storage.googleapis.com/vit_models"
_BLOCK = 1 << 20


def locate(name: str, model: str, folder: Optional[str]) -> Path:
    """The file of `model` pretrained on `name`, below `folder`/weights, fetched there if it is not yet there.

    A file of that name that a user put there is taken as it is. One that was fetched here has its SHA-256 beside it and
    is checked against it.

    Args:
        name: one of `NAMES`.
        model: such as ViT-B_16.
        folder: of the cache; None for ~/.keras.

    Raises:
        UserError: it can't be fetched, or what is there was damaged.
    """
    path = Path(folder or "~/.keras").expanduser() / "weights" / f"{model}_{name}.npz"
    recorded = path.with_name(path.name + ".sha256")
    if not path.is_file():
        _fetch(f"{MIRROR}/{name.replace('+', '%2B')}/{model}.npz", path)
        write_atomically(recorded, digest(path) + "\n")
    elif recorded.is_file() and recorded.read_text().split()[0] != digest(path):
        raise UserError(f"{path} is not what was fetched, its SHA-256 differs: remove it and {recorded.name}")
    return path


def _fetch(url: str, path: Path) -> None:
    print(f"fetching {url}", flush=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as answer, open(temporary, "wb") as file:
            for block in iter(lambda: answer.read(_BLOCK), b""):
                file.write(block)
            headers = answer.headers
        _verify(temporary, headers.get("Content-Length"), headers.get_all("x-goog-hash") or [], url)
        os.replace(temporary, path)
    except (OSError, urllib.error.URLError) as error:
        raise UserError(
            f"{url} can't be fetched ({error}): put the file at {path}, or give --weights PATH or --weights none"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _verify(path: Path, length: Optional[str], hashes: list, url: str) -> None:
    """Compare with the length and the MD5 that the server states."""
    stated = [part[len("md5=") :] for line in hashes for part in line.replace(" ", "").split(",") if part[:4] == "md5="]
    actual = base64.b64encode(bytes.fromhex(digest(path, "md5"))).decode()
    if (length is not None and int(length) != path.stat().st_size) or (stated and stated[0] != actual):
        raise UserError(f"{url} arrived damaged (length or MD5 differ from what the server states): try again")
