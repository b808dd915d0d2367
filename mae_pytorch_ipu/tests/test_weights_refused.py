"""What is wrong with weights is told in one sentence, and nothing in them is run."""

import argparse
import json
import os

import pytest
import torch
from safetensors.torch import load_file

from run.checkpoints import Checkpoints
from run.errors import UserError
from tests.references import autoencoder, classifier
from weights import load_weights, read_config, save_weights


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": autoencoder().state_dict(), "args": Hostile(tmp_path / "executed")}, path)
    with pytest.raises(UserError, match="pickled objects besides tensors") as refusal:
        load_weights(autoencoder(), path)
    assert not (tmp_path / "executed").exists()
    assert "\n" not in str(refusal.value)


def test_a_pickled_namespace_of_options_is_refused_with_the_remedy(tmp_path):
    """As training checkpoints of published MAE have it."""
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": autoencoder().state_dict(), "args": argparse.Namespace(epochs=3)}, path)
    with pytest.raises(UserError, match="save its state_dict as safetensors"):
        load_weights(autoencoder(), path)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_files_are_told_in_one_sentence(tmp_path, share):
    save_weights(autoencoder(), tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="is truncated, damaged") as refusal:
        load_weights(autoencoder(), path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors: give a ViT or MAE"),
        ({"conv1.weight": torch.zeros(1)}, "holds conv1.weight: give a ViT or MAE"),
        ([1, 2], "holds no tensors"),
        ({"patch_embed.proj.weight": torch.zeros(24, 3, 4, 4)}, "holds an encoder without its decoder"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        load_weights(autoencoder(), tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.1.mlp.fc1.bias": None}, r"lacks blocks.1.mlp.fc1.bias: choose another"),
        ({"decoder_norm.bias": None}, r"lacks decoder_norm.bias: choose another"),
        ({"blocks.3.norm1.weight": torch.zeros(24)}, "holds blocks.3.norm1.weight, for which the model has no place"),
        ({"head.weight": torch.zeros(24)}, "holds head.weight, for which the model has no place"),
        ({"norm.bias": torch.zeros(3)}, "norm.bias of 3, the model of 24: build the model with the file's sizes"),
        ({"norm.bias": torch.zeros(())}, "norm.bias of a single number"),
        ({"pos_embed": torch.zeros(1, 13, 24)}, "positions for 12 patches, which make no 3×3 grid"),
        ({"pos_embed": torch.zeros(24)}, "pos_embed of 24, the model"),
        ({"decoder_pos_embed": torch.zeros(1, 5, 16)}, "decoder_pos_embed of 1×5×16"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, changes, message):
    state = {**autoencoder().state_dict(), **changes}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "weights.pth")
    model = autoencoder(seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_weights(model, tmp_path / "weights.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_classifier_takes_no_foreign_tensors(tmp_path):
    torch.save({**classifier().state_dict(), "dist_token": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="holds dist_token, for which the model has no place"):
        load_weights(classifier(), tmp_path / "weights.pth")
    torch.save({**classifier().state_dict(), "head.weight": torch.zeros(5, 9)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"head\.weight of 5×9, the model of 5×24"):
        load_weights(classifier(), tmp_path / "weights.pth")


def test_our_own_config_of_other_sizes_or_versions(tmp_path):
    save_weights(autoencoder(), tmp_path)
    with pytest.raises(UserError, match="has heads 3, the model 2"):
        load_weights(autoencoder(heads=2), tmp_path)
    with pytest.raises(UserError, match="has heads 3, the model 4"):
        load_weights(classifier(heads=4), tmp_path, new_head=True)
    content = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"sizes": {"width": 24}}, "config.json of another version"),
        ({"model": "resnet"}, "names no model of this app"),
        ({"sizes": {**content["sizes"], "width": "x"}}, "has width x, which should be a number"),
        ({"model_type": "swin"}, "of type swin"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=message):
            read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json can't be read as JSON"):
        load_weights(autoencoder(), tmp_path)


def test_places_without_weights(tmp_path):
    Checkpoints(tmp_path / "other" / "checkpoints").save(1, {})
    for place, message in {
        tmp_path: "holds none of model.safetensors, .* and no checkpoints",
        tmp_path / "other": "step-1 is a checkpoint without model weights",
        tmp_path / "absent": "does not exist: give a weight file, a folder or a name",
    }.items():
        with pytest.raises(UserError, match=message):
            load_weights(autoencoder(), place)


def test_a_config_belongs_to_the_weights_of_its_folder_only(tmp_path):
    save_weights(autoencoder(), tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "other.pth")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    load_weights(autoencoder(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="of type swin"):
        load_weights(autoencoder(), tmp_path / "model.safetensors")
