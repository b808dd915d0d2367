"""Swin weights from and to files: Microsoft's, timm's, torchvision's, Hugging Face's and this app's own checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union, cast

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

import imagenet22k
import weight_config
import weight_layouts
from models import SwinConfig, SwinTransformer
from models.swin import Block
from models.windows import windows_of
from preparation import preprocessor_config
from run import weight_files
from run.errors import UserError
from run.files import write_atomically
from run.load_report import LoadReport, some
from weight_tensors import check_shapes

SAVE_LAYOUTS = weight_layouts.LAYOUTS
_TABLE = ".attn.relative_position_bias_table"
_POSITIONS = "absolute_pos_embed"
Grid = Tuple[int, int]


def load_weights(
    model: SwinTransformer,
    path: Union[str, Path],
    *,
    strict: bool = True,
    new_head: bool = False,
    head_rows: Union[str, Path, Sequence[int], None] = None,
) -> LoadReport:
    """Copy a checkpoint's weights into `model`, whose dtype and device stay.

    Tables of relative positions, and absolute positions, are resized to the model's windows and map: bicubic, corners
    not aligned, as Microsoft's fine-tunes were made. timm keeps a table's scale instead, which gives other values.

    Args:
        model: left as it is if an error is raised.
        path: file, folder, run folder or Hugging Face hub name, see `run.weight_files.locate`.
        strict: whether tensors that are missing or unexpected are an error. A wrong shape always is.
        new_head: start with a fresh head, whatever the file holds.
        head_rows: for each class of the model the row of the file's head to take, or a file of them, see
            `imagenet22k.read_rows`. A head of the 22k classes fits a model for ImageNet-1k without it.

    Raises:
        UserError: the file can't be read, or does not fit the model.
    """
    place = weight_files.locate(path)
    config = weight_files.read_config(place)
    notes = list(weight_config.compare(config, model.config, place))
    layout, state, buffers = _translate(weight_files.read_tensors(place), place)
    resized = _fit_tables(state, model, weight_config.built_config(config, place), place)
    if new_head:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    elif "head.weight" in state:
        rows = _head_rows(head_rows, len(state["head.weight"]), model.config.num_classes)
        if rows is not None:
            resized += (_select_head(state, rows, model.config.num_classes, place),)
            notes += [imagenet22k.NOTE] if head_rows is None else []
    if buffers:
        notes.append(f"{len(buffers)} buffers of its geometry left out")

    wanted = model.state_dict()
    fresh = tuple(name for name in wanted if new_head and name.startswith("head."))
    missing = tuple(name for name in wanted if name not in state and name not in fresh)
    unexpected = tuple(sorted(name for name in state if name not in wanted))
    loaded = {name: state[name] for name in wanted if name in state}
    if strict:
        _check_names(missing, unexpected, not new_head and "head.weight" in wanted, place)
    check_shapes(loaded, wanted, place)
    if new_head:
        model.reset_head()
    model.load_state_dict(loaded, strict=False)
    return LoadReport(str(path), layout, tuple(loaded), resized, fresh, missing, unexpected, tuple(notes))


def resize_table(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Values at the offsets of `old`, (rows·columns, heads), at those of `new`: 13×13 for a window of 7 by 7."""
    grid = table.float().T.reshape(1, -1, *old)  # (rows·columns, heads) -> (1, heads, rows, columns)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    return grid.flatten(2)[0].T.to(table.dtype)


def read_config(path: Union[str, Path]) -> Dict[str, Any]:
    """Keyword arguments for `models.create_model` from a checkpoint's config.json, the name among them.

    Args:
        path: what `load_weights` takes. For a checkpoint without a head num_classes is 0.

    Raises:
        UserError: there is no config.json of a Swin.
    """
    place = weight_files.locate(path)
    return weight_config.model_arguments(weight_files.read_config(place), place)


def read_class_names(path: Union[str, Path]) -> List[str]:
    """Names of a checkpoint's classes by label; empty where it has none. The argument is that of `load_weights`."""
    return weight_config.class_names(weight_files.read_config(weight_files.locate(path)))


def save_weights(
    model: SwinTransformer,
    folder: Union[str, Path],
    layout: str = "official",
    *,
    class_names: Optional[Sequence[str]] = None,
    eval_resize: str = "crop",
) -> None:
    """Write model.safetensors and what describes it, each file whole or not at all, replacing what is there.

    "official" has Microsoft's names without their buffers, "huggingface" is read by
    transformers.SwinForImageClassification.from_pretrained(folder), "timm" by timm.create_model("local-dir:folder"),
    and "torchvision" by torchvision.models.SwinTransformer.load_state_dict(…, strict=False).

    Args:
        model: its weights are written in their dtype.
        folder: made if needed.
        layout: one of SAVE_LAYOUTS.
        class_names: one per output of the head, for config.json.
        eval_resize: "crop" or "direct", as evaluation prepares images, for preprocessor_config.json.

    Raises:
        UserError: unknown layout, or one that can't hold this model.
    """
    if layout not in SAVE_LAYOUTS:
        raise UserError(f"unknown layout {layout!r}: choose one of {', '.join(SAVE_LAYOUTS)}")
    classes = model.config.num_classes
    names = class_names or [f"LABEL_{index}" for index in range(classes)]
    if len(names) != classes:
        raise UserError(f"{len(names)} class names for {classes} classes: give one per class")
    weight_config.check_layout(model.config, layout)
    described = {weight_files.PREPROCESSOR: preprocessor_config(model.config.image_size, eval_resize)}
    if layout == "timm":
        described = {"config.json": weight_config.timm_config(model.config, names, eval_resize)}
    else:
        describe = weight_config.huggingface_config if layout == "huggingface" else weight_config.own_config
        described["config.json"] = describe(model.config, names)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors = weight_layouts.to_layout(state, layout)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    for name, description in described.items():
        write_atomically(folder / name, json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def _translate(tensors: Dict[str, Tensor], place: Path) -> Tuple[str, Dict[str, Tensor], List[str]]:
    layout = weight_layouts.detect(tensors)
    if layout is None:
        held = some(list(tensors)) or "no tensors"
        raise UserError(f"{place} holds {held}: give a Swin as Microsoft, timm, torchvision or Hugging Face write it")
    try:
        state, buffers = weight_layouts.from_layout(tensors, layout)
    except (RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"{place} holds tensors of shapes that no Swin has: choose another checkpoint") from error
    return layout, state, buffers


def _fit_tables(
    state: Dict[str, Tensor], model: SwinTransformer, theirs: Optional[SwinConfig], place: Path
) -> Tuple[str, ...]:
    """Resize positions in `state` to the model's; the names of what was resized, with both grids."""
    resized = []
    for stage, layer in enumerate(model.stages):
        for index, block in enumerate(cast(Iterable[Block], layer.blocks)):
            name = f"layers.{stage}.blocks.{index}{_TABLE}"
            if name not in state or state[name].ndim != 2:
                continue
            new = _offsets(block.attn.windows.window)
            old = None
            if theirs is not None and stage < len(theirs.depths):
                old = _offsets(windows_of(theirs.resolutions[stage], theirs.window_size, shifted=False).window)
            old = _grid(state[name].shape[0], old, new, f"{place} has {name}")
            if old != new:
                state[name] = resize_table(state[name], old, new)
                resized.append(_change(name, old, new))
    if _POSITIONS in state and state[_POSITIONS].ndim == 3 and model.config.absolute_positions:
        new, stated = model.config.resolutions[0], theirs.resolutions[0] if theirs else None
        old = _grid(state[_POSITIONS].shape[1], stated, new, f"{place} has {_POSITIONS}")
        if old != new:
            state[_POSITIONS] = resize_table(state[_POSITIONS][0], old, new)[None]
            resized.append(_change(_POSITIONS, old, new))
    return tuple(resized)


def _offsets(window: Grid) -> Grid:
    return 2 * window[0] - 1, 2 * window[1] - 1


def _change(name: str, old: Grid, new: Grid) -> str:
    return "%s %d×%d → %d×%d" % (name, *old, *new)


def _grid(count: int, stated: Optional[Grid], wanted: Grid, said: str) -> Grid:
    """Rows and columns of a table of `count` entries: those of its config.json, else the model's, else square."""
    side = math.isqrt(count)
    for grid in (stated, wanted, (side, side)):
        if grid is not None and grid[0] * grid[1] == count:
            return grid
    raise UserError(f"{said} with {count} entries, which make no square: choose another checkpoint")


def _head_rows(given: Union[str, Path, Sequence[int], None], classes: int, wanted: int) -> Optional[Sequence[int]]:
    """Rows of a head of `classes` that a model for `wanted` takes, None for all as they are."""
    if given is not None:
        return imagenet22k.read_rows(given) if isinstance(given, (str, Path)) else given
    if (classes, wanted) == (imagenet22k.CLASSES, 1000):
        return imagenet22k.rows_of_imagenet1k()
    return None


def _select_head(state: Dict[str, Tensor], rows: Sequence[int], wanted: int, place: Path) -> str:
    """Leave of the head in `state` the rows for the model's classes; what was done, in words."""
    classes = len(state["head.weight"])
    if len(rows) != wanted:
        raise UserError(f"{len(rows)} rows are given for the {wanted} classes of the model: give one per class")
    if min(rows) < 0 or max(rows) >= classes:
        raise UserError(f"{place} has a head for {classes} classes: give rows from 0 to {classes - 1}")
    for name in ("head.weight", "head.bias"):
        if name in state:
            state[name] = state[name][torch.tensor(rows)]
    return f"head {classes} → {wanted} classes"


def _check_names(missing: Sequence[str], unexpected: Sequence[str], keeps_head: bool, place: Path) -> None:
    if missing and all(name.startswith("head.") for name in missing):
        raise UserError(f"{place} has no classification head: ask for a new one (new_head)")
    if missing:
        raise UserError(f"{place} lacks {some(missing)}: choose another checkpoint, or sizes that fit it")
    # What only feeds the head is of no use without it, nor are SimMIM's mask token and decoder.
    passing = () if keeps_head else ("head.", "decoder.", "mask_token")
    foreign = [name for name in unexpected if not name.startswith(passing)] if passing else list(unexpected)
    if foreign:
        raise UserError(f"{place} holds {some(foreign)}, for which the model has no place: build one that fits")
