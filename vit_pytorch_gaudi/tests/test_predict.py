"""predict.py: class names from folders of weights and runs, pictures of attention, exports."""

import json
import re

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image

from classifier import load_classifier
from image_files import find_images, picture_paths
from models import create_model
from prediction_options import PredictionOptions
from preparation import Preparation, read_preparation
from run.checkpoints import Checkpoints
from run.errors import UserError
from tests.npz_files import google_arrays
from weights import load_weights, save_weights

SIZES = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64, "patch_size": 8}
NAMES = ["airplane", "automobile", "bird"]


def random_model(name="ViT-B_16", image_size=32, **sizes):
    torch.manual_seed(1)
    return create_model(name, image_size=image_size, num_classes=3, **{**SIZES, **sizes}).eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder of a model with random weights for three classes."""
    folder = tmp_path_factory.mktemp("weights")
    save_weights(random_model(), folder, class_names=NAMES)
    return folder


def photo(path, size=(50, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_class_that_shows_is_named(attempt, tmp_path):
    """A model by hand: its class token attends evenly, so bright images are "day" and dark ones "night"."""
    model = create_model(
        "ViT-B_16", image_size=16, num_classes=2, width=2, depth=1, heads=1, mlp_width=1, patch_size=8
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embeddings.patch.weight[0].fill_(1)  # patches get their sum in one channel, its sign is left by the norm
        block = model.blocks[0]
        block.norm1.weight.fill_(1)
        block.attention.qkv.weight[4:].copy_(torch.eye(2))
        block.attention.proj.weight.copy_(torch.eye(2))
        model.norm.weight.fill_(1)
        model.head.weight.copy_(torch.eye(2))
    save_weights(model, tmp_path / "model", class_names=["day", "night"])
    for name, level in {"bright": 250, "dark": 5}.items():
        Image.new("RGB", (30, 20), (level,) * 3).save(tmp_path / f"{name}.png")
    done = attempt("predict.py", "--checkpoint", tmp_path / "model", "--json", tmp_path)
    assert done.status == 0, done.error
    answers = {one["image"].split("/")[-1]: one["top5"][0] for one in json.loads(done.output)["predictions"]}
    assert answers["bright.png"]["name"] == "day"
    assert answers["dark.png"]["name"] == "night"
    assert answers["dark.png"]["probability"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-3)


@pytest.mark.parametrize("name", ["", "latest", "step-1"])
def test_the_table_of_a_run(attempt, tmp_path, name):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    for step in (1, 2):
        model = random_model(name="R50-ViT-B_16", patch_size=1, stages=(1,), resnet_width=32)
        writers = {"weights": lambda folder, model=model: save_weights(model, folder, class_names=NAMES)}
        checkpoints.save(step, {}, metric=float(-step), writers=writers)
    photo(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "empty.png").write_bytes(b"")
    done = attempt("predict.py", "--checkpoint", tmp_path / "run" / name, tmp_path / "images")
    assert done.status == 1
    lines = done.output.splitlines()
    assert lines[0] == str(tmp_path / "images" / "a.png")
    found = [re.fullmatch(r"  +(\d+\.\d\d) %  (\w+)", line).groups() for line in lines[1:]]
    assert sorted(label for _, label in found) == NAMES
    assert sum(float(share) for share, _ in found) == pytest.approx(100, abs=0.02)
    assert f"bad image {tmp_path / 'images' / 'empty.png'}: empty file" in done.error
    assert "1 of 2 images can't be read" in done.error
    step = {"": 1, "latest": 2, "step-1": 1}[name]
    assert f"step-{step}" in done.error


def test_probabilities_are_the_models(weights, attempt, tmp_path):
    paths = [photo(tmp_path / f"{index}.png", (32, 32), seed=index) for index in range(3)]
    done = attempt("predict.py", "--checkpoint", weights, "--json", "--micro-batch-size", 2, *paths)
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    expected = random_model()(images).softmax(-1)
    for record, shares in zip(json.loads(done.output)["predictions"], expected):
        told = {entry["index"]: entry["probability"] for entry in record["top5"]}
        assert [told[index] for index in range(3)] == pytest.approx(shares.tolist(), abs=1e-5)
        assert record["top5"][0]["label"] == NAMES[int(shares.argmax())]


def test_googles_file_needs_the_models_name(attempt, tmp_path):
    arrays = google_arrays(width=64, heads=4, mlp_width=128, patch_size=8, tokens=17, classes=5)
    np.savez(tmp_path / "vit.npz", **arrays)
    image = photo(tmp_path / "a.png")
    done = attempt("predict.py", "--checkpoint", tmp_path / "vit.npz", image)
    assert done.status == 1
    assert "say which model it is (--model-type)" in done.error
    named = ["--model-type", "testing", "--num-classes", 5]
    done = attempt("predict.py", "--checkpoint", tmp_path / "vit.npz", *named, "--img-size", 32, image)
    assert done.status == 0, done.error
    assert done.output.count("LABEL_") == 5
    done = attempt("predict.py", "--checkpoint", tmp_path / "vit.npz", *named, "--img-size", 30, image)
    assert done.status == 2
    assert "30×30 is not a multiple of the patches' 8 pixels" in done.error


def test_exports_are_read_by_others(weights, attempt, tmp_path):
    for layout in ("huggingface", "timm", "npz"):
        place = tmp_path / ("vit.npz" if layout == "npz" else layout)
        done = attempt("predict.py", "--checkpoint", weights, "--export", place, "--layout", layout)
        assert done.status == 0, done.error
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = random_model()(images)
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path / "huggingface").eval()
    torch.testing.assert_close(theirs(images).logits, expected, rtol=1e-5, atol=1e-5)
    assert theirs.config.id2label[2] == "bird"
    timms = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(timms(images), expected, rtol=1e-5, atol=1e-5)
    again = random_model()
    again.reset_head()
    load_weights(again, tmp_path / "vit.npz")
    assert torch.equal(again(images), expected)
    refused = attempt("predict.py", "--checkpoint", weights, "--export", weights)
    assert refused.status == 1
    assert "is the checkpoint itself" in refused.error


def test_attention_goes_to_the_file_or_below_the_folder(weights, attempt, tmp_path):
    paths = [photo(tmp_path / "a" / "x.png"), photo(tmp_path / "b" / "x.png", seed=1)]
    done = attempt("predict.py", "--checkpoint", weights, "--attention", tmp_path / "map.png", paths[0])
    assert done.status == 0, done.error
    assert f"attention: {tmp_path / 'map.png'}" in done.output
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > 400
    done = attempt("predict.py", "--checkpoint", weights, "--attention", tmp_path / "maps", *paths)
    assert done.status == 0, done.error
    assert (tmp_path / "maps" / "a" / "x.attention.png").is_file()
    assert (tmp_path / "maps" / "b" / "x.attention.png").is_file()
    assert find_images([str(tmp_path / "maps"), str(paths[0])]) == [paths[0]]
    done = attempt("predict.py", "--checkpoint", weights, "--attention", "map.png", *paths)
    assert done.status == 2
    assert "is one file for 2 images: give a folder" in done.error
    with pytest.raises(UserError, match="2 images would have"):
        picture_paths([tmp_path / "x.png", tmp_path / "x.jpg"], ".attention.png", "maps")


def test_the_checkpoint_says_mean_std_and_resize():
    described = {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.25]}
    preparation = read_preparation(described, 32)
    assert preparation == Preparation(32, "direct", (0.1, 0.2, 0.3), (0.5, 0.4, 0.25))
    white = preparation.normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    assert white.flatten().tolist() == pytest.approx([0.9 / 0.5, 0.8 / 0.4, 0.7 / 0.25])
    assert read_preparation({"size": {"shortest_edge": 36}}, 32).eval_resize == "crop"
    assert read_preparation({"size": 36}, 32).eval_resize == "direct"  # as older files have it
    assert read_preparation({}, 32) == Preparation(32, "direct")
    assert read_preparation({"do_normalize": False}, 32).std == (1.0, 1.0, 1.0)


def test_what_is_saved_is_prepared_as_transformers_does(weights, tmp_path):
    image = Image.open(photo(tmp_path / "a.png"))
    classifier = load_classifier(PredictionOptions(checkpoint=str(weights), images=["x"]))
    assert classifier.preparation == Preparation(32, "direct")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    ours = classifier.preparation.normalise(classifier.preparation.cut(pixels)[None])
    theirs = transformers.AutoImageProcessor.from_pretrained(weights)(image, return_tensors="pt")["pixel_values"]
    assert float((ours - theirs).abs().max()) < 2.5 / 127.5  # two of 255 levels: each rounds in its own way


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.png"], "--checkpoint is required"),
        (["--checkpoint", "c"], "no image is given"),
        (["--checkpoint", "c", "--export", "o", "--attention", "a.png"], "--attention draws on images"),
        (["--checkpoint", "c", "x.png", "--layout", "timm"], "--layout has no effect here"),
        (["--checkpoint", "c", "x.png", "--num-classes", "3"], "--num-classes has no effect here"),
        (["--checkpoint", "c", "--export", "vit.npz"], ".npz files have layout npz"),
        (["--checkpoint", "c", "--export", "vit", "--layout", "npz"], ".npz files have layout npz"),
        (["--checkpont", "c"], "did you mean --checkpoint?"),
    ],
)
def test_what_makes_no_sense_is_refused(attempt, words, said):
    done = attempt("predict.py", *words)
    assert done.status == 2
    assert said in done.error


def test_what_is_not_there_is_told(weights, attempt, tmp_path):
    done = attempt("predict.py", "--checkpoint", weights, tmp_path / "*.png")
    assert done.status == 1
    assert "there is no image at" in done.error
    headless = create_model("ViT-B_16", image_size=32, num_classes=0, **SIZES)
    save_weights(headless, tmp_path)
    done = attempt("predict.py", "--checkpoint", tmp_path, photo(tmp_path / "a.png"))
    assert "has no classification head" in done.error
