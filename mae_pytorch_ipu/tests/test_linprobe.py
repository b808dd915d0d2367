"""Linear probing: LARS and the head's updates against the definitions, and runs."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import finetune_validate
import main_linprobe
import main_pretrain
from lars import LARS
from models import create_model
from poptorch_host.backend import poptorch
from probe import HeadTrainer, without_head
from run.errors import UsageError
from tests.runs import losses, newest, records, same_bits, tiny_pretraining, tiny_probing, tiny_validation, weights


def probed(digits, folder, *more):
    main_linprobe.main(tiny_probing(digits, folder, *more))
    return folder


def test_lars_follows_its_definition():
    torch.manual_seed(0)
    matrix, bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))
    optimizer = LARS([matrix, bias], lr=0.0, momentum=0.8, weight_decay=0.1, trust=0.02)
    w, b = matrix.detach().double(), bias.detach().double()
    speed_w, speed_b = torch.zeros_like(w), torch.zeros_like(b)
    for rate in (0.5, 2.0, 1.0):
        gradient, bias_gradient = torch.randn(4, 3), torch.randn(4)
        matrix.grad, bias.grad = gradient.clone(), bias_gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        steep = gradient.double() + 0.1 * w
        speed_w = 0.8 * speed_w + 0.02 * w.norm() / steep.norm() * steep
        speed_b = 0.8 * speed_b + bias_gradient.double()
        w, b = w - rate * speed_w, b - rate * speed_b
        assert torch.allclose(matrix.detach().double(), w, rtol=1e-5)
        assert torch.allclose(bias.detach().double(), b, rtol=1e-5)


def test_lars_of_zeros_takes_plain_steps():
    matrix = nn.Parameter(torch.zeros(2, 2))
    optimizer = LARS([matrix], lr=0.5)
    matrix.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(matrix.detach(), torch.full((2, 2), -0.5))
    matrix.grad = torch.zeros(2, 2)
    optimizer.step()  # 0 / 0 is no step of its own
    assert torch.equal(matrix.detach(), torch.full((2, 2), -0.5 - 0.9 * 0.5))


class Features(nn.Module):
    """What stands for the device: features are the images, flattened."""

    rng_state = [7]

    def forward(self, images):
        return images.flatten(1)


def head(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.BatchNorm1d(12, affine=False, eps=1e-6), nn.Linear(12, 5))


def test_updates_are_those_of_torchs_modules():
    ours, theirs = head(), head()
    steps = torch.optim.SGD(theirs.parameters(), lr=0.3, momentum=0.9)
    trainer = HeadTrainer(Features(), ours, torch.optim.SGD(ours.parameters(), lr=0.3, momentum=0.9), updates=3)
    images, labels = 3 * torch.randn(30, 3, 2, 2) + 2, torch.randint(0, 5, (30,))
    found, hits = trainer(images, labels)
    for update, (part, of) in enumerate(zip(images.chunk(3), labels.chunk(3))):
        logits = theirs.train()(part.flatten(1))
        loss = F.cross_entropy(logits, of)
        assert float(found[update]) == pytest.approx(float(loss.detach()), rel=1e-5)
        assert int(hits[update]) == int((logits.argmax(1) == of).sum())
        steps.zero_grad()
        loss.backward()
        steps.step()
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name].double(), value.double(), atol=1e-6), name
    assert trainer.rng_state == [7]


def test_an_update_that_is_not_finite_changes_nothing():
    ours = head()
    trainer = HeadTrainer(Features(), ours, torch.optim.SGD(ours.parameters(), lr=0.3), updates=1)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    images = torch.randn(8, 3, 2, 2)
    images[3] = float("inf")
    with pytest.raises(poptorch.Error, match="not finite"):
        trainer(images, torch.zeros(8, dtype=torch.int64))
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("pools", [True, False])
def test_features_share_the_models_weights(pools):
    sizes = {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "mlp_width": 32, "num_classes": 5}
    network = create_model("vit_base_patch16", image_size=32, linear_probe=True, global_pool=pools, **sizes).eval()
    encoder = without_head(network).eval()
    images = torch.randn(3, 3, 32, 32)
    assert torch.allclose(network.head(encoder(images)), network(images), atol=1e-6)
    network.cls_token.add_(1)
    network.pos_embed.add_(1)
    network.blocks[1].mlp.fc1.weight.mul_(2)
    network.norm.bias.add_(1)
    assert torch.allclose(network.head(encoder(images)), network(images), atol=1e-6)


SMALL = ["--embed-dim", 32, "--mlp-dim", 64, "--batch-size", 32, "--gradient-accumulation-count", 1]
RECIPE = [*SMALL, "--epochs", 6, "--warmup-epochs", 1, "--lr", 6]


@pytest.fixture(scope="module")
def pretrained(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    words = [*SMALL, "--epochs", 8, "--warmup-epochs", 1, "--lr", 0.005, "--log-every", 50]
    main_pretrain.main(tiny_pretraining(digits, folder, *words))
    return folder


@pytest.fixture(scope="module")
def trained(digits, pretrained, tmp_path_factory):
    return probed(digits, tmp_path_factory.mktemp("runs") / "probe", *RECIPE, "--finetune", pretrained)


def test_it_learns_and_the_encoder_stays(trained, pretrained):
    assert losses(trained)[0] == pytest.approx(2.3, abs=0.1)
    assert sum(losses(trained)[-10:]) < 0.95 * sum(losses(trained)[:10])
    assert records(trained, "validation")[-1]["accuracy"] > 0.2
    assert records(trained)[0]["learning_rate"] == 0
    before, after = weights(pretrained), weights(trained)
    encoder = [name for name in after if not name.startswith("head.")]
    assert len(encoder) == 30
    assert all((before[name] == after[name]).all() for name in encoder if name != "pos_embed")
    assert {name for name in after if name not in encoder} == {
        "head.0.running_mean",
        "head.0.running_var",
        "head.0.num_batches_tracked",
        "head.1.weight",
        "head.1.bias",
    }
    config = json.loads((newest(trained) / "weights" / "config.json").read_text())
    assert config["sizes"]["linear_probe"]
    assert not config["sizes"]["global_pool"]
    assert config["sizes"]["gelu"] == "tanh"


def test_validation_repeats_the_runs_own_score(digits, trained, tmp_path):
    finetune_validate.main(tiny_validation(digits, tmp_path / "valid", trained))
    found = json.loads((tmp_path / "valid" / "validation.json").read_text())
    own = records(trained, "validation")[-1]
    assert (found["top1"], found["samples"]) == (own["accuracy"], 360)
    assert found["loss"] == pytest.approx(own["loss"], rel=1e-5)


def test_calls_and_micro_batches_make_no_difference(digits, pretrained, tmp_path):
    words = [*SMALL, "--finetune", pretrained, "--epochs", 1, "--warmup-epochs", 0, "--lr", 6, "--min-lr", 6]
    one = probed(digits, tmp_path / "one", *words)
    two = probed(digits, tmp_path / "two", *words, "--device-iterations", 2)
    whole = probed(digits, tmp_path / "whole", *words, "--batch-size", 8, "--gradient-accumulation-count", 4)
    pairs = [sum(losses(one)[2 * i : 2 * i + 2]) / 2 for i in range(22)]
    assert losses(two) == pytest.approx(pairs, rel=1e-5)
    assert losses(whole) == pytest.approx(losses(one), rel=1e-4)


@pytest.mark.parametrize("changes", [["--half"], ["--global-pool"], ["--replica", 2], ["--weight-decay", 0.1]])
def test_options_train(digits, tmp_path, changes):
    run = probed(
        digits, tmp_path / "run", "--epochs", 1, "--batch-size", 32, "--lr", 2, "--evaluate", "false", *changes
    )
    assert all(1.5 < loss < 4.0 for loss in losses(run))
    assert weights(run)["head.1.weight"].dtype == torch.float32
    if changes == ["--half"]:
        assert weights(run)["norm.weight"].dtype == torch.half


def test_resumed_it_ends_in_the_same_weights(digits, pretrained, trained, tmp_path):
    words = [*RECIPE, "--finetune", pretrained, "--saveckp-freq", 1, "--eval-freq", 1]
    folder = tmp_path / "run"
    whole = probed(digits, tmp_path / "whole", *words)
    probed(digits, folder, *words)
    shutil.rmtree(newest(folder))
    probed(digits, folder, *RECIPE, "--saveckp-freq", 1, "--eval-freq", 1, "--resume")  # without --finetune
    assert same_bits(folder, whole)
    assert losses(folder) == losses(whole) == losses(trained)


def test_compiling_only(digits, tmp_path, capsys):
    probed(digits, tmp_path / "run", "--epochs", 1, "--compile-only")
    assert "compiled; nothing was trained" in capsys.readouterr().out
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_too_few_micro_batches_for_the_pipeline(digits, tmp_path):
    words = ["--epochs", 1, "--gradient-accumulation-count", 1, "--pipeline", 1, 1, "--ipus", 2]
    with pytest.raises(UsageError, match="a step has 1 micro-batches on each process and a pipeline of 2 IPUs"):
        probed(digits, tmp_path / "run", *words)
