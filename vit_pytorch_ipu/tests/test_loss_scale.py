"""Automatic loss scaling: its trace in the history and in the curves, of fine-tuning and of pretraining."""

import json
import math
import shutil
import struct

import pytest

import finetune
import pretrain
from tests.scripts import TINY

SCRIPTS = [(finetune, "digits", ()), (pretrain, "digits_pretrain", ("--epochs", "0", "--reduction-type", "mean"))]


def train(script, config, digits, output, *more):
    given = ["--config", config, "--dataset-path", digits, "--output", output, *TINY, "--log-every", 1]
    if config == "digits_pretrain":
        given += ["--recompute-mid-layers", 1]
    script.main([str(word) for word in [*given, "--evaluate", "false", "--accum-type", "fp16", *more]])
    lines = (output / "history.jsonl").read_text().splitlines()
    return [json.loads(line).get("loss_scale") for line in lines]


@pytest.mark.parametrize(("script", "config", "more"), SCRIPTS, ids=["finetune", "pretrain"])
def test_the_scale_doubles_until_gradients_are_large_and_halves_while_they_are(script, config, more, digits, tmp_path):
    """It doubles at every update where no gradient exceeds an eighth of float16's largest number, else it halves."""
    more = [*more, "--auto-loss-scaling", "--device-iterations", 1]
    rising = train(script, config, digits, tmp_path / "a", *more, "--training-steps", 6, "--loss-scaling", 1)
    assert rising == [1, 2, 4, 8, 16, 32]
    falling = train(script, config, digits, tmp_path / "b", *more, "--training-steps", 6, "--loss-scaling", 2.0**60)
    assert falling == [2.0**power for power in (60, 59, 58, 57, 56, 55)]
    settled = train(script, config, digits, tmp_path / "c", *more, "--training-steps", 40, "--loss-scaling", 1)
    powers = [math.log2(scale) for scale in settled]
    assert all(abs(after - before) == 1 for before, after in zip(powers, powers[1:]))
    # Every gradient of a mean cross-entropy is far below 1 and the largest above a millionth: 2^13 to 2^33 in between.
    assert max(powers) - min(powers[-10:]) < 6
    assert 13 <= powers[-1] <= 33


def test_with_several_updates_per_step_the_last_ones_scale_is_logged(digits, tmp_path):
    more = ["--auto-loss-scaling", "--device-iterations", 3, "--training-steps", 3, "--loss-scaling", 1]
    assert train(finetune, "digits", digits, tmp_path / "run", *more) == [4, 32, 256]


def test_a_resumed_run_goes_on_with_its_scale(digits, tmp_path):
    more = ["--auto-loss-scaling", "--training-steps", 6, "--loss-scaling", 1, "--checkpoint-save-steps", 4]
    whole = train(finetune, "digits", digits, tmp_path / "run", *more)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-6")
    assert train(finetune, "digits", digits, tmp_path / "run", *more, "--resume") == whole


def panels(path):
    """Rows of panels of a picture, 3.2 inches at 120 dots each."""
    return struct.unpack(">I", path.read_bytes()[20:24])[0] // 384


def test_the_trace_is_a_panel_of_the_curves(digits, tmp_path):
    more = ["--training-steps", 2]
    assert train(finetune, "digits", digits, tmp_path / "fixed", *more) == [None, None]
    train(finetune, "digits", digits, tmp_path / "found", *more, "--auto-loss-scaling")
    assert panels(tmp_path / "fixed" / "curves.png") == 2  # loss, accuracy; learning rate, throughput
    assert panels(tmp_path / "found" / "curves.png") == 3  # and the scale
