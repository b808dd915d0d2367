"""Hugging Face's and timm's config.json, from and to the terms of models.vit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from models import SIZES, ViTConfig
from run.errors import UserError

# Keys of Hugging Face's config.json and what ViTConfig calls them.
_KEYS = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "patch_size": "patch_size",
    "num_channels": "in_channels",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "layer_norm_eps",
}
# Our own keys, for a hybrid.
_RESNET_KEYS = {"resnet_stages": "stages", "resnet_width": "resnet_width"}
_SHAPE_KEYS = tuple(_KEYS)[:6]
# What Hugging Face takes where config.json says nothing.
_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
}
_TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate")
_HYBRID = "vit_on_resnet"  # a type that transformers does not know, since it has no such model


def model_arguments(config: Dict[str, Any], place: Path) -> Dict[str, Any]:
    """Keyword arguments for `models.create_model` from a Hugging Face config.json, the name among them."""
    if not config:
        raise UserError(f"{place} has no Hugging Face config.json: say which model it is (--model-type)")
    stages = _stages(config, place)
    config = {**_DEFAULTS, **{key: value for key, value in config.items() if value is not None}}
    sizes = {ours: _single(config[key], key, place) for key, ours in _KEYS.items() if key in config}
    if stages:
        sizes.update(stages=stages, resnet_width=_single(config.get("resnet_width", 64), "resnet_width", place))
    if isinstance(config.get("id2label"), dict):
        classes = len(config["id2label"])
    else:  # Hugging Face leaves out its default, two unnamed classes
        classes = 2 if "ViTForImageClassification" in (config.get("architectures") or ()) else 0
    known = (name for name, values in SIZES.items() if values == {key: sizes.get(key) for key in values})
    name = next(known, "R50-ViT-B_16" if stages else "ViT-B_16")
    return {"name": name, "image_size": image_sides(config["image_size"], place), "num_classes": classes, **sizes}


def compare(theirs: Dict[str, Any], ours: ViTConfig, place: Path) -> Tuple[str, ...]:
    """Refuse a config.json of another architecture; sentences on differences that hardly matter."""
    if not theirs:
        return ()
    stages = _stages(theirs, place)
    if stages != ours.stages:
        units = " and ".join(str(list(each)) for each in (stages, ours.stages))
        raise UserError(f"{place} and the model have ResNets of other stages, {units}: build it with the checkpoint's")
    for key in _SHAPE_KEYS:
        value, wanted = _single(theirs.get(key), key, place), getattr(ours, _KEYS[key])
        if value not in (None, wanted):
            raise UserError(f"{place} has {key} {value}, the model {wanted}: build the model with the checkpoint's")
    notes: List[str] = []
    activation, eps = theirs.get("hidden_act", "gelu"), theirs.get("layer_norm_eps", ours.layer_norm_eps)
    if activation in _TANH_GELUS:
        notes.append(f"it was trained with {activation}, an approximation of the GELU used here")
    elif activation != "gelu":
        raise UserError(f"{place} has hidden_act {activation}, the model the exact GELU: choose another checkpoint")
    if eps != ours.layer_norm_eps:
        notes.append(f"it was trained with layer_norm_eps {eps}, {ours.layer_norm_eps} is used here")
    return tuple(notes)


def huggingface_config(config: ViTConfig, class_names: Sequence[str]) -> Dict[str, Any]:
    """What transformers' from_pretrained wants to know of a model; of a hybrid the same with its ResNet's sizes."""
    height, width = config.image_size
    content = {
        "architectures": ["ViTForImageClassification" if class_names else "ViTModel"],
        "model_type": "vit",
        "image_size": height if height == width else [height, width],
        "hidden_act": "gelu",
        "qkv_bias": True,
        **{key: getattr(config, ours) for key, ours in _KEYS.items()},
    }
    if config.stages:
        del content["architectures"]
        content["model_type"] = _HYBRID
        content.update({key: getattr(config, ours) for key, ours in _RESNET_KEYS.items()})
    if class_names:
        content["id2label"] = {str(index): name for index, name in enumerate(class_names)}
        content["label2id"] = {name: index for index, name in enumerate(class_names)}
    return content


def preprocessor_config(config: ViTConfig) -> Dict[str, Any]:
    """What transformers' pipelines do to an image before the model: evaluation's straight resize, pixels in [-1, 1]."""
    height, width = config.image_size
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,  # bilinear, in Pillow's numbers
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * config.in_channels,
        "image_std": [0.5] * config.in_channels,
    }


def class_names(config: Dict[str, Any]) -> List[str]:
    """Class names by label from a Hugging Face config.json; empty if it has none, or not one for each label."""
    names = config.get("id2label")
    labels = [str(label) for label in range(len(names))] if isinstance(names, dict) else []
    return [str(names[label]) for label in labels] if names and set(labels) == set(names) else []


def timm_config(config: ViTConfig, class_names: Sequence[str]) -> Dict[str, Any]:
    """What timm's create_model("local-dir:…") wants to know of a model."""
    if config.layer_norm_eps != 1e-6:
        raise UserError("timm's ViT has a layer_norm_eps of 1e-6, the model another: save it as huggingface")
    ratio = config.mlp_width / config.width
    if int(ratio * config.width) != config.mlp_width:
        ratio *= 1 + 1e-9  # timm truncates the product
    return {
        "architecture": "vit_base_patch16_224",
        "num_classes": config.num_classes,
        "num_features": config.width,
        "model_args": {
            "img_size": list(config.image_size),
            "patch_size": config.patch_size,
            "in_chans": config.in_channels,
            "embed_dim": config.width,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": ratio,
        },
        "pretrained_cfg": {
            "input_size": [config.in_channels, *config.image_size],
            "fixed_input_size": True,
            "mean": [0.5] * config.in_channels,
            "std": [0.5] * config.in_channels,
            "classifier": "head",
        },
        "label_names": list(class_names),
    }


def image_sides(value: Any, place: Path) -> Tuple[int, int]:
    """Height and width from config.json's image_size, one number or two."""
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise UserError(f"{place} has image_size {value}, which is no number or pair of numbers: mend config.json")
    return pair[0], pair[1]


def _stages(config: Dict[str, Any], place: Path) -> Tuple[int, ...]:
    """Units of a hybrid's stages, none for a plain ViT.

    Raises:
        UserError: the model is neither.
    """
    kind, stages = config.get("model_type", "vit"), config.get("resnet_stages", [])
    if kind not in ("vit", _HYBRID):
        raise UserError(f"{place} is a model of type {kind}, not a ViT: choose another checkpoint")
    if not isinstance(stages, list) or not all(isinstance(units, int) for units in stages):
        raise UserError(f"{place} has resnet_stages {stages}, which are no numbers: mend config.json")
    return tuple(stages)


def _single(value: Any, key: str, place: Path) -> Any:
    """A number, which config.json may give for both sides as in a patch_size of [16, 16]; None where it has none."""
    values = value if isinstance(value, list) else [value]
    kind = int if key in (*_SHAPE_KEYS, *_RESNET_KEYS) else (int, float)
    if value is not None and (len(set(map(str, values))) != 1 or not isinstance(values[0], kind) or values[0] < 0):
        raise UserError(f"{place} has {key} {value}, which should be one number: choose another checkpoint")
    return values[0]
