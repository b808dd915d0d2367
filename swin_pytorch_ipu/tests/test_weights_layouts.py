"""Logits against timm's, torchvision's and transformers' Swin, from their files and from ours."""

import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer import SwinTransformer as TimmSwin

from models import create_model
from models.windows import attention_mask
from run.errors import UserError
from tests.models.tiny import randomised
from weights import load_weights, read_class_names, read_config, save_weights

STAGES = {"embed_dim": 12, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
# Size and window: the last stage is one window, a rectangle of which is one along one side only.
SHAPES = [((112, 112), 7), ((128, 128), 8), ((192, 192), 12), ((112, 224), 7)]
TILED = {"image_size": (112, 112), "window_size": (7, 7)}


def ours(image_size=(112, 112), window_size=7, num_classes=5, **changes):
    sizes = {**STAGES, "image_size": image_size, "window_size": window_size, **changes}
    return create_model("swin_tiny_patch4_window7_224", num_classes=num_classes, **sizes).eval()


def timms(image_size=(112, 112), window_size=7, num_classes=5):
    return randomised(TimmSwin(img_size=image_size, window_size=window_size, num_classes=num_classes, **STAGES)).eval()


def torchvisions(image_size=(112, 112), window_size=7, num_classes=5):
    return randomised(
        torchvision.models.SwinTransformer(
            [4, 4], 12, [2, 2, 2], [1, 2, 4], [window_size, window_size], num_classes=num_classes
        )
    ).eval()


def huggingfaces(image_size=(112, 112), window_size=7, num_classes=5):
    size = image_size[0] if len(set(image_size)) == 1 else image_size
    sizes = {"embed_dim": 12, "depths": [2, 2, 2], "num_heads": [1, 2, 4], "num_labels": num_classes}
    config = transformers.SwinConfig(image_size=size, window_size=window_size, **sizes)
    return randomised(transformers.SwinForImageClassification(config)).eval()


def images(image_size=(112, 112)):
    return torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(1))


def logits(model, batch):
    with torch.no_grad():
        out = model(batch)
    return getattr(out, "logits", out)


def same(model, reference, batch):
    expected = logits(reference, batch)
    assert expected.std() > 0.1  # logits that could tell
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(batch).detach(), expected, rtol=1e-5, atol=1e-5)  # the path of training


def official(model):
    """What Microsoft's file of `model` holds: its buffers are in the state too."""
    state = dict(model.state_dict())
    for stage, layer in enumerate(model.stages):
        for index, block in enumerate(layer.blocks):
            name, windows = f"layers.{stage}.blocks.{index}.", block.attn.windows
            state[name + "attn.relative_position_index"] = block.attn.relative_position_index
            if any(windows.shift):
                state[name + "attn_mask"] = attention_mask(windows)
    return state


@pytest.mark.parametrize(("image_size", "window_size"), SHAPES)
@pytest.mark.parametrize("theirs", [timms, torchvisions])
def test_logits_are_those_of_timm_and_torchvision(tmp_path, theirs, image_size, window_size):
    reference = theirs(image_size, window_size)
    torch.save(reference.state_dict(), tmp_path / "model.pth")
    model = ours(image_size, window_size)
    report = load_weights(model, tmp_path / "model.pth")
    assert report.source_layout == theirs.__name__[:-1]
    assert len(report.loaded) == len(model.state_dict())
    assert report.resized == report.missing == report.unexpected == ()
    same(model, reference, images(image_size))


@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_the_real_swin_tiny_is_theirs(tmp_path, name):
    if name == "timm":
        reference = timm.create_model("swin_tiny_patch4_window7_224").eval()
    else:
        reference = torchvision.models.swin_t().eval()
    with torch.no_grad():  # tables that matter, and logits that could tell
        for tensor_name, parameter in reference.named_parameters():
            if "bias_table" in tensor_name or tensor_name in ("head.fc.weight", "head.weight"):
                parameter.mul_(30)
    torch.save(reference.state_dict(), tmp_path / "model.pth")
    model = create_model("swin_tiny_patch4_window7_224").eval()
    load_weights(model, tmp_path / "model.pth")
    same(model, reference, images((224, 224))[:1])


@pytest.mark.parametrize(("image_size", "window_size"), SHAPES[:3])
def test_logits_are_those_of_transformers(tmp_path, image_size, window_size):
    reference = huggingfaces(image_size, window_size)
    reference.save_pretrained(tmp_path)
    model = create_model(**read_config(tmp_path)).eval()
    assert model.config == ours(image_size, window_size).config
    assert load_weights(model, tmp_path).source_layout == "huggingface"
    same(model, reference, images(image_size))


def test_names_inside_transformers_are_read_too(tmp_path):
    """Of a state_dict, which transformers 5 renames when it saves."""
    reference = huggingfaces()
    torch.save(reference.state_dict(), tmp_path / "model.pth")
    model = ours()
    load_weights(model, tmp_path / "model.pth")
    same(model, reference, images())


@pytest.mark.parametrize("form", ["microsoft", "graphcore", "compiled in parallel", "safetensors"])
def test_official_files_load_without_their_buffers(tmp_path, form):
    reference = randomised(ours())
    state = official(reference)
    path = tmp_path / "swin.pth"
    if form == "microsoft":
        torch.save({"model": state, "epoch": 3, "max_accuracy": 81.2}, path)
    elif form == "graphcore":
        torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, path)
    elif form == "compiled in parallel":
        torch.save({"model": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}}, path)
    else:
        path = tmp_path / "model.safetensors"
        save_file(state, path)
    model = ours()
    report = load_weights(model, path)
    assert report.source_layout == "official"
    assert report.unexpected == ()
    assert "8 buffers of its geometry left out" in str(report)  # 6 indices, 2 masks: the last stage is one window
    same(model, reference, images())


def test_official_key_count_is_that_of_the_reference():
    with torch.device("meta"):
        model = create_model("swin_tiny_patch4_window7_224")
    masks = sum(any(block.attn.windows.shift) for block in model.blocks)
    assert (len(model.state_dict()), masks, len(model.blocks)) == (173, 5, 12)


def test_simmim_pretraining_gives_its_encoder(tmp_path):
    reference = randomised(ours(num_classes=0))
    state = {f"encoder.{name}": tensor for name, tensor in official(reference).items()}
    state.update({"encoder.mask_token": torch.zeros(1, 1, 12), "decoder.0.weight": torch.zeros(4, 4)})
    torch.save({"model": state}, tmp_path / "simmim.pth")
    model = ours()
    with pytest.raises(UserError, match="has no classification head: ask for a new one"):
        load_weights(model, tmp_path / "simmim.pth")
    report = load_weights(model, tmp_path / "simmim.pth", new_head=True)
    assert report.unexpected == ("decoder.0.weight", "mask_token")
    assert report.reinitialised == ("head.weight", "head.bias")
    for left, right in zip(model.forward_features(images()), reference.forward_features(images())):
        assert torch.equal(left, right)


@pytest.mark.parametrize("layout", ["official", "timm", "torchvision", "huggingface"])
def test_every_layout_comes_back(tmp_path, layout):
    model = randomised(ours()).eval()
    save_weights(model, tmp_path, layout, class_names=list("abcde"))
    again = ours()
    assert load_weights(again, tmp_path).source_layout == layout
    for (name, left), right in zip(model.state_dict().items(), again.state_dict().values()):
        assert torch.equal(left, right), name
    if layout != "timm":
        assert read_class_names(tmp_path) == list("abcde")
        assert create_model(**read_config(tmp_path)).config == model.config


def test_others_read_what_we_write(tmp_path):
    model = randomised(ours()).eval()
    for layout in ("timm", "torchvision", "huggingface"):
        save_weights(model, tmp_path / layout, layout, class_names=list("abcde"))
    same(timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval(), model, images())
    transformer = transformers.SwinForImageClassification.from_pretrained(tmp_path / "huggingface").eval()
    assert torch.allclose(logits(transformer, images()), logits(model, images()), atol=1e-5)
    assert transformer.config.id2label[2] == "c"
    vision = torchvisions()
    result = vision.load_state_dict(load_file(tmp_path / "torchvision" / "model.safetensors"), strict=False)
    assert result.unexpected_keys == []
    assert all(name.endswith("relative_position_index") for name in result.missing_keys)
    same(vision, model, images())


def test_timm_and_transformers_prepare_images_as_we_evaluate(tmp_path):
    model = ours(image_size=(224, 224))
    for layout, resize in (("timm", "crop"), ("huggingface", "crop"), ("huggingface", "direct")):
        save_weights(model, tmp_path / layout / resize, layout, eval_resize=resize)
    config = timm.data.resolve_model_data_config(
        timm.create_model(f"local-dir:{tmp_path / 'timm' / 'crop'}", pretrained=True)
    )
    assert (config["crop_pct"], config["interpolation"]) == (0.875, "bicubic")
    assert config["mean"] == timm.data.IMAGENET_DEFAULT_MEAN
    crop = transformers.AutoImageProcessor.from_pretrained(tmp_path / "huggingface" / "crop")
    assert crop.size["shortest_edge"] == 256
    direct = transformers.AutoImageProcessor.from_pretrained(tmp_path / "huggingface" / "direct")
    assert (direct.size["height"], direct.size["width"]) == (224, 224)


@pytest.mark.parametrize(
    ("layout", "sizes", "said"),
    [
        ("timm", {"absolute_positions": True}, "timm can't have absolute positions"),
        ("timm", {"layer_norm_eps": 1e-6}, "another layer_norm_eps than 1e-5"),
        ("huggingface", {"window_size": (7, 14)}, "rectangular windows"),
        ("huggingface", {"qk_scale": 0.5, "patch_norm": False}, "a qk_scale, no norm behind the patch embedding"),
        ("torchvision", {"image_size": (56, 56)}, "maps smaller than a window"),
        ("torchvision", {"qkv_bias": False}, "no qkv_bias"),
        ("timm", {"image_size": (120, 120)}, "maps that windows don't tile"),
        ("timm", {"image_size": (110, 112)}, "images that patches don't tile"),
        ("huggingface", {"image_size": (112, 224)}, "along one side only"),
        ("keras", {}, "unknown layout 'keras'"),
    ],
)
def test_what_a_layout_can_not_hold_is_refused(tmp_path, layout, sizes, said):
    with pytest.raises(UserError, match=said):
        save_weights(ours(**sizes), tmp_path / "weights", layout)
    assert not (tmp_path / "weights").exists()


def test_our_layout_holds_every_model(tmp_path):
    sizes = {"window_size": (7, 4), "qk_scale": 0.5, "patch_norm": False, "absolute_positions": True}
    model = randomised(ours(image_size=(110, 60), **sizes)).eval()
    save_weights(model, tmp_path)
    again = create_model(**read_config(tmp_path)).eval()
    assert again.config == model.config
    load_weights(again, tmp_path)
    same(again, model, images((110, 60)))
