"""predict.py: the right classes, the right names, pictures of attention."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_files import find_images, picture_paths
from preparation import Preparation, read_preparation
from run.errors import UserError
from tests.references import autoencoder, classifier, randomised
from weights import save_weights

CLASSES = ["airplane", "automobile", "bird"]
PREPARATION = Preparation(32, "crop", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def model():
    return randomised(classifier(3, image_size=32, patch_size=8))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save_weights(model(), folder, class_names=CLASSES, preparation=PREPARATION)
    return folder


@pytest.fixture
def predicted(attempt):
    """The JSON of a call."""

    def predicted(*arguments):
        done = attempt("predict.py", *arguments, "--json")
        assert done.status == 0, done.error
        return json.loads(done.output)

    return predicted


def photo(path, size=(50, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_probabilities_are_the_models(predicted, checkpoint, tmp_path):
    path = photo(tmp_path / "a.png")
    with Image.open(path) as picture:  # 50×40 to 45×36 and the centre, by Pillow
        resized = np.asarray(picture.resize((36, 45), Image.Resampling.BICUBIC))[6:38, 2:34]
    image = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float() / 255
    image = (image - torch.tensor(PREPARATION.mean)[:, None, None]) / torch.tensor(PREPARATION.std)[:, None, None]
    with torch.no_grad():
        expected = model()(image).softmax(-1)[0]
    (found,) = predicted("--checkpoint", checkpoint, path)["predictions"]
    assert found["image"] == str(path)
    assert [best["name"] for best in found["top5"]] == [CLASSES[index] for index in expected.argsort(descending=True)]
    for best in found["top5"]:
        assert best["probability"] == pytest.approx(expected[best["index"]].item(), abs=0.02)


def test_a_table_for_people_and_bad_images_told_in_one_line_each(attempt, checkpoint, digits, tmp_path):
    good = sorted((digits / "validation" / "digit_3").iterdir())[0]
    shutil.copy(good, tmp_path / "three.jpeg")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    done = attempt("predict.py", "--finetune", checkpoint, f"{tmp_path}/*")
    assert done.status == 1
    lines = done.output.splitlines()
    assert lines[0] == str(tmp_path / "three.jpeg")
    assert len(lines) == 4
    assert {line.split(" %  ")[1] for line in lines[1:]} == set(CLASSES)
    complaints = [line for line in done.error.splitlines() if line.startswith("bad image")]
    assert complaints == [
        f"bad image {tmp_path / 'empty.png'}: empty file",
        f"bad image {tmp_path / 'text.jpg'}: not an image in a known format",
    ]
    assert "error: 2 of 3 images can't be read" in done.error


def test_images_in_several_batches_are_those_of_one(predicted, checkpoint, tmp_path):
    paths = [photo(tmp_path / f"{index}.png", seed=index) for index in range(5)]
    one, by_two = (predicted("--checkpoint", checkpoint, *paths, "--micro-batch-size", size) for size in (5, 2))
    assert [entry["image"] for entry in by_two["predictions"]] == [str(path) for path in paths]
    for left, right in zip(one["predictions"], by_two["predictions"]):
        assert [entry["label"] for entry in left["top5"]] == [entry["label"] for entry in right["top5"]]
        assert left["top5"][0]["probability"] == pytest.approx(right["top5"][0]["probability"], abs=1e-6)


def test_a_linear_probe_and_another_size(predicted, tmp_path):
    probe = randomised(classifier(3, image_size=32, patch_size=8, linear_probe=True, global_pool=False))
    save_weights(probe, tmp_path / "probe", preparation=PREPARATION)
    answer = predicted("--checkpoint", tmp_path / "probe", photo(tmp_path / "a.png"), "--image-size", 48)
    assert {best["name"] for best in answer["predictions"][0]["top5"]} == {"LABEL_0", "LABEL_1", "LABEL_2"}


@pytest.mark.parametrize(("size", "mode"), [(32, "crop"), (32, "direct"), (384, "crop")])
def test_images_are_prepared_as_torchvision_and_pillow_do(size, mode):
    """Shorter side to size / 0.875, above 224 pixels to size; both bicubic."""
    from torchvision.transforms import CenterCrop, Compose, Resize
    from torchvision.transforms.functional import InterpolationMode, pil_to_tensor

    pixels = np.random.default_rng(0).integers(0, 256, (70, 96, 3), dtype=np.uint8)
    shorter = 36 if size == 32 else 384
    resize = Resize((size, size) if mode == "direct" else shorter, InterpolationMode.BICUBIC)
    expected = pil_to_tensor(Compose([resize, CenterCrop(size)])(Image.fromarray(pixels))).int()
    found = Preparation(size, mode).cut(torch.from_numpy(pixels).permute(2, 0, 1)).int()
    assert found.shape == (3, size, size)
    assert (found - expected).abs().max() <= 1


def test_old_torch_resizes_through_floats(monkeypatch):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 70, 96), dtype=np.uint8))
    expected = Preparation(32).cut(image).int()
    monkeypatch.setattr("preparation._HAS_UINT8_RESIZE", False)
    assert (Preparation(32).cut(image).int() - expected).abs().max() <= 1


def test_long_strips_are_cut_before_they_fill_memory():
    assert Preparation(32).cut(torch.zeros(3, 1, 60000, dtype=torch.uint8)).shape == (3, 32, 32)


def test_normalising_and_back():
    pixels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    images = PREPARATION.normalise(pixels)
    assert torch.equal(PREPARATION.pixels(images), pixels)
    white = PREPARATION.normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    assert white.flatten().tolist() == pytest.approx([0.5 / 0.2, 0.6 / 0.3, 0.7 / 0.4])
    assert PREPARATION.pixels(torch.full((1, 3, 1, 1), 99.0)).unique().tolist() == [255]
    assert PREPARATION.pixels(torch.full((1, 3, 1, 1), -99.0)).unique().tolist() == [0]


def test_what_a_checkpoint_says_of_its_images():
    described = {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.25]}
    expected = Preparation(32, "direct", (0.1, 0.2, 0.3), (0.5, 0.4, 0.25))
    assert read_preparation(described, 32) == expected
    assert read_preparation({"size": {"shortest_edge": 36}}, 32).eval_resize == "crop"
    for size in (32, [32, 32]):  # as older files have it
        assert read_preparation({**described, "size": size}, 32) == expected
    assert read_preparation({}, 32) == Preparation(32, "crop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert read_preparation(described, 32, "crop").eval_resize == "crop"
    assert read_preparation({"do_normalize": False}, 32).std == (1.0, 1.0, 1.0)
    for change in ({"image_std": [0, 1, 1]}, {"image_mean": [1]}, {"image_mean": "x"}, {"image_mean": 3}):
        with pytest.raises(UserError, match="mend its JSON file"):
            read_preparation({**described, **change}, 32)


def test_pictures_lie_beside_the_images_or_below_the_output(predicted, checkpoint, tmp_path):
    paths = [photo(tmp_path / "a" / "x.png"), photo(tmp_path / "b" / "x.png", seed=1)]
    answer = predicted("--checkpoint", checkpoint, tmp_path, "--attention")
    beside = [tmp_path / "a" / "x.attention.png", tmp_path / "b" / "x.attention.png"]
    assert [entry["attention"] for entry in answer["predictions"]] == [str(path) for path in beside]
    for path in beside:
        with Image.open(path) as picture:
            assert picture.width > 400
    assert find_images([str(tmp_path)]) == paths
    below = picture_paths(paths, ".attention.png", "out")
    assert list(below.values()) == [Path("out/a/x.attention.png"), Path("out/b/x.attention.png")]
    with pytest.raises(UserError, match="2 images would have"):
        picture_paths([tmp_path / "x.png", tmp_path / "x.jpg"], ".attention.png", None)


def test_predicting_leaves_the_checkpoint_alone(predicted, checkpoint, tmp_path):
    def digest():
        return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in checkpoint.iterdir()}

    before = digest()
    predicted("--checkpoint", checkpoint, photo(tmp_path / "a.png"))
    assert digest() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.png"], "--checkpoint is required"),
        (["--checkpoint", "c"], "no image is given"),
        (["--checkpoint", "c", "x.png", "--output", "o"], "--output has no effect here, only with --attention"),
        (["--checkpont", "c"], "did you mean --checkpoint?"),
    ],
)
def test_what_makes_no_sense_is_refused(attempt, words, said):
    done = attempt("predict.py", *words)
    assert done.status == 2
    assert said in done.error


@pytest.mark.parametrize(
    ("device", "said"),
    [("gpu", "use cpu, cuda or cuda:N"), ("cuda", "torch finds 0 GPUs: check nvidia-smi, or use cpu")],
)
def test_a_device_that_is_not_there_is_told(attempt, checkpoint, tmp_path, monkeypatch, device, said):
    monkeypatch.setenv("POPTORCH_HOST_DEVICE", device)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = attempt("predict.py", "--checkpoint", checkpoint, photo(tmp_path / "a.png"))
    assert done.status == 2
    assert f"error: POPTORCH_HOST_DEVICE is '{device}'" in done.error
    assert said in done.error


def test_what_is_not_there_is_told(attempt, checkpoint, tmp_path):
    path = photo(tmp_path / "a.png")
    save_weights(autoencoder(image_size=32, patch_size=8), tmp_path / "mae")
    save_weights(classifier(0, image_size=32, patch_size=8, global_pool=False), tmp_path / "headless")
    save_weights(classifier(3, image_size=32, patch_size=8, in_channels=1), tmp_path / "grey")
    for words, said in (
        ([checkpoint, tmp_path / "no*.png"], "there is no image at"),
        ([tmp_path / "mae", path], "has no classification head"),
        ([tmp_path / "headless", path], "has no classification head"),
        ([tmp_path / "grey", path], "wants images of 1 channels"),
    ):
        done = attempt("predict.py", "--checkpoint", *words)
        assert done.status == 1
        assert said in done.error
