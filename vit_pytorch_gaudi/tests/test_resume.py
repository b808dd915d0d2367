"""Kill real processes at random moments; the resumed run must end in the very same weights."""

import json
import os
import random
import shutil
import signal
import time

import pytest
from safetensors.torch import load_file

import train
import training
from dataset import ImageDataset
from run.errors import Stopped, UsageError
from tests.forked import Forked
from tests.scripts import tiny

STEPS = 24


def arguments(digits, folder, *more):
    every = ["--num_steps", STEPS, "--checkpoint_save_steps", 2, "--eval_every", 12, "--hidden_dropout_prob", 0.2]
    return tiny(digits, folder, *every, "--train_batch_size", 64, "--gradient_accumulation_steps", 4, *more)


def final_state(folder, step=STEPS):
    return load_file(folder / "checkpoints" / f"step-{step}" / "state.safetensors")


def assert_same_state(first, second):
    """Weights, momentum and random generators, bit for bit."""
    expected, found = final_state(first), final_state(second)
    assert expected.keys() == found.keys()
    assert any("momentum" in name for name in expected)
    assert any("generators" in name for name in expected)
    assert all((expected[name] == found[name]).all() for name in expected)


def measured(folder):
    """The history without times and speeds."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["split"] != "speed"]
    return [(line["step"], line["split"], line["loss"], line["accuracy"]) for line in kept]


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.main(arguments(digits, folder))
    return folder


def start(digits, folder, *more):
    return Forked(arguments(digits, folder, "--resume", *more), folder.parent / "log")


def steps_done(folder):
    """Steps in the history, which is written as the run goes."""
    path = folder / "history.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def test_killed_at_random_moments_it_ends_in_the_same_state(digits, uninterrupted, tmp_path):
    folder, kills, chance = tmp_path / "run", 0, random.Random(20)
    for wanted in (1, 9, 15, 21):
        process = start(digits, folder)
        while steps_done(folder) < wanted and process.running():
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)  # anywhere: in a step, in saving, in between
        kills += process.kill()
    assert kills >= 3
    last = start(digits, folder)
    assert last.wait() == 0, last.log.read_text()
    assert_same_state(uninterrupted, folder)
    assert measured(folder) == measured(uninterrupted)


def test_sigterm_finishes_the_step_saves_and_exits_with_75(digits, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(digits, folder)
    while steps_done(folder) < 3:
        assert process.running(), process.log.read_text()
        time.sleep(0.002)
    process.signal(signal.SIGTERM)
    assert process.wait() == 75, process.log.read_text()
    assert "--resume" in process.log.read_text()
    steps = steps_done(folder)
    assert 3 <= steps < STEPS
    assert (folder / "checkpoints" / f"step-{steps}" / "manifest.json").is_file()
    train.main(arguments(digits, folder, "--resume"))
    assert_same_state(uninterrupted, folder)


def test_a_flipped_byte_is_found_and_the_checkpoint_before_it_used(digits, uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    newest = folder / "checkpoints" / f"step-{STEPS}" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train.main(arguments(digits, folder, "--resume"))
    assert f"skipping checkpoint step-{STEPS}" in capsys.readouterr().out
    assert_same_state(uninterrupted, folder)


def test_from_a_checkpoint_by_its_path_in_its_own_folder_or_another(digits, uninterrupted, tmp_path):
    there = uninterrupted / "checkpoints"
    earlier = min((path for path in there.glob("step-*")), key=lambda path: int(path.name[5:]))
    assert earlier.name != f"step-{STEPS}"
    own, other = tmp_path / "own", tmp_path / "other"
    shutil.copytree(uninterrupted, own)
    train.main(arguments(digits, own, "--resume", own / "checkpoints" / earlier.name))
    assert_same_state(uninterrupted, own)
    assert measured(own) == measured(uninterrupted)
    train.main(arguments(digits, other, "--resume", earlier))
    assert_same_state(uninterrupted, other)
    with pytest.raises(UsageError, match="holds an earlier run"):
        train.main(arguments(digits, other, "--resume", earlier))


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--seed", "1", "seed 1 (was 42)"),
        ("--hidden_size", "64", "hidden_size 64 (was 32)"),
        ("--weight_decay", "0.5", "weight_decay 0.5 (was 0.0)"),
        ("--autocast", "true", "autocast True (was False)"),
        ("--train_batch_size", "32", "global_batch 32 (was 64)"),
    ],
)
def test_another_recipe_cannot_be_resumed_and_leaves_no_trace(digits, uninterrupted, flag, value, said):
    before = (uninterrupted / "config.yaml").read_bytes()
    with pytest.raises(UsageError) as caught:
        train.main(arguments(digits, uninterrupted, "--resume", flag, value))
    assert said in str(caught.value)
    assert (uninterrupted / "config.yaml").read_bytes() == before


def test_another_accumulation_of_the_same_batch_and_a_longer_run_can_be_resumed(digits, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    more = ["--resume", "--gradient_accumulation_steps", 2, "--num_steps", STEPS + 1]
    train.main(arguments(digits, folder, *more))
    steps = [step for step, split, *_ in measured(folder) if split == "train"]
    assert steps == list(range(1, STEPS + 2))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--num_steps", 12], "24 steps are done and 12 are asked for: nothing is left to resume, ask for more"),
        (["--log_every", 3], "all 24 steps are done: nothing is left to resume"),
        (["--num_steps", 30, "--dry_run"], ""),
    ],
)
def test_what_is_recorded_stays_where_nothing_is_added(digits, uninterrupted, more, said, capsys):
    names = ("config.yaml", "recipe.json", "history.jsonl")
    before = [(uninterrupted / name).read_bytes() for name in names]
    train.main(arguments(digits, uninterrupted, "--resume", *more))
    assert said in capsys.readouterr().out
    assert [(uninterrupted / name).read_bytes() for name in names] == before


def test_another_run_wants_another_name(digits, uninterrupted):
    with pytest.raises(UsageError, match=r"give --resume, --overwrite or another --name or --output-dir$"):
        train.main(arguments(digits, uninterrupted))


def test_sigterm_in_an_evaluation_saves_at_once_and_the_resumed_run_makes_it_up(
    digits, uninterrupted, tmp_path, monkeypatch
):
    folder, honest = tmp_path / "run", ImageDataset.sample

    def asked_to_stop(self, epoch, index):
        if len(self) == 360 and index == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, epoch, index)

    monkeypatch.setattr(ImageDataset, "sample", asked_to_stop)
    with pytest.raises(Stopped, match="after step 12"):
        train.main(arguments(digits, folder))
    monkeypatch.undo()
    assert not (folder / "checkpoints" / "best.json").exists()
    train.main(arguments(digits, folder, "--resume"))
    assert measured(folder) == measured(uninterrupted)
    for name in ("best.json", "latest.json"):
        assert (folder / "checkpoints" / name).read_text() == (uninterrupted / "checkpoints" / name).read_text()


def test_a_shorter_run_than_was_stopped_before_its_evaluation_has_nothing_left(digits, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setattr("loop.Evaluator.__call__", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="after step 12"):
        train.main(arguments(digits, folder))
    monkeypatch.undo()
    train.main(arguments(digits, folder, "--resume", "--num_steps", 6))
    assert "12 steps are done and 6 are asked for: nothing is left to resume" in capsys.readouterr().out


def test_other_classes_cannot_be_resumed_and_fewer_images_are_said(digits, uninterrupted, tmp_path, capsys):
    folder, other = tmp_path / "run", tmp_path / "data"
    shutil.copytree(uninterrupted, folder)
    shutil.copytree(digits, other)
    more = ["--resume", "--num_steps", STEPS + 1, "--data_path", other]
    next((other / "train" / "digit_9").iterdir()).unlink()
    train.main(arguments(digits, folder, *more))
    assert "resumed with 1,436 images, saved with 1,437: their order will differ" in capsys.readouterr().out
    for change in (lambda path: path.rename(path.with_name("zero")), shutil.rmtree):
        more = ["--resume", "--num_steps", STEPS + 2, "--data_path", tmp_path / "changed"]
        shutil.copytree(digits, tmp_path / "changed")
        for split in ("train", "validation"):
            change(tmp_path / "changed" / split / "digit_0")
        with pytest.raises(UsageError, match=r"resumed with classes \d+ from digit_1 to .* \(was 10 from digit_0 to"):
            train.main(arguments(digits, folder, *more))
        shutil.rmtree(tmp_path / "changed")


def test_a_checkpoint_that_does_not_tell_its_classes_resumes(digits, tmp_path, monkeypatch):
    """As those of earlier versions."""
    folder, honest = tmp_path / "run", training.identity

    def nameless(*given):
        return {name: value for name, value in honest(*given).items() if name != "classes"}

    monkeypatch.setattr(training, "identity", nameless)
    train.main(tiny(digits, folder, "--num_steps", 2))
    monkeypatch.undo()
    train.main(tiny(digits, folder, "--num_steps", 3, "--resume"))
    assert (folder / "checkpoints" / "step-3").is_dir()
