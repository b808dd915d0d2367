"""Flags as documented, those of before under their new names, and what is refused."""

import pytest

import train_swin
import validate
from option_groups import PRECISIONS
from options import MAY_CHANGE, REFUSED, TrainOptions, read_training, read_validation
from run.errors import UsageError
from run.option_values import fields_of
from run.options import show
from tests.runs import tiny


def training(*words):
    return read_training(["--cfg", "SWIN_TINY", *map(str, words)], "")


def validation(*words):
    return read_validation(["--cfg", "SWIN_TINY", *map(str, words)], "")


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--checkpoint-output-dir", "x"], "output", "x"),
        (["--output", "x"], "output", "x"),
        (["--ga", "3"], "gradient_accumulation_steps", 3),
        (["--amp", "0.2"], "amp", [0.2]),
        (["--rts"], "rts", True),
        (["--batch-size", "2"], "batch_size", 2),
        (["--pretrained-model", "x.pth"], "pretrained_model", "x.pth"),
        (["--epochs", "7"], "epochs", 7),
        (["--training-steps", "7"], "training_steps", 7),
        (["--num-workers", "0"], "num_workers", 0),
        (["--precision", "16.16"], "precision", "16.16"),
        (["--compile-only"], "compile_only", True),
        (["--wandb"], "wandb", True),
        (["--clip-grad", "0"], "clip_grad", 0.0),
        (["--auto-augment", ""], "auto_augment", ""),
        (["--print-freq", "3"], "log_every", 3),
    ],
)
def test_documented_flags(words, name, value):
    assert getattr(training(*words), name) == value


def test_the_config_has_two_names():
    assert read_training(["--config", "SWIN_TINY"], "").config == training().config == "SWIN_TINY"
    assert training().output == "output/SWIN_TINY"
    assert validation("--checkpoint", "x").output == "output/SWIN_TINY_valid"
    assert validation("--checkpoint", "x").checkpoint == "x"


@pytest.mark.parametrize(
    ("script", "words", "parts"),
    [
        (training, ["--device", "ipu"], ["PopTorch decides", "POPTORCH_HOST"]),
        (training, ["--alignment"], ["--alignment", "no effect"]),
        (training, ["--half"], ["--precision 16.16"]),
        (training, ["--weights", "x"], ["--pretrained-model"]),
        (training, ["--cache-mode", "part"], ["dataset.pack"]),
        (training, ["--learning-rate", 1], ["no flag --learning-rate"]),
        (training, ["--training-step", 1], ["did you mean --training-steps"]),
        (training, ["--precision", "half"], ["half is not one of 32.32, 16.16, mixed"]),
        (training, ["--momentum", 0.5], ["only with --optimizer sgd"]),
        (training, ["--optimizer", "sgd", "--clip-grad", 1], ["only with --optimizer adamw"]),
        (training, ["--color-jitter", 0.4], ["only without --auto-augment"]),
        (training, ["--lr-scheduler", "linear", "--lr-legacy"], ["only with --lr-scheduler cosine"]),
        (training, ["--decay-rate", 0.5], ["only with --lr-scheduler step"]),
        (training, ["--ema-every", 2], ["only with --ema-decay"]),
        (training, ["--reprob", 0, "--recount", 2], ["only with --reprob above 0"]),
        (training, ["--mixup", 0, "--cutmix", 0, "--mixup-prob", 0.5], ["only with --mixup"]),
        (training, ["--generated-steps", 5], ["only with --generated-data"]),
        (training, ["--generated-data", "--data-path", "x"], ["only without --generated-data"]),
        (training, ["--new-head"], ["only with --pretrained-model"]),
        (training, ["--evaluate", "false", "--eval-freq", 1], ["only with --evaluate"]),
        (training, ["--remap", "false", "--remap-so", "x"], ["only with --remap"]),
        (training, ["--resume", "x.pth"], ["x.pth belongs to no flag"]),
        (validation, [], ["--checkpoint is required"]),
        (validation, ["--checkpoint", "x", "--base-lr", 1], ["--base-lr has no effect", "training"]),
        (validation, ["--checkpoint", "x", "--pretrained-model", "y"], ["--pretrained-model has no effect"]),
        (validation, ["--checkpoint", "x", "--resume"], ["--resume has no effect", "training"]),
        (validation, ["--checkpoint", "x", "--aa=y"], ["--aa has no effect", "training"]),
        (validation, ["--checkpoint", "x", "--ema"], ["only with a run folder"]),
        (validation, ["--checkpoint", "x", "--device", "cpu"], ["PopTorch decides"]),
    ],
)
def test_refused(script, words, parts):
    with pytest.raises(UsageError) as caught:
        script(*map(str, words))
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--img-size", "1", "2", "3"], "img_size takes one number"),
        (["--window-size", "1", "2", "3"], "window_size takes one number"),
        (["--cutmix-minmax", "0.5"], "--cutmix-minmax takes two numbers"),
        (["--cutmix-minmax", "0.8", "0.2"], "the smaller one first"),
        (["--embed-dim", "7"], "not divisible by its 3 heads"),
        (["--depths", "2", "2"], "depths has 2 stages and num_heads 4"),
        (["--layers-per-ipu", "6"], "places 6 blocks and the model has 12"),
        (["--amp", "0.1", "0.2"], "give 1, or 4, one per IPU"),
        (["--epochs", "1", "--ga", "1000000"], "lower the micro-batch"),
        (["--auto-augment", "rubbish"], "rubbish describes no RandAugment"),
        (["--auto-augment", "rand-m9x"], "rand-m9x describes no RandAugment"),
        (["--betas", "0.9", "1.0"], "--betas takes two numbers below 1"),
        (["--seed", str(2**64)], "--seed: 18446744073709551616 is above"),
    ],
)
def test_values_that_make_no_run(digits, tmp_path, words, says, attempt):
    given = ["--cfg", "SWIN_TINY", "--data-path", digits, "--output", tmp_path / "run", "--dry-run", *words]
    done = attempt("train_swin.py", *given)
    assert (done.status, done.error.count("\n")) == (2, 1), done.error
    assert says in done.error


@pytest.mark.parametrize("which", ["", "latest", "checkpoints/step-1/weights"])
def test_overwriting_the_weights_to_start_from(digits, tmp_path, attempt, which):
    inside = tmp_path / "checkpoints" / "step-1" / "weights"
    inside.mkdir(parents=True)
    done = attempt("train_swin.py", *tiny(digits, tmp_path, "--overwrite", "--pretrained-model", tmp_path / which))
    assert (done.status, done.error.count("\n")) == (2, 1), done.error
    assert "--overwrite would remove" in done.error
    assert "give another --output" in done.error
    assert inside.is_dir()


def test_missing_data_and_weights(digits, tmp_path, attempt):
    given = ["--cfg", "SWIN_DIGITS", "--output", tmp_path / "run"]
    done = attempt("train_swin.py", *given, "--data-path", tmp_path / "nowhere")
    assert done.status == 1
    assert "nowhere does not exist" in done.error
    done = attempt("train_swin.py", *given, "--data-path", digits, "--pretrained-model", tmp_path / "none.pth")
    assert done.status == 1
    assert "none.pth does not exist" in done.error
    valid = ["--cfg", "SWIN_DIGITS", "--data-path", digits, "--output", tmp_path / "v"]
    done = attempt("validate.py", *valid, "--checkpoint", tmp_path / "none.pth")
    assert done.status == 1
    assert "none.pth does not exist" in done.error


def test_help_lists_every_option_of_its_script(capsys):
    for main, cls in ((train_swin.main, TrainOptions),):
        with pytest.raises(SystemExit) as ended:
            main(["--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert all(field.flag in text for field in fields_of(cls).values())
    with pytest.raises(SystemExit) as ended:
        validate.main(["--cfg", "SWIN_TINY", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--checkpoint TEXT" in text
    assert "--base-lr" not in text
    with pytest.raises(SystemExit):
        train_swin.main(["--list-configs"])
    assert "SWIN_DIGITS_FINETUNE" in capsys.readouterr().out


def test_what_validation_shows_is_what_it_reads():
    text = show(validation("--checkpoint", "x"))
    assert "checkpoint" in text
    assert "base_lr" not in text


def test_names_in_tables_are_options():
    names = set(fields_of(TrainOptions))
    assert names >= MAY_CHANGE
    assert not names & set(REFUSED)
    assert set(PRECISIONS) == {"32.32", "16.16", "mixed"}
