"""ViT weights from and to files: Hugging Face's, timm's, Google's, Graphcore's and this app's own checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

import weight_config
import weight_layouts
from models import VisionTransformer, ViTConfig
from run import weight_files
from run.errors import UserError
from run.files import write_atomically
from run.load_report import LoadReport, some
from weight_tensors import check_shapes

INTERPOLATIONS = ("bilinear", "bicubic")
SAVE_LAYOUTS = ("huggingface", "timm")
_POSITIONS = "embeddings.positions"


def load_weights(
    model: VisionTransformer,
    path: Union[str, Path],
    *,
    strict: bool = True,
    new_head: bool = False,
    interpolation: str = "bilinear",
) -> LoadReport:
    """Copy a checkpoint's weights into `model`, whose dtype and device stay; positions are resized to its grid.

    Args:
        model: left as it is if an error is raised.
        path: file, folder, run folder or Hugging Face hub name, see `run.weight_files.locate`.
        strict: whether tensors that are missing or unexpected are an error. A wrong shape always is.
        new_head: start with a fresh head, whatever the file holds. A representation layer that the file has and the
            model has not is then left out too.
        interpolation: of positions: "bilinear" with corners aligned (Google's), or "bicubic" (Hugging Face's).

    Raises:
        UserError: the file can't be read, or does not fit the model.
    """
    if interpolation not in INTERPOLATIONS:
        raise UserError(f"unknown interpolation {interpolation!r}: choose one of {', '.join(INTERPOLATIONS)}")
    place = weight_files.locate(path)
    config = weight_files.read_config(place)
    notes = weight_config.compare(config, model.config, place)
    tensors = weight_files.read_tensors(place)
    layout, state = _translate(tensors, model.config, place)
    resized = _fit_positions(state, model.config, config.get("image_size"), interpolation, place)
    if new_head:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}

    wanted = model.state_dict()
    fresh = tuple(name for name in wanted if new_head and name.startswith("head."))
    missing = tuple(name for name in wanted if name not in state and name not in fresh)
    unexpected = tuple(sorted(name for name in state if name not in wanted))
    loaded = {name: state[name] for name in wanted if name in state}
    if strict:
        keeps_head = not new_head and "head.weight" in wanted
        _check_names(missing, unexpected, keeps_head, place)
    check_shapes(loaded, wanted, place)
    if new_head:
        model.reset_head()
    model.load_state_dict(loaded, strict=False)
    return LoadReport(str(path), layout, tuple(loaded), resized, fresh, missing, unexpected, notes)


def resize_positions(
    positions: Tensor, old: Tuple[int, int], new: Tuple[int, int], interpolation: str = "bilinear"
) -> Tensor:
    """Positions (1, 1 + old patches, D) -> (1, 1 + new patches, D), the class token's first and unchanged.

    `old` and `new` are grids, in rows and columns of patches.
    """
    token, grid = positions[:, :1], positions[:, 1:].float()
    grid = grid.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, P, D) -> (1, D, rows, columns)
    # Google's reference zooms between the outermost patches, which is what aligned corners mean.
    grid = F.interpolate(grid, size=new, mode=interpolation, align_corners=interpolation == "bilinear")
    return torch.cat((token, grid.flatten(2).transpose(1, 2).to(token.dtype)), dim=1)


def read_config(path: Union[str, Path]) -> Dict[str, Any]:
    """Keyword arguments for `models.create_model` from a checkpoint's config.json, the name among them.

    Args:
        path: what `load_weights` takes. For a checkpoint without a head num_classes is 0.

    Raises:
        UserError: there is no config.json of a ViT.
    """
    place = weight_files.locate(path)
    return weight_config.model_arguments(weight_files.read_config(place), place)


def read_class_names(path: Union[str, Path]) -> List[str]:
    """Names of a checkpoint's classes by label; empty where it has none. The argument is that of `load_weights`."""
    return weight_config.class_names(weight_files.read_config(weight_files.locate(path)))


def save_weights(
    model: VisionTransformer,
    folder: Union[str, Path],
    layout: str = "huggingface",
    *,
    class_names: Optional[Sequence[str]] = None,
    eval_resize: str = "direct",
) -> None:
    """Write model.safetensors and what describes it, each file whole or not at all, replacing what is there.

    "huggingface" is read by transformers.ViTForImageClassification.from_pretrained(folder), "timm" by
    timm.create_model("local-dir:folder"). A representation layer becomes the pooler of a transformers.ViTModel; the
    classifier of transformers has none, but this app reads both back.

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
    describe = weight_config.huggingface_config if layout == "huggingface" else weight_config.timm_config
    content = describe(model.config, names)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors = weight_layouts.to_layout(state, layout)
    described = {"config.json": content}
    if layout == "huggingface":
        described[weight_files.PREPROCESSOR] = weight_config.preprocessor_config(model.config, eval_resize)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    for name, description in described.items():
        write_atomically(folder / name, json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def _translate(tensors: Dict[str, Tensor], config: ViTConfig, place: Path) -> Tuple[str, Dict[str, Tensor]]:
    layout = weight_layouts.detect(tensors)
    if layout is None:
        held = some(list(tensors)) or "no tensors"
        raise UserError(f"{place} holds {held}: give a ViT as Hugging Face, timm, Google or Graphcore write it")
    try:
        heads = weight_layouts.heads_of(tensors)
        state = weight_layouts.from_layout(tensors, layout)
    except (RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"{place} holds tensors of shapes that no ViT has: choose another checkpoint") from error
    if heads not in (None, config.heads):
        raise UserError(f"{place} has {heads} attention heads, the model {config.heads}: build it with {heads}")
    return layout, state


def _fit_positions(
    state: Dict[str, Tensor], config: ViTConfig, image_size: Any, interpolation: str, place: Path
) -> Tuple[str, ...]:
    """Resize the positions in `state` to the model's grid; the names of what was resized, with both grids."""
    positions = state.get(_POSITIONS)
    if positions is None or positions.ndim != 3 or positions.shape[1] < 2:
        return ()
    patches = positions.shape[1] - 1
    if image_size is not None:
        height, width = weight_config.image_sides(image_size, place)
        old = height // config.patch_size, width // config.patch_size
    elif patches == config.grid[0] * config.grid[1]:
        old = config.grid
    else:
        old = (math.isqrt(patches), math.isqrt(patches))
    if old == config.grid:
        return ()
    if old[0] * old[1] != patches:
        grid = f"{old[0]}×{old[1]}"
        raise UserError(f"{place} has positions for {patches} patches, which make no {grid} grid: choose another")
    state[_POSITIONS] = resize_positions(positions, old, config.grid, interpolation)
    return (f"{_POSITIONS} {old[0]}×{old[1]} → {config.grid[0]}×{config.grid[1]}",)


def _check_names(missing: Sequence[str], unexpected: Sequence[str], keeps_head: bool, place: Path) -> None:
    if missing and all(name.startswith("head.") for name in missing):
        raise UserError(f"{place} has no classification head: ask for a new one (new_head)")
    if missing:
        raise UserError(f"{place} lacks {some(missing)}: choose another checkpoint, or sizes that fit it")
    # What only feeds the head is of no use without it.
    foreign = [name for name in unexpected if keeps_head or not name.startswith(("head.", "representation."))]
    if foreign:
        raise UserError(f"{place} holds {some(foreign)}, for which the model has no place: build one that fits")
