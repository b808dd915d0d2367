"""What a user gets wrong is answered with one sentence and a status, never with a traceback."""

import os
import pickle
import shutil

import pytest

from run.errors import UserError
from tests.scripts import run_script, tiny
from weights import load_weights


class Hostile:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def one_sentence(done, status, *parts):
    assert done.status == status, done.error
    lines = [line for line in done.error.splitlines() if line.strip()]
    assert len(lines) == 1, done.error
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_unknown_flag_names_the_nearest(digits, tmp_path):
    done = run_script("finetune.py", *tiny(digits, tmp_path, "--learning-rat", 1))
    one_sentence(done, 2, "--learning-rat", "--learning-rate")


def test_unknown_config_names_the_nearest(attempt):
    one_sentence(attempt("finetune.py", "--config", "b16_cifar"), 2, "b16_cifar", "b16_cifar10")


def test_a_config_of_the_other_script_is_named(attempt):
    one_sentence(attempt("finetune.py", "--config", "b16_cifar10_valid"), 2, "validation.py")


@pytest.mark.parametrize(
    ("script", "words", "parts"),
    [
        ("finetune.py", ["--mixup"], ["--mixup", "pretraining"]),
        ("finetune.py", ["--byteio", "--precision", "16.32"], ["--byteio", "16.32 needs float16 images"]),
        ("validation.py", ["--byteio", "--precision", "16.32"], ["--byteio", "16.32 needs float16 images"]),
        ("pretrain.py", ["--mixup", "--micro-batch-size", 1], ["mixup", "micro-batch, which has 1"]),
        ("finetune.py", ["--momentum", 0.5], ["--momentum", "only with --optimizer SGD"]),
        ("finetune.py", ["--adam-eps", 0.5, "--optimizer", "SGD"], ["--adam-eps", "Adam, AdamW or LAMB"]),
        ("finetune.py", ["--bias-correction", "false"], ["--bias-correction", "only with --optimizer LAMB"]),
        ("finetune.py", ["--download"], ["--download", "only with --dataset cifar10"]),
        ("finetune.py", ["--iterations", 5], ["--iterations", "only with --dataset generated"]),
        ("finetune.py", ["--dataset", "generated", "--random-flip"], ["--random-flip", "read"]),
        ("finetune.py", ["--new-head"], ["--new-head", "only with --pretrained-checkpoint"]),
        ("finetune.py", ["--epochs", 1, "--training-steps", 1], ["--training-steps", "only without --epochs"]),
        ("finetune.py", ["--evaluate", "false", "--eval-every", 1], ["--eval-every", "only with --evaluate"]),
        ("finetune.py", ["--dataloader-workers", 0, "--rebatched-worker-size", 1], ["--rebatched-worker-size"]),
        ("validation.py", ["--learning-rate", 1], ["--learning-rate", "training"]),
        ("validation.py", ["--resume"], ["--resume", "training"]),
        ("validation.py", ["--wandb"], ["--wandb", "training"]),
        ("validation.py", ["--pretrained", "x.npz", "--checkpoint", "best"], ["--checkpoint", "run folder"]),
    ],
)
def test_flags_without_effect_are_refused(attempt, script, words, parts):
    config = {"finetune.py": "digits", "pretrain.py": "digits_pretrain", "validation.py": "digits_valid"}[script]
    one_sentence(attempt(script, "--config", config, *words), 2, *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--hidden-size", 65], ["width 65", "2 heads"]),
        (["--image-size", 33], ["33", "patch size 8"]),
        (["--model", "vit_bas_patch16_224"], ["vit_bas_patch16_224", "did you mean"]),
        (["--crop-scale-min", 0], ["--crop-scale-min", "0 is not above 0"]),
        (["--bad-image-ratio", 2], ["--bad-image-ratio", "above 1"]),
        (["--adam-betas", 0.9], ["--adam-betas takes two numbers below 1, not [0.9]"]),
        (["--adam-betas", 0.9, 1.5], ["--adam-betas takes two numbers below 1, not [0.9, 1.5]"]),
        (["--random-seed", 2**64], ["--random-seed", "above"]),
        (["--layer-norm-eps", -1], ["--layer-norm-eps", "above 0"]),
        (["--matmul-proportion", 7], ["--matmul-proportion", "above 1"]),
    ],
)
def test_values_that_make_no_model_or_data(digits, tmp_path, attempt, words, parts):
    one_sentence(attempt("finetune.py", *tiny(digits, tmp_path, "--epochs", 1, *words)), 2, *parts)


def test_a_dry_run_removes_nothing(digits, tmp_path, attempt):
    (tmp_path / "checkpoints").mkdir()
    one_sentence(attempt("finetune.py", *tiny(digits, tmp_path, "--dry-run", "--overwrite")), 2, "--overwrite")
    assert (tmp_path / "checkpoints").is_dir()


@pytest.mark.parametrize("which", ["", "latest", "step-1", "checkpoints", "checkpoints/step-1/weights"])
def test_overwriting_the_weights_to_start_from(digits, tmp_path, attempt, which):
    inside = tmp_path / "checkpoints" / "step-1" / "weights"
    inside.mkdir(parents=True)
    more = ["--overwrite", "--epochs", 1, "--pretrained-checkpoint", tmp_path / which]
    one_sentence(attempt("finetune.py", *tiny(digits, tmp_path, *more)), 2, "--overwrite would remove", "--output")
    assert inside.is_dir()


def test_validation_does_not_write_into_a_run(tmp_path, attempt):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("a: 1")
    done = attempt("validation.py", "--config", "digits_valid", "--output", tmp_path)
    one_sentence(done, 2, "holds a run", "another --output")
    assert (tmp_path / "config.yaml").read_text() == "a: 1"


def test_missing_data(tmp_path, attempt):
    done = attempt("finetune.py", *tiny(tmp_path / "nowhere", tmp_path / "run", "--epochs", 1))
    one_sentence(done, 1, "nowhere")


def test_wrong_layout(digits, tmp_path, attempt):
    (tmp_path / "data").mkdir()
    shutil.copytree(digits / "train", tmp_path / "data" / "training")
    done = attempt("finetune.py", *tiny(tmp_path / "data", tmp_path / "run", "--epochs", 1))
    one_sentence(done, 1, "train")


def test_class_count_mismatch(digits, tmp_path, attempt):
    done = attempt("finetune.py", *tiny(digits, tmp_path / "run", "--epochs", 1, "--num-labels", 1000))
    one_sentence(done, 1, "1000", "10")


def test_a_truncated_image_alone_does_not_stop_a_run(digits, tmp_path, attempt):
    shutil.copytree(digits, tmp_path / "data")
    image = sorted((tmp_path / "data" / "train").rglob("*.J*"))[0]
    image.write_bytes(image.read_bytes()[:80])
    done = attempt("finetune.py", *tiny(tmp_path / "data", tmp_path / "run", "--epochs", 1, "--evaluate", "false"))
    assert done.status == 0, done.error
    assert image.name in (tmp_path / "run" / "bad_images.txt").read_text()


def test_a_checkpoint_with_a_flipped_byte(digits, tmp_path, attempt):
    done = attempt("finetune.py", *tiny(digits, tmp_path / "run", "--training-steps", 1, "--evaluate", "false"))
    assert done.status == 0, done.error
    weights = tmp_path / "run" / "checkpoints" / "step-1" / "weights" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 16
    weights.write_bytes(content)
    arguments = ["--config", "digits_valid", "--dataset-path", digits, "--output", tmp_path / "valid"]
    arguments += ["--layers-per-ipu", 2, "--dataloader-workers", 0, "--checkpoint", "latest"]
    done = attempt("validation.py", *arguments, "--pretrained-checkpoint", tmp_path / "run")
    one_sentence(done, 1, "no checkpoint", "is intact")
    assert "skipping checkpoint step-1: " in done.output
    assert "model.safetensors has another SHA-256" in done.output


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pth"])
def test_a_hostile_pickle_is_never_executed(digits, tmp_path, name, attempt):
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Hostile(tmp_path / "executed")))
    (folder / "config.json").write_text('{"model_type": "vit"}')
    path = folder if name == "pytorch_model.bin" else folder / name
    done = attempt("finetune.py", *tiny(digits, tmp_path / "run", "--epochs", 1, "--pretrained-checkpoint", path))
    one_sentence(done, 1, name)
    assert not (tmp_path / "executed").exists()


def test_a_hub_name_without_a_network(monkeypatch):
    from models import create_model

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = create_model("vit_tiny_patch16_224", image_size=32, num_classes=3, depth=1)
    with pytest.raises(UserError, match="google/vit-base-patch16-224-in21k"):
        load_weights(model, "google/vit-base-patch16-224-in21k", new_head=True)


def test_no_learning_without_a_length(digits, tmp_path, attempt):
    done = attempt("finetune.py", *tiny(digits, tmp_path / "run", "--training-steps", 0))
    one_sentence(done, 2, "the run has no length: give its steps or epochs")


def test_a_folder_that_cannot_be_written(digits, attempt):
    done = attempt("finetune.py", *tiny(digits, "/proc/nowhere", "--epochs", 1))
    one_sentence(done, 1, "/proc/nowhere")


def test_debug_shows_the_traceback(tmp_path):
    done = run_script("finetune.py", *tiny(tmp_path / "nowhere", tmp_path / "run", "--epochs", 1, "--debug"))
    assert done.status == 1
    assert "Traceback" in done.error
