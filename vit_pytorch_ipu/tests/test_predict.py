"""predict.py: the right classes, pictures of attention, and exports that equal the model."""

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

import export
from classifier import load_classifier
from dataset import DataSpec, create_dataset
from image_files import find_images, picture_paths
from models import create_model
from predict import main
from prediction_options import PredictionOptions
from preparation import Preparation, read_preparation
from run.errors import UsageError, UserError
from tests.scripts import run_script, tiny
from weights import load_weights, read_config, save_weights

SIZES = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64, "patch_size": 8}


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Run folder of a ViT of a few thousand weights that tells most digits apart."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    more = ["--micro-batch-size", 32, "--training-steps", 300, "--learning-rate", 0.003, "--warmup-steps", 30]
    more += ["--hidden-size", 64, "--crop-scale-min", 1, "--drop-path-rate", 0, "--precision", "32.32"]
    done = run_script("finetune.py", *tiny(digits, folder, *more))
    assert done.status == 0, done.error
    return folder


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """Folder of a model with random weights for three classes; images are cut out of the centre."""
    folder = tmp_path_factory.mktemp("random")
    torch.manual_seed(1)
    model = create_model("vit_tiny_patch16_224", image_size=32, num_classes=3, **SIZES)
    save_weights(model, folder, class_names=["airplane", "automobile", "bird"], eval_resize="crop")
    return folder


def predicted(*arguments):
    """The JSON of a call of main."""
    with redirect_stdout(io.StringIO()) as said:
        main([*map(str, arguments), "--json"])
    return json.loads(said.getvalue())


def photo(path, size=(50, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_digits_get_their_names_and_the_accuracy_is_that_of_the_evaluation(trained, digits):
    answer = predicted("--checkpoint", trained, digits / "validation")
    hits = [one["top5"][0]["name"] == Path(one["image"]).parent.name for one in answer["predictions"]]
    best = json.loads((trained / "checkpoints" / "best.json").read_text())
    assert len(hits) == 360
    assert sum(hits) / len(hits) == pytest.approx(best["metric"], abs=1e-9)
    assert best["metric"] > 0.8
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
    done = run_script("predict.py", "--pretrained-checkpoint", trained / "latest", f"{tmp_path}/*")
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
def test_images_are_prepared_as_evaluation_and_transformers_do(mode, tmp_path):
    model = create_model("vit_tiny_patch16_224", image_size=56, num_classes=3, **SIZES)
    save_weights(model, tmp_path / "model", eval_resize=mode)
    # 96×64 around 56×56: with an odd rest to cut, transformers and torchvision differ by a row.
    for index in range(2):
        photo(tmp_path / "data" / "validation" / f"class_{index}" / "a.png", size=(90, 60), seed=index)
    data = create_dataset(
        DataSpec("folder", str(tmp_path / "data"), image_size=56, dtype="float32", eval_resize=mode), "validation"
    )
    classifier = load_classifier(PredictionOptions(checkpoint=str(tmp_path / "model"), images=["x"]))
    assert classifier.preparation == Preparation(56, mode)
    ours = classifier.preparation.normalise(classifier.preparation.cut(data.source.image(0))[None])
    assert torch.equal(ours[0], data[0][0])

    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    theirs = processor(Image.open(data.source.name(0)), return_tensors="pt")["pixel_values"]
    assert theirs.shape == ours.shape
    assert float((ours - theirs).abs().max()) < 2.5 / 127.5  # two of 255 levels: each rounds in its own way


def test_a_run_saves_how_it_evaluates(digits, tmp_path):
    more = ["--training-steps", 1, "--eval-resize", "crop", "--evaluate", "false"]
    done = run_script("finetune.py", *tiny(digits, tmp_path / "run", *more))
    assert done.status == 0, done.error
    options = PredictionOptions(checkpoint=str(tmp_path / "run" / "latest"), images=["x"])
    assert load_classifier(options).preparation == Preparation(32, "crop")


def test_the_checkpoint_says_mean_std_and_resize_unless_the_option_does():
    described = {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.25]}
    preparation = read_preparation(described, 32, None)
    assert preparation == Preparation(32, "direct", (0.1, 0.2, 0.3), (0.5, 0.4, 0.25))
    white = preparation.normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    assert white.flatten().tolist() == pytest.approx([0.9 / 0.5, 0.8 / 0.4, 0.7 / 0.25])
    assert read_preparation({"size": {"shortest_edge": 36}}, 32, None).eval_resize == "crop"
    assert read_preparation({"size": 36}, 32, None).eval_resize == "direct"  # as older files have it
    assert read_preparation({}, 32, None) == Preparation(32, "crop")
    assert read_preparation(described, 32, "crop").eval_resize == "crop"
    assert read_preparation({"do_normalize": False}, 32, None).std == (1.0, 1.0, 1.0)


def test_pictures_lie_beside_the_images_or_below_the_output(random_weights, tmp_path):
    paths = [photo(tmp_path / "a" / "x.png"), photo(tmp_path / "b" / "x.png", seed=1)]
    answer = predicted("--checkpoint", random_weights, tmp_path, "--attention")
    beside = [tmp_path / "a" / "x.attention.png", tmp_path / "b" / "x.attention.png"]
    assert [entry["attention"] for entry in answer["predictions"]] == [str(path) for path in beside]
    for path in beside:
        with Image.open(path) as picture:
            assert picture.width > 400
    assert find_images([str(tmp_path)]) == paths
    assert find_images([str(tmp_path / "*"), str(paths[0])]) == paths
    below = picture_paths(paths, ".attention.png", "out")
    assert list(below.values()) == [Path("out/a/x.attention.png"), Path("out/b/x.attention.png")]
    with pytest.raises(UserError, match="2 images would have"):
        picture_paths([tmp_path / "x.png", tmp_path / "x.jpg"], ".attention.png", None)


def test_onnx_equals_the_model_for_any_batch(trained, tmp_path, capsys):
    file = tmp_path / "new" / "model.onnx"
    main(["--checkpoint", str(trained), "--export", "onnx", "--output", str(file)])
    assert "largest difference of a logit" in capsys.readouterr().err
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]

    weights = trained / "best"
    model = create_model(**read_config(weights)).eval()
    load_weights(model, weights)
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
    for layout in ("huggingface", "timm"):
        out = str(tmp_path / layout)
        main(["--checkpoint", str(random_weights), "--export", "safetensors", "--layout", layout, "--output", out])
    before, after = (predicted("--checkpoint", place, image) for place in (random_weights, tmp_path / "huggingface"))
    assert before["predictions"] == after["predictions"]
    assert {entry["name"] for entry in after["predictions"][0]["top5"]} == {"airplane", "automobile", "bird"}

    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = load_classifier(PredictionOptions(checkpoint=str(random_weights), images=["x"])).model
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path / "huggingface").eval()
    torch.testing.assert_close(theirs(images).logits, model(images), rtol=1e-5, atol=1e-5)
    timms = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(timms(images), model(images), rtol=1e-5, atol=1e-5)


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
        (["--checkpoint", "c", "x.png", "--output", "o"], "--output has no effect here, only with --attention"),
        (["--checkpoint", "c", "x.png", "--layout", "timm"], "--layout has no effect here"),
        (["--checkpoint", "c", "x.png", "--num-labels", "3"], "--num-labels has no effect here, only with --model"),
        (["--checkpoint", "c", "--export", "onnx"], "--export needs --output"),
        (["--checkpoint", "c", "--export", "onnx", "--output", "o"], "should end in .onnx"),
        (["--checkpoint", "c", "--attention", "--export", "onnx", "--output", "o.onnx"], "in two commands"),
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
    headless = create_model("vit_tiny_patch16_224", image_size=32, num_classes=0, **SIZES)
    save_weights(headless, tmp_path)
    with pytest.raises(UserError, match="has no classification head"):
        main(["--checkpoint", str(tmp_path), str(photo(tmp_path / "a.png"))])
    with pytest.raises(UsageError, match="33×33 is not a multiple of the patch size"):
        main(["--checkpoint", str(random_weights), str(tmp_path / "a.png"), "--image-size", "33"])
