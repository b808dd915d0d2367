import math

import pytest
import torch

from models import create_model
from optimization import create_optimizer, learning_rate, parameter_groups
from options import TrainOptions
from run.errors import UsageError
from tests.models.tiny import tiny


def options(**changes):
    return TrainOptions(config="test", **changes)


@pytest.mark.parametrize(
    ("name", "tensors", "undecayed", "values"),
    [("swin_tiny_patch4_window7_224", 173, 120, 88_930), ("swin_base_patch4_window7_224", 329, 228, 230_560)],
)
def test_what_decays(name, tensors, undecayed, values):
    with torch.device("meta"):
        model = create_model(name)
    decayed, plain = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == tensors
    assert len(plain["params"]) == undecayed
    assert sum(parameter.numel() for parameter in plain["params"]) == values


def test_absolute_positions_do_not_decay():
    model = tiny(absolute_positions=True)
    plain = parameter_groups(model, 0.05)[1]["params"]
    assert any(parameter is model.absolute_pos_embed for parameter in plain)


SCRATCH = {"base_lr": 1e-3, "warmup_lr": 5e-7, "min_lr": 5e-6, "warmup_epochs": 20}
FINETUNE = {"base_lr": 4e-5, "warmup_lr": 4e-8, "min_lr": 4e-7, "warmup_epochs": 5}


@pytest.mark.parametrize(
    ("recipe", "epochs", "middle", "legacy_middle", "fall"),
    [(SCRATCH, 300, 5.58e-4, 5.03e-4, 0.989), (FINETUNE, 30, 2.63e-5, 2.02e-5, 0.934)],
)
def test_the_cosine_goes_on_from_the_peak_and_the_documents_falls(recipe, epochs, middle, legacy_middle, fall):
    ours, theirs = options(**recipe), options(**recipe, lr_legacy=True)
    peak, warmup = recipe["base_lr"], recipe["warmup_epochs"]
    for given in (ours, theirs):
        assert learning_rate(given, epochs, 1024, 0) == recipe["warmup_lr"]
        half = (recipe["warmup_lr"] + peak) / 2
        assert learning_rate(given, epochs, 1024, warmup / 2) == pytest.approx(half)
        assert learning_rate(given, epochs, 1024, epochs) == pytest.approx(recipe["min_lr"])
    assert learning_rate(ours, epochs, 1024, warmup - 1e-9) == pytest.approx(peak)
    assert learning_rate(ours, epochs, 1024, warmup) == pytest.approx(peak)
    assert learning_rate(theirs, epochs, 1024, warmup) == pytest.approx(fall * peak, rel=1e-3)
    assert learning_rate(ours, epochs, 1024, epochs / 2) == pytest.approx(middle, rel=5e-3)
    assert learning_rate(theirs, epochs, 1024, epochs / 2) == pytest.approx(legacy_middle, rel=5e-3)


def test_all_rates_grow_with_the_global_batch():
    given = options(**FINETUNE)
    for epoch in (0, 2, 5, 17, 30):
        assert learning_rate(given, 30, 8196, epoch) == pytest.approx(
            8196 / 1024 * learning_rate(given, 30, 1024, epoch)
        )
    assert learning_rate(given, 30, 8196, 5) == pytest.approx(3.2016e-4, rel=1e-4)


def test_linear_and_steps():
    given = options(**SCRATCH, lr_scheduler="linear")
    assert learning_rate(given, 300, 1024, 20) == pytest.approx(1e-3)
    assert learning_rate(given, 300, 1024, 160) == pytest.approx(0.505e-3)
    assert learning_rate(given, 300, 1024, 300) == pytest.approx(1e-5)
    given = options(**SCRATCH, lr_scheduler="step")
    assert [learning_rate(given, 300, 1024, epoch) for epoch in (20, 29.9, 30, 89.9, 90)] == pytest.approx(
        [1e-3, 1e-3, 1e-4, 1e-5, 1e-6]
    )


@pytest.mark.parametrize(
    ("precision", "usual"), [("32.32", torch.float32), ("mixed", torch.float32), ("16.16", torch.float16)]
)
def test_types_of_an_ipus_state(precision, usual):
    made = create_optimizer(tiny(), options(precision=precision))
    assert (made.accum_type, made.first_order_momentum_accum_type) == (usual, usual)
    assert made.second_order_momentum_accum_type == torch.float32
    given = options(precision=precision, accum_type="fp32", first_order_type="fp16", second_order_type="fp16")
    made = create_optimizer(tiny(), given)
    assert (made.accum_type, made.first_order_momentum_accum_type) == (torch.float32, torch.float16)
    assert made.second_order_momentum_accum_type == torch.float16


def test_clipping_and_the_other_update_rule():
    assert create_optimizer(tiny(), options()).max_grad_norm == 5.0
    assert math.isinf(create_optimizer(tiny(), options(clip_grad=0.0)).max_grad_norm)
    made = create_optimizer(tiny(), options(optimizer="sgd", momentum=0.7))
    assert made.param_groups[0]["momentum"] == 0.7
    assert made.loss_scaling == 128.0
    with pytest.raises(UsageError, match="--betas takes two numbers"):
        create_optimizer(tiny(), options(betas=[0.9]))
