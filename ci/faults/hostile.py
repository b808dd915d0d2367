"""Files that were made to do harm: pickles that would run code, archives whose members would leave their folder."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import numpy as np

from ci.faults.apps import GAUDI, KERAS, MAE, SWIN, VIT, App
from ci.faults.bench import Bench, BrokenError, Figure
from ci.faults.processes import ROOT, Finished
from common.cifar10 import python2_pickle

_FILE = "FILE"
# What takes weights, by app; predict.py takes them in all.
_READERS = {
    VIT: [["finetune.py", "--config", "digits", "--training-steps", "1", "--pretrained-checkpoint", _FILE],
          ["validation.py", "--config", "digits_valid", "--pretrained-checkpoint", _FILE]],
    MAE: [["main_finetune.py", "--config", "digits_finetune", "--finetune", _FILE],
          ["finetune_validate.py", "--config", "digits_validate", "--resume", _FILE],
          ["convert.py", "--checkpoint", _FILE, "--layout", "timm"]],
    SWIN: [["train_swin.py", "--cfg", "SWIN_DIGITS", "--training-steps", "1", "--pretrained-model", _FILE],
           ["validate.py", "--cfg", "SWIN_DIGITS", "--checkpoint", _FILE]],
    GAUDI: [["train.py", "--dataset", "folder", "--pretrained_dir", _FILE, "--device", "cpu", "--num_steps", "1"]],
    KERAS: [["train.py", "--device", "CPU", "--weights", _FILE],
            ["train.py", "--device", "CPU", "--evaluate_checkpoint_path", _FILE],
            ["train.py", "--device", "CPU", "--resume_from_checkpoint_path", _FILE]],
}  # fmt: skip
# What files need that don't say which model they hold: without it they are refused unread.
_SIZES = {
    (VIT, "validation.py"): ["--model", "vit_base_patch16_224"],
    (VIT, "predict.py"): ["--model", "vit_base_patch16_224"],
    (SWIN, "predict.py"): ["--model", "swin_tiny_patch4_window7_224"],
    (GAUDI, "predict.py"): ["--model-type", "ViT-B_16"],
}
# Sizes in a config.json that the apps' digits configs accept.
_CONFIGS = {
    VIT: {"patch_size": 8},
    MAE: {"patch_size": 8, "image_size": 32, "hidden_size": 96, "intermediate_size": 384,
          "num_attention_heads": 3, "num_hidden_layers": 4},
}  # fmt: skip
# A refusal that says so comes from what reads the content; others show nothing.
_READ = ("pickled objects", "more than arrays", "can't be read as .npz", "encoder blocks", "holds no head")


class Mine:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Tuple[Callable[[str], None], Tuple[str]]:
        return os.mkdir, (self.marker,)


def weight_files(bench: Bench, app: App) -> List[Figure]:
    """Give hostile weight files to every command that takes weights."""
    figure, folder = Figure("hostile weight files refused"), bench.new(app)
    folder.mkdir(parents=True)
    marker = folder / "it-ran"
    files = _weight_files(bench, app, folder, marker)
    image = next(bench.tree().rglob("*.JPEG"))
    readers = [*_READERS[app.name], ["predict.py", "--checkpoint", _FILE, str(image)]]
    for kind, file in files.items():
        for reader in readers[-1:] if bench.short and kind not in ("pth", "npz", "h5") else readers:
            words = [str(file) if word == _FILE else word for word in reader]
            words += _SIZES.get((app.name, reader[0]), []) if kind != "bin" else []
            done = bench.run(app, [*words, *_places(bench, app, reader, folder)])
            ran = marker.exists()
            if ran:
                marker.rmdir()
            refused = any(said in done.sentence for said in _READ)
            figure.count(refused and not ran, f"{kind} to {reader[0]}: {'it RAN; ' if ran else ''}{done}")
    return [figure]


def _places(bench: Bench, app: App, reader: List[str], folder: Path) -> List[str]:
    """Where a command finds data and puts what it writes."""
    if reader[0] == "predict.py":
        return []
    if reader[0] == "convert.py":
        return ["--output", str(folder / "converted")]
    if app.name == GAUDI:
        return ["--data_path", str(bench.tree()), "--name", "hostile", "--output_dir", str(folder)]
    return [app.data, str(bench.data(app)), "--output", str(folder / "out")]


def _weight_files(bench: Bench, app: App, folder: Path, marker: Path) -> Dict[str, Path]:
    """Kind → file; each was seen to run its code where it is read without care."""
    raw = pickle.dumps(Mine(marker), protocol=2)
    pickle.loads(raw)
    marker.rmdir()  # FileNotFoundError: the mine is a dud
    kinds = {"npz": folder / "hostile.npz"}
    with open(kinds["npz"], "wb") as file:
        np.savez(file, kernel=np.array([Mine(marker)], dtype=object))
    if app.name == KERAS:
        kinds["h5"] = folder / "hostile.h5"
        done = bench.run(app, ["-m", "ci.faults.lambda_file", kinds["h5"], marker])
        if done.status != 0 or marker.exists():
            raise BrokenError(f"no hostile HDF5 file can be made: {done}")
        return kinds
    kinds.update({suffix: folder / f"hostile.{suffix}" for suffix in ("pth", "pt", "safetensors")})
    for suffix in ("pth", "safetensors"):
        kinds[suffix].write_bytes(raw)
    with zipfile.ZipFile(kinds["pt"], "w") as archive:  # as torch.save writes it
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/version", "3\n")
    kinds["bin"] = folder / "model"
    kinds["bin"].mkdir()
    (kinds["bin"] / "pytorch_model.bin").write_bytes(raw)
    labels = {str(number): f"digit_{number}" for number in range(10)}
    config = {"model_type": "swin" if app.name == SWIN else "vit", "id2label": labels, **_CONFIGS.get(app.name, {})}
    (kinds["bin"] / "config.json").write_text(json.dumps(config))
    return kinds


def data_files(bench: Bench, app: App) -> List[Figure]:
    """Give hostile pickles in place of data to the apps that read such: CIFAR's batches, packed pixels."""
    figure, folder = Figure("hostile data files refused"), bench.new(app)
    marker, run = folder.with_name("it-ran"), folder.with_name("out")
    raw, known = pickle.dumps(Mine(marker), protocol=2), {}
    if app.name in (VIT, GAUDI):
        names = ["batches.meta", "test_batch", *(f"data_batch_{k}" for k in range(1, 6))]
        known["cifar10"] = {f"cifar-10-batches-py/{name}": raw for name in names}
    if app.name == GAUDI:
        known["cifar100"] = {f"cifar-100-python/{name}": raw for name in ("train", "test", "meta")}
    if app.name == SWIN:
        array = io.BytesIO()
        np.save(array, np.array([Mine(marker)], dtype=object))
        names = [f"{split}-{kind}.npy" for split in ("train", "validation") for kind in ("images", "labels")]
        packed = {"version": 1, "size": 32, "classes": ["a", "b"], "splits": {"train": 1, "validation": 1}}
        known["packed"] = {**{name: array.getvalue() for name in names}, "packed.json": json.dumps(packed).encode()}
    for kind, files in known.items():
        for name, content in files.items():
            path = folder / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        done = bench.run(app, _on_data(app, folder / kind, run, kind))
        fine = done.sentence and not marker.exists()
        figure.count(fine, f"{kind}: {'it RAN; ' if marker.exists() else ''}{done}")
    return [figure]


def _on_data(app: App, data: Path, run: Path, kind: str, *more: str) -> List[str]:
    words = app.train(data, run, *app.length)
    if app.name == GAUDI:
        words[words.index("--dataset") + 1] = kind
        return [*words, *(more or ["--download", "false"])]
    return [*words, "--dataset", kind, *more] if app.name == VIT else words


def archives(bench: Bench, app: App) -> List[Figure]:
    """Give archives with members that lead outside to every command that takes archives.

    Fine is one sentence or success, with everything around the command's own folders as it was before.
    """
    figure = Figure("hostile archives refused or harmless")
    makers = {VIT: _cifar, GAUDI: _cifar, SWIN: _zip, KERAS: _ilsvrc}
    if app.name not in makers:
        return [figure]
    tricks = ["none", "parent", "absolute", "symlink", *([] if bench.short else ["link", "fifo"])]
    kinds = {VIT: ["cifar10"], GAUDI: ["cifar10", "cifar100"], SWIN: ["zip"], KERAS: ["ilsvrc"]}[app.name]
    for kind, trick in itertools.product(kinds, tricks):
        folder = bench.new(app)
        outside = folder.with_name("outside")
        outside.mkdir(parents=True)
        (outside / "secret").write_text("unchanged")
        done = makers[app.name](bench, app, folder, _Trick(trick, outside), kind)
        if trick == "none" and done.status != 0:
            raise BrokenError(f"an honest archive is not taken: {done}")
        if trick == "none":
            continue
        got_out = bool(list(folder.parent.rglob("escaped*"))) or os.listdir(outside) != ["secret"]
        got_out = got_out or (outside / "secret").read_text() != "unchanged"
        answered = done.status == 0 or done.sentence
        figure.count(answered and not got_out, f"{trick} in {kind}: {'it got out; ' if got_out else ''}{done}")
    return [figure]


class _Trick:
    """Members that lead from `inside`, a folder of an archive, to `outside`."""

    def __init__(self, name: str, outside: Path) -> None:
        self.name, self.outside = name, outside

    def members(self, inside: str, suffix: str = "") -> List[Tuple[tarfile.TarInfo, bytes]]:
        """Tar members and their contents."""
        content = b"overwritten"

        def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            return info

        away = f"{inside}/away{suffix}"
        return {
            "none": [],
            "parent": [(member(f"../escaped{suffix}"), content), (member(f"{inside}/../../escaped2{suffix}"), content)],
            "absolute": [(member(f"{self.outside}/escaped{suffix}"), content)],
            "symlink": [(member(away, tarfile.SYMTYPE, str(self.outside)), b""),
                        (member(f"{away}/secret"), content), (member(f"{away}/escaped{suffix}"), content)],
            "link": [(member(away, tarfile.LNKTYPE, f"{self.outside}/secret"), b""), (member(away), content)],
            "fifo": [(member(f"{inside}/data_batch_1{suffix}", tarfile.FIFOTYPE), b"")],
        }[self.name]  # fmt: skip


def _add(archive: tarfile.TarFile, members: List[Tuple[tarfile.TarInfo, bytes]]) -> None:
    for info, content in members:
        archive.addfile(info, io.BytesIO(content))


def _sample(bench: Bench, kind: str) -> Path:
    """The sample data in a format of common.imagenet."""
    folder = bench.root / f"sample-{kind}"
    done = bench.server("torch").start(["-m", "common.imagenet", "sample", folder, "--format", kind], ROOT).wait()
    if done.status != 0:
        raise BrokenError(f"no sample can be written: {done}")
    return folder


def _cifar100() -> Dict[str, bytes]:
    """CIFAR-100's files with an image of each class."""
    images = np.arange(100 * 3072, dtype=np.uint32).astype(np.uint8).reshape(100, 3072)
    labels = list(range(100))
    batch = python2_pickle({"data": images, "fine_labels": labels, "coarse_labels": labels})
    meta = python2_pickle({"fine_label_names": [f"class {number}" for number in labels]})
    return {"train": batch, "test": batch, "meta": meta}


def _cifar(bench: Bench, app: App, folder: Path, trick: _Trick, kind: str) -> Finished:
    """A download from a host whose archive has the published digest, and more in it than it should."""
    inside = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[kind]
    folder.mkdir()
    path = folder.with_name(f"{inside}.tar.gz")
    if kind == "cifar10":
        files = {file.name: file.read_bytes() for file in (_sample(bench, kind) / inside).iterdir()}
    else:
        files = _cifar100()
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{inside}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        _add(archive, trick.members(inside))
    download = ["--download", "true"] if app.name == GAUDI else ["--download"]
    words = [*_on_data(app, folder, folder.with_name("out"), kind, *download), app.workers, "0"]
    words += ["--num_steps", "1"] if app.name == GAUDI else ["--training-steps", "1"]
    saboteur = {"kind": "hostile_host", "archive": str(path), "data_set": kind.upper()}
    return bench.run(app, words, saboteur=saboteur)


def _zip(bench: Bench, app: App, folder: Path, trick: _Trick, _kind: str) -> Finished:
    """train.zip and val.zip."""
    folder.mkdir()
    for split, name in (("train", "train"), ("validation", "val")):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for path in sorted((bench.tree() / split).rglob("*.JPEG")):
                archive.write(path, path.relative_to(bench.tree() / split))
            _add_to_zip(archive, trick.members("digit_0", ".JPEG"))
    words = app.train(folder, folder.with_name("out"), *app.length, app.workers, 0, "--bad-image-ratio", 1)
    return bench.run(app, words)


def _add_to_zip(archive: zipfile.ZipFile, members: List[Tuple[tarfile.TarInfo, bytes]]) -> None:
    """What tar members are in a zip archive, the last of each name; symbolic links as Unix writes them."""
    for member, content in {member.name: (member, content) for member, content in members}.values():
        info = zipfile.ZipInfo(member.name)
        if member.type == tarfile.SYMTYPE:
            info.create_system, info.external_attr, content = 3, 0o120777 << 16, member.linkname.encode()
        archive.writestr(info, content)


def _ilsvrc(bench: Bench, app: App, folder: Path, trick: _Trick, _kind: str) -> Finished:
    """ILSVRC 2012's archives: hostile members in that of the training images and that of the validation's."""
    folder.mkdir()
    for path in sorted(_sample(bench, "archives").iterdir()):
        target = folder / path.name
        target.write_bytes(path.read_bytes())
        if path.name.endswith(".tar"):
            with tarfile.open(target, "a") as archive:
                _add(archive, trick.members("n00000000", ".JPEG"))
    words = ["preprocess_imagenet.py", "--raw_data_dir", folder, "--local_scratch_dir", folder.with_name("out")]
    words += ["--limit", 40, "--train_shards", 1, "--validation_shards", 1, "--workers", 1, "--bad_image_ratio", 1]
    return bench.run(app, words)
