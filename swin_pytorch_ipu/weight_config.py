"""config.json of this app, Hugging Face and timm, from and to the terms of models.swin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from models import SIZES, SwinConfig
from models.windows import windows_of
from run.errors import UserError

MODEL_TYPE = "swin_transformer"  # in this app's files, whose tensors have the official names
_HUGGING_FACE = "swin"
# Keys of Hugging Face's config.json and what SwinConfig calls them. This app's file has the same, and _OWN_KEYS.
_KEYS = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_channels": "in_channels",
    "embed_dim": "embed_dim",
    "depths": "depths",
    "num_heads": "num_heads",
    "window_size": "window_size",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "use_absolute_embeddings": "absolute_positions",
    "layer_norm_eps": "layer_norm_eps",
}
_OWN_KEYS = {"qk_scale": "qk_scale", "patch_norm": "patch_norm"}
_ARCHITECTURE_KEYS = ("patch_size", "num_channels", "embed_dim", "depths", "num_heads", "mlp_ratio", "qk_scale")
_PAIRS = ("image_size", "window_size")
_DEFAULTS = {ours: getattr(SwinConfig(), ours) for ours in (*_KEYS.values(), *_OWN_KEYS.values())}


def model_arguments(config: Dict[str, Any], place: Path) -> Dict[str, Any]:
    """Keyword arguments for `models.create_model` from a config.json, the name among them."""
    if not config:
        raise UserError(f"{place} has no config.json that says which model it is: name the model")
    sizes = _sizes(config, place)
    if isinstance(config.get("id2label"), dict):
        classes = len(config["id2label"])
    else:  # Hugging Face leaves out its default, two unnamed classes
        classes = 2 if "SwinForImageClassification" in (config.get("architectures") or ()) else 0
    shape = ("embed_dim", "depths", "num_heads", "window_size", "image_size")
    known = (name for name, values in SIZES.items() if all(sizes[key] == values[key] for key in shape))
    return {"name": next(known, next(iter(SIZES))), **sizes, "num_classes": classes}


def compare(config: Dict[str, Any], ours: SwinConfig, place: Path) -> Tuple[str, ...]:
    """Refuse a config.json of another architecture; sentences on differences that hardly matter."""
    if not config:
        return ()
    theirs = _sizes(config, place)
    for key in _ARCHITECTURE_KEYS:
        name = {**_KEYS, **_OWN_KEYS}[key]
        value, wanted = theirs[name], getattr(ours, name)
        if value != wanted:
            raise UserError(f"{place} has {key} {value}, the model {wanted}: build the model with the checkpoint's")
    if config.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{place} has hidden_act {config['hidden_act']}, the model the exact GELU: choose another one")
    eps = theirs["layer_norm_eps"]
    if eps != ours.layer_norm_eps:
        return (f"it was trained with layer_norm_eps {eps}, {ours.layer_norm_eps} is used here",)
    return ()


def built_config(config: Dict[str, Any], place: Path) -> Optional[SwinConfig]:
    """The SwinConfig that a checkpoint's config.json describes, None if there is no file."""
    return SwinConfig(**_sizes(config, place)) if config else None


def class_names(config: Dict[str, Any]) -> List[str]:
    """Class names by label from a config.json; empty where it has none."""
    names = config.get("id2label")
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(len(names))}:
        return []
    return [str(names[str(index)]) for index in range(len(names))]


def own_config(config: SwinConfig, names: Sequence[str]) -> Dict[str, Any]:
    """What this app's checkpoints say of a model."""
    described = {key: getattr(config, ours) for key, ours in {**_KEYS, **_OWN_KEYS}.items()}
    return {"architectures": ["SwinTransformer"], "model_type": MODEL_TYPE, **described, **_labels(names)}


def check_layout(config: SwinConfig, layout: str) -> None:
    """Refuse to save a model in a layout whose library would compute something else from it.

    Raises:
        UserError: with what that library's Swin can't have.
    """
    if layout == "official":
        return
    windows = [windows_of(resolution, config.window_size, shifted=True) for resolution in config.resolutions]
    alone = [tuple(count == 1 for count in one.counts) for one in windows]
    has = {
        "a qk_scale": config.qk_scale is not None,
        "no norm behind the patch embedding": not config.patch_norm,
        "images that patches don't tile": any(side % config.patch_size for side in config.image_size),
        "maps that windows don't tile": any(any(one.padding) for one in windows),
    }
    if layout != "timm":
        has["maps smaller than a window"] = any(one.window != config.window_size for one in windows)
    if layout != "huggingface":
        has["absolute positions"] = config.absolute_positions
        has["another layer_norm_eps than 1e-5"] = config.layer_norm_eps != 1e-5
    else:
        has["rectangular windows"] = len(set(config.window_size)) > 1
        has["maps that one window covers along one side only"] = any(len(set(sides)) > 1 for sides in alone)
    if layout == "torchvision":
        has["no qkv_bias"] = not config.qkv_bias
    found = [what for what, is_so in has.items() if is_so]
    if found:
        raise UserError(f"the Swin of {layout} can't have {', '.join(found)}: save in the official layout")


def huggingface_config(config: SwinConfig, names: Sequence[str]) -> Dict[str, Any]:
    """What transformers' from_pretrained wants to know of a model that `check_layout` let pass."""
    described = {key: getattr(config, ours) for key, ours in _KEYS.items()}
    described["window_size"] = config.window_size[0]
    if len(set(config.image_size)) == 1:
        described["image_size"] = config.image_size[0]
    kind = "SwinForImageClassification" if names else "SwinModel"
    content = {"architectures": [kind], "model_type": _HUGGING_FACE, "hidden_act": "gelu", **described}
    return {**content, "hidden_size": config.widths[-1], **_labels(names)}


def timm_config(config: SwinConfig, names: Sequence[str], eval_resize: str) -> Dict[str, Any]:
    """What timm.create_model("local-dir:…") wants to know of a model that `check_layout` let pass."""
    return {
        "architecture": "swin_tiny_patch4_window7_224",
        "num_classes": config.num_classes,
        "num_features": config.widths[-1],
        "model_args": {
            "img_size": list(config.image_size),
            "patch_size": config.patch_size,
            "in_chans": config.in_channels,
            "embed_dim": config.embed_dim,
            "depths": list(config.depths),
            "num_heads": list(config.num_heads),
            "window_size": list(config.window_size),
            "mlp_ratio": config.mlp_ratio,
            "qkv_bias": config.qkv_bias,
        },
        "pretrained_cfg": {
            "input_size": [config.in_channels, *config.image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.875 if eval_resize == "crop" else 1.0,
            "crop_mode": "center" if eval_resize == "crop" else "squash",
            "classifier": "head.fc",
            "first_conv": "patch_embed.proj",
        },
        "label_names": list(names),
    }


def _labels(names: Sequence[str]) -> Dict[str, Any]:
    if not names:
        return {}
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _sizes(config: Dict[str, Any], place: Path) -> Dict[str, Any]:
    """Fields of SwinConfig in a config.json."""
    if config.get("model_type") not in (MODEL_TYPE, _HUGGING_FACE):
        raise UserError(f"{place} is a model of type {config.get('model_type')}, not a Swin: choose another checkpoint")
    sizes = dict(_DEFAULTS)
    for key, ours in {**_KEYS, **_OWN_KEYS}.items():
        value = config.get(key)
        if value is None:
            continue
        if key in _PAIRS and isinstance(value, int):
            value = [value, value]
        if key == "patch_size" and isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if not _is_like(value, _DEFAULTS[ours], key):
            raise UserError(f"{place} has {key} {value}, which makes no Swin: mend its config.json")
        sizes[ours] = tuple(value) if isinstance(value, list) else value
    return sizes


def _is_like(value: Any, default: Any, key: str) -> bool:
    """Whether a value of a config.json is of the kind of the default."""
    if isinstance(default, tuple):
        length = 2 if key in _PAIRS else len(value) if isinstance(value, list) else 0
        return isinstance(value, list) and len(value) == length > 0 and all(type(item) is int for item in value)
    if isinstance(default, bool):
        return isinstance(value, bool)
    return type(value) in ((int,) if isinstance(default, int) else (int, float))
