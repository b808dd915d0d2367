"""predict.py: names and probabilities of images, files that are none."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import train
from models import create_model
from tests.reference_vit import forward, random_arrays
from tests.runs import tiny
from tests.shard_data import encode, noise
from weights import load_npz


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict") / "run"
    rate = ["--initial_lr", "0.5"]  # the head begins with zeros: no image matters yet
    train.main(tiny(digits, folder, "--epochs", "1", "--steps_per_epoch", "4", *rate))
    return folder


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images" / "more").mkdir(parents=True)
    for name, seed in (("b.png", 1), ("a.png", 2), ("more/c.PNG", 3)):
        (tmp_path / "images" / name).write_bytes(encode(noise(20, 16, seed)))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_a_run_names_a_folders_images(run, images, attempt):
    done = attempt("predict.py", "--checkpoint", run, images, "--top", 3)
    assert done.status == 0, done.error
    lines = done.output.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        str(images / name) for name in ("a.png", "b.png", "more/c.PNG")
    ]
    assert len(lines) == 3 * 4


def test_images_are_resized_as_the_run_evaluates(run, images, tmp_path, attempt):
    squashing = shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["options"]["eval_resize"] = "squash"
    (squashing / "config.json").write_text(json.dumps(config))

    def predicted(checkpoint, *more):
        done = attempt("predict.py", "--checkpoint", checkpoint, images / "a.png", "--json", *more)
        return json.loads(done.output)["predictions"]

    assert predicted(squashing) == predicted(run, "--eval_resize", "squash")
    assert predicted(squashing) != predicted(run) == predicted(squashing, "--eval_resize", "crop")


def test_json_holds_the_models_probabilities(images, tmp_path, attempt):
    arrays = random_arrays(tokens=5, patch=16, width=768, heads=12, depth=12, mlp=3072, representation=True)
    np.savez(tmp_path / "vit.npz", **arrays)
    words = ["--checkpoint", tmp_path / "vit.npz", "--image_size", 32, "--json", "--eval_resize", "squash"]
    (images / "a.png").write_bytes(encode(noise(32, 32, 2)))
    done = attempt("predict.py", *words, images / "a.png")
    assert done.status == 0, done.error
    found = json.loads(done.output)["predictions"][0]["top"]
    logits = forward(arrays, noise(32, 32, 2)[None] / 127.5 - 1.0)[0]
    shares = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-shares)[:5]
    assert [best["label"] for best in found] == order.tolist()
    assert [best["name"] for best in found] == [str(label + 1) for label in order]
    np.testing.assert_allclose([best["probability"] for best in found], shares[order], rtol=1e-3)


def test_bad_images_are_told_and_the_others_named(run, images, attempt):
    (images / "a.png").write_bytes(b"no image")
    (images / "empty.jpg").touch()
    done = attempt("predict.py", "--checkpoint", run, images, "--json")
    assert done.status == 1
    assert "2 of 4 images can't be read" in done.error
    content = json.loads(done.output)
    assert content["bad_images"] == {
        str(images / "a.png"): "not an image file",
        str(images / "empty.jpg"): "it has no bytes",
    }
    assert len(content["predictions"]) == 2


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["/nowhere.png"], 1, "there is no image at /nowhere.png"),
        ([], 1, "no image was given"),
        (["--checkpoint", "/nowhere", "x.png"], 1, "there is no image at x.png"),
        (["--image_size", 5, "x"], 2, "--image_size has no effect here"),
        (["--tpo", 5], 2, "did you mean --top"),
    ],
)
def test_mistakes(words, status, said, attempt):
    done = attempt("predict.py", *words)
    assert done.status == status
    assert said in done.error


def test_a_run_without_a_checkpoint(tmp_path, images, attempt):
    done = attempt("predict.py", "--checkpoint", tmp_path, images)
    assert done.status == 1
    assert "config.json" in done.error


def test_the_model_of_a_file_is_what_load_npz_makes(tmp_path):
    arrays = random_arrays(tokens=5)
    np.savez(tmp_path / "vit.npz", **arrays)
    model = create_model(
        "ViT-B_16", image_size=32, width=32, depth=2, heads=2, mlp_width=48, num_classes=10, dropout=0.5
    )
    load_npz(model, tmp_path / "vit.npz")
    images = tf.random.stateless_uniform([2, 32, 32, 3], [1, 2], -1, 1)
    np.testing.assert_allclose(model(images).numpy(), forward(arrays, images.numpy()), rtol=1e-4, atol=1e-5)
