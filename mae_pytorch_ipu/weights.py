"""MAE and ViT weights from and to files: published MAE's, timm's, Hugging Face's and this app's own checkpoints."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import safetensors.torch
import torch
from torch import Tensor

import weight_config
import weight_layouts
from models import MaskedAutoencoder, Model, VisionTransformer
from models.positions import resize_table
from preparation import Preparation, preprocessor_config
from run import weight_files
from run.errors import UserError
from run.files import write_atomically
from run.load_report import LoadReport, some
from weight_layouts import is_decoder
from weight_tensors import check_shapes

SAVE_LAYOUTS = ("mae", "pth", "timm", "huggingface")
TABLES = ("pos_embed", "decoder_pos_embed")


def load_weights(model: Model, path: Union[str, Path], *, strict: bool = True, new_head: bool = False) -> LoadReport:
    """Copy a checkpoint's weights into `model`, whose dtype and device stay.

    A classifier takes the encoder of a pretraining checkpoint and leaves the decoder out. Positions of another grid
    are computed anew for an autoencoder, where they are fixed, and resized for a classifier.

    Args:
        model: left as it is if an error is raised.
        path: file, folder, run folder or Hugging Face hub name, see `run.weight_files.locate`.
        strict: whether tensors that are missing or unexpected are an error. A wrong shape always is.
        new_head: start a classifier with a fresh head, whatever the file holds, as fine-tuning from pretraining does.

    Raises:
        UserError: the file can't be read, or does not fit the model.
    """
    place = weight_files.locate(path)
    described = weight_files.read_config(place)
    notes = weight_config.compare(described, model.config, place)
    layout, state = _read(place)
    resized = _fit_positions(state, model, described, place)
    if new_head:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}

    wanted = model.state_dict()
    absent = [name for name in wanted if name not in state]
    fresh = tuple(name for name in absent if new_head and name.startswith(("head.", "fc_norm.")))
    computed = [name for name in absent if isinstance(model, MaskedAutoencoder) and name in TABLES and resized]
    missing = tuple(name for name in absent if name not in (*fresh, *computed))
    unexpected = tuple(sorted(name for name in state if name not in wanted))
    loaded = {name: state[name] for name in wanted if name in state}
    if strict:
        _check_names(model, missing, unexpected, new_head, place)
    check_shapes(loaded, wanted, place)
    if new_head and isinstance(model, VisionTransformer):
        model.reset_head()
    model.load_state_dict(loaded, strict=False)
    return LoadReport(str(path), layout, tuple(loaded), resized, fresh, missing, unexpected, notes)


def read_config(path: Union[str, Path]) -> Dict[str, Any]:
    """Keyword arguments for `models.create_model` from a checkpoint, the name among them.

    They come from its config.json or, for published files, which have none, from shapes; the target of a published
    decoder (norm_pix_loss) then from the file's name. For an encoder alone num_classes is 0.

    Args:
        path: what `load_weights` takes.

    Raises:
        UserError: there is no ViT or MAE, or nothing tells which.
    """
    place = weight_files.locate(path)
    described = weight_files.read_config(place)
    if described:
        return weight_config.model_arguments(described, place)
    return weight_config.arguments_from_tensors(_read(place)[1], place)


def read_class_names(path: Union[str, Path]) -> List[str]:
    """Names of a checkpoint's classes by label; empty where it has none. The argument is that of `load_weights`."""
    return weight_config.class_names(weight_files.read_config(weight_files.locate(path)))


def read_description(path: Union[str, Path]) -> Dict[str, Any]:
    """What a checkpoint says of its images' preparation, for `preparation.read_preparation`; {} where it has none."""
    place = weight_files.locate(path)
    config = weight_files.read_config(place)
    return config if config.get("model_type") == weight_config.OURS else weight_files.read_preprocessor(place)


def no_decoder(place: Path, width: int) -> UserError:
    """The error that tells where an encoder of `width` is to be had with its decoder."""
    size = {768: "base", 1024: "large", 1280: "huge"}.get(width, "base")
    return UserError(
        f"{place} holds an encoder without its decoder and can't reconstruct: take mae_visualize_vit_{size}.pth "
        f"(predicts pixels), mae_pretrain_vit_{size}_full.pth (normalised pixels) or facebook/vit-mae-{size} of the hub"
    )


def save_weights(
    model: Model,
    folder: Union[str, Path],
    layout: str = "mae",
    *,
    class_names: Optional[Sequence[str]] = None,
    preparation: Optional[Preparation] = None,
    encoder_only: bool = False,
) -> None:
    """Write a model's weights and what describes it, each file whole or not at all, replacing what is there.

    "mae" is this app's own: model.safetensors with the names of published MAE weights, and a config.json with model,
    sizes, GELU, target, preparation and class names. "pth" is model.pth as published: {"model": tensors}. "timm" (no
    decoder) is read by timm.create_model("local-dir:folder"), "huggingface" by transformers' ViTMAEForPreTraining,
    ViTMAEModel or, for a classifier of class tokens, ViTForImageClassification.

    Args:
        model: its weights are written in their dtype.
        folder: made if needed.
        layout: one of SAVE_LAYOUTS.
        class_names: one per output of the head.
        preparation: of images; by default the centre crop with ImageNet's statistics.
        encoder_only: leave out the decoder.

    Raises:
        UserError: unknown layout, or one that can't hold this model.
    """
    if layout not in SAVE_LAYOUTS:
        raise UserError(f"unknown layout {layout!r}: choose one of {', '.join(SAVE_LAYOUTS)}")
    config: weight_config.Config = model.config
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if isinstance(model, MaskedAutoencoder) and (encoder_only or layout == "timm"):
        config = weight_config.encoder_config(model.config)
        state = {name: tensor for name, tensor in state.items() if not is_decoder(name)}
    classes = getattr(config, "num_classes", 0)
    names = class_names or [f"LABEL_{index}" for index in range(classes)]
    if len(names) != classes:
        raise UserError(f"{len(names)} class names for {classes} classes: give one per class")
    preparation = preparation or Preparation(config.image_size[0])
    described = _described(config, layout, names, preparation)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "pth":
        content = io.BytesIO()
        torch.save({"model": state}, content)
        write_atomically(folder / "model.pth", content.getvalue())
        return
    tensors = weight_layouts.to_layout(state, "huggingface" if layout == "huggingface" else "mae")
    write_atomically(folder / "model.safetensors", safetensors.torch.save(tensors, metadata={"format": "pt"}))
    for name, description in described.items():
        write_atomically(folder / name, json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def _described(
    config: weight_config.Config, layout: str, names: Sequence[str], preparation: Preparation
) -> Dict[str, Dict[str, Any]]:
    """File name → content of what stands beside the tensors."""
    mean, std = list(preparation.mean), list(preparation.std)
    if layout == "huggingface":
        processor = preprocessor_config(config.image_size, preparation)
        return {"config.json": weight_config.hugging_face_config(config, names), weight_files.PREPROCESSOR: processor}
    if layout == "timm":
        assert not isinstance(config, weight_config.MAEConfig)
        return {"config.json": weight_config.timm_config(config, names, mean, std)}
    images = {"image_mean": mean, "image_std": std, "eval_resize": preparation.eval_resize}
    return {"config.json": {**weight_config.own_config(config, names), **images}}


def _read(place: Path) -> Tuple[str, Dict[str, Tensor]]:
    """Layout of a checkpoint, and its tensors under the models' names."""
    tensors = weight_files.read_tensors(place)
    layout = weight_layouts.detect(tensors)
    if layout is None:
        held = some(list(tensors)) or "no tensors"
        raise UserError(f"{place} holds {held}: give a ViT or MAE as this app, timm or Hugging Face write it")
    try:
        return layout, weight_layouts.from_layout(tensors, layout)
    except RuntimeError as error:
        raise UserError(f"{place} holds tensors of shapes that no ViT has: choose another checkpoint") from error


def _fit_positions(
    state: Dict[str, Tensor], model: Model, described: Mapping[str, Any], place: Path
) -> Tuple[str, ...]:
    """Bring position tables in `state` to the model's grid; the names of those that changed, with both grids."""
    positions, grid = state.get("pos_embed"), model.config.grid
    if positions is None or positions.ndim != 3 or positions.shape[1] < 2:
        return ()
    patches = positions.shape[1] - 1
    if described:
        height, width = weight_config.model_arguments(described, place)["image_size"]
        old = height // model.config.patch_size, width // model.config.patch_size
    elif patches == grid[0] * grid[1]:
        old = grid
    else:
        old = (math.isqrt(patches), math.isqrt(patches))
    if old == grid:
        return ()
    if old[0] * old[1] != patches:
        shape = f"{old[0]}×{old[1]}"
        raise UserError(f"{place} has positions for {patches} patches, which make no {shape} grid: choose another")
    change = f"{old[0]}×{old[1]} → {grid[0]}×{grid[1]}"
    if isinstance(model, VisionTransformer):
        state["pos_embed"] = resize_table(positions, old, grid)
        return (f"pos_embed {change}",)
    return tuple(f"{name} {change}, computed anew" for name in TABLES if state.pop(name, None) is not None)


def _check_names(model: Model, missing: Sequence[str], unexpected: Sequence[str], new_head: bool, place: Path) -> None:
    if isinstance(model, MaskedAutoencoder) and {"mask_token", "decoder_pred.weight"} <= set(missing):
        raise no_decoder(place, model.config.width)
    if missing and all(name.startswith(("head.", "fc_norm.")) for name in missing):
        heads = [name for name in unexpected if name.startswith("head.")]
        if any(name.startswith("head.") for name in missing) and not heads:
            raise UserError(f"{place} has no classification head: ask for a new one (new_head)")
        raise UserError(f"{place} has another kind of head: build the model with its global_pool and linear_probe")
    if missing and all(name.startswith("norm.") for name in missing) and "fc_norm.weight" in unexpected:
        raise UserError(f"{place} was fine-tuned with pooled patches and has no norm: build the model with global_pool")
    if missing:
        raise UserError(f"{place} lacks {some(missing)}: choose another checkpoint, or sizes that fit it")
    idle = _left_out(model, new_head)
    foreign = [name for name in unexpected if not name.startswith(idle)]
    if foreign:
        raise UserError(f"{place} holds {some(foreign)}, for which the model has no place: build one that fits")


def _left_out(model: Model, new_head: bool) -> Tuple[str, ...]:
    """Beginnings of the names that may stay behind: a decoder, and norms and heads that others replace."""
    if isinstance(model, MaskedAutoencoder):
        return ()
    headless = new_head or not model.config.num_classes
    return (*weight_layouts.DECODER, "norm.", *(("head.", "fc_norm.") if headless else ()))
