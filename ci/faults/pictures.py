"""Images of ten and more wrong kinds among good ones: decoded or replaced, listed exactly, none lost in counting."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple

import numpy as np
from PIL import Image

from ci.faults import traces
from ci.faults.apps import GAUDI, KERAS, MAE, MAE_FINETUNE, App
from ci.faults.bench import TRAIN_EACH, VALIDATION_EACH, Bench, Figure, shards

GOOD = {"train": 10 * TRAIN_EACH, "validation": 10 * VALIDATION_EACH}


class Picture(NamedTuple):
    """A file name, its content, and whether there is a picture in it."""

    name: str
    content: bytes
    readable: bool


def kinds() -> List[Picture]:
    """One picture of every kind."""
    pixels = (np.arange(32 * 32 * 3).reshape(32, 32, 3) % 251).astype(np.uint8)
    colour = Image.fromarray(pixels)
    jpeg, png = _saved(colour, "JPEG"), _saved(colour, "PNG")
    palette = colour.quantize(16)
    frames = [colour.quantize(16), colour.rotate(90).quantize(16)]
    at = png.index(b"IDAT") + 40
    return [
        Picture("truncated.JPEG", jpeg[: len(jpeg) // 2], False),
        Picture("empty.JPEG", b"", False),
        Picture("cmyk.JPEG", _saved(colour.convert("CMYK"), "JPEG"), True),
        Picture("deep.png", _saved(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG"), True),
        Picture("grey.JPEG", _saved(colour.convert("L"), "JPEG"), True),
        Picture("palette.png", _saved(palette, "PNG", transparency=0), True),
        Picture("bomb.png", _bomb(60000), False),
        Picture("misnamed.JPEG", png, True),
        Picture("page.JPEG", b"<html><body>404 Not Found</body></html>", False),
        Picture("animated.JPEG", _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), True),
        Picture("broken.png", png[:at] + bytes(len(png) - at - 12) + png[-12:], False),
    ]


def _saved(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def _bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it is `side` pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def corrupt(bench: Bench, app: App) -> List[Figure]:
    """Train, evaluate and predict with one of each kind in both splits."""
    figure, samples = Figure("corrupt images handled"), Figure("sample counts right beside corrupt images")
    tree, run = bench.new(app), bench.new(app)
    shutil.copytree(bench.tree(), tree)
    pictures = kinds()
    for split in GOOD:
        for picture in pictures:
            (tree / split / "digit_0" / picture.name).write_bytes(picture.content)
    check = _shards if app.name == KERAS else _training
    check(bench, app, tree, run, figure, samples)
    if app.name != MAE and not bench.short:
        _prediction(bench, app, tree / "validation" / "digit_0", run, figure)
    return [figure, samples]


def _training(bench: Bench, app: App, tree: Path, run: Path, figure: Figure, samples: Figure) -> None:
    """The torch apps replace what can't be read, so that every file counts as a sample."""
    tolerant = ["--bad_image_ratio" if app.name == GAUDI else "--bad-image-ratio", 1, app.workers, 0]
    words = app.train(tree, run, *app.length, *tolerant)
    if app.name == MAE:
        words = [*MAE_FINETUNE, *words[len(app.script) :]]
    done = bench.run(app, words)
    if done.status != 0:
        figure.count(False, str(done))
        return
    bad = run / "bad_images.txt"
    listed = bad.read_text().splitlines() if bad.exists() else []
    _listed(figure, lambda split, name: f"{split}/digit_0/{name}", listed)
    counted = [line["samples"] for line in traces.history(run) if line["split"] == "validation"]
    expected = GOOD["validation"] + len(kinds())
    samples.count(counted and set(counted) == {expected}, f"evaluated {counted} samples of {expected}")


def _shards(bench: Bench, app: App, tree: Path, run: Path, figure: Figure, samples: Figure) -> None:
    """The Keras app leaves out what can't be read when it makes shards, and trains on the rest."""
    records = tree.with_name("records")
    done = bench.run(app, shards(tree, records, "--bad_image_ratio", 1))
    trained = bench.run(app, app.train(records, run, "--epochs", 1)) if done.status == 0 else done
    if trained.status != 0:
        figure.count(False, str(trained))
        return
    files = [records / split / "bad_images.txt" for split in GOOD]
    listed = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    _listed(figure, lambda split, name: f"{split}/digit_0/{name}", listed)
    counted = [line["samples"] for line in traces.history(run) if line["split"] == "validation"]
    expected = GOOD["validation"] + sum(picture.readable for picture in kinds())
    samples.count(counted == [expected], f"evaluated {counted} samples of {expected}")


def _listed(figure: Figure, name_of: Callable[[str, str], str], lines: List[str]) -> None:
    """Count a kind as handled if it is in the list of bad images exactly when nothing can be read from it."""
    names = [line.split("\t")[0] for line in lines]
    for split in GOOD:
        for picture in kinds():
            listed = any(name.endswith(name_of(split, picture.name)) for name in names)
            how = "is listed as bad" if listed else "is not listed as bad"
            figure.count(listed != picture.readable, f"{picture.name} in {split} {how}")
    known = {name_of(split, picture.name) for split in GOOD for picture in kinds()}
    others = [name for name in names if not any(name.endswith(end) for end in known)]
    figure.lost += [f"{name} is good and was listed as bad" for name in others]


def _prediction(bench: Bench, app: App, folder: Path, run: Path, figure: Figure) -> None:
    """predict.py names the readable ones and reports the others."""
    paths = [folder / picture.name for picture in kinds()]
    done = bench.run(app, ["predict.py", "--checkpoint", run, *paths, "--json"])
    try:
        found: Dict[str, List[Dict[str, str]]] = json.loads(done.output[done.output.index("{") :])
        named = {Path(record["image"]).name for record in found["predictions"]}
    except (ValueError, KeyError):
        named = set()
    for picture in kinds():
        fine = (picture.name in named) == picture.readable and done.status == 1
        figure.count(
            fine, f"predict.py and {picture.name}: {'named' if picture.name in named else 'not named'}, {done}"
        )
