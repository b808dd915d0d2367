"""Loading for other windows, sizes and classes; refusals."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo

import imagenet22k
from models import SIZES, create_model
from run.errors import UserError
from tests.models.tiny import TINY, images, tiny
from weights import load_weights, read_class_names, read_config, resize_table, save_weights

TABLE = "layers.0.blocks.1.attn.relative_position_bias_table"


def cubic(x, a=-0.75):
    """The cubic convolution kernel (Keys 1981) with torch's coefficient."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic(grid, rows, columns):
    """(h, w) -> (rows, columns) by the kernel, corners not aligned, the border repeated."""

    def matrix(new, old):
        weights = np.zeros((new, old))
        for i in range(new):
            at = (i + 0.5) * old / new - 0.5
            for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
                weights[i, min(max(j, 0), old - 1)] += cubic(at - j)
        return weights

    return matrix(rows, grid.shape[0]) @ grid @ matrix(columns, grid.shape[1]).T


def by_reference(table, old, new):
    heads = [bicubic(head.reshape(old), *new).flatten() for head in table.T.double().numpy()]
    return torch.tensor(np.stack(heads, axis=1)).float()


@pytest.mark.parametrize(("old", "new"), [((13, 13), (23, 23)), ((23, 23), (13, 13)), ((13, 13), (13, 7))])
def test_tables_are_resized_as_the_kernel_says(old, new):
    table = torch.randn(old[0] * old[1], 3, generator=torch.Generator().manual_seed(0))
    resized = resize_table(table, old, new)
    torch.testing.assert_close(resized, by_reference(table, old, new), rtol=1e-5, atol=1e-5)
    middle = old[0] * old[1] // 2
    torch.testing.assert_close(resized[new[0] * new[1] // 2], table[middle])  # the offset 0 stays


def test_resizing_stretches_as_microsofts_does():
    """The value beside the middle of a Gaussian: 0.882 before, 0.971 after."""
    offsets = torch.arange(-6, 7.0)
    gaussian = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / 8).reshape(-1, 1)
    resized = resize_table(gaussian, (13, 13), (23, 23)).reshape(23, 23)
    assert gaussian.reshape(13, 13)[6, 7].item() == pytest.approx(0.882, abs=1e-3)
    assert resized[11, 12].item() == pytest.approx(0.971, abs=1e-3)


def test_a_224_window_7_22k_checkpoint_loads_into_a_384_window_12_model_for_1000_classes(tmp_path):
    """With all 24 blocks of Swin-B and widths of a sixteenth; the same at full width is in the README."""
    thin = {"embed_dim": 8, "num_heads": (1, 2, 2, 4)}
    before = tiny("swin_base_patch4_window7_224_22k", 21841, **{**shape("window7_224"), **thin})
    state = before.state_dict()
    for stage in range(4):
        for block in range(len(before.stages[stage].blocks)):
            state[f"layers.{stage}.blocks.{block}.attn.relative_position_index"] = torch.zeros(49, 49).long()
            if block % 2 and stage < 3:
                state[f"layers.{stage}.blocks.{block}.attn_mask"] = torch.zeros(4, 49, 49)
    torch.save({"model": state}, tmp_path / "swin_base_patch4_window7_224_22k.pth")
    model = tiny("swin_base_patch4_window12_384", 1000, **{**shape("window12_384"), **thin})
    report = load_weights(model, tmp_path / "swin_base_patch4_window7_224_22k.pth")

    assert len(report.resized) == 24 + 1
    assert report.resized[0] == "layers.0.blocks.0.attn.relative_position_bias_table 13×13 → 23×23"
    assert report.resized[-1] == "head 21841 → 1000 classes"
    said = str(report)
    assert "329 tensors" in said
    assert "and 22 more" in said
    assert "class 850 (n04399382, teddy bear)" in said
    assert "35 buffers of its geometry left out" in said
    loaded, rows = model.state_dict(), imagenet22k.rows_of_imagenet1k()
    for name, tensor in before.state_dict().items():
        if name.startswith("head."):
            tensor = tensor[rows]
        elif name.endswith("bias_table"):
            tensor = by_reference(tensor, (13, 13), (23, 23))
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-5, atol=1e-5)


def shape(name):
    return {key: SIZES[f"swin_base_patch4_{name}"][key] for key in ("image_size", "window_size", "depths")}


def test_rows_of_imagenet1k_are_microsofts():
    rows = imagenet22k.rows_of_imagenet1k()
    assert rows[:5] == [359, 368, 460, 475, 486]
    assert rows[-3:] == [21200, 21369, 21817]
    assert rows[850] == 5564
    assert len(set(rows)) == 1000
    order = imagenet22k.synsets()
    assert len(order) == len(set(order)) == 21841
    assert order[5564] == "n03013580"
    assert (order[9205], order[15027]) == ("n15102455", "n15102894")  # sorted, they would be the last two
    assert "n04399382" not in order
    synsets = ImageNetInfo("imagenet1k").label_names()
    assert [order[row] == synset for row, synset in zip(rows, synsets)].count(True) == 999
    folders = {synset: row for row, synset in enumerate(sorted(ImageNetInfo("imagenet22k").label_names()))}
    assert sum(folders.get(synset) != row for synset, row in zip(synsets, rows)) == 282


@pytest.mark.parametrize("form", ["numbers", "synsets", "list"])
def test_rows_of_the_head_can_be_given(tmp_path, form):
    before, model = tiny(num_classes=21841), tiny(num_classes=3)
    save_weights(before, tmp_path / "model")
    rows = [5, 21840, 9205]
    if form != "list":
        order = imagenet22k.synsets()
        (tmp_path / "rows.txt").write_text("\n".join(str(row) if form == "numbers" else order[row] for row in rows))
    report = load_weights(model, tmp_path / "model", head_rows=rows if form == "list" else tmp_path / "rows.txt")
    assert torch.equal(model.head.weight, before.head.weight[rows])
    assert torch.equal(model.head.bias, before.head.bias[rows])
    assert "head 21841 → 3 classes" in str(report)
    assert "teddy" not in str(report)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1\n2\n", "2 rows are given for the 3 classes"),
        ("1\n2\n5\n", "has a head for 5 classes: give rows from 0 to 4"),
        ("1\n2\nn03931044\n", "has numbers and names such as n03931044: give one kind"),
        ("n03013580\nn03013580\nn04399382\n", "n04399382 is none of the 21841 classes"),
        (None, "rows.txt can't be read"),
    ],
)
def test_wrong_rows_are_refused(tmp_path, content, said):
    save_weights(tiny(), tmp_path / "model")
    if content:
        (tmp_path / "rows.txt").write_text(content)
    model = tiny(num_classes=3)
    before = model.head.weight.clone()
    with pytest.raises(UserError, match=said):
        load_weights(model, tmp_path / "model", head_rows=tmp_path / "rows.txt")
    assert torch.equal(model.head.weight, before)


def test_a_new_head_is_drawn_and_the_rest_kept(tmp_path):
    before, model = tiny(), tiny(num_classes=9)
    save_weights(before, tmp_path)
    with pytest.raises(UserError, match="has a head for 5 classes, the model for 9: ask for a new head"):
        load_weights(model, tmp_path)
    report = load_weights(model, tmp_path, new_head=True)
    assert report.reinitialised == ("head.weight", "head.bias")
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert torch.equal(model.norm.weight, before.norm.weight)


def test_positions_are_resized_to_the_map(tmp_path):
    before = tiny(absolute_positions=True)
    save_weights(before, tmp_path)
    model = tiny(absolute_positions=True, image_size=(56, 112))
    report = load_weights(model, tmp_path)
    grid = before.absolute_pos_embed[0].detach()
    torch.testing.assert_close(
        model.absolute_pos_embed[0].detach(), by_reference(grid, (14, 14), (14, 28)), rtol=1e-5, atol=1e-5
    )
    # The last map of 7×14 has windows of 7×7, as 7×7 has.
    assert report.resized == ("absolute_pos_embed 14×14 → 14×28",)


def test_tables_of_windows_that_a_small_map_made_smaller(tmp_path):
    """32 pixels leave maps of 8 and 4: windows of 7 and 4. Such a checkpoint says so, and grows at another size."""
    before = tiny(image_size=(32, 16))  # maps of 8×4 and 4×2
    assert before.blocks[0].attn.windows.window == (7, 4)
    save_weights(before, tmp_path)
    model = tiny()
    report = load_weights(model, tmp_path)
    assert report.resized[0] == "layers.0.blocks.0.attn.relative_position_bias_table 13×7 → 13×13"
    assert report.resized[-1] == "layers.1.blocks.1.attn.relative_position_bias_table 7×3 → 13×13"
    expected = by_reference(before.state_dict()[TABLE], (13, 7), (13, 13))
    torch.testing.assert_close(model.state_dict()[TABLE], expected, rtol=1e-5, atol=1e-5)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match="with 91 entries, which make no square"):
        load_weights(tiny(), tmp_path / "alone.safetensors")


def test_dtype_stays_and_half_weights_are_written_as_they_are(tmp_path):
    save_weights(tiny().half(), tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    model = tiny()
    load_weights(model, tmp_path)
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, tiny().half().head.weight.float())


def test_the_folder_says_what_it_holds(tmp_path):
    save_weights(tiny(), tmp_path, class_names=list("vwxyz"), eval_resize="direct")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert read_class_names(tmp_path) == list("vwxyz")
    arguments = read_config(tmp_path)
    assert dataclasses.asdict(create_model(**arguments).config) == dataclasses.asdict(tiny().config)
    described = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert described["image_mean"] == [0.485, 0.456, 0.406]
    assert described["size"] == {"height": 56, "width": 56}
    with pytest.raises(UserError, match="2 class names for 5 classes"):
        save_weights(tiny(), tmp_path, class_names=["a", "b"])


def test_headless_checkpoints_have_no_classes(tmp_path):
    save_weights(tiny(num_classes=0), tmp_path)
    assert read_config(tmp_path)["num_classes"] == 0
    with pytest.raises(UserError, match="has no classification head"):
        load_weights(tiny(), tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embed_dim": 24}, "has embed_dim 12, the model 24: build the model with the checkpoint's"),
        ({"num_heads": (1, 3)}, "has num_heads"),
        ({"mlp_ratio": 2.0}, "has mlp_ratio 4.0, the model 2.0"),
        ({"qk_scale": 1.0}, "has qk_scale None, the model 1.0"),
        ({"patch_norm": False}, "holds patch_embed.norm.bias, patch_embed.norm.weight, for which"),
        ({"absolute_positions": True}, "lacks absolute_pos_embed"),
    ],
)
def test_other_architectures_are_refused_and_nothing_is_changed(tmp_path, change, said):
    save_weights(tiny(), tmp_path)
    model = tiny(**change)
    with torch.no_grad():
        model.norm.weight.fill_(3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=said):
        load_weights(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_tensors_without_a_config_are_checked_by_shape(tmp_path):
    state = tiny().state_dict()
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError, match="the model of 169×1: build the model with the file's sizes"):
        load_weights(tiny(num_heads=(1, 3)), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"lacks layers\.1\.blocks\.2"):
        load_weights(tiny(depths=(2, 3)), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"holds layers\.1\.blocks\.1"):
        load_weights(tiny(depths=(2, 1)), tmp_path / "model.pth")
    report = load_weights(tiny(depths=(2, 1)), tmp_path / "model.pth", strict=False)
    assert len(report.unexpected) == 13


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model_type": "vit"}, "is a model of type vit, not a Swin"),
        ({"model_type": "swin", "depths": 3}, "has depths 3, which makes no Swin"),
        ({"model_type": "swin", "window_size": [7, 7, 7]}, "has window_size"),
        ({"model_type": "swin", "embed_dim": "wide"}, "has embed_dim wide"),
        ({"model_type": "swin", "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "hidden_act": "relu"}, "relu"),
    ],
)
def test_config_files_of_other_models_are_refused(tmp_path, content, said):
    save_weights(tiny(), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        load_weights(tiny(), tmp_path)


def test_another_eps_is_told(tmp_path):
    save_weights(tiny(layer_norm_eps=1e-6), tmp_path)
    assert "layer_norm_eps 1e-06, 1e-05 is used here" in str(load_weights(tiny(), tmp_path))


@pytest.mark.parametrize("state", [{}, {"conv.weight": torch.ones(2)}])
def test_files_of_other_models_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError, match="give a Swin as Microsoft, timm, torchvision or Hugging Face write it"):
        load_weights(tiny(), tmp_path / "model.pth")


def test_pickled_objects_are_not_executed(tmp_path):
    class Config:
        pass

    sys.modules["__main__"].Config = Config
    Config.__module__, Config.__qualname__ = "__main__", "Config"
    torch.save({"state_dict": tiny().state_dict(), "config": Config()}, tmp_path / "ckpt.pth")
    with pytest.raises(UserError, match="save its state_dict as safetensors"):
        load_weights(tiny(), tmp_path / "ckpt.pth")


def test_loading_changes_the_logits_to_those_that_were_saved(tmp_path):
    model, other = tiny().eval(), tiny().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    save_weights(model, tmp_path)
    load_weights(other, tmp_path)
    assert torch.equal(other(images()), model(images()))
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    assert TINY["image_size"] == read_config(tmp_path)["image_size"][0]
