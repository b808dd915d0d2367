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
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "layer_norm_eps",
    "representation_size": "representation_size",
}
_SHAPE_KEYS = tuple(_KEYS)[:6]
# What Hugging Face takes where config.json says nothing.
_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
    "num_channels": 3,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
}
_TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate")


def model_arguments(config: Dict[str, Any], place: Path) -> Dict[str, Any]:
    """Keyword arguments for `models.create_model` from a Hugging Face config.json, the name among them."""
    if not config:
        raise UserError(f"{place} has no Hugging Face config.json: say which model it is")
    _check_type(config, place)
    config = {**_DEFAULTS, **{key: value for key, value in config.items() if value is not None}}
    sizes = {ours: _single(config[key], key, place) for key, ours in _KEYS.items() if key in config}
    if isinstance(config.get("id2label"), dict):
        classes = len(config["id2label"])
    else:  # Hugging Face leaves out its default, two unnamed classes
        classes = 2 if "ViTForImageClassification" in (config.get("architectures") or ()) else 0
    known = (name for name, values in SIZES.items() if all(sizes[key] == value for key, value in values.items()))
    name = next(known, "vit_base_patch16_224")
    return {"name": name, "image_size": image_sides(config["image_size"], place), "num_classes": classes, **sizes}


def compare(theirs: Dict[str, Any], ours: ViTConfig, place: Path) -> Tuple[str, ...]:
    """Refuse a config.json of another architecture; sentences on differences that hardly matter."""
    _check_type(theirs, place)
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
    """What transformers' from_pretrained wants to know of a model, and the size of a representation layer."""
    height, width = config.image_size
    # transformers' classifier knows no layer before the head, its plain model does.
    classifies = class_names and not config.representation_size
    content = {
        "architectures": ["ViTForImageClassification" if classifies else "ViTModel"],
        "model_type": "vit",
        "image_size": height if height == width else [height, width],
        "hidden_act": "gelu",
        "qkv_bias": True,
        **{key: getattr(config, ours) for key, ours in _KEYS.items()},
    }
    if config.representation_size:
        content.update(pooler_output_size=config.representation_size, pooler_act="tanh")
    else:
        del content["representation_size"]
    if class_names:
        content["id2label"] = {str(index): name for index, name in enumerate(class_names)}
        content["label2id"] = {name: index for index, name in enumerate(class_names)}
    return content


def preprocessor_config(config: ViTConfig, eval_resize: str) -> Dict[str, Any]:
    """What transformers' pipelines do to an image before the model, as evaluation here does.

    `eval_resize` is "direct", resized straight to the model's size, or "crop", the centre of a larger one. Pixels
    end in [-1, 1].
    """
    height, width = config.image_size
    size = {"height": height, "width": width}
    shape: Dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": size}
    if eval_resize == "crop":  # which the ViTImageProcessor of transformers 4 can't
        shorter = {"shortest_edge": round(height * 256 / 224)}
        shape = {"image_processor_type": "BitImageProcessor", "size": shorter}
        shape.update(do_center_crop=True, crop_size=size)
    return {
        **shape,
        "do_resize": True,
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
    if config.representation_size or config.layer_norm_eps != 1e-6:
        raise UserError("timm's ViT has no representation layer and a layer_norm_eps of 1e-6: save as huggingface")
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


def _check_type(config: Dict[str, Any], place: Path) -> None:
    if config.get("model_type", "vit") != "vit":
        raise UserError(f"{place} is a model of type {config['model_type']}, not a ViT: choose another checkpoint")


def _single(value: Any, key: str, place: Path) -> Any:
    """A number, which config.json may give for both sides as in a patch_size of [16, 16]; None where it has none."""
    values = value if isinstance(value, list) else [value]
    kind = int if key in _SHAPE_KEYS else (int, float)
    if value is not None and (len(set(map(str, values))) != 1 or not isinstance(values[0], kind) or values[0] < 0):
        raise UserError(f"{place} has {key} {value}, which should be one number: choose another checkpoint")
    return values[0]
