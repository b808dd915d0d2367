"""Hugging Face's, timm's and Habana's layouts, places where weights are found, and what is refused."""

import json
import os

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from models import create_model
from run.checkpoints import Checkpoints
from run.errors import UserError
from weight_config import huggingface_config, model_arguments
from weights import load_weights, read_class_names, read_config, save_weights

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 2, "heads": 3, "mlp_width": 48}
HYBRID = {"image_size": 16, "width": 24, "depth": 1, "heads": 3, "mlp_width": 48, "stages": (1, 1), "resnet_width": 32}


def tiny(num_classes=5, seed=0, name="ViT-B_16", **changes):
    torch.manual_seed(seed)
    model = create_model(name, num_classes=num_classes, **{**TINY, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def hybrid(seed=0, **changes):
    return tiny(name="R50-ViT-B_16", seed=seed, **{"patch_size": 1, **HYBRID, **changes})


def images():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def same(actual, expected):
    assert expected.abs().max() > 0.1  # logits that could tell
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def equal(first, second, but=()):
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items() if name not in but)


def timms(num_classes=5):
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", num_classes=num_classes, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize("layout", ["huggingface", "timm"])
@pytest.mark.parametrize("make", [tiny, lambda **changes: tiny(width=26, heads=2, mlp_width=30, **changes)])
def test_others_read_what_we_write(tmp_path, layout, make):
    model = make()
    save_weights(model, tmp_path, layout)
    if layout == "timm":
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert timm.data.resolve_model_data_config(theirs)["mean"] == [0.5, 0.5, 0.5]
        same(theirs(images()), model(images()))
    else:
        theirs, told = transformers.ViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert not told["missing_keys"]
        assert not told["unexpected_keys"]
        same(theirs.eval()(images()).logits, model(images()))
        assert read_config(tmp_path)["name"] == "ViT-B_16"
    again = make(seed=1)
    load_weights(again, tmp_path)
    assert equal(again, model)


@pytest.mark.parametrize("form", ["safetensors", "training script"])
def test_timms_files_are_read(tmp_path, form):
    reference = timms()
    state = reference.state_dict()
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "last.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module._orig_mod.{name}": t for name, t in state.items()}}, path)
    model = tiny()
    report = load_weights(model, path)
    same(model(images()), reference(images()))
    assert report.source_layout == "timm"


def test_hugging_faces_folder_is_read(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    config = transformers.ViTConfig(image_size=16, patch_size=4, num_labels=5, layer_norm_eps=1e-6, **sizes)
    torch.manual_seed(0)
    reference = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(std=0.2)
    reference.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content.pop("hidden_dropout_prob", None)  # as in configs written by hand
    (tmp_path / "config.json").write_text(json.dumps(content))
    arguments = read_config(tmp_path)
    assert arguments["num_classes"] == 5
    assert arguments["dropout"] == 0.0
    model = create_model(**arguments).eval()
    report = load_weights(model, tmp_path)
    same(model(images()), reference(images()).logits)
    assert report.source_layout == "huggingface"
    assert report.notes == ()


def test_differences_from_the_config_are_noted_or_refused(tmp_path):
    save_weights(tiny(), tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())

    def changed(**values):
        (tmp_path / "config.json").write_text(json.dumps({**content, **values}))

    changed(hidden_act="gelu_new", layer_norm_eps=1e-12)
    assert str(load_weights(tiny(), tmp_path)).count("it was trained with") == 2
    for values, message in [
        ({"hidden_act": "relu"}, "hidden_act relu, the model the exact GELU"),
        ({"num_attention_heads": 4}, "num_attention_heads 4, the model 3"),
        ({"model_type": "swin"}, "of type swin, not a ViT"),
        ({"resnet_stages": [1, 1]}, r"ResNets of other stages, \[1, 1\] and \[\]"),
        ({"resnet_stages": "3"}, "resnet_stages 3, which are no numbers"),
        ({"image_size": "16"}, "image_size 16, which is no number"),
        ({"hidden_size": [24, 25]}, "which should be one number"),
    ]:
        changed(**values)
        with pytest.raises(UserError, match=message):
            load_weights(tiny(), tmp_path)


def habana(model):
    """A state dict with the names of the sheet, query, key and value apart."""
    embeddings = model.embeddings
    state = {"embeddings.cls_token": embeddings.class_token, "embeddings.position_embeddings": embeddings.positions}
    modules = {"embeddings.patch_embeddings": embeddings.patch, "encoder.encoder_norm": model.norm}
    for index, block in enumerate(model.blocks):
        layer = f"encoder.layer.{index}"
        modules.update({f"{layer}.attention_norm": block.norm1, f"{layer}.ffn_norm": block.norm2})
        modules.update({f"{layer}.ffn.fc1": block.mlp.fc1, f"{layer}.ffn.fc2": block.mlp.fc2})
        modules[f"{layer}.attn.out"] = block.attention.proj
        for kind in ("weight", "bias"):
            pieces = getattr(block.attention.qkv, kind).split(model.config.width)
            state.update({f"{layer}.attn.{part}.{kind}": p for part, p in zip(("query", "key", "value"), pieces)})
    for name, module in modules.items():
        state.update({f"{name}.{kind}": tensor for kind, tensor in module.state_dict().items()})
    state = {f"transformer.{name}": tensor.detach() for name, tensor in state.items()}
    return {**state, "head.weight": model.head.weight.detach(), "head.bias": model.head.bias.detach()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_habanas_checkpoint_is_read(tmp_path, wrapped):
    model = tiny()
    state = habana(model)
    torch.save({"model": state, "optimizer": {}} if wrapped else state, tmp_path / "run_checkpoint.pth")
    again = tiny(seed=1)
    assert load_weights(again, tmp_path / "run_checkpoint.pth").source_layout == "habana"
    assert equal(again, model)


def test_a_hybrid_comes_back_by_its_config(tmp_path):
    model = hybrid()
    names = ["ant", "bee", "cat", "dog", "eel"]
    save_weights(model, tmp_path, class_names=names)
    arguments = read_config(tmp_path)
    assert arguments["name"] == "R50-ViT-B_16"
    again = create_model(**arguments).eval()
    assert again.config == model.config
    load_weights(again, tmp_path)
    assert equal(again, model)
    assert read_class_names(tmp_path) == names
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] != "vit"  # transformers has no such model
    with pytest.raises(UserError, match="the timm layout holds no hybrid: save it as huggingface or npz"):
        save_weights(model, tmp_path / "timm", "timm")
    with pytest.raises(UserError, match="ResNets of other stages"):
        load_weights(tiny(), tmp_path)


@pytest.mark.parametrize("name", ["ViT-B_32", "R50-ViT-B_16", "testing"])
def test_a_config_names_its_model(tmp_path, name):
    with torch.device("meta"):
        config = create_model(name, image_size=64, num_classes=3).config
    content = json.loads(json.dumps(huggingface_config(config, ["a", "b", "c"])))
    arguments = model_arguments(content, tmp_path)
    assert arguments["name"] == name
    with torch.device("meta"):
        assert create_model(**arguments).config == config


def test_a_head_for_other_classes_is_replaced_only_if_asked_for(tmp_path):
    source = tiny(7)
    save_weights(source, tmp_path)
    model = tiny(5, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match="a head for 7 classes, the model for 5: ask for a new head"):
        load_weights(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    report = load_weights(model, tmp_path, new_head=True)
    assert report.reinitialised == ("head.weight", "head.bias")
    assert equal(model, source, but=report.reinitialised)
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    backbone = tiny(0)
    assert load_weights(backbone, tmp_path).unexpected == ("head.bias", "head.weight")
    save_weights(backbone, tmp_path / "backbone")
    with pytest.raises(UserError, match="has no classification head"):
        load_weights(model, tmp_path / "backbone")


def test_dtype_of_the_model_stays(tmp_path):
    source = tiny()
    save_weights(source, tmp_path)
    model = tiny(seed=1).bfloat16()
    load_weights(model, tmp_path)
    assert equal(model, source.bfloat16())
    save_weights(model, tmp_path / "half")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}


def test_rectangular_positions_are_taken_by_their_config(tmp_path):
    save_weights(tiny(image_size=(8, 24)), tmp_path)
    report = load_weights(tiny(image_size=(24, 8)), tmp_path)
    assert report.resized == ("embeddings.positions 2×6 → 6×2",)


@pytest.mark.parametrize("name", ["", "latest", "step-3", "checkpoints/latest"])
@pytest.mark.parametrize("make", [tiny, hybrid])
def test_our_own_runs(tmp_path, name, make):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    for step in (1, 3):
        model = make(seed=step)
        checkpoints.save(step, {}, writers={"weights": lambda folder, model=model: save_weights(model, folder)})
    path = tmp_path / "run" / name
    again = create_model(**read_config(path))
    load_weights(again, path)
    assert equal(again, make(seed=3))


def test_without_strictness_names_are_only_reported(tmp_path):
    source = tiny()
    save_weights(source, tmp_path, "timm")
    state = load_file(tmp_path / "model.safetensors")
    state["dist_token"] = state.pop("norm.bias")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"lacks norm.bias"):
        load_weights(tiny(), tmp_path / "weights.pth")
    report = load_weights(tiny(seed=1), tmp_path / "weights.pth", strict=False)
    assert report.missing == ("norm.bias",)
    assert report.unexpected == ("dist_token",)


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"head.weight": Hostile(tmp_path / "executed")}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="pickled objects besides tensors"):
        load_weights(tiny(), tmp_path / "weights.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors: give a ViT"),
        ({"conv1.weight": torch.zeros(1)}, "holds conv1.weight: give a ViT"),
        ({"patch_embed.proj.weight": torch.zeros(24, 3, 4, 4)}, "lacks embeddings.class_token, .* and 28 more"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        load_weights(tiny(), tmp_path / "weights.pth")


def test_what_can_not_be_written_or_named_is_told(tmp_path):
    with pytest.raises(UserError, match="unknown layout 'keras': choose one of huggingface, timm, npz"):
        save_weights(tiny(), tmp_path, "keras")
    with pytest.raises(UserError, match="2 class names for 5 classes"):
        save_weights(tiny(), tmp_path, class_names=["ant", "bee"])
    with pytest.raises(UserError, match="timm's ViT has a layer_norm_eps of 1e-6"):
        save_weights(tiny(layer_norm_eps=1e-5), tmp_path, "timm")
    assert not list(tmp_path.iterdir())
    save_weights(tiny(), tmp_path, "timm")
    with pytest.raises(UserError, match=r"has no Hugging Face config.json: say which model it is"):
        read_config(tmp_path)
