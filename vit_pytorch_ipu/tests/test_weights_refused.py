"""What is wrong with weights is told in one sentence, and nothing in them is run."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models import create_model
from run.checkpoints import Checkpoints
from run.errors import UserError
from weights import load_weights, read_config, save_weights

SIZES = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 2, "heads": 3, "mlp_width": 40}


def tiny():
    torch.manual_seed(0)
    return create_model("vit_base_patch16_224", num_classes=5, **SIZES).eval()


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("suffix", [".bin", ".pth", ".pt", ".npz"])
def test_pickled_code_is_refused_and_not_run(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **{"embedding/kernel": np.array([Hostile(tmp_path / "executed")], dtype=object)})
    elif suffix == ".pt":
        path.write_bytes(pickle.dumps(Hostile(tmp_path / "executed")))
    else:
        torch.save({"head.weight": Hostile(tmp_path / "executed")}, path)
    message = "more than arrays" if suffix == ".npz" else "pickled objects besides tensors"
    with pytest.raises(UserError, match=message) as refusal:
        load_weights(tiny(), path)
    assert not (tmp_path / "executed").exists()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["model.safetensors", "weights.pth", "weights.npz"])
def test_truncated_files_are_told_in_one_sentence(tmp_path, name, share):
    path = tmp_path / name
    state = tiny().state_dict()
    if name.endswith(".safetensors"):
        save_file(state, path)
    elif name.endswith(".pth"):
        torch.save(state, path)
    else:
        np.savez(path, **{key: tensor.numpy() for key, tensor in state.items()})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"is truncated, damaged|is damaged or holds pickled") as refusal:
        load_weights(tiny(), path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors: give a ViT"),
        ({"conv1.weight": torch.zeros(1)}, "holds conv1.weight: give a ViT"),
        ([1, 2], "holds no tensors: give a ViT"),
        ({"patch_embed.proj.weight": torch.zeros(24, 3, 4, 4)}, "lacks embeddings.class_token, .* and 28 more"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        load_weights(tiny(), tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head.weight": None}, "has no classification head"),
        ({"blocks.1.mlp.fc1.bias": None}, "lacks blocks.1.mlp.fc1.bias: choose another"),
        ({"blocks.2.norm1.weight": torch.zeros(24)}, "holds blocks.2.norm1.weight, for which the model has no place"),
        ({"dist_token": torch.zeros(1)}, "holds dist_token, for which the model has no place"),
        ({"norm.bias": torch.zeros(3)}, "norm.bias of 3, the model of 24: build the model with the file's sizes"),
        ({"norm.bias": torch.zeros(())}, "norm.bias of a single number"),
        ({"pos_embed": torch.zeros(1, 13, 24)}, "positions for 12 patches, which make no 3×3 grid"),
        ({"pos_embed": torch.zeros(1, 0, 24)}, "positions of 1×0×24, the model of 1×17×24"),
        ({"pos_embed": torch.zeros(24)}, "positions of 24, the model"),
        ({"head.weight": torch.zeros(5, 9)}, "head.weight of 5×9, the model of 5×24"),
        ({"head.weight": torch.zeros(())}, "head.weight of a single number"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, changes, message):
    save_weights(tiny(), tmp_path, "timm")
    state = {**load_file(tmp_path / "model.safetensors"), **changes}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        load_weights(tiny(), tmp_path / "weights.pth")


def test_places_without_weights(tmp_path):
    (tmp_path / "weights.txt").write_text("")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    Checkpoints(tmp_path / "other" / "checkpoints").save(1, {})
    for place, message in {
        tmp_path: "holds none of model.safetensors, .* and no checkpoints",
        tmp_path / "run": "no latest checkpoint",
        tmp_path / "other": "step-1 is a checkpoint without model weights",
        tmp_path / "absent": "does not exist: give a weight file, a folder or a name",
        tmp_path / "weights.txt": "is no weight file: its name should end in .safetensors",
    }.items():
        with pytest.raises(UserError, match=message):
            load_weights(tiny(), place)
    with pytest.raises(UserError, match="unknown interpolation 'cubic': choose one of bilinear, bicubic"):
        load_weights(tiny(), tmp_path, interpolation="cubic")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "is not a JSON object"),
        ("{", "can't be read as JSON"),
        ("{}", "is not an index of weight files beside it"),
        ('{"weight_map": {"a": "../outside.safetensors"}}', "is not an index of weight files beside it"),
        ('{"weight_map": {"a": 3}}', "is not an index of weight files beside it|no weight file"),
        ('{"weight_map": {"a": "model-1.safetensors"}}', "model-1.safetensors can't be opened"),
    ],
)
def test_damaged_indices(tmp_path, index, message):
    save_file(tiny().state_dict(), tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=message):
        load_weights(tiny(), folder)


def test_damaged_configs(tmp_path):
    save_weights(tiny(), tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json can't be read as JSON"):
        load_weights(tiny(), tmp_path)
    save_weights(tiny(), tmp_path, "timm")
    with pytest.raises(UserError, match=r"has no Hugging Face config.json: say which model it is"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    with pytest.raises(UserError, match="of type swin, not a ViT"):
        read_config(tmp_path)
