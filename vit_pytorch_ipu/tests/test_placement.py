import pytest
import torch

from ipu.poptorch_options import inference_options
from ipu_options import create_program, training_options
from models import create_model
from models.supervised import Supervised
from options import FinetuneOptions, ValidationOptions
from pipeline import ipu_of_layers, place
from poptorch_host.backend import poptorch
from run.errors import UsageError

SIZES = {"width": 16, "depth": 3, "heads": 2, "mlp_width": 32}


def options(**changes):
    return FinetuneOptions(config="test", **changes)


def placed(layers_per_ipu, **changes):
    model = create_model("vit_tiny_patch16_224", image_size=32, num_classes=3, **SIZES)
    place(model, layers_per_ipu, **changes)
    return Supervised(model)


def test_layers_follow_the_list():
    assert ipu_of_layers([3, 3, 3, 3]) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("layers", [[2], [2, 2], [3, 0]])
def test_a_list_that_does_not_fit_the_model_is_refused(layers):
    with pytest.raises(UsageError, match="the model has 3"):
        placed(layers)


def test_placement_changes_no_result():
    torch.manual_seed(0)
    model = create_model("vit_tiny_patch16_224", image_size=32, num_classes=3, **SIZES).eval()
    images = torch.randn(2, 3, 32, 32)
    before = model(images)
    place(model, [1, 2], recompute_checkpoints=True)
    assert torch.equal(model(images), before)


def test_stashed_are_the_middle_of_the_named_layers_and_the_end_of_all(monkeypatch):
    kept = []
    monkeypatch.setattr(poptorch, "recomputationCheckpoint", lambda tensor: kept.append(tensor) or tensor)
    model = create_model("vit_tiny_patch16_224", image_size=32, num_classes=3, **SIZES).eval()
    ends, middles = [], []
    for block in model.blocks:
        block.norm2.register_forward_pre_hook(lambda _, inputs: middles.append(inputs[0]))
        block.register_forward_hook(lambda _, inputs, output: ends.append(output))
    place(model, [1, 2], recompute_checkpoints=True, recompute_mid_layers=[0, 2])
    model(torch.randn(2, 3, 32, 32))
    expected = [middles[0], ends[0], ends[1], middles[2], ends[2]]
    assert [id(tensor) for tensor in kept] == [id(tensor) for tensor in expected]
    with pytest.raises(UsageError, match="layer 3 and the model has 0 to 2"):
        placed([1, 2], recompute_mid_layers=[3])


@pytest.mark.parametrize(("accumulation", "enough"), [(2, False), (3, True)])
def test_two_ipus_make_three_training_stages(accumulation, enough):
    given = options(gradient_accumulation=accumulation, layers_per_ipu=[1, 2])
    training = poptorch.trainingModel(placed([1, 2]), training_options(given))
    batch = torch.randn(accumulation, 3, 32, 32), torch.zeros(accumulation, dtype=torch.long)
    if enough:
        losses, _ = training(*batch)
        assert losses.shape == (accumulation,)
    else:
        with pytest.raises(poptorch.Error, match=r"(?i)stage"):
            training(*batch)


def test_documented_options_reach_poptorch():
    given = options(
        device_iterations=8, gradient_accumulation=30, replication_factor=4, reduction_type="sum", random_seed=7
    )
    made = training_options(given)
    assert (made.device_iterations, made.replication_factor) == (8, 4)
    assert made.Training.gradient_accumulation == 30
    assert made.Training.accumulation_and_replication_reduction_type == poptorch.ReductionType.Sum
    assert made.output_mode == poptorch.OutputMode.All
    assert made.random_seed == 7
    assert made.available_memory_proportion == {0: 0.3, 1: 0.3, 2: 0.3, 3: 0.3}


def test_inference_gets_as_many_iterations_as_ipus():
    given = ValidationOptions(config="test", layers_per_ipu=[3, 3, 3, 3])
    assert inference_options(create_program(given), device_iterations=1, processes=1).device_iterations == 4
    assert inference_options(create_program(given), device_iterations=6, processes=1).device_iterations == 6


def test_memory_shares_must_fit_the_ipus():
    assert create_program(options(matmul_proportion=[0.1, 0.2, 0.3, 0.4])).memory_proportions()["IPU3"] == 0.4
    with pytest.raises(UsageError, match="give 1, or 4"):
        create_program(options(matmul_proportion=[0.1, 0.2]))
    with pytest.raises(UsageError, match="make them agree"):
        create_program(options(ipus_per_replica=2))
