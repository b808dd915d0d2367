"""The documented command on ViT-B/16 itself: two steps, a checkpoint, resumed, validated."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.cifar10 import python2_pickle
from tests.scripts import run_script


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """CIFAR-10's own files with a handful of random images."""
    folder = tmp_path_factory.mktemp("cifar10")
    inner = folder / "cifar-10-batches-py"
    inner.mkdir()
    chance = np.random.default_rng(0)
    for name in [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]:
        data = chance.integers(0, 256, (8, 3072), dtype=np.uint8)
        content = {"data": data, "labels": list(range(8)), "batch_label": "", "filenames": ["x.png"] * 8}
        (inner / name).write_bytes(python2_pickle(content))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (inner / "batches.meta").write_bytes(python2_pickle({"label_names": names, "num_cases_per_batch": 8}))
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """ViT-B/16 in the layout of google/vit-base-patch16-224-in21k: a bare ViTModel with a pooler."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("in21k")
    torch.manual_seed(0)
    ViTModel(ViTConfig(layer_norm_eps=1e-6)).save_pretrained(folder)
    return folder


def test_b16_cifar10(cifar10, pretrained, tmp_path):
    run = tmp_path / "b16_cifar10"
    smaller = ["--micro-batch-size", 1, "--gradient-accumulation", 7, "--replication-factor", 1]
    command = ["--config", "b16_cifar10", "--dataset-path", cifar10, "--pretrained-checkpoint", pretrained]
    command += ["--output", run, *smaller, "--dataloader-workers", 1, "--evaluate", "false"]
    done = run_script("finetune.py", *command, "--training-steps", 1)
    assert done.status == 0, done.error
    assert "85,806,346" in done.output
    first = load_file(run / "checkpoints" / "step-1" / "weights" / "model.safetensors")

    done = run_script("finetune.py", *command, "--training-steps", 2, "--resume")
    assert done.status == 0, done.error
    second = load_file(run / "checkpoints" / "step-2" / "weights" / "model.safetensors")
    assert first.keys() == second.keys()
    assert not torch.equal(first["classifier.weight"], second["classifier.weight"])
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(1.5 < line["loss"] < 4 for line in lines)

    command = ["--config", "b16_cifar10_valid", "--dataset-path", cifar10, "--pretrained-checkpoint", run]
    command += ["--micro-batch-size", 2, "--output", tmp_path / "valid"]
    command += ["--dataloader-workers", 1, "--checkpoint", "latest"]
    done = run_script("validation.py", *command)
    assert done.status == 0, done.error
    assert "Number of samples: 8" in done.output
    shutil.rmtree(run)


@pytest.mark.parametrize("config", ["b16_cifar10", "b16_imagenet1k", "b16_imagenet1k_ALS", "digits"])
def test_every_training_config_resolves(config, tmp_path, attempt):
    """--dry-run on generated data of the right number of classes."""
    given = ["--dataset", "generated", "--num-labels", 10, "--pretrained-checkpoint", "none", "--epochs", 1]
    done = attempt("finetune.py", "--config", config, *given, "--output", tmp_path / "run", "--dry-run")
    assert done.status == 0, done.error
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    batches = {"b16_cifar10": 8704, "b16_imagenet1k": 2040, "b16_imagenet1k_ALS": 2040}
    assert recipe["global_batch"] == batches.get(config, 32)


@pytest.mark.parametrize("config", ["b16_cifar10_valid", "b16_imagenet1k_valid", "digits_valid"])
def test_every_validation_config_resolves(config, tmp_path, attempt):
    done = attempt("validation.py", "--config", config, "--output", tmp_path / "valid", "--dry-run")
    assert done.status == 0, done.error
    assert (tmp_path / "valid" / "config.yaml").is_file()
