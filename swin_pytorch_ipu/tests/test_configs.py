"""Each config's derived numbers, its model at full size, and one step of it scaled down."""

import json

import pytest
import torch

from ipu.recipe import schedule
from ipu_options import create_program, training_options
from models import create_model
from optimization import learning_rate
from options import CONFIGS, read_training, read_validation
from pipeline import place
from run.config_file import ConfigFile
from tests.runs import losses
from train_swin import main

LARGE = "SWIN_LARGE_224_22K_FINETUNE_1K"
# → IPUs, images per update, updates per epoch of ImageNet-1k, peak learning rate, parameters, drop path, loss scale
DERIVED = {
    "SWIN_TINY": (16, 1024, 1251, 1e-3, 28_288_354, 0.2, 1024),
    "SWIN_BASE_LINEAR": (16, 1024, 1251, 1e-3, 87_768_224, 0.5, 1024),
    "SWIN_BASE_384": (16, 1024, 1251, 4e-5, 87_903_584, 0.5, 2048),
    "SWIN_BASE_384_22K": (16, 1024, 1251, 4e-5, 87_903_584, 0.2, 2048),
    f"{LARGE}_FP16_POD16": (16, 8196, 156, 3.2016e-4, 196_532_476, 0.2, 1024),
    f"{LARGE}_FP16_POD64": (64, 8208, 156, 3.20625e-4, 196_532_476, 0.2, 1024),
    f"{LARGE}_FP16_POD128": (128, 12288, 104, 4.8e-4, 196_532_476, 0.2, 1024),
    f"{LARGE}_FP32_POD16": (16, 4096, 312, 1.6e-4, 196_532_476, 0.2, 1024),
    f"{LARGE}_FP32_POD128": (128, 4096, 312, 1.6e-4, 196_532_476, 0.2, 1024),
    "SWIN_LARGE_224_22K_PRETRAIN": (16, 8192, 156, 2e-3, 228_565_093, 0.2, 4),
}
NAMES = [*DERIVED, "SWIN_DIGITS", "SWIN_DIGITS_FINETUNE"]


def test_these_are_all():
    assert list(ConfigFile(CONFIGS).entries) == NAMES


@pytest.mark.parametrize("name", DERIVED)
def test_derived_numbers(name):
    ipus, batch, updates, peak, parameters, drop_path, loss_scale = DERIVED[name]
    options = read_training(["--cfg", name], "")
    program = create_program(options)
    training_options(options)
    assert program.ipus * program.replicas == ipus
    assert program.global_batch == batch
    assert schedule(program, 1_281_167, 1, epochs=options.epochs).updates_per_epoch == updates
    rates = [learning_rate(options, options.epochs, batch, epoch) for epoch in range(options.epochs + 1)]
    assert max(rates) == pytest.approx(peak, rel=2e-5)
    assert rates.index(max(rates)) == options.warmup_epochs
    assert rates[-1] == pytest.approx(max(rates) / (200 if options.epochs == 300 else 100))
    with torch.device("meta"):
        classes = options.num_classes or 1000
        model = create_model(options.model, num_classes=classes, **options.sizes())
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    place(model, options.layers_per_ipu, large_head=options.mapping_for_21k)
    assert (options.drop_path_rate, options.loss_scaling) == (drop_path, loss_scale)
    assert options.crop == (options.image_size == (224, 224))


def test_the_readmes_table_states_these_numbers():
    lines = (CONFIGS.parent / "README.md").read_text().splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| `") and line.count("|") == 8]
    assert len(rows) == len(NAMES)
    for name, (config, _, batch, epochs, peak, drop_path, precision) in zip(NAMES, rows):
        options = read_training(["--cfg", name], "")
        program = create_program(options)
        assert name.endswith(config.strip(" `…"))
        made_of = f"{options.batch_size:,} × {options.gradient_accumulation_steps:,} × {options.replicas:,}"
        assert batch.strip() == f"{program.global_batch:,} = {made_of}"
        assert epochs.split(",")[0].strip() == f"{options.epochs} ({options.warmup_epochs:g})"
        assert float(peak) == pytest.approx(options.base_lr * program.global_batch / 1024, rel=5e-3)
        assert (float(drop_path), precision.strip()) == (options.drop_path_rate, options.precision)


@pytest.mark.parametrize(
    ("name", "epochs", "warmup", "decay"),
    [
        ("SWIN_TINY", 300, 20, 0.05),
        ("SWIN_BASE_384", 30, 5, 1e-8),
        (f"{LARGE}_FP32_POD16", 30, 5, 1e-8),
        ("SWIN_LARGE_224_22K_PRETRAIN", 90, 5, 0.05),
    ],
)
def test_recipes(name, epochs, warmup, decay):
    options = read_training(["--cfg", name], "")
    assert (options.epochs, options.warmup_epochs, options.weight_decay) == (epochs, warmup, decay)
    assert (options.mixup, options.cutmix, options.label_smoothing, options.reprob) == (0.8, 1.0, 0.1, 0.25)
    assert (options.auto_augment, options.clip_grad, options.ema_decay) == ("rand-m9-mstd0.5-inc1", 5.0, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_validation_takes_the_same_entries(name):
    given, trained = read_validation(["--cfg", name, "--checkpoint", "x"], ""), read_training(["--cfg", name], "")
    assert given.output == f"output/{name}_valid"
    for shared in ("model", "img_size", "precision", "crop", "batch_size", "layers_per_ipu", "amp"):
        assert getattr(given, shared) == getattr(trained, shared)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_each(name, tmp_path):
    """Its depths, window, input and precision; 8 channels a stage's head, and 14 images per update."""
    options = read_training(["--cfg", name], "")
    heads = options.num_heads or [1, 1, 1, 1]
    smaller = f"--generated-data --num-classes 7 --embed-dim 8 --num-heads {' '.join('1' for _ in heads)} "
    smaller += "--batch-size 2 --gradient-accumulation-steps 7 --replicas 1 --num-workers 0 --epochs 1 --log-every 1"
    if "DIGITS" not in name:  # one block more or less does not matter here, a pipeline that fits does
        smaller += ' --depths 1 1 2 1 --layers-per-ipu 1 1 1 2 --mlp-ratio 1 --executable-cache-dir ""'
        smaller += " --img-size 64" if options.image_size[0] == 224 else " --img-size 128"
    words = [word.strip('"') for word in smaller.split()]
    if options.pretrained_model:
        words += ["--pretrained-model", ""]
    main(["--cfg", name, "--output", str(tmp_path / "run"), *words, "--evaluate", "false", "--tensorboard", "false"])
    (loss,) = losses(tmp_path / "run")
    assert 1 < loss < 4
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (recipe["steps"], recipe["global_batch"]) == (1, 14)
