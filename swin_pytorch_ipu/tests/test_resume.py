"""Kill real processes at random moments; the resumed run must end in the very same weights."""

import os
import random
import shutil
import signal
import time

import pytest

from dataset.images import ImageDataset
from run.errors import Stopped, UsageError
from tests.forks import forks
from tests.runs import newest, records, same, tiny, weights
from train_swin import main

STEPS = 40


def arguments(digits, folder, *more):
    """Everything that draws random numbers or remembers something is on."""
    every = ["--training-steps", STEPS, "--save-freq", 0.05, "--eval-freq", 0.5, "--drop-path-rate", 0.2]
    every += [
        "--drop-rate",
        0.1,
        "--mixup",
        0.8,
        "--cutmix",
        1.0,
        "--reprob",
        0.5,
        "--ema-decay",
        0.9,
        "--ema-every",
        3,
    ]
    every += ["--auto-augment", "rand-m9-mstd0.5-inc1", "--precision", "16.16", "--ema-evaluate", *more]
    return ["train_swin.py", *tiny(digits, folder, *every)]


def measured(folder):
    """The history without times."""
    return [
        (line["step"], split, line["loss"], line["accuracy"])
        for split in ("train", "validation")
        for line in records(folder, split)
    ]


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = forks().run(arguments(digits, folder), folder.parent / "log")
    assert done.status == 0, done.output
    return folder


def steps_done(folder):
    """Steps in the history, which is written as the run goes."""
    path = folder / "history.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def wait_for(folder, steps, seconds=60):
    """Until the run has done as many steps, or is over."""
    end = time.monotonic() + seconds
    while steps_done(folder) < steps and time.monotonic() < end:
        time.sleep(0.005)


def equal(first, second):
    return same(weights(first), weights(second)) and same(weights(first, "weights/ema"), weights(second, "weights/ema"))


def test_killed_at_random_moments_it_ends_in_the_same_weights(digits, uninterrupted, tmp_path):
    folder, kills, chance = tmp_path / "run", 0, random.Random(20)
    for wanted in (1, 12, 23, 33):
        process = forks().start(arguments(digits, folder, "--resume"), tmp_path / "log")
        wait_for(folder, wanted)
        time.sleep(chance.random() * 0.05)  # anywhere: in a step, in saving, in between
        os.kill(process, signal.SIGKILL)
        kills += forks().wait(process) == -signal.SIGKILL
    assert kills >= 3
    last = forks().run(arguments(digits, folder, "--resume"), tmp_path / "log")
    assert last.status == 0, last.output
    assert newest(folder).name == f"step-{STEPS}"
    assert equal(folder, uninterrupted)
    assert measured(folder) == measured(uninterrupted)


def test_sigterm_finishes_the_step_saves_and_exits_with_75(digits, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = forks().start(arguments(digits, folder), tmp_path / "log")
    wait_for(folder, 3)
    os.kill(process, signal.SIGTERM)
    assert forks().wait(process) == 75
    assert "--resume" in (tmp_path / "log").read_text()
    steps = steps_done(folder)
    assert steps < STEPS
    assert newest(folder).name == f"step-{steps}"
    done = forks().run(arguments(digits, folder, "--resume"), tmp_path / "log")
    assert done.status == 0, done.output
    assert equal(folder, uninterrupted)


def test_a_flipped_byte_is_found_and_the_checkpoint_before_it_used(digits, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    damaged = newest(folder) / "state.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    done = forks().run(arguments(digits, folder, "--resume"), tmp_path / "log")
    assert done.status == 0, done.output
    assert f"skipping checkpoint step-{STEPS}" in done.output
    assert equal(folder, uninterrupted)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--seed", "1", "seed 1 (was 0)"),
        ("--embed-dim", "24", "embed_dim 24 (was 16)"),
        ("--weight-decay", "0.5", "weight_decay 0.5 (was 0.05)"),
        ("--ga", "4", "gradient_accumulation_steps 4 (was 2)"),
        ("--ema-decay", "0.8", "ema_decay 0.8 (was 0.9)"),
        ("--mixup-prob", "0.5", "mixup_prob 0.5 (was 1.0)"),
    ],
)
def test_another_recipe_cannot_be_resumed_and_leaves_no_trace(digits, uninterrupted, flag, value, said):
    before = (uninterrupted / "config.yaml").read_bytes()
    with pytest.raises(UsageError) as caught:
        main(arguments(digits, uninterrupted, "--resume", flag, value)[1:])
    assert said in str(caught.value)
    assert (uninterrupted / "config.yaml").read_bytes() == before


def test_sigterm_in_an_evaluation_saves_at_once_and_the_resumed_run_makes_it_up(
    digits, uninterrupted, tmp_path, monkeypatch
):
    folder, honest = tmp_path / "run", ImageDataset.sample

    def asked_to_stop(self, epoch, index):
        if "validation" in self.source.prefix and index == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, epoch, index)

    monkeypatch.setattr(ImageDataset, "sample", asked_to_stop)
    with pytest.raises(Stopped, match="after step 22"):
        main(arguments(digits, folder)[1:])
    monkeypatch.undo()
    main(arguments(digits, folder, "--resume")[1:])
    assert measured(folder) == measured(uninterrupted)


def test_a_run_resumes_without_its_pretrained_weights(digits, uninterrupted, tmp_path):
    origin = tmp_path / "origin"
    shutil.copytree(newest(uninterrupted) / "weights", origin)
    given = ["--pretrained-model", origin, "--evaluate", "false", "--precision", "16.16"]
    main(tiny(digits, tmp_path / "run", *given, "--training-steps", 1))
    shutil.rmtree(origin)
    main(tiny(digits, tmp_path / "run", *given, "--training-steps", 2, "--resume"))
    assert newest(tmp_path / "run").name == "step-2"


def test_other_classes_cannot_be_resumed(digits, uninterrupted, tmp_path):
    """Fewer of them, or as many with other labels, as when one was renamed."""
    for name, change in (("fewer", shutil.rmtree), ("renamed", lambda path: path.rename(path.with_name("zero")))):
        shutil.copytree(digits, tmp_path / name)
        for split in ("train", "validation"):
            change(tmp_path / name / split / "digit_0")
        more = ["--training-steps", STEPS + 1, "--resume"]
        with pytest.raises(UsageError, match=r"resumed with classes \d+ from digit_1 to .* \(was 10 from digit_0 to"):
            main(arguments(tmp_path / name, uninterrupted, *more)[1:])
