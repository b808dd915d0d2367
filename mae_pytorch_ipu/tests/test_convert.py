"""convert.py: checkpoints for other programs."""

import json

import pytest
import timm
import torch
import transformers

from preparation import Preparation
from tests.references import autoencoder, classifier, images, noise, randomised, same
from weights import load_weights, save_weights


def test_a_pretraining_checkpoint_for_transformers_and_published_code(attempt, tmp_path):
    model = randomised(autoencoder(norm_pix_loss=True))
    save_weights(model, tmp_path / "ours", preparation=Preparation(16, "direct", (0.1, 0.2, 0.3)))
    done = attempt("convert.py", "--checkpoint", tmp_path / "ours", "--output", tmp_path / "theirs")
    assert done.status == 0, done.error
    theirs = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "theirs").eval()
    same(theirs(images(), noise=noise()).logits, model(images(), noise())[1])
    processor = json.loads((tmp_path / "theirs" / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.1, 0.2, 0.3]
    back = ["--checkpoint", tmp_path / "theirs", "--layout", "pth", "--output", tmp_path / "public", "--encoder-only"]
    assert attempt("convert.py", *back).status == 0
    names = torch.load(tmp_path / "public" / "model.pth", weights_only=True)["model"]
    assert "norm.weight" in names
    assert "mask_token" not in names


@pytest.mark.parametrize(
    ("sizes", "said"), [({"gelu": "tanh"}, "tanh"), ({"norm_pix_loss": True}, "normalised"), ({}, "")]
)
def test_what_published_files_can_not_say_is_told(attempt, tmp_path, sizes, said):
    save_weights(autoencoder(**sizes), tmp_path / "ours")
    done = attempt("convert.py", "--checkpoint", tmp_path / "ours", "--layout", "pth", "--output", tmp_path / "public")
    assert done.status == 0, done.error
    assert ("so tell its readers" in done.output) == bool(said)
    assert said in done.output.splitlines()[-1]


def test_a_fine_tuned_checkpoint_for_timm(attempt, tmp_path):
    model = randomised(classifier(3))
    save_weights(model, tmp_path / "ours", class_names=["a", "b", "c"])
    words = ["--layout", "timm", "--output", tmp_path / "theirs"]
    assert attempt("convert.py", "--checkpoint", tmp_path / "ours", *words).status == 0
    same(timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True).eval()(images()), model(images()))
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["label_names"] == ["a", "b", "c"]
    done = attempt("convert.py", "--checkpoint", tmp_path / "ours", *words, "--encoder-only")
    assert done.status == 2
    assert "--encoder_only has no effect here" in done.error
    done = attempt("convert.py", "--checkpoint", tmp_path / "ours", "--output", tmp_path / "no")
    assert done.status == 1
    assert "transformers' ViT classifies its class token, not pooled patches: save as mae or timm" in done.error


def test_the_checkpoint_itself_is_left_alone(attempt, tmp_path):
    save_weights(autoencoder(), tmp_path / "ours")
    for place in (tmp_path / "ours", tmp_path / "ours" / "model.safetensors"):
        done = attempt("convert.py", "--checkpoint", place, "--output", tmp_path / "ours")
        assert done.status == 1
        assert "is the checkpoint itself" in done.error
    load_weights(autoencoder(), tmp_path / "ours")


@pytest.mark.parametrize("words", [["--checkpoint", "x"], ["--output", "x"]])
def test_both_places_are_needed(attempt, words):
    done = attempt("convert.py", *words)
    assert done.status == 2
    assert "is required" in done.error
