"""ViT weights from and to files: Google's .npz, and the HDF5 files of earlier Keras runs.

Keras stores kernels as Google's JAX code does, (in, out): arrays are reshaped, never transposed.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Tuple, Union

import h5py
import numpy as np
import tensorflow as tf

from errors import UserError
from files import write_atomically
from models import named_variables

POSITIONS = "Transformer/posembed_input/pos_embedding"
_HEAD, _REPRESENTATION = "head/", "pre_logits/"
Arrays = Dict[str, np.ndarray]


class LoadReport(NamedTuple):
    """What became of a file's arrays: counts, the old and new number of tokens where positions were resized, names."""

    path: str
    loaded: int
    resized: Tuple[int, int]
    fresh: List[str]
    unused: List[str]

    def __str__(self) -> str:
        parts = [f"{self.loaded} arrays from {self.path}"]
        if self.resized[0] != self.resized[1]:
            parts.append(f"positions resized from {self.resized[0]} tokens to {self.resized[1]}")
        if self.fresh:
            parts.append(f"new: {some(self.fresh)}")
        if self.unused:
            parts.append(f"not used: {some(self.unused)}")
        return "; ".join(parts)


def load_npz(model: tf.keras.Model, path: Union[str, Path], *, new_head: bool = False) -> LoadReport:
    """Copy a file in Google's layout into `model`; positions are resized to its grid.

    Args:
        model: of `models.create_model`; left as it is if an error is raised.
        path: of the .npz file.
        new_head: leave the model's head as it is, whatever the file holds.

    Raises:
        UserError: the file can't be read or does not fit the model.
    """
    return assign(model, read_npz(path), str(path), new_head=new_head)


def load_h5(model: tf.keras.Model, path: Union[str, Path], *, new_head: bool = False) -> LoadReport:
    """The same for an HDF5 file that Keras wrote, weights only or a whole model, of this layout of layers."""
    return assign(model, read_h5(path), str(path), new_head=new_head)


def load_file(model: tf.keras.Model, path: Union[str, Path], *, new_head: bool = False) -> LoadReport:
    """The same for either kind, by its ending."""
    return assign(model, read_file(path), str(path), new_head=new_head)


def save_npz(model: tf.keras.Model, path: Union[str, Path]) -> None:
    """Write the weights in Google's layout, which this app, timm and JAX code read; whole or not at all."""
    heads, width = model.vit_config.heads, model.vit_config.width
    arrays = {}
    for name, variable in named_variables(model).items():
        array = variable.numpy()
        if "/query/" in name or "/key/" in name or "/value/" in name:
            array = array.reshape(*array.shape[:-1], heads, width // heads)  # (…, D) -> (…, H, D/H)
        elif name.endswith("/out/kernel"):
            array = array.reshape(heads, width // heads, width)  # (D, D) -> (H, D/H, D)
        arrays[name] = array
    write_atomically(Path(path), lambda file: np.savez(file, **arrays))


def read_npz(path: Union[str, Path]) -> Arrays:
    """Name → array of a .npz file; nothing in it is executed."""
    try:
        with open(path, "rb") as stream, np.load(
            stream, allow_pickle=False
        ) as file:  # np.load alone would leave it open
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} can't be read as .npz ({error}): fetch or export it again") from error


_H5_LEAVES = {"gamma": "scale", "beta": "bias"}
_H5_PARTS = {
    "LayerNorm_0": "LayerNorm_0", "LayerNorm_2": "LayerNorm_2",
    "query": "MultiHeadDotProductAttention_1/query", "key": "MultiHeadDotProductAttention_1/key",
    "value": "MultiHeadDotProductAttention_1/value", "out": "MultiHeadDotProductAttention_1/out",
    "Dense_0": "MlpBlock_3/Dense_0", "Dense_1": "MlpBlock_3/Dense_1",
    "embedding": "embedding", "encoder_norm": "Transformer/encoder_norm", "pre_logits": "pre_logits", "head": "head",
}  # fmt: skip


def read_file(path: Union[str, Path]) -> Arrays:
    """Name in Google's layout → array of a .npz or HDF5 file."""
    if Path(path).suffix == ".npz":
        return read_npz(path)
    if Path(path).suffix in (".h5", ".hdf5"):
        return read_h5(path)
    raise UserError(f"{path} is neither .npz nor .h5: give a weight file of one of these kinds")


def read_h5(path: Union[str, Path]) -> Arrays:
    """Name in Google's layout → array, from the model part of a Keras HDF5 file."""
    arrays: Arrays = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer_weights"):
            arrays[_google_name(name)] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path") from error
    except OSError as error:
        raise UserError(f"{path} can't be read as HDF5 ({error}): give another file") from error
    return arrays


def _google_name(name: str) -> str:
    """`…/Transformer/encoderblock_3/…/query/kernel:0` -> `Transformer/encoderblock_3/MultiHead…/query/kernel`."""
    parts = name.split(":")[0].split("/")
    leaf = _H5_LEAVES.get(parts[-1], parts[-1])
    if leaf in ("cls", "pos_embedding"):
        return "cls" if leaf == "cls" else POSITIONS
    owner = next((_H5_PARTS[part] for part in reversed(parts[:-1]) if part in _H5_PARTS), "/".join(parts[:-1]))
    block = re.search(r"encoderblock_\d+", name)
    return f"Transformer/{block[0]}/{owner}/{leaf}" if block else f"{owner}/{leaf}"


def resize_positions(positions: np.ndarray, tokens: int) -> np.ndarray:
    """Positions (1, N, D) -> (1, tokens, D): bilinear between the outermost patches (corners aligned) on square grids.

    The class token's position comes first and stays. This is what `scipy.ndimage.zoom(order=1)` in Google's code does.

    Raises:
        ValueError: either grid is not a square.
    """
    old, new = round((positions.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    if old**2 + 1 != positions.shape[1] or new**2 + 1 != tokens:
        raise ValueError(f"positions for {positions.shape[1]} tokens can't become {tokens}: not square grids")
    if old == new:
        return positions
    along = _interpolation(old, new)  # (new, old)
    grid = positions[0, 1:].reshape(old, old, -1)
    resized = np.einsum("yr,xc,rcd->yxd", along, along, grid, optimize=True).reshape(1, new * new, -1)
    return np.concatenate([positions[:, :1], resized.astype(positions.dtype)], axis=1)


def _interpolation(old: int, new: int) -> np.ndarray:
    """Matrix (new, old) of linear interpolation whose first and last points coincide."""
    place = np.linspace(0, old - 1, new)
    low = np.minimum(place.astype(int), max(old - 2, 0))
    share = place - low
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] = 1 - share
    matrix[np.arange(new), np.minimum(low + 1, old - 1)] += share
    return matrix


def assign(model: tf.keras.Model, arrays: Arrays, source: str, *, new_head: bool) -> LoadReport:
    """Copy arrays named as in Google's layout into `model`, all or none."""
    wanted = {name: v for name, v in named_variables(model).items() if not (new_head and name.startswith(_HEAD))}
    blocks = [_blocks(wanted), _blocks(arrays)]
    if blocks[0] != blocks[1]:
        raise UserError(f"{source} has {blocks[1]} encoder blocks, the model {blocks[0]}: give the model of the file")
    _check_heads(model.vit_config.heads, arrays, source)
    if not new_head:
        _check_representation(wanted, arrays, source)
    missing = [name for name in wanted if name not in arrays and not name.startswith(_REPRESENTATION)]
    if missing:
        remedy = "ask for a new head" if missing[0].startswith(_HEAD) else "give another file"
        raise UserError(f"{source} lacks {some(missing)}: {remedy}")
    values: Arrays = {}
    for name, variable in wanted.items():
        if name in arrays:
            values[name] = _fit(name, arrays[name], tuple(variable.shape), source)
    for name, value in values.items():
        wanted[name].assign(value)
    fresh = [name for name in named_variables(model) if name not in values]
    unused = sorted(set(arrays) - set(values))
    resized = (arrays[POSITIONS].shape[1], model.vit_config.tokens)
    return LoadReport(source, len(values), resized, fresh, unused)


def _fit(name: str, array: np.ndarray, shape: Tuple[int, ...], source: str) -> np.ndarray:
    if name == POSITIONS and array.ndim == 3 and array.shape[2] == shape[2]:
        try:
            return resize_positions(array, shape[1])
        except ValueError as error:
            raise UserError(f"{source}: {error}; give a file for square images") from error
    heads_split = "/MultiHeadDotProductAttention_1/" in name and array.size == np.prod(shape)
    if heads_split:
        return array.reshape(shape)  # (D, H, D/H), (H, D/H, D) -> (D, D); (H, D/H) -> (D)
    if array.shape != shape:
        sizes = ["×".join(map(str, size)) for size in (array.shape, shape)]
        remedy = "ask for a new head" if name.startswith(_HEAD) else "give the model and the sizes of the file"
        raise UserError(f"{source} has {name} of {sizes[0]}, the model of {sizes[1]}: {remedy}")
    return array


def _check_heads(heads: int, arrays: Arrays, source: str) -> None:
    """UserError if the file says by its shapes that it is of another number of heads, with which it would be wrong."""
    for name, array in arrays.items():
        if array.ndim == 3 and name.endswith("/query/kernel") and array.shape[1] != heads:  # (D, H, D/H)
            raise UserError(
                f"{source} is of {array.shape[1]} heads, the model of {heads}: give the model and the sizes of the file"
            )


def _check_representation(wanted: Iterable[str], arrays: Arrays, source: str) -> None:
    """UserError if file and model differ in pre_logits, on which the head that is loaded depends."""
    model, file = (any(name.startswith(_REPRESENTATION) for name in names) for names in (wanted, arrays))
    if file and not model:
        raise UserError(f"{source} has pre_logits before its head, the model has not: give --variant vit_keras")
    if model and not file:
        raise UserError(f"{source} lacks pre_logits, which the model has: give --variant google, or --weights none")


def _blocks(names: object) -> int:
    found = {int(match[1]) for name in names if (match := re.search(r"encoderblock_(\d+)/", name))}  # type: ignore
    return len(found)


def some(names: List[str]) -> str:
    """A few of the names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
