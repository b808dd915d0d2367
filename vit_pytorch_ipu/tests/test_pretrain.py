import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

import finetune
import pretrain
import validation
from ipu_options import create_program
from models import create_model
from options import PretrainOptions
from run.errors import UsageError
from run.options import parse
from tests.scripts import APP, TINY, environment
from training import describe_run

SMALL = [*TINY, "--representation-size", "24", "--recompute-mid-layers", "1", "--log-every", "1"]


def arguments(digits, output, *more):
    given = ["--config", "digits_pretrain", "--dataset-path", digits, "--output", output, *SMALL, *more]
    return [str(word) for word in given]


def steps(count, *more):
    return ["--epochs", 0, "--training-steps", count, *more]


def records(folder, split="train"):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def weights(folder, step):
    return load_file(folder / "checkpoints" / f"step-{step}" / "weights" / "model.safetensors")


@pytest.fixture(scope="module")
def pretrained(digits, tmp_path_factory):
    """Six epochs of a tiny ViT with what pretraining has; it learns with any seed."""
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    more = ["--epochs", 6, "--learning-rate", 0.003, "--warmup-steps", 20, "--eval-every", 150, "--alpha", 0.2]
    more += [
        "--crop-scale-min",
        1,
        "--extra-aug",
        "none",
        "--hidden-dropout-prob",
        0,
        "--attention-probs-dropout-prob",
        0,
    ]
    pretrain.main(arguments(digits, folder, *more))
    return folder


def test_pretraining_learns_and_its_layers_survive_to_validation(pretrained, digits, tmp_path):
    train, held_out = records(pretrained), records(pretrained, "validation")
    assert [line["step"] for line in train] == list(range(1, len(train) + 1))
    assert train[0]["learning_rate"] == pytest.approx(0.003 / 20)  # the first of the warm-up's steps isn't zero
    assert len(held_out) > 1
    assert held_out[-1]["accuracy"] > 0.5
    config = yaml.safe_load((pretrained / "config.yaml").read_text())
    assert (config["mixup"], config["representation_size"], config["reduction_type"]) == (True, 24, "sum")
    saved = weights(pretrained, train[-1]["step"])
    assert saved["vit.pooler.dense.weight"].shape == (24, 32)

    best = max(line["accuracy"] for line in held_out)
    given = ["--config", "digits_valid", "--dataset-path", digits, "--pretrained-checkpoint", pretrained]
    given += ["--output", tmp_path / "valid", "--layers-per-ipu", 2, "--dataloader-workers", 0]
    validation.main([str(word) for word in given])
    score = json.loads((tmp_path / "valid" / "validation.json").read_text())
    assert score["top1"] == pytest.approx(best, abs=1e-9)
    assert score["samples"] == 360


def test_fine_tuning_starts_there_without_representation_layer_and_head(pretrained, digits, tmp_path, capsys):
    given = ["--config", "digits_finetune", "--dataset-path", digits, "--pretrained-checkpoint", pretrained]
    given += ["--output", tmp_path / "run", *TINY, "--training-steps", 100, "--learning-rate", 0.002, "--eval-every", 0]
    given += ["--warmup-steps", 10, "--drop-path-rate", 0]
    finetune.main([str(word) for word in given])
    printed = capsys.readouterr().out
    assert "reinitialised head.weight, head.bias" in printed
    assert "representation.weight" in printed
    assert not any("pooler" in name for name in weights(tmp_path / "run", 100))
    tuned = records(tmp_path / "run", "validation")[-1]["accuracy"]
    scratch = ["--pretrained-checkpoint", "none", "--output", tmp_path / "scratch"]
    finetune.main([str(word) for word in [*given, *scratch]])
    assert tuned > 0.6
    assert tuned > records(tmp_path / "scratch", "validation")[-1]["accuracy"] + 0.1

    given = ["--config", "digits_valid", "--dataset-path", digits, "--pretrained-checkpoint", tmp_path / "run"]
    given += ["--output", tmp_path / "valid", "--layers-per-ipu", 2, "--dataloader-workers", 0]
    validation.main([str(word) for word in given])
    assert json.loads((tmp_path / "valid" / "validation.json").read_text())["top1"] == pytest.approx(tuned, abs=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        ["--optimizer", "LAMB", "--max-norm", "10", "--max-norm-bias", "1", "--bias-correction", "false"],
        ["--optimizer", "AdamW", "--reduction-type", "mean", "--loss-scaling", "1"],
        ["--optimizer", "SGD", "--learning-rate", "1e-5", "--momentum", "0.5"],
        ["--mixup", "false"],
        ["--alpha", "2.0", "--extra-aug", "none", "--random-flip"],
        ["--loss", "SigmoidCELoss"],
        ["--representation-size", "none"],
        ["--representation-size", "48", "--drop-path-rate", "0.2"],
        ["--recompute-mid-layers"],
        ["--recompute-mid-layers", "0", "1", "--recompute-checkpoint-every-layer", "false"],
        ["--precision", "32.32", "--byteio", "false"],
        ["--precision", "16.32", "--byteio", "false", "--lr-schedule", "linear"],
        ["--dataset", "generated", "--num-labels", "5", "--iterations", "2"],
        ["--dataloader-workers", "1", "--rebatched-worker-size", "16"],
    ],
    ids=lambda changes: ":".join(changes[:2]),
)
def test_options_train(digits, tmp_path, changes):
    if "generated" in changes:  # has no files whose augmentation, folder or resize one could ask for
        base = [word for word in arguments(digits, tmp_path / "run") if word not in ("--dataset-path", str(digits))]
    else:
        base = arguments(digits, tmp_path / "run")
    pretrain.main([str(word) for word in [*base, *steps(2, "--evaluate", "false"), *changes]])
    losses = [line["loss"] for line in records(tmp_path / "run")]
    assert len(losses) == 2
    # Ten classes from random weights; with the sigmoid the bias of -10 makes that one wrong answer of about 10.
    low, high = (7.0, 14.0) if "SigmoidCELoss" in changes else (1.0, 5.0)
    assert all(low < loss < high for loss in losses)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--pretrain"], "pretrain.py pretrains"),
        (["--alpha", "0"], "alpha"),
        (["--alpha", "0.3", "--mixup", "false"], "only with --mixup"),
        (["--loss", "MSE"], "CELoss"),
        (["--representation-size", "0"], "representation"),
        (["--recompute-mid-layers", "2"], "recompute_mid_layers names layer 2 and the model has 0 to 1"),
        (["--recompute-mid-layers", "-1"], "recompute"),
        (["--config", "digits"], "for finetune.py, not pretrain.py"),
    ],
)
def test_what_pretraining_refuses(digits, tmp_path, given, message):
    with pytest.raises(UsageError, match=message):
        pretrain.main(arguments(digits, tmp_path / "run", *given))


@pytest.mark.parametrize("flag", ["mixup", "alpha", "loss", "pretrain", "representation-size", "recompute-mid-layers"])
def test_the_other_scripts_refuse_its_flags(flag, tmp_path):
    for script, config in ((finetune, "digits"), (validation, "digits_valid")):
        with pytest.raises(UsageError, match=f"--{flag} has no effect"):
            script.main(["--config", config, "--output", str(tmp_path / "run"), f"--{flag}", "1"])


def test_the_model_is_the_documents():
    """87,158,248 parameters in 202 tensors of the document's code, which counts query, key and value by themselves."""
    given = PretrainOptions(config="test", representation_size=768, hidden_dropout_prob=0.1)
    with torch.device("meta"):
        model = create_model(given.model, num_classes=1000, hidden_dropout=0.1, **given.sizes())
    assert sum(parameter.numel() for parameter in model.parameters()) == 87_158_248
    assert len(list(model.parameters())) + 12 * 2 * 2 == 202
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == [0.1] * 25
    assert model.config.init == "pretrain"


@pytest.mark.parametrize(
    ("config", "batch", "updates", "warmup"),
    [("b16_in1k_pretrain", 4096, 93_600, 10_000), ("b16_in1k_pretrain_lamb", 65_536, 11_400, 1_200)],
)
def test_the_documents_numbers(config, batch, updates, warmup):
    given = parse(PretrainOptions, ["--config", config], configs=pretrain.CONFIGS, script="pretrain.py", description="")
    recipe = describe_run(given, create_program(given), 1_281_167, torch.nn.Linear(1, 1), processes=1)
    assert (recipe.global_batch, recipe.updates, recipe.steps, recipe.warmup_steps) == (batch, updates, updates, warmup)
    assert given.output == f"./output/{config}"


RECIPE = ["--replication-factor", 2, "--learning-rate", 0.003, "--evaluate", "false"]


def torchrun(*given):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "pretrain.py", *map(str, given)], cwd=APP, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_give_the_losses_of_one(digits, tmp_path):
    still = [*RECIPE, "--hidden-dropout-prob", 0, "--attention-probs-dropout-prob", 0]
    pretrain.main(arguments(digits, tmp_path / "one", *steps(3, *still)))
    torchrun(*arguments(digits, tmp_path / "two", *steps(3, *still)))
    one, two = ([line["loss"] for line in records(tmp_path / name)] for name in ("one", "two"))
    assert len(one) == 3
    assert two == pytest.approx(one, abs=1e-5)


def test_a_resumed_run_is_the_run_that_was_never_stopped(digits, tmp_path):
    every = steps(6, *RECIPE, "--checkpoint-save-steps", 4)
    pretrain.main(arguments(digits, tmp_path / "whole", *every))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-6")
    pretrain.main(arguments(digits, tmp_path / "cut", *every, "--resume"))
    whole, cut = weights(tmp_path / "whole", 6), weights(tmp_path / "cut", 6)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert [line["loss"] for line in records(tmp_path / "cut")] == [
        line["loss"] for line in records(tmp_path / "whole")
    ]


def test_another_mixup_cannot_be_resumed(digits, tmp_path):
    every = steps(1, "--evaluate", "false")
    pretrain.main(arguments(digits, tmp_path / "run", *every))
    with pytest.raises(UsageError, match=r"alpha 0.75 \(was 0.5\)"):
        pretrain.main(arguments(digits, tmp_path / "run", *every, "--resume", "--alpha", 0.75))
    given = ["--config", "digits", "--dataset-path", str(digits), "--output", str(tmp_path / "run"), *TINY, "--resume"]
    with pytest.raises(UsageError, match=r"mixup None \(was True\)"):
        finetune.main(given)
