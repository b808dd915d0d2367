import math

import pytest
import torch
from torch import nn

from models import SIZES, create_model
from models.patches import PatchMerging
from tests.models.tiny import images, tiny

COUNTS = {  # of the reference sheet: 224 with windows of 7, 384 with windows of 12, 224 for 21,841 classes
    "tiny": (28_288_354, 28_338_034, 44_315_083),
    "small": (49_606_258, 49_707_778, 65_632_987),
    "base": (87_768_224, 87_903_584, 109_130_249),
    "large": (196_532_476, 196_735_516, 228_565_093),
}


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts_of_the_paper(variant):
    names = [f"swin_{variant}_patch4_{shape}" for shape in ("window7_224", "window12_384", "window7_224_22k")]
    with torch.device("meta"):
        models = [create_model(name) for name in names]
    assert tuple(sum(p.numel() for p in model.parameters()) for model in models) == COUNTS[variant]
    assert {len(model.state_dict()) for model in models} == {173 if variant == "tiny" else 329}


def test_resolutions_of_the_paper():
    with torch.device("meta"):
        for name, sides, window in (("window7_224", (56, 28, 14, 7), 7), ("window12_384", (96, 48, 24, 12), 12)):
            model = create_model(f"swin_tiny_patch4_{name}")
            assert [rows for rows, _ in model.config.resolutions] == list(sides)
            windows = [stage.blocks[1].attn.windows for stage in model.stages]
            assert [math.prod(one.counts) for one in windows] == [64, 16, 4, 1]
            assert [one.shift for one in windows] == [(window // 2, window // 2)] * 3 + [(0, 0)]


def test_state_dict_has_the_official_names():
    with torch.device("meta"):
        names = set(create_model("swin_tiny_patch4_window7_224").state_dict())
    block = "layers.2.blocks.5."
    for name in (
        *("patch_embed.proj.weight", "patch_embed.norm.bias", "norm.weight", "head.bias"),
        *(block + part for part in ("norm1.weight", "attn.relative_position_bias_table", "attn.qkv.bias")),
        *(block + part for part in ("attn.proj.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc2.bias")),
        *("layers.0.downsample.reduction.weight", "layers.2.downsample.norm.weight"),
    ):
        assert name in names
    assert not [name for name in names if "index" in name or "mask" in name or "layers.3.downsample" in name]


def test_logits_and_maps_have_the_batch():
    model = tiny(depths=(2, 2, 1), num_heads=(1, 2, 4))
    assert model(images()).shape == (2, 5)
    assert tiny(num_classes=0)(images()).shape == (2, 24)
    maps = model.forward_features(images())
    assert [tuple(one.shape) for one in maps] == [(2, 12, 14, 14), (2, 24, 7, 7), (2, 48, 4, 4)]


def test_logits_are_those_of_the_last_map():
    model = tiny().eval()
    last = model.forward_features(images())[-1].permute(0, 2, 3, 1)
    tokens = nn.functional.layer_norm(last, (24,), model.norm.weight, model.norm.bias)
    logits = tokens.mean(dim=(1, 2)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images()), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(56, 112), (40, 72), (57, 33), (20, 20), (4, 100)])
def test_any_size_of_image(height, width):
    model = tiny(image_size=(height, width), depths=(2, 2, 2), num_heads=(1, 2, 4))
    logits = model(images(height=height, width=width))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


def test_padding_on_the_right_and_below_leaves_what_is_computed():
    """A map of 10×10 patches in windows of 7 is padded to 14×14: no token notices what a padded one would be."""
    model = tiny(image_size=40).eval()
    seen = []
    for stage in model.stages:
        for block in stage.blocks:
            block.attn.qkv.register_forward_pre_hook(
                lambda module, given: (torch.where(padding(given[0]), 3.0, given[0]),)
            )

    def padding(x):
        marked = x.abs().amax(dim=-1, keepdim=True) == 0
        seen.append(int(marked.any()))
        return marked

    with torch.no_grad():
        changed = model(images(height=40, width=40))
        for stage in model.stages:
            for block in stage.blocks:
                block.attn.qkv._forward_pre_hooks.clear()
        torch.testing.assert_close(changed, model(images(height=40, width=40)), rtol=1e-5, atol=1e-5)
    assert seen == [1, 1, 0, 0]


def test_other_images_than_the_model_is_built_for_are_refused():
    with pytest.raises(ValueError, match="built for images of 56×56, not 56×64: create it with their image_size"):
        tiny()(images(width=64))


def test_patch_merging_joins_neighbours_columns_last():
    merging = PatchMerging(3, 1e-5)
    merging.norm = nn.Identity()
    merging.reduction = nn.Identity()
    x = torch.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    expected = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
    assert torch.equal(merging(x), expected)
    odd = merging(x[:, :3, :5])
    assert odd.shape == (2, 2, 3, 12)
    assert torch.equal(odd[:, 0, 0], expected[:, 0, 0])
    assert not odd[:, 1, :, 3:6].any()  # the row below the last
    assert not odd[:, :, 2, 6:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "swin_tiny__patch4_window7_224"}, "did you mean 'swin_tiny_patch4_window7_224'"),
        ({"windw_size": 7}, "unknown model size 'windw_size'; did you mean 'window_size'"),
        ({"image_size": 0}, "image_size is at least 1"),
        ({"window_size": (0, 7)}, "window_size is at least 1"),
        ({"depths": (2, 2, 6)}, "depths has 3 stages and num_heads 2: give as many"),
        ({"num_heads": (2, 5)}, "width 24 of a stage is not divisible by its 5 heads"),
        ({"mlp_ratio": 0.01}, "leaves no MLP"),
        ({"drop_path": 1.0}, "drop_path is a probability"),
        ({"attention_dropout": -0.1}, "attention_dropout is a probability"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_sizes_override_the_name():
    config = tiny("swin_large_patch4_window12_384_22k", window_size=(7, 5), layer_norm_eps=1e-6).config
    assert (config.image_size, config.window_size, config.num_classes) == ((56, 56), (7, 5), 5)
    assert SIZES["swin_large_patch4_window12_384_22k"]["num_classes"] == 21841


@pytest.mark.parametrize("sizes", [{}, {"absolute_positions": True, "qkv_bias": False}])
def test_every_parameter_gets_a_gradient(sizes):
    model = tiny(dropout=0.1, attention_dropout=0.1, drop_path=0.1, image_size=40, **sizes)
    model(images(4, 40, 40)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_gradients_are_those_of_finite_differences():
    model = tiny(image_size=20, embed_dim=4, depths=(2, 1), num_heads=(1, 2), window_size=3).double()
    batch = images(1, 20, 20).double()
    model(batch).square().sum().backward()
    generator = torch.Generator().manual_seed(5)
    for name in ("layers.0.blocks.1.attn.relative_position_bias_table", "layers.0.blocks.1.attn.qkv.weight"):
        parameter = model.get_parameter(name)
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step * direction
                values.append(model(batch).square().sum())
                parameter -= step * direction
        assert float((values[0] - values[1]) / 2e-5) == pytest.approx(
            float((parameter.grad * direction).sum()), rel=1e-6
        )


def test_samples_do_not_mix():
    model = tiny().eval()
    together = model(images(4))
    alone = torch.cat([model(image[None]) for image in images(4)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_options_that_change_the_result():
    plain = tiny().eval()(images())
    for sizes in ({"qk_scale": 0.1}, {"patch_norm": False}, {"absolute_positions": True}, {"qkv_bias": False}):
        assert not torch.allclose(tiny(**sizes).eval()(images()), plain, atol=1e-3), sizes
    sixes = {"num_heads": (2, 4)}  # heads of a width of 6
    torch.testing.assert_close(tiny(qk_scale=6**-0.5, **sixes).eval()(images()), tiny(**sixes).eval()(images()))


def test_drop_path_grows_linearly_over_all_stages():
    rates = [block.drop_path.probability for block in tiny(depths=(2, 3), drop_path=0.4).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert tiny(depths=(1, 1), drop_path=0.3).blocks[0].drop_path.probability == 0


def test_drop_path_cuts_both_branches():
    block = tiny(drop_path=0.999999).train().blocks[-1]
    x = torch.randn(3, 7, 7, 24)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout", "drop_path"])
def test_regularisation_only_in_training(kind):
    plain, regularised = tiny().eval(), tiny(**{kind: 0.5})
    assert not torch.equal(regularised.train()(images()), regularised(images()))
    assert torch.equal(regularised.eval()(images()), plain(images()))


def test_recomputed_blocks_give_the_same_gradients():
    plain, recomputed = tiny(drop_path=0.3), tiny(drop_path=0.3, checkpoint_blocks=True)
    calls = []
    recomputed.blocks[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    for model in (plain, recomputed):
        torch.manual_seed(7)
        model.train()(images()).square().sum().backward()
    assert len(calls) == 2
    for (name, ours), theirs in zip(plain.named_parameters(), recomputed.parameters()):
        assert torch.equal(ours.grad, theirs.grad), name
    calls.clear()
    with torch.no_grad():
        recomputed.eval()(images())
    assert len(calls) == 1


def test_parts_can_be_placed_one_by_one():
    model, called = tiny(), []
    parts = {"patch_embed": model.patch_embed, "merging": model.stages[0].downsample, "norm": model.norm}
    parts.update({f"block {i}": block for i, block in enumerate(model.blocks)}, head=model.head)
    for name, part in parts.items():
        part.register_forward_hook(lambda module, args, out, name=name: called.append(name))
    model(images())
    assert called == ["patch_embed", "block 0", "block 1", "merging", "block 2", "block 3", "norm", "head"]


def test_geometry_follows_the_model_but_is_not_saved():
    model = tiny().half()
    attention = model.blocks[1].attn
    assert attention.mask.dtype == torch.float16
    assert attention.relative_position_index.dtype == torch.int64
    assert not [name for name in model.state_dict() if name.endswith(("mask", "index"))]
    assert model.blocks[0].attn.mask is None


@pytest.mark.parametrize("size", [56, 40])
def test_compiles_without_a_break(size):
    model = tiny(dropout=0.1, attention_dropout=0.1, drop_path=0.2, image_size=size)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    batch = images(2, size, size)
    for module in (model.eval(), model.train()):
        results = []
        for run in (module, compiled):
            torch.manual_seed(3)
            model.zero_grad()
            logits = run(batch)
            logits.square().sum().backward()
            results.append([logits.detach(), *[parameter.grad.clone() for parameter in model.parameters()]])
        for plain, fast in zip(*results):
            torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [56, 40])
def test_exports_with_any_batch_size(size):
    model = tiny(image_size=size).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(model, (images(2, size, size),), dynamic_shapes=shapes)
    batch = images(7, size, size)
    torch.testing.assert_close(exported.module()(batch), model(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_follows_float32(dtype):
    expected = tiny().eval()(images())
    logits = tiny().to(dtype).eval()(images().to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.05)


def test_autocast_follows_float32():
    model = tiny()
    expected = model(images())
    expected.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images())
    logits.float().square().sum().backward()
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.05)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients):
        assert float((parameter.grad - gradient).norm() / gradient.norm()) < 0.1, name


def test_training_starts_as_the_papers_code_does():
    model = create_model("swin_tiny_patch4_window7_224", image_size=56, depths=(1, 1), num_heads=(3, 6))
    for name, parameter in model.named_parameters():
        if "patch_embed.proj" in name:
            limit = 1 / math.sqrt(3 * 4 * 4)  # torch's own: uniform
            assert 0.9 * limit < parameter.abs().max() <= limit
        elif "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


def test_reset_head_draws_the_head_only():
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.reset_head()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["head.weight", "head.bias"]
    assert not model.head.bias.any()
