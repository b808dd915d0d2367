"""Reading of weight files, of whatever origin: nothing in them is executed, and damage is told in one sentence."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, Dict, Mapping, Union

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .checkpoints import find
from .errors import UserError
from .manifest import MANIFEST

PREPROCESSOR = "preprocessor_config.json"
# In the order in which a folder is searched; an index lists the files among which a large model is divided.
NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SUFFIXES = (".safetensors", ".npz", ".bin", ".pth", ".pt")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_CHECKPOINT_NAME = re.compile(r"latest|best|step-\d+")
# Training scripts keep a model among other things under these keys; averaged weights come first.
_WRAPPERS = ("state_dict_ema", "state_dict", "model")


def locate(path: Union[str, Path]) -> Path:
    """Weight file, or folder that holds one of NAMES.

    Args:
        path: that file or folder; a run folder or a checkpoint of this app, where `latest`, `best` or `step-N` may be
            the last part; or the name of a model on the Hugging Face hub, which is downloaded unless it is cached.

    Raises:
        UserError: there is nothing of that kind.
    """
    place = Path(path)
    if place.is_file() or _holds_weights(place):
        return place
    if place.is_dir():
        is_run = (place / "checkpoints").is_dir() or any(place.glob("step-*")) or (place / MANIFEST).is_file()
        if not is_run:
            raise UserError(f"{path} holds none of {', '.join(NAMES)} and no checkpoints: give another folder")
        return _weights_of(find(place))
    if place.parent.is_dir() and _CHECKPOINT_NAME.fullmatch(place.name):
        return _weights_of(find(place))
    if _HUB_NAME.fullmatch(str(path)):
        return _downloaded(str(path))
    raise UserError(f"{path} does not exist: give a weight file, a folder or a name on the Hugging Face hub")


def read_config(place: Path) -> Dict[str, Any]:
    """The Hugging Face config.json that belongs to what `locate` found, empty if there is none."""
    config = _read_beside(place, "config.json")
    return config if "model_type" in config else {}


def read_preprocessor(place: Path) -> Dict[str, Any]:
    """The Hugging Face preprocessor_config.json that belongs to what `locate` found, empty if there is none."""
    return _read_beside(place, PREPROCESSOR)


def read_tensors(place: Path) -> Dict[str, Tensor]:
    """All tensors of what `locate` found, by name, on the CPU.

    Raises:
        UserError: a file is missing, damaged or of another kind, or holds pickled objects besides tensors.
    """
    file = place if place.is_file() else next(place / name for name in NAMES if (place / name).is_file())
    if not file.name.endswith(".index.json"):
        return _read(file)
    shards = _read_json(file).get("weight_map")
    if not isinstance(shards, dict) or not all(Path(str(name)).name == name for name in shards.values()):
        raise UserError(f"{file} is not an index of weight files beside it: download the model again")
    tensors: Dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        tensors.update(_read(file.with_name(name)))
    return tensors


def _read_beside(place: Path, name: str) -> Dict[str, Any]:
    if place.is_file() and place.name not in NAMES:
        return {}  # a file of its own, whatever lies beside it
    file = (place if place.is_dir() else place.parent) / name
    return _read_json(file) if file.is_file() else {}


def _holds_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in NAMES)


def _weights_of(checkpoint: Path) -> Path:
    folder = checkpoint / "weights"
    if not _holds_weights(folder):
        raise UserError(f"{checkpoint} is a checkpoint without model weights: give one of this app")
    return folder


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # Pickles are fetched only where a model has nothing else.
        described = ["config.json", PREPROCESSOR]
        folder = Path(snapshot_download(name, allow_patterns=[*described, *NAMES[:2], "model-*.safetensors"]))
        if not _holds_weights(folder):
            folder = Path(snapshot_download(name, allow_patterns=[*described, "pytorch_model*"]))
    except Exception as error:  # the hub client lets through errors of several network libraries
        raise UserError(
            f"{name} is no file or folder here and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}): check the name and the network, or give a local folder"
        ) from error
    if not _holds_weights(folder):
        raise UserError(f"{name} on the Hugging Face hub holds none of {', '.join(NAMES)}: choose another model")
    return folder


def _read_json(file: Path) -> Dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} can't be read as JSON: download or save the model again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object: download or save the model again")
    return content


def _read(file: Path) -> Dict[str, Tensor]:
    if file.suffix not in _SUFFIXES:
        raise UserError(f"{file} is no weight file: its name should end in {', '.join(_SUFFIXES)}")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(str(file))
        return _read_npz(file) if file.suffix == ".npz" else _read_pickle(file)
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{file} can't be opened ({error.strerror}): download or save the model again") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is damaged or holds pickled objects besides tensors, which could run code and are refused: "
            "save its state_dict as safetensors"
        ) from error
    except Exception as error:  # the readers raise anything on damaged bytes
        raise UserError(f"{file} is truncated, damaged or more than arrays: download or save it again") from error


def _read_pickle(file: Path) -> Dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what it is about to refuse
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        return {}
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _read_npz(file: Path) -> Dict[str, Tensor]:
    with open(file, "rb") as stream:  # numpy leaves a damaged file open
        with np.load(stream, allow_pickle=False) as arrays:
            return {name: _from_numpy(arrays[name]) for name in arrays.files}


def _from_numpy(array: Any) -> Tensor:
    if array.dtype == np.dtype("V2"):  # how numpy stores JAX's bfloat16
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
