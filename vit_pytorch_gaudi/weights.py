"""ViT weights from and to files: Google's, Hugging Face's, timm's, Habana's and this app's own checkpoints."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
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

SAVE_LAYOUTS = ("huggingface", "timm", "npz")
_POSITIONS = "embeddings.positions"
_PRE_LOGITS = "pre_logits"


def load_weights(
    model: VisionTransformer, path: Union[str, Path], *, strict: bool = True, new_head: bool = False
) -> LoadReport:
    """Copy a checkpoint's weights into `model`, whose dtype and device stay; positions are resized to its grid.

    Args:
        model: left as it is if an error is raised.
        path: Google's .npz, another weight file, a folder, run folder or Hugging Face hub name, see
            `run.weight_files.locate`.
        strict: whether tensors that are missing or unexpected are an error. A wrong shape always is.
        new_head: set the head to zero, whatever the file holds. The pre_logits layer of files trained on ImageNet-21k,
            which only feeds the old head, is then left out.

    Raises:
        UserError: the file can't be read, or does not fit the model.
    """
    place = weight_files.locate(path)
    config = weight_files.read_config(place)
    notes = weight_config.compare(config, model.config, place)
    tensors = weight_files.read_tensors(place)
    layout, state = _translate(tensors, model.config, place)
    resized = _fit_positions(state, model.config, config.get("image_size"), place)
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


def resize_positions(positions: Tensor, old: Tuple[int, int], new: Tuple[int, int]) -> Tensor:
    """Positions (1, 1 + old patches, D) -> (1, 1 + new patches, D), the class token's first and unchanged.

    Bilinear between the outermost patches, as Google's reference does. `old` and `new` are grids, in rows and columns
    of patches.
    """
    token, grid = positions[:, :1], positions[:, 1:].float()
    grid = grid.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, P, D) -> (1, D, rows, columns)
    grid = F.interpolate(grid, size=new, mode="bilinear", align_corners=True)
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
    path: Union[str, Path],
    layout: str = "huggingface",
    *,
    class_names: Optional[Sequence[str]] = None,
) -> None:
    """Write a model's weights and what describes them, each file whole or not at all, replacing what is there.

    "huggingface" is read by transformers.ViTForImageClassification.from_pretrained(path), "timm" by
    timm.create_model("local-dir:path"), "npz" by what reads Google's files. A hybrid, which transformers has not, is
    written as "huggingface" too, for this app, its ResNet under Google's names.

    Args:
        model: its weights are written in their dtype; in .npz files, which know no bfloat16, as float32.
        path: folder, made if needed; the file for "npz".
        layout: one of SAVE_LAYOUTS.
        class_names: one per output of the head, for config.json.

    Raises:
        UserError: unknown layout, or one that can't hold this model.
    """
    if layout not in SAVE_LAYOUTS:
        raise UserError(f"unknown layout {layout!r}: choose one of {', '.join(SAVE_LAYOUTS)}")
    config, path = model.config, Path(path)
    if config.stages and layout not in weight_layouts.WITH_RESNET:
        raise UserError(f"the {layout} layout holds no hybrid: save it as huggingface or npz")
    names = class_names or [f"LABEL_{index}" for index in range(config.num_classes)]
    if len(names) != config.num_classes:
        raise UserError(f"{len(names)} class names for {config.num_classes} classes: give one per class")
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    tensors = {k: tensor.contiguous() for k, tensor in weight_layouts.to_layout(state, layout, config.heads).items()}
    if layout == "npz":
        _write_npz(path, tensors)
        return
    if layout == "timm":
        described = {"config.json": weight_config.timm_config(config, names)}
    else:
        described = {"config.json": weight_config.huggingface_config(config, names)}
        described[weight_files.PREPROCESSOR] = weight_config.preprocessor_config(config)
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    for name, description in described.items():
        write_atomically(path / name, json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def _write_npz(file: Path, tensors: Dict[str, Tensor]) -> None:
    if file.suffix != ".npz":
        raise UserError(f"{file} is a name for no .npz file: let it end in .npz")
    arrays: Dict[str, Any] = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    content = io.BytesIO()
    np.savez(content, **arrays)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, content.getvalue())


def _translate(tensors: Dict[str, Tensor], config: ViTConfig, place: Path) -> Tuple[str, Dict[str, Tensor]]:
    layout = weight_layouts.detect(tensors)
    if layout is None:
        held = some(list(tensors)) or "no tensors"
        raise UserError(f"{place} holds {held}: give a ViT as Google, Hugging Face, timm or Habana write it")
    try:
        heads = weight_layouts.heads_of(tensors)
        state = weight_layouts.from_layout(tensors, layout)
    except (RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"{place} holds tensors of shapes that no ViT has: choose another checkpoint") from error
    if heads not in (None, config.heads):
        raise UserError(f"{place} has {heads} attention heads, the model {config.heads}: build it with {heads}")
    return layout, state


def _fit_positions(state: Dict[str, Tensor], config: ViTConfig, image_size: Any, place: Path) -> Tuple[str, ...]:
    """Resize the positions in `state` to the model's grid; the names of what was resized, with both grids."""
    positions = state.get(_POSITIONS)
    if positions is None or positions.ndim != 3 or positions.shape[1] < 2:
        return ()
    patches = positions.shape[1] - 1
    if image_size is not None:
        height, width = weight_config.image_sides(image_size, place)
        old = height // config.patch_pixels, width // config.patch_pixels
    elif patches == config.grid[0] * config.grid[1]:
        old = config.grid
    else:
        old = (math.isqrt(patches), math.isqrt(patches))
    if old == config.grid:
        return ()
    if old[0] * old[1] != patches:
        grid = f"{old[0]}×{old[1]}"
        raise UserError(f"{place} has positions for {patches} patches, which make no {grid} grid: choose another")
    state[_POSITIONS] = resize_positions(positions, old, config.grid)
    return (f"{_POSITIONS} {old[0]}×{old[1]} → {config.grid[0]}×{config.grid[1]}",)


def _check_names(missing: Sequence[str], unexpected: Sequence[str], keeps_head: bool, place: Path) -> None:
    if missing and all(name.startswith("head.") for name in missing):
        raise UserError(f"{place} has no classification head: ask for a new one (new_head)")
    if missing:
        raise UserError(f"{place} lacks {some(missing)}: choose another checkpoint, or sizes that fit it")
    feeding = [name for name in unexpected if name.startswith(_PRE_LOGITS)]
    if feeding and keeps_head:
        raise UserError(f"{place} has a {_PRE_LOGITS} layer before its head: ask for a new head (new_head)")
    foreign = [name for name in unexpected if name not in feeding and (keeps_head or not name.startswith("head."))]
    if foreign:
        raise UserError(f"{place} holds {some(foreign)}, for which the model has no place: build one that fits")
