import json
import shutil

import pytest
import yaml

import finetune
from run.errors import UsageError
from tests.scripts import run_script, tiny


def records(folder, split="train"):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Eight epochs of a tiny ViT, and what its run printed."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    arguments = tiny(digits, folder, "--epochs", 8, "--learning-rate", "0.003", "--eval-every", 60)
    arguments += ["--warmup-steps", 20, "--crop-scale-min", 1]  # learns with any seed
    arguments += ["--micro-batch-size", "16", "--gradient-accumulation", "1", "--device-iterations", "8"]
    done = run_script("finetune.py", *arguments)
    assert done.status == 0, done.error
    return folder, done.output


def test_it_learns_and_leaves_a_complete_run_folder(trained):
    folder, output = trained
    train, held_out = records(folder), records(folder, "validation")
    assert train[-1]["loss"] < 0.5 * train[0]["loss"]
    assert held_out[-1]["accuracy"] > 0.6
    assert held_out[-1]["samples"] == 360
    assert [line["step"] for line in train] == list(range(1, len(train) + 1))
    assert (folder / "curves.png").stat().st_size > 10_000
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["updates"] == 8 * recipe["updates_per_epoch"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["hidden_size"] == 32
    assert "global batch" in output
    assert "throughput:" in output


def test_validation_repeats_the_runs_own_score(trained, tmp_path):
    folder, _ = trained
    best = max(line["accuracy"] for line in records(folder, "validation"))
    data = yaml.safe_load((folder / "config.yaml").read_text())["dataset_path"]
    arguments = ["--config", "digits_valid", "--dataset-path", data, "--pretrained-checkpoint", folder]
    arguments += ["--output", tmp_path / "valid", "--layers-per-ipu", 2, "--micro-batch-size", 7]
    done = run_script("validation.py", *arguments, "--dataloader-workers", 0)
    assert done.status == 0, done.error
    score = json.loads((tmp_path / "valid" / "validation.json").read_text())
    assert score["top1"] == pytest.approx(best, abs=1e-9)
    assert score["samples"] == 360
    assert f"Valid Accuracy: {100 * best:.5f}" in done.output
    assert "Number of samples: 360" in done.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("swapped", ["class 0 is digit_0", "digit_1 in the data"]),
        ("fewer", ["trained for 10 classes and the data has 9"]),
    ],
)
def test_validation_on_other_classes_is_refused(trained, digits, tmp_path, attempt, change, words):
    folder, _ = trained
    for split in ("train", "validation"):
        shutil.copytree(digits / split, tmp_path / "data" / split)
        first = tmp_path / "data" / split / "digit_0"
        shutil.rmtree(first) if change == "fewer" else first.rename(first.with_name("digit_z"))
    arguments = ["--config", "digits_valid", "--pretrained-checkpoint", folder, "--output", tmp_path / "valid"]
    done = attempt("validation.py", *arguments, "--dataset-path", tmp_path / "data", "--layers-per-ipu", 2)
    assert done.status == 1, done.error
    assert all(word in done.error for word in words)


def test_validation_stops_above_the_share_of_bad_images_and_forgets_those_of_an_earlier_one(
    trained, digits, tmp_path, attempt
):
    folder, _ = trained
    shutil.copytree(digits, tmp_path / "data")
    images = sorted((tmp_path / "data" / "validation").rglob("*.JPEG"))
    for path in images[::90]:
        path.write_bytes(b"")
    arguments = ["--config", "digits_valid", "--pretrained-checkpoint", folder, "--output", tmp_path / "valid"]
    arguments += ["--dataset-path", tmp_path / "data", "--layers-per-ipu", 2, "--dataloader-workers", 0]
    done = attempt("validation.py", *arguments)
    assert done.status == 1
    assert "4 of 360 images cannot be decoded" in done.error
    done = attempt("validation.py", *arguments, "--bad-image-ratio", 0.02)
    assert done.status == 0, done.error
    for path in images[::90]:
        shutil.copyfile(images[1], path)
    done = attempt("validation.py", *arguments)
    assert done.status == 0, done.error
    assert not (tmp_path / "valid" / "bad_images.txt").exists()


def test_the_weights_of_a_checkpoint_open_in_transformers(trained, digits):
    from transformers import pipeline

    folder, _ = trained
    newest = max((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    classify = pipeline("image-classification", model=str(newest / "weights"), device="cpu")
    assert classify.model.config.num_labels == 10
    images = sorted((digits / "validation").rglob("*.JPEG"))[::6]
    hits = sum(classify(str(path))[0]["label"] == path.parent.name for path in images)
    ours = records(folder, "validation")[-1]["accuracy"]
    assert hits / len(images) == pytest.approx(ours, abs=0.1)  # every sixth image of those that were counted


def test_a_second_run_in_the_same_folder_is_refused(trained, digits):
    folder, _ = trained
    with pytest.raises(UsageError, match="--resume"):
        finetune.main(tiny(digits, folder, "--training-steps", 1))


def test_fine_tuning_starts_from_the_runs_weights_with_a_new_head(trained, tmp_path, digits):
    folder, _ = trained
    fewer = tmp_path / "three"
    for split in ("train", "validation"):
        (fewer / split).mkdir(parents=True)
        for name in sorted(path.name for path in (digits / split).iterdir())[:3]:
            (fewer / split / name).symlink_to(digits / split / name)
    output = tmp_path / "run"
    finetune.main(tiny(fewer, output, "--pretrained-checkpoint", str(folder), "--epochs", 2))
    assert records(output, "validation")[-1]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("precision", "byteio"),
    [("16.16", "true"), ("16.16", "false"), ("16.32", "false"), ("32.32", "true"), ("32.32", "false")],
)
def test_every_precision_and_input_type_trains(digits, tmp_path, precision, byteio):
    arguments = ["--precision", precision, "--byteio", byteio, "--training-steps", 4, "--learning-rate", "0.003"]
    finetune.main(tiny(digits, tmp_path / "run", *arguments, "--evaluate", "false"))
    losses = [line["loss"] for line in records(tmp_path / "run")]
    assert len(losses) == 4
    assert all(1.0 < loss < 4.0 for loss in losses)


@pytest.mark.parametrize(
    "changes",
    [
        ["--optimizer", "SGD", "--accum-type", "fp16", "--first-order-type", "fp16"],
        ["--optimizer", "SGD", "--use-combined-accum"],
        ["--optimizer", "LAMB"],
        ["--optimizer", "Adam", "--reduction-type", "sum"],
        ["--precision", "16.16", "--auto-loss-scaling"],
        ["--iterations", "2", "--dataset", "generated", "--num-labels", "5", "--dataloader-workers", "1"],
        ["--extra-aug", "imagenet_policy", "--random-flip", "--drop-path-rate", "0.2"],
        ["--image-size", "48", "--lr-schedule", "linear", "--rebatched-worker-size", "8", "--dataloader-workers", "2"],
        ["--synthetic-data", "--num-labels", "10"],
        ["--recompute-checkpoint-every-layer", "false", "--enable-rts", "false", "--half-partials", "false"],
        ["--profile-dir", "profile", "--executable-cache-dir", "cache", "--optimizer-state-offchip"],
    ],
    ids=lambda changes: changes[0].lstrip("-") + ":" + changes[1] if len(changes) > 1 else changes[0],
)
def test_options_train(digits, tmp_path, changes):
    arguments = tiny(digits, tmp_path / "run", "--training-steps", 2, "--evaluate", "false", *changes)
    if "generated" in changes:
        del arguments[2:4]  # --dataset-path would have no effect
    finetune.main(arguments)
    losses = [line["loss"] for line in records(tmp_path / "run")]
    assert len(losses) == 2
    assert "--synthetic-data" in changes or all(0.5 < loss < 6.0 for loss in losses)


def test_dry_run_prints_and_saves_the_options_and_stops(digits, tmp_path, capsys):
    finetune.main(tiny(digits, tmp_path / "run", "--epochs", 1, "--dry-run"))
    assert "learning rate" in capsys.readouterr().out
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_a_loss_that_is_not_finite_is_caught_before_the_weights_change(digits, tmp_path, attempt):
    arguments = tiny(digits, tmp_path / "run", "--training-steps", 3, "--evaluate", "false")
    done = attempt("finetune.py", *arguments, "--loss-scaling", "1e38", "--learning-rate", "0.5")
    assert done.status == 1
    assert done.error.count("\n") == 1
    assert "step 1 at learning rate 0.25" in done.error
    assert "(samples " in done.error
    assert "Traceback" not in done.error


def test_bad_images_are_replaced_listed_and_end_the_run_above_the_ratio(digits, tmp_path, attempt):
    data = tmp_path / "digits"
    shutil.copytree(digits, data)
    first = sorted((data / "train").iterdir())[0]
    for path in sorted(first.iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:100])
    arguments = ["--epochs", 1, "--evaluate", "false", "--overwrite"]
    finetune.main(tiny(data, tmp_path / "run", *arguments, "--bad-image-ratio", 0.01))
    assert len((tmp_path / "run" / "bad_images.txt").read_text().splitlines()) == 5
    done = attempt("finetune.py", *tiny(data, tmp_path / "run", *arguments, "--bad-image-ratio", 0.001))
    assert done.status == 1
    assert "bad_images.txt" in done.error
