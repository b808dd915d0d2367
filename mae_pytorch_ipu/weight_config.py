"""config.json of a checkpoint, this app's own and Hugging Face's, in the terms of models; what tensors tell without."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

from torch import Tensor

from models import CLASSIFIERS, PRETRAINING, SIZES, MAEConfig, ViTConfig
from run.errors import UserError

Config = Union[MAEConfig, ViTConfig]
Arguments = Dict[str, Any]  # keyword arguments of `models.create_model`, the name among them

OURS = "masked_autoencoder_app"
_SHAPES = ("patch_size", "in_channels", "width", "depth", "heads", "mlp_width")
_DECODER_SHAPES = ("decoder_width", "decoder_depth", "decoder_heads", "decoder_mlp_width")

# Keys of Hugging Face's config.json, what the models call them, and what transformers takes where it has none.
_KEYS: Dict[str, Tuple[str, Any]] = {
    "hidden_size": ("width", 768),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("heads", 12),
    "intermediate_size": ("mlp_width", 3072),
    "patch_size": ("patch_size", 16),
    "num_channels": ("in_channels", 3),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
}
_MAE_KEYS: Dict[str, Tuple[str, Any]] = {
    "decoder_hidden_size": ("decoder_width", 512),
    "decoder_num_hidden_layers": ("decoder_depth", 8),
    "decoder_num_attention_heads": ("decoder_heads", 16),
    "decoder_intermediate_size": ("decoder_mlp_width", 2048),
    "mask_ratio": ("mask_ratio", 0.75),
    "norm_pix_loss": ("norm_pix_loss", False),
}
_GELUS = {"gelu": "erf", **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"), "tanh")}


def model_arguments(config: Mapping[str, Any], place: Path) -> Arguments:
    """What `models.create_model` wants, from a config.json.

    Raises:
        UserError: it describes another kind of model, or makes no sense.
    """
    kind = config.get("model_type")
    if kind == OURS:
        arguments = _own_arguments(config, place)
    elif kind in ("vit_mae", "vit"):
        arguments = _hugging_face_arguments(config, place)
    else:
        raise UserError(f"{place} is a model of type {kind}, not a ViT or MAE: choose another checkpoint")
    arguments["image_size"] = _sides(arguments["image_size"], place)
    for name in (*_SHAPES, *_DECODER_SHAPES):
        value = arguments.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{place} has {name} {value}, which should be a number: choose another checkpoint")
    return arguments


def arguments_from_tensors(state: Mapping[str, Tensor], place: Path) -> Arguments:
    """The same from tensors under the models' names, for published files, which have no config.json.

    Raises:
        UserError: they are of no size of SIZES, so that nothing tells the number of heads.
    """
    try:
        width, channels, patch_size, _ = state["patch_embed.proj.weight"].shape
        side = math.isqrt(state["pos_embed"].shape[1] - 1)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{place} holds no ViT or MAE: choose another checkpoint") from error
    has_decoder = "decoder_pred.weight" in state
    shape = {"patch_size": patch_size, "width": width, "depth": _depth(state, "blocks")}
    if has_decoder:
        shape["decoder_depth"] = _depth(state, "decoder_blocks")
        shape["decoder_width"] = len(state["decoder_norm.weight"])
    names = PRETRAINING if has_decoder else CLASSIFIERS
    found = [name for name in names if all(SIZES[name][key] == value for key, value in shape.items())]
    if not found:
        sizes = ", ".join(f"{key} {value}" for key, value in shape.items())
        raise UserError(f"{place} has {sizes} and no config.json that tells the heads: give a folder with one")
    arguments: Arguments = {"name": found[0], "image_size": (side * patch_size,) * 2, "in_channels": channels}
    if has_decoder:
        # Published: mae_visualize_* predicts raw pixels, mae_pretrain_*_full normalised ones.
        return {**arguments, "norm_pix_loss": "_full" in place.name}
    heads = [name for name in ("head.weight", "head.1.weight") if name in state]
    arguments["num_classes"] = len(state[heads[0]]) if heads else 0
    return {**arguments, "global_pool": "fc_norm.weight" in state, "linear_probe": "head.1.weight" in state}


def compare(theirs: Mapping[str, Any], ours: Config, place: Path) -> Tuple[str, ...]:
    """Refuse a config.json of another architecture; sentences on differences that change the outputs a little."""
    if not theirs:
        unsaid = "does not say which GELU it was trained with, published MAE weights erf"
        return (f"{place.name} {unsaid}; tanh is used here",) if ours.gelu == "tanh" else ()
    arguments = model_arguments(theirs, place)
    both = isinstance(ours, MAEConfig) and "decoder_width" in arguments
    for name in (*_SHAPES, *(_DECODER_SHAPES if both else ())):
        value, wanted = arguments[name], getattr(ours, name)
        if value != wanted:
            raise UserError(f"{place} has {name} {value}, the model {wanted}: build the model with the checkpoint's")
    notes: List[str] = []
    for name in ("gelu", "layer_norm_eps", *(("norm_pix_loss",) if both else ())):
        value, here = arguments[name], getattr(ours, name)
        if value != here:
            notes.append(f"it was trained with {name} {value}, {here} is used here")
    return tuple(notes)


def own_config(config: Config, class_names: Sequence[str]) -> Dict[str, Any]:
    """This app's config.json: kind, name and all sizes of the model, and names of its classes."""
    return {
        "model_type": OURS,
        "model": _name(config),
        "sizes": {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()},
        "class_names": list(class_names),
    }


def hugging_face_config(config: Config, class_names: Sequence[str]) -> Dict[str, Any]:
    """What transformers' from_pretrained wants to know: a ViTMAEForPreTraining, ViTMAEModel or classifying ViT.

    Raises:
        UserError: transformers has no such classifier.
    """
    classifies = isinstance(config, ViTConfig) and config.num_classes > 0
    if isinstance(config, ViTConfig) and (config.global_pool or (classifies and config.linear_probe)):
        what = "a linear probe's batch normalisation" if config.linear_probe else "pooled patches"
        raise UserError(f"transformers' ViT classifies its class token, not {what}: save as mae or timm")
    kind = "ViTForImageClassification" if classifies else "ViTMAEModel"
    height, width = config.image_size
    content = {
        "architectures": ["ViTMAEForPreTraining" if isinstance(config, MAEConfig) else kind],
        "model_type": "vit" if classifies else "vit_mae",
        "image_size": height if height == width else [height, width],
        "hidden_act": "gelu" if config.gelu == "erf" else "gelu_pytorch_tanh",
        "qkv_bias": True,
        **{key: getattr(config, ours) for key, (ours, _) in _KEYS.items()},
    }
    if isinstance(config, MAEConfig):
        content.update({key: getattr(config, ours) for key, (ours, _) in _MAE_KEYS.items()})
    if classifies:
        content["id2label"] = {str(index): name for index, name in enumerate(class_names)}
        content["label2id"] = {name: index for index, name in enumerate(class_names)}
    return content


def timm_config(
    config: ViTConfig, class_names: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> Arguments:
    """What timm's create_model("local-dir:…") wants to know of an encoder or a classifier.

    Raises:
        UserError: timm has no such model.
    """
    if config.linear_probe or config.layer_norm_eps != 1e-6:
        raise UserError("timm's ViT has no linear probe and a layer_norm_eps of 1e-6: save as mae")
    ratio = config.mlp_width / config.width
    if int(ratio * config.width) != config.mlp_width:
        ratio *= 1 + 1e-9  # timm truncates the product
    return {
        "architecture": "vit_base_patch16_224",
        "num_classes": config.num_classes,
        "num_features": config.width,
        "global_pool": "avg" if config.global_pool else "token",
        "model_args": {
            "img_size": list(config.image_size),
            "patch_size": config.patch_size,
            "in_chans": config.in_channels,
            "embed_dim": config.width,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": ratio,
            "global_pool": "avg" if config.global_pool else "token",
            "act_layer": "gelu" if config.gelu == "erf" else "gelu_tanh",
        },
        "pretrained_cfg": {
            "input_size": [config.in_channels, *config.image_size],
            "fixed_input_size": True,
            "mean": list(mean),
            "std": list(std),
            "interpolation": "bicubic",
            "classifier": "head",
        },
        "label_names": list(class_names),
    }


def class_names(config: Mapping[str, Any]) -> List[str]:
    """Class names by label from a config.json; empty if it has none, or not one for each label."""
    names = config.get("class_names")
    if isinstance(names, list):
        return [str(name) for name in names]
    names = config.get("id2label")
    labels = [str(label) for label in range(len(names))] if isinstance(names, dict) else []
    return [str(names[label]) for label in labels] if names and set(labels) == set(names) else []


def encoder_config(config: MAEConfig) -> ViTConfig:
    """The encoder of an autoencoder as a ViT without a head."""
    shared = {name: getattr(config, name) for name in ("image_size", *_SHAPES, "layer_norm_eps", "gelu")}
    return ViTConfig(num_classes=0, global_pool=False, **shared)


def _own_arguments(config: Mapping[str, Any], place: Path) -> Arguments:
    name, sizes = config.get("model"), config.get("sizes")
    if name not in SIZES or not isinstance(sizes, dict):
        raise UserError(f"{place} has a config.json that names no model of this app: save the model again")
    kind = MAEConfig if name in PRETRAINING else ViTConfig
    if set(sizes) != {field.name for field in fields(kind)}:
        raise UserError(f"{place} has a config.json of another version of this app: save the model again")
    return {"name": name, **sizes}


def _hugging_face_arguments(config: Mapping[str, Any], place: Path) -> Arguments:
    config = {key: value for key, value in config.items() if value is not None}
    architectures = config.get("architectures") or ()
    reconstructs = config["model_type"] == "vit_mae" and "ViTMAEModel" not in architectures
    keys = {**_KEYS, **_MAE_KEYS} if reconstructs else _KEYS
    sizes = {ours: _single(config.get(key, default), key, place) for key, (ours, default) in keys.items()}
    activation = config.get("hidden_act", "gelu")
    if activation not in _GELUS or not config.get("qkv_bias", True):
        raise UserError(
            f"{place} has hidden_act {activation} or no qkv_bias, which no MAE has: choose another checkpoint"
        )
    arguments = {"image_size": config.get("image_size", 224), "gelu": _GELUS[activation], **sizes}
    if reconstructs:
        return {"name": _matching(PRETRAINING, sizes), **arguments}
    if config["model_type"] == "vit_mae":
        classes = 0
    elif isinstance(config.get("id2label"), dict):
        classes = len(config["id2label"])
    else:  # Hugging Face leaves out its default, two unnamed classes
        classes = 2 if "ViTForImageClassification" in architectures else 0
    name = _matching(CLASSIFIERS, sizes)
    return {"name": name, "num_classes": classes, "global_pool": False, "linear_probe": False, **arguments}


def _name(config: Config) -> str:
    return _matching(PRETRAINING if isinstance(config, MAEConfig) else CLASSIFIERS, asdict(config))


def _matching(names: Sequence[str], sizes: Mapping[str, Any]) -> str:
    """The first name with these sizes, or the first one, whose sizes they replace."""
    known = (name for name in names if all(sizes[key] == value for key, value in SIZES[name].items()))
    return next(known, names[0])


def _depth(state: Mapping[str, Tensor], blocks: str) -> int:
    return len({found.group() for name in state for found in [re.match(rf"{blocks}\.\d+\.", name)] if found})


def _sides(value: Any, place: Path) -> Tuple[int, int]:
    pair = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise UserError(f"{place} has image_size {value}, which is no number or pair of numbers: mend config.json")
    return pair[0], pair[1]


def _single(value: Any, key: str, place: Path) -> Any:
    """A number, which config.json may give for both sides, as in a patch_size of [16, 16]."""
    values = value if isinstance(value, list) else [value]
    if len(set(map(str, values))) != 1 or not isinstance(values[0], (int, float)):
        raise UserError(f"{place} has {key} {value}, which should be one number: choose another checkpoint")
    return values[0]
