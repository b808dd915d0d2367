"""Head, positions, and places where weights are found."""

import json
import os

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from scipy import ndimage

from models import create_model
from run.checkpoints import Checkpoints
from run.errors import UserError
from weights import load_weights, read_config, resize_positions, save_weights

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 2, "heads": 3, "mlp_width": 40}


def tiny(num_classes=5, seed=0, **changes):
    torch.manual_seed(seed)
    return create_model("vit_base_patch16_224", num_classes=num_classes, **{**TINY, **changes}).eval()


def equal(first, second, but=()):
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items() if name not in but)


HEAD = ("head.weight", "head.bias")


def test_a_head_for_other_classes_is_replaced_only_if_asked_for(tmp_path):
    source = tiny(7)
    save_weights(source, tmp_path)
    model = tiny(5, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match="a head for 7 classes, the model for 5: ask for a new head"):
        load_weights(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    with torch.no_grad():
        model.head.bias.fill_(3)
    report = load_weights(model, tmp_path, new_head=True)
    assert report.reinitialised == HEAD
    assert "reinitialised head.weight, head.bias" in str(report)
    assert equal(model, source, but=HEAD)
    assert not model.head.bias.any()
    assert not torch.equal(model.head.weight, before["head.weight"])


def test_a_new_head_is_new_even_if_the_old_one_fits(tmp_path):
    source = tiny()
    save_weights(source, tmp_path)
    model = tiny(seed=1)
    load_weights(model, tmp_path, new_head=True)
    assert not torch.equal(model.head.weight, source.head.weight)


def test_a_backbone_leaves_the_head_out(tmp_path):
    save_weights(tiny(representation_size=8), tmp_path)
    report = load_weights(tiny(0), tmp_path)
    assert report.unexpected == ("head.bias", "head.weight", "representation.bias", "representation.weight")


def test_dtype_of_the_model_stays(tmp_path):
    source = tiny()
    save_weights(source, tmp_path)
    model = tiny(seed=1).half()
    load_weights(model, tmp_path)
    assert equal(model, source.half())
    save_weights(model, tmp_path / "half")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize(("old", "new"), [((14, 14), (24, 24)), ((14, 14), (7, 7)), ((4, 4), (2, 6)), ((3, 5), (6, 4))])
def test_positions_are_resized_as_googles_reference_does(old, new):
    positions = torch.randn(1, 1 + old[0] * old[1], 3, generator=torch.Generator().manual_seed(0))
    resized = resize_positions(positions, old, new)
    grid = positions[0, 1:].reshape(*old, 3).numpy()
    zoomed = ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
    torch.testing.assert_close(resized[0, 1:], torch.from_numpy(zoomed).reshape(-1, 3), rtol=0, atol=5e-6)
    assert torch.equal(resized[:, 0], positions[:, 0])


def test_bicubic_positions_are_hugging_faces():
    config = transformers.ViTConfig(hidden_size=24, num_hidden_layers=0, image_size=16, patch_size=4)
    embeddings = transformers.ViTModel(config, add_pooling_layer=False).embeddings
    expected = embeddings.interpolate_pos_encoding(torch.zeros(1, 37, 24), 24, 24)
    resized = resize_positions(embeddings.position_embeddings, (4, 4), (6, 6), "bicubic")
    torch.testing.assert_close(resized, expected)


@pytest.mark.parametrize(("image_size", "grid"), [(24, "6×6"), ((8, 32), "2×8")])
def test_another_image_size_resizes_the_positions(tmp_path, image_size, grid):
    source = tiny()
    save_weights(source, tmp_path)
    model = tiny(seed=1, image_size=image_size)
    report = load_weights(model, tmp_path)
    assert report.resized == (f"embeddings.positions 4×4 → {grid}",)
    assert equal(model, source, but=["embeddings.positions"])
    expected = resize_positions(source.embeddings.positions, (4, 4), model.config.grid)
    assert torch.equal(model.embeddings.positions, expected)
    load_weights(model, tmp_path, interpolation="bicubic")
    assert not torch.equal(model.embeddings.positions, expected)


def test_rectangular_positions_are_taken_by_their_config(tmp_path):
    source = tiny(image_size=(8, 24))  # 12 patches
    save_weights(source, tmp_path)
    model = tiny(seed=1, image_size=(24, 8))
    load_weights(model, tmp_path)
    expected = resize_positions(source.embeddings.positions, (2, 6), (6, 2))
    assert torch.equal(model.embeddings.positions, expected)


@pytest.mark.parametrize("name", ["", "latest", "step-3", "checkpoints", "checkpoints/step-3", "checkpoints/latest"])
def test_our_own_runs(tmp_path, name):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    for step in (1, 3):
        model = tiny(seed=step)
        checkpoints.save(step, {}, writers={"weights": lambda folder, model=model: save_weights(model, folder)})
    path = tmp_path / "run" / name
    again = create_model(**read_config(path))
    load_weights(again, path)
    assert equal(again, tiny(seed=3))


def test_a_config_belongs_to_the_weights_of_its_folder_only(tmp_path):
    save_weights(tiny(), tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "other.pth")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    load_weights(tiny(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="of type swin"):
        load_weights(tiny(), tmp_path / "model.safetensors")


def test_a_model_of_the_hub(tmp_path, monkeypatch):
    """Pickles are fetched only if there is nothing else."""
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(allow_patterns)
        if any("pytorch_model" in pattern for pattern in allow_patterns):
            torch.save(load_file(tmp_path / "safe" / "model.safetensors"), tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    source = tiny()
    save_weights(source, tmp_path / "safe")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = tiny(seed=1)
    load_weights(model, "someone/vit-tiny")
    assert equal(model, source)
    assert [any("pytorch_model" in pattern for pattern in patterns) for patterns in asked] == [False, True]

    (tmp_path / "pytorch_model.bin").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(tmp_path))
    with pytest.raises(UserError, match=r"someone/vit-tiny on the Hugging Face hub holds none of model"):
        load_weights(model, "someone/vit-tiny")


def test_the_hub_out_of_reach(monkeypatch):
    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(
        UserError, match=r"google/vit-base-patch16-224-in21k is no file .* check the name and the network"
    ):
        load_weights(tiny(), "google/vit-base-patch16-224-in21k")


def test_without_strictness_names_are_only_reported(tmp_path):
    source = tiny()
    save_weights(source, tmp_path, "timm")
    state = load_file(tmp_path / "model.safetensors")
    state["dist_token"] = state.pop("norm.bias")
    torch.save(state, tmp_path / "weights.pth")
    model = tiny(seed=1)
    with torch.no_grad():
        model.norm.bias.fill_(3)
    report = load_weights(model, tmp_path / "weights.pth", strict=False)
    assert report.missing == ("norm.bias",)
    assert report.unexpected == ("dist_token",)
    assert equal(model, source, but=["norm.bias"])
    assert torch.equal(model.norm.bias, torch.full((24,), 3.0))
    assert str(report).endswith("missing norm.bias; unexpected dist_token")


def test_saving_refuses_what_it_can_not_write(tmp_path):
    with pytest.raises(UserError, match="unknown layout 'keras': choose one of huggingface, timm"):
        save_weights(tiny(), tmp_path, "keras")
    with pytest.raises(UserError, match="2 class names for 5 classes"):
        save_weights(tiny(), tmp_path, class_names=["ant", "bee"])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_the_old_weights(tmp_path, monkeypatch):
    save_weights(tiny(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["config.json", "model.safetensors", "preprocessor_config.json"]

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        save_weights(tiny(seed=1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
