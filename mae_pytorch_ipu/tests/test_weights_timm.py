"""timm's layout, in and out."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from preparation import Preparation
from run.errors import UserError
from tests.references import autoencoder, classifier, images, randomised, same, timms
from weights import load_weights, save_weights


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_timms_classifiers_go_both_ways(tmp_path, pool):
    theirs = timms(global_pool=pool)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    model = classifier(global_pool=pool == "avg")
    load_weights(model, tmp_path / "timm.safetensors")
    same(model(images()), theirs(images()))

    preparation = Preparation(16, mean=(0.1, 0.2, 0.3))
    save_weights(model, tmp_path / "ours", "timm", preparation=preparation)
    back = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    same(back(images()), model(images()))
    assert set(back.state_dict()) == set(model.state_dict())
    data = timm.data.resolve_model_data_config(back)
    assert (data["input_size"], tuple(data["mean"]), data["interpolation"]) == ((3, 16, 16), (0.1, 0.2, 0.3), "bicubic")


@pytest.mark.parametrize("sizes", [{}, {"gelu": "tanh"}, {"width": 28, "heads": 2, "mlp_width": 34}])
def test_timm_takes_the_encoder(tmp_path, sizes):
    model = randomised(autoencoder(**sizes))
    save_weights(model, tmp_path, "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    same(theirs.forward_features(images()), model.encode(images()))
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    tuned = classifier(**sizes)
    load_weights(tuned, tmp_path / "timm.safetensors", new_head=True)
    assert torch.equal(tuned.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)


def test_timm_can_not_hold_every_model(tmp_path):
    for model in (classifier(linear_probe=True), autoencoder(layer_norm_eps=1e-12)):
        with pytest.raises(UserError, match="timm's ViT has no linear probe and a layer_norm_eps of 1e-6"):
            save_weights(model, tmp_path / "weights", "timm")
    assert not (tmp_path / "weights").exists()
