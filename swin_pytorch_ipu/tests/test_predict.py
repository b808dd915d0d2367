"""predict.py: the right classes, pictures of activations, and exports that equal the model."""

import hashlib
import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import transformers
from PIL import Image
from torchvision import transforms

import export
from activation import class_activation, draw_activation
from classifier import load_classifier
from image_files import find_images, picture_paths
from models import create_model
from predict import main
from prediction_options import PredictionOptions
from preparation import Preparation, covered, read_preparation
from run.errors import UsageError, UserError
from run.images import decode_rgb
from tests.models.tiny import randomised
from tests.scripts import run_script
from weights import load_weights, read_config, save_weights

NAME = "swin_tiny_patch4_window7_224"
SIZES = {"image_size": 32, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Folder of a Swin of twenty thousand weights that tells most digits apart."""
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    preparation = Preparation((32, 32), "direct")
    paths = sorted((digits / "train").rglob("*.JPEG"))
    names = sorted({path.parent.name for path in paths})
    pixels = preparation.normalise(torch.stack([preparation.cut(decode_rgb(str(path))) for path in paths]))
    labels = torch.tensor([names.index(path.parent.name) for path in paths])
    model = create_model(NAME, num_classes=10, **SIZES)
    optimizer = torch.optim.AdamW(model.parameters())
    batches = [chosen for _ in range(10) for chosen in torch.randperm(len(paths)).split(32)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=len(batches))
    for chosen in batches:
        torch.nn.functional.cross_entropy(model(pixels[chosen]), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    save_weights(model, folder, class_names=names, eval_resize="direct")
    return folder


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """Folder of a model with random weights for three classes; images are cut out of the centre."""
    folder = tmp_path_factory.mktemp("random")
    model = randomised(create_model(NAME, num_classes=3, **SIZES))
    save_weights(model, folder, class_names=["airplane", "automobile", "bird"], eval_resize="crop")
    return folder


def predicted(*arguments):
    """The JSON of a call of main."""
    with redirect_stdout(io.StringIO()) as said:
        main([*map(str, arguments), "--json"])
    return json.loads(said.getvalue())


def photo(path, size=(50, 40), seed=0, levels=(0, 256)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(*levels, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_digits_get_their_names(trained, digits):
    answer = predicted("--checkpoint", trained, digits / "validation")
    hits = [one["top5"][0]["name"] == Path(one["image"]).parent.name for one in answer["predictions"]]
    assert len(hits) == 360
    assert sum(hits) > 0.8 * len(hits)
    for one in answer["predictions"][:5]:
        shares = [entry["probability"] for entry in one["top5"]]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1.0001


def test_a_table_for_people_and_bad_images_told_in_one_line_each(trained, digits, tmp_path):
    good = sorted((digits / "validation" / "digit_3").iterdir())[0]
    shutil.copy(good, tmp_path / "three.jpeg")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    done = run_script("predict.py", "--pretrained-checkpoint", trained, f"{tmp_path}/*")
    assert done.status == 1
    lines = done.output.splitlines()
    assert lines[0] == str(tmp_path / "three.jpeg")
    assert len(lines) == 6
    assert all(" %  digit_" in line for line in lines[1:])
    complaints = [line for line in done.error.splitlines() if line.startswith("bad image")]
    assert complaints == [
        f"bad image {tmp_path / 'empty.png'}: empty file",
        f"bad image {tmp_path / 'text.jpg'}: not an image in a known format",
    ]
    assert "error: 2 of 3 images can't be read" in done.error
    assert "Traceback" not in done.error


def test_images_in_several_batches_are_those_of_one(random_weights, tmp_path):
    paths = [photo(tmp_path / f"{index}.png", seed=index) for index in range(5)]
    one, by_two = (predicted("--checkpoint", random_weights, *paths, "--micro-batch-size", size) for size in (5, 2))
    assert [entry["image"] for entry in by_two["predictions"]] == [str(path) for path in paths]
    for left, right in zip(one["predictions"], by_two["predictions"]):
        assert [entry["label"] for entry in left["top5"]] == [entry["label"] for entry in right["top5"]]
        assert left["top5"][0]["probability"] == pytest.approx(right["top5"][0]["probability"], abs=1e-6)


@pytest.mark.parametrize("mode", ["crop", "direct"])
def test_images_are_prepared_as_microsoft_and_transformers_do(mode, tmp_path):
    """The crop is torchvision's: shorter side to 256/224 of the size, bicubic, and the centre."""
    model = create_model(NAME, num_classes=3, **{**SIZES, "image_size": 56})
    save_weights(model, tmp_path / "model", eval_resize=mode)
    image = photo(tmp_path / "a.png", size=(90, 60), levels=(60, 196))  # 96×64 around 56×56
    classifier = load_classifier(PredictionOptions(checkpoint=str(tmp_path / "model"), images=["x"]))
    assert classifier.preparation == Preparation((56, 56), mode)
    ours = classifier.preparation.cut(decode_rgb(str(image)))
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(64, bicubic), transforms.CenterCrop(56)]
    steps = steps if mode == "crop" else [transforms.Resize((56, 56), bicubic)]
    theirs = transforms.Compose(steps)(Image.open(image))
    difference = np.asarray(theirs, dtype=int).transpose(2, 0, 1) - ours.numpy()
    assert abs(difference).max() <= 2  # of 255 levels: each rounds in its own way
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    pixels = processor(Image.open(image), return_tensors="pt")["pixel_values"]
    assert float((classifier.preparation.normalise(ours[None]) - pixels).abs().max()) < 0.04


def test_sizes_of_the_crop_are_those_of_the_papers_code():
    assert (covered((224, 224)), covered((384, 384))) == ((256, 256), (438, 438))


def test_rectangles_are_covered_and_cut_from_the_centre():
    marked = torch.zeros(3, 80, 80, dtype=torch.uint8)
    marked[:, 38:42, 38:42] = 255
    cut = Preparation((28, 56)).cut(marked)
    assert cut.shape == (3, 28, 56)
    rows, columns = (cut[0].float() > 64).nonzero().float().mean(dim=0).tolist()
    assert (rows, columns) == (pytest.approx(13.5, abs=0.6), pytest.approx(27.5, abs=0.6))
    assert Preparation((28, 56)).cut(torch.zeros(3, 1, 5000, dtype=torch.uint8)).shape == (3, 28, 56)


def test_the_checkpoint_says_mean_std_and_resize_unless_the_option_does():
    described = {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.25]}
    preparation = read_preparation(described, (32, 32))
    assert preparation == Preparation((32, 32), "direct", (0.1, 0.2, 0.3), (0.5, 0.4, 0.25))
    white = preparation.normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    assert white.flatten().tolist() == pytest.approx([0.9 / 0.5, 0.8 / 0.4, 0.7 / 0.25])
    assert read_preparation({"size": {"shortest_edge": 36}}, (32, 32)).eval_resize == "crop"
    assert read_preparation({"size": 32}, (32, 32)).eval_resize == "direct"  # as in files of transformers 4.20
    assert read_preparation({}, (32, 32)) == Preparation((32, 32), "crop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert read_preparation(described, (32, 32), "crop").eval_resize == "crop"
    assert read_preparation({"do_normalize": False}, (32, 32)).std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("size", [32, (40, 52)])
def test_activations_add_up_to_the_logit(size):
    model = randomised(create_model(NAME, num_classes=5, **{**SIZES, "image_size": size})).eval()
    images = torch.randn(3, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([4, 0, 2])
    activation = class_activation(model, images, classes)
    assert activation.shape == (3, *model.config.resolutions[-1])
    with torch.no_grad():
        logits = model(images) - model.head.bias
        expected = logits[torch.arange(3), classes] - logits.mean(dim=1)
    torch.testing.assert_close(activation.mean(dim=(1, 2)), expected, rtol=1e-4, atol=1e-5)


def test_the_activation_lies_where_the_class_is(trained):
    """A digit beside an empty half: what speaks for it lies on its side."""
    model = load_classifier(PredictionOptions(checkpoint=str(trained), images=["x"])).model
    token = torch.zeros(1, 4, 4, 32)
    token[:, 1, 2] = (model.head.weight[3] - model.head.weight.mean(dim=0)).detach()
    model.norm = torch.nn.Identity()
    model.forward_features = lambda images: [token.permute(0, 3, 1, 2)]
    activation = class_activation(model, torch.zeros(1, 3, 32, 32), torch.tensor([3]))[0]
    assert activation.argmax() == 1 * 4 + 2
    assert (activation != 0).sum() == 1


def test_the_picture_is_warm_where_the_class_is_and_cold_where_it_is_not(tmp_path):
    activation = torch.tensor([[0.0, -1.0], [0.0, 1.0]])  # below on the right for, above it against
    image = torch.full((3, 32, 32), 128, dtype=torch.uint8)
    draw_activation(image, activation, (32, 32), "a $ b", tmp_path / "deep" / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "deep" / "a.png").convert("RGB")).astype(int)
    warmth = (pixels[..., 0] - pixels[..., 2])[:, : int(0.8 * pixels.shape[1])]  # without the colour bar
    warm, cold = np.nonzero(warmth > 40), np.nonzero(warmth < -40)
    for places in (warm, cold):
        assert len(places[0]) > 500
        assert places[1].mean() > 0.6 * warmth.shape[1]
    assert warm[0].mean() > cold[0].mean() + 0.2 * warmth.shape[0]


def test_pictures_lie_beside_the_images_or_below_the_output(random_weights, tmp_path):
    paths = [photo(tmp_path / "a" / "x.png"), photo(tmp_path / "b" / "x.png", seed=1)]
    answer = predicted("--checkpoint", random_weights, tmp_path, "--activation")
    beside = [tmp_path / "a" / "x.activation.png", tmp_path / "b" / "x.activation.png"]
    assert [entry["activation"] for entry in answer["predictions"]] == [str(path) for path in beside]
    for path in beside:
        with Image.open(path) as picture:
            assert picture.width > 400
    assert find_images([str(tmp_path)]) == paths
    assert find_images([str(tmp_path / "*"), str(paths[0])]) == paths
    below = picture_paths(paths, ".activation.png", "out")
    assert list(below.values()) == [Path("out/a/x.activation.png"), Path("out/b/x.activation.png")]
    with pytest.raises(UserError, match="2 images would have"):
        picture_paths([tmp_path / "x.png", tmp_path / "x.jpg"], ".activation.png", None)


def test_onnx_equals_the_model_for_any_batch(trained, tmp_path, capsys):
    file = tmp_path / "new" / "model.onnx"
    main(["--checkpoint", str(trained), "--export", "onnx", "--output", str(file)])
    assert "largest difference of a logit" in capsys.readouterr().err
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]

    model = create_model(**read_config(trained)).eval()
    load_weights(model, trained)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        (logits,) = session.run(None, {"images": images.numpy()})
        assert logits.shape == (batch, 10)
        assert float((torch.from_numpy(logits) - model(images).detach()).abs().max()) < 1e-4
    described = session.get_modelmeta().custom_metadata_map
    assert json.loads(described["class_names"]) == [f"digit_{digit}" for digit in range(10)]
    assert json.loads(described["preparation"])["eval_resize"] == "direct"


def test_an_onnx_file_that_differs_is_refused_and_removed(random_weights, tmp_path, monkeypatch):
    classifier = load_classifier(PredictionOptions(checkpoint=str(random_weights), images=["x"]))
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run", lambda *arguments: [run(*arguments)[0] + np.float32(2 * export.TOLERANCE)]
    )
    with pytest.raises(UserError, match=r"differed from the model's by 2\.0e-04"):
        export.export_onnx(classifier, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_safetensors_are_read_by_transformers_timm_and_predict(random_weights, tmp_path):
    image = photo(tmp_path / "a.png")
    for layout in ("official", "huggingface", "timm"):
        out = str(tmp_path / layout)
        main(["--checkpoint", str(random_weights), "--export", "safetensors", "--layout", layout, "--output", out])
    before, *after = (
        predicted("--checkpoint", place, image)
        for place in (random_weights, tmp_path / "official", tmp_path / "huggingface")
    )
    assert before["predictions"] == after[0]["predictions"] == after[1]["predictions"]
    assert {entry["name"] for entry in before["predictions"][0]["top5"]} == {"airplane", "automobile", "bird"}

    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = load_classifier(PredictionOptions(checkpoint=str(random_weights), images=["x"])).model
    theirs = transformers.SwinForImageClassification.from_pretrained(tmp_path / "huggingface").eval()
    torch.testing.assert_close(theirs(images).logits, model(images), rtol=1e-5, atol=1e-5)
    timms = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(timms(images), model(images), rtol=1e-5, atol=1e-5)


def test_weights_without_a_config_need_the_name_of_their_model(tmp_path):
    model = create_model(NAME, num_classes=4)
    torch.save({"model": model.state_dict()}, tmp_path / "swin.pth")
    image = photo(tmp_path / "a.png")
    with pytest.raises(UserError, match="name the model"):
        main(["--checkpoint", str(tmp_path / "swin.pth"), str(image)])
    answer = predicted("--checkpoint", tmp_path / "swin.pth", "--model", NAME, "--num-labels", 4, image)
    assert len(answer["predictions"][0]["top5"]) == 4


def test_an_export_leaves_the_checkpoint_alone(random_weights):
    before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in random_weights.iterdir()}
    with pytest.raises(UserError, match="is the checkpoint itself"):
        main(["--checkpoint", str(random_weights), "--export", "safetensors", "--output", str(random_weights)])
    assert before == {path.name: hashlib.sha256(path.read_bytes()).digest() for path in random_weights.iterdir()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.png"], "--checkpoint is required"),
        (["--checkpoint", "c"], "no image is given"),
        (["--checkpoint", "c", "x.png", "--output", "o"], "--output has no effect here, only with --activation"),
        (["--checkpoint", "c", "x.png", "--layout", "timm"], "--layout has no effect here"),
        (["--checkpoint", "c", "x.png", "--num-labels", "3"], "--num-labels has no effect here, only with --model"),
        (["--checkpoint", "c", "--export", "onnx"], "--export needs --output"),
        (["--checkpoint", "c", "--export", "onnx", "--output", "o"], "should end in .onnx"),
        (["--checkpoint", "c", "--activation", "--export", "onnx", "--output", "o.onnx"], "in two commands"),
        (["--checkpont", "c"], "did you mean --checkpoint?"),
        (["--config", "digits"], "there is no flag --config"),
    ],
)
def test_what_makes_no_sense_is_refused(words, said):
    with pytest.raises(UsageError) as caught:
        main(words)
    assert said in str(caught.value)


def test_what_is_not_there_is_told(random_weights, tmp_path):
    with pytest.raises(UserError, match="there is no image at"):
        main(["--checkpoint", str(random_weights), str(tmp_path / "*.png")])
    headless = create_model(NAME, num_classes=0, **SIZES)
    save_weights(headless, tmp_path)
    with pytest.raises(UserError, match="has no classification head"):
        main(["--checkpoint", str(tmp_path), str(photo(tmp_path / "a.png"))])
