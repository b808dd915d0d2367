"""timm's, Google's and Graphcore's layouts."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from models import create_model
from run.errors import UserError
from weights import load_weights, save_weights

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "heads": 3, "mlp_width": 48}


def randomised(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def ours(num_classes=5, **changes):
    return create_model("vit_base_patch16_224", num_classes=num_classes, **{**TINY, **changes}).eval()


def timms(num_classes=5):
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
    return timm.create_model("vit_base_patch16_224", num_classes=num_classes, **sizes).eval()


def images():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def same(actual, expected):
    assert expected.abs().max() > 0.1  # logits that could tell
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["safetensors", "bin", "training script", "compiled in parallel"])
def test_logits_equal_timms(tmp_path, form):
    reference = randomised(timms())
    state = reference.state_dict()
    if form == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file(state, path)
    elif form == "bin":
        path = tmp_path / "pytorch_model.bin"
        torch.save(state, path)
    elif form == "training script":  # the averaged weights are the ones to take
        path = tmp_path / "last.pth"
        torch.save({"epoch": 3, "state_dict": timms().state_dict(), "state_dict_ema": state}, path)
    else:
        path = tmp_path / "last.pt"
        torch.save({"model": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}}, path)
    model = ours()
    report = load_weights(model, path)
    same(model(images()), reference(images()))
    assert report.source_layout == "timm"


@pytest.mark.parametrize("sizes", [{}, {"width": 26, "heads": 2, "mlp_width": 30}])  # 26 times 30/26 is less than 30
def test_timm_reads_what_we_write(tmp_path, sizes):
    model = randomised(ours(**sizes))
    save_weights(model, tmp_path, "timm")
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    same(loaded(images()), model(images()))
    assert timm.data.resolve_model_data_config(loaded)["input_size"] == (3, 16, 16)
    assert timm.data.resolve_model_data_config(loaded)["mean"] == [0.5, 0.5, 0.5]  # as this app normalises
    swapped = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3).eval()
    same(swapped.forward_features(images()), loaded.forward_features(images()))
    assert set(load_file(tmp_path / "model.safetensors")) == set(timms().state_dict())


@pytest.mark.parametrize("changes", [{"representation_size": 8}, {"layer_norm_eps": 1e-12}])
def test_timm_can_not_hold_every_model(tmp_path, changes):
    with pytest.raises(UserError, match="timm's ViT has no representation layer and a layer_norm_eps of 1e-6"):
        save_weights(ours(**changes), tmp_path / "weights", "timm")
    assert not (tmp_path / "weights").exists()


def test_old_timm_files_have_a_representation_layer(tmp_path):
    model = randomised(ours(representation_size=7))
    state = {**timms().state_dict(), "head.weight": torch.ones(5, 7)}
    state.update({"pre_logits.fc.weight": torch.ones(7, 24), "pre_logits.fc.bias": torch.arange(7.0)})
    torch.save(state, tmp_path / "old.pth")
    load_weights(model, tmp_path / "old.pth")
    assert torch.equal(model.representation.bias, torch.arange(7.0))


def flax(seed=0, classes=5, tokens=17, representation=None):
    """Weights as the paper's .npz files have them, all random."""
    draw = np.random.default_rng(seed)
    shapes = {
        "cls": (1, 1, 24),
        "embedding/kernel": (4, 4, 3, 24),
        "embedding/bias": (24,),
        "Transformer/posembed_input/pos_embedding": (1, tokens, 24),
        "Transformer/encoder_norm/scale": (24,),
        "Transformer/encoder_norm/bias": (24,),
        "head/kernel": (representation or 24, classes),
        "head/bias": (classes,),
    }
    if representation:
        shapes.update({"pre_logits/kernel": (24, representation), "pre_logits/bias": (representation,)})
    for index in range(3):
        block = f"Transformer/encoderblock_{index}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes.update({f"{block}{norm}/scale": (24,), f"{block}{norm}/bias": (24,)})
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            shapes.update({f"{attention}{part}/kernel": (24, 3, 8), f"{attention}{part}/bias": (3, 8)})
        shapes.update({f"{attention}out/kernel": (3, 8, 24), f"{attention}out/bias": (24,)})
        shapes.update({f"{block}MlpBlock_3/Dense_0/kernel": (24, 48), f"{block}MlpBlock_3/Dense_0/bias": (48,)})
        shapes.update({f"{block}MlpBlock_3/Dense_1/kernel": (48, 24), f"{block}MlpBlock_3/Dense_1/bias": (24,)})
    return {name: (0.2 * draw.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def linen(arrays):
    """The same under the numbers that a fresh Flax model gives."""
    names = {"Attention_1": "Attention_0", "LayerNorm_2": "LayerNorm_1", "MlpBlock_3": "MlpBlock_0"}
    result = {}
    for name, array in arrays.items():
        for old, new in names.items():
            name = name.replace(old, new)
        result[name] = array
    return result


def big_vision(arrays):
    """The same as big_vision names it: with the positions at the top and a prefix."""
    renamed = linen(arrays)
    renamed["pos_embedding"] = renamed.pop("Transformer/posembed_input/pos_embedding")
    return {f"params/{name}": array for name, array in renamed.items()}


def stacked(arrays):
    """The same with one array for all blocks."""
    result = {name: array for name, array in arrays.items() if "encoderblock_" not in name}
    for name in [name for name in arrays if "encoderblock_0" in name]:
        layers = [arrays[name.replace("encoderblock_0", f"encoderblock_{index}")] for index in range(3)]
        result[name.replace("encoderblock_0", "encoderblock")] = np.stack(layers)
    return result


def training_state(arrays):
    """The same beside an optimizer's moments, as Google's fine-tuned checkpoints came."""
    result = {f"opt/target/{name}": array for name, array in arrays.items()}
    result.update({f"opt/state/param_states/{name}/momentum": array + 1 for name, array in arrays.items()})
    return result


def load_npz(tmp_path, arrays, model=None, **options):
    path = tmp_path / "vit.npz"
    np.savez(path, **arrays)
    model = model or ours()
    return model, load_weights(model, path, **options)


def test_npz_equals_timms_own_reading(tmp_path):
    model, report = load_npz(tmp_path, flax())
    reference = timms()
    reference.load_pretrained(tmp_path / "vit.npz")
    same(model(images()), reference(images()))
    assert report.source_layout == "google"
    assert sorted(report.loaded) == sorted(model.state_dict())


@pytest.mark.parametrize("side", [224, 384])
def test_npz_of_the_published_geometries(tmp_path, side):
    tokens = 1 + (side // 16) ** 2
    kernel = 0.05 * np.random.default_rng(3).standard_normal((16, 16, 3, 24))
    arrays = {**flax(tokens=tokens), "embedding/kernel": kernel.astype(np.float32)}
    model, _ = load_npz(tmp_path, arrays, ours(image_size=side, patch_size=16))
    sizes = {"img_size": side, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
    reference = timm.create_model("vit_base_patch16_224", num_classes=5, **sizes).eval()
    reference.load_pretrained(tmp_path / "vit.npz")
    picture = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    same(model(picture), reference(picture))


@pytest.mark.parametrize(
    "variant",
    [linen, big_vision, stacked, training_state, lambda arrays: big_vision(stacked(arrays))],
    ids=["linen", "big_vision", "stacked", "training state", "stacked big_vision"],
)
def test_every_variant_of_npz_is_the_same_model(tmp_path, variant):
    plain, _ = load_npz(tmp_path, flax())
    model, _ = load_npz(tmp_path, variant(flax()))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name]), name


def test_attention_of_npz_from_its_formula(tmp_path):
    arrays = flax()
    model, _ = load_npz(tmp_path, arrays)
    x = torch.randn(2, 17, 24, generator=torch.Generator().manual_seed(1))
    block = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/"
    weights = {name[len(block) :]: torch.from_numpy(a) for name, a in arrays.items() if name.startswith(block)}
    q, k, v = (
        torch.einsum("bnd,dhe->bhne", x, weights[f"{part}/kernel"]) + weights[f"{part}/bias"][:, None]
        for part in ("query", "key", "value")
    )
    heads = torch.softmax(torch.einsum("bhne,bhme->bhnm", q, k) / 8**0.5, -1) @ v
    expected = torch.einsum("bhne,hed->bnd", heads, weights["out/kernel"]) + weights["out/bias"]
    same(model.blocks[1].attention(x), expected)


def test_big_vision_gives_the_class_token_no_position(tmp_path):
    arrays = big_vision(flax(tokens=16))
    model, _ = load_npz(tmp_path, arrays)
    assert not model.embeddings.positions[:, 0].any()
    assert torch.equal(model.embeddings.positions[:, 1:], torch.from_numpy(arrays["params/pos_embedding"]))


def test_npz_in_bfloat16(tmp_path):
    halves = {name: torch.from_numpy(array).bfloat16() for name, array in flax().items()}
    model, _ = load_npz(tmp_path, {name: half.view(torch.int16).numpy().view("V2") for name, half in halves.items()})
    assert torch.equal(model.embeddings.class_token, halves["cls"].float())


def test_pre_logits_of_npz_are_the_representation_layer(tmp_path):
    arrays = flax(representation=7)
    model, _ = load_npz(tmp_path, arrays, ours(representation_size=7))
    assert torch.equal(model.representation.weight, torch.from_numpy(arrays["pre_logits/kernel"]).T)
    _, report = load_npz(tmp_path, flax(classes=100, representation=24), new_head=True)
    assert report.unexpected == ("representation.bias", "representation.weight")


def test_heads_show_in_npz(tmp_path):
    with pytest.raises(UserError, match="has 3 attention heads, the model 2: build it with 3"):
        load_npz(tmp_path, flax(), ours(heads=2))


@pytest.mark.parametrize("name", ["embedding/kernel", "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"])
def test_npz_of_wrong_shapes(tmp_path, name):
    with pytest.raises(UserError, match=r"shapes that no ViT has|the model of 48×24"):
        load_npz(tmp_path, {**flax(), name: np.zeros((2, 2), np.float32)})


def test_graphcores_pretrained_checkpoint(tmp_path):
    """Names by the document; the tensors are Hugging Face's, with heads apart."""
    model = randomised(ours(representation_size=24))
    renamed = {"class_token": "cls_token", "positions": "position_embeddings"}
    state = {f"embeddings.{renamed[name]}": getattr(model.embeddings, name) for name in renamed}
    modules = {"embeddings.patch_embeddings": model.embeddings.patch, "encoder.encoder_norm": model.norm}
    modules.update({"representation.representation_layer": model.representation, "head": model.head})
    for index, block in enumerate(model.blocks):
        layer = f"encoder.layer.{index}"
        modules.update({f"{layer}.attention_norm": block.norm1, f"{layer}.ffn_norm": block.norm2})
        modules.update({f"{layer}.ffn.fc1": block.mlp.fc1, f"{layer}.ffn.fc2": block.mlp.fc2})
        modules[f"{layer}.attn.out"] = block.attention.proj
        for kind in ("weight", "bias"):
            pieces = getattr(block.attention.qkv, kind).split(24)
            state.update({f"{layer}.attn.{part}.{kind}": p for part, p in zip(("query", "key", "value"), pieces)})
    for name, module in modules.items():
        state.update({f"{name}.{kind}": tensor for kind, tensor in module.state_dict().items()})
    state = {f"model.{name}": tensor.detach().half() for name, tensor in state.items()}
    torch.save(state, tmp_path / "pytorch_model.bin")

    again = ours(representation_size=24)
    assert load_weights(again, tmp_path).source_layout == "graphcore"
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name
