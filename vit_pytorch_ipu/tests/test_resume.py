"""Kill real processes at random moments; the resumed run must end in the very same weights."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from safetensors.torch import load_file

import finetune
from dataset import ImageDataset
from run.errors import Stopped, UsageError
from tests.scripts import APP, command, environment, run_script, tiny

STEPS = 24


def arguments(digits, folder, *more):
    every = ["--training-steps", STEPS, "--checkpoint-save-steps", 2, "--eval-every", 12, "--hidden-dropout-prob", 0.2]
    return tiny(digits, folder, *every, "--gradient-accumulation", 4, *more)


def newest(folder):
    return folder / "checkpoints" / json.loads((folder / "checkpoints" / "latest.json").read_text())["folder"]


def final_weights(folder):
    return load_file(folder / "checkpoints" / f"step-{STEPS}" / "weights" / "model.safetensors")


def measured(folder):
    """The history without times."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [(line["step"], line["split"], line["loss"], line["accuracy"]) for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = run_script("finetune.py", *arguments(digits, folder))
    assert done.status == 0, done.error
    return folder


def start(digits, folder):
    return subprocess.Popen(
        command("finetune.py", *arguments(digits, folder, "--resume")),
        cwd=APP,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_done(folder):
    """Steps in the history, which is written as the run goes."""
    path = folder / "history.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def test_killed_at_random_moments_it_ends_in_the_same_weights(digits, uninterrupted, tmp_path):
    folder, kills, chance = tmp_path / "run", 0, random.Random(20)
    for wanted in (1, 9, 15, 21):
        process = start(digits, folder)
        while steps_done(folder) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)  # anywhere: in a step, in saving, in between
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert kills >= 3
    last = start(digits, folder)
    _, error = last.communicate()
    assert last.returncode == 0, error
    expected, found = final_weights(uninterrupted), final_weights(folder)
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)
    assert measured(folder) == measured(uninterrupted)


def test_sigterm_finishes_the_step_saves_and_exits_with_75(digits, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(digits, folder)
    while steps_done(folder) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 75, error
    assert "--resume" in error
    steps = steps_done(folder)
    assert (folder / "checkpoints" / f"step-{steps}" / "manifest.json").is_file()
    done = run_script("finetune.py", *arguments(digits, folder, "--resume"))
    assert done.status == 0, done.error
    assert all((final_weights(uninterrupted)[name] == value).all() for name, value in final_weights(folder).items())


def test_a_flipped_byte_is_found_and_the_checkpoint_before_it_used(digits, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    newest = folder / "checkpoints" / f"step-{STEPS}" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    done = run_script("finetune.py", *arguments(digits, folder, "--resume"))
    assert done.status == 0, done.error
    assert f"step-{STEPS}" in done.output + done.error
    assert all((final_weights(uninterrupted)[name] == value).all() for name, value in final_weights(folder).items())


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--random-seed", "1", "random_seed 1 (was 42)"),
        ("--hidden-size", "64", "hidden_size 64 (was 32)"),
        ("--weight-decay", "0.5", "weight_decay 0.5 (was 0.05)"),
        ("--gradient-accumulation", "2", "gradient_accumulation 2 (was 4)"),
    ],
)
def test_another_recipe_cannot_be_resumed_and_leaves_no_trace(digits, uninterrupted, flag, value, said):
    before = (uninterrupted / "config.yaml").read_bytes()
    with pytest.raises(UsageError) as caught:
        finetune.main(arguments(digits, uninterrupted, "--resume", flag, value))
    assert said in str(caught.value)
    assert (uninterrupted / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--training-steps", 12], "24 steps are done and 12 are asked for: nothing is left to resume, ask for more"),
        (["--log-every", 3], "all 24 steps are done: nothing is left to resume"),
        (["--training-steps", 30, "--dry-run"], ""),
    ],
)
def test_what_is_recorded_stays_where_nothing_is_added(digits, uninterrupted, more, said, capsys):
    names = ("config.yaml", "recipe.json", "history.jsonl")
    before = [(uninterrupted / name).read_bytes() for name in names]
    finetune.main(arguments(digits, uninterrupted, "--resume", *more))
    assert said in capsys.readouterr().out
    assert [(uninterrupted / name).read_bytes() for name in names] == before


def test_sigterm_in_an_evaluation_saves_at_once_and_the_resumed_run_makes_it_up(
    digits, uninterrupted, tmp_path, monkeypatch
):
    folder, honest = tmp_path / "run", ImageDataset.sample

    def asked_to_stop(self, epoch, index):
        if "validation" in self.source.prefix and index == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, epoch, index)

    monkeypatch.setattr(ImageDataset, "sample", asked_to_stop)
    with pytest.raises(Stopped, match="after step 12"):
        finetune.main(arguments(digits, folder))
    monkeypatch.undo()
    assert not (folder / "checkpoints" / "best.json").exists()
    finetune.main(arguments(digits, folder, "--resume"))
    assert measured(folder) == measured(uninterrupted)
    for name in ("best.json", "latest.json"):
        assert (folder / "checkpoints" / name).read_text() == (uninterrupted / "checkpoints" / name).read_text()


def test_a_run_killed_in_its_first_save_starts_again_from_its_pretrained_weights(digits, uninterrupted, tmp_path):
    (tmp_path / "run" / "checkpoints" / ".saving-step-1").mkdir(parents=True)
    origin = uninterrupted / f"step-{STEPS}"
    more = ["--pretrained-checkpoint", origin, "--learning-rate", 0, "--training-steps", 1, "--resume"]
    finetune.main(tiny(digits, tmp_path / "run", *more))
    expected, found = final_weights(uninterrupted), load_file(newest(tmp_path / "run") / "weights/model.safetensors")
    assert all((found[name] == value).all() for name, value in expected.items() if "classifier" not in name)


def test_other_classes_cannot_be_resumed(digits, uninterrupted, tmp_path):
    """Fewer of them, or as many with other labels, as when one was renamed."""
    for name, change in (("fewer", shutil.rmtree), ("renamed", lambda path: path.rename(path.with_name("zero")))):
        shutil.copytree(digits, tmp_path / name)
        for split in ("train", "validation"):
            change(tmp_path / name / split / "digit_0")
        more = ["--training-steps", STEPS + 1, "--resume"]
        with pytest.raises(UsageError, match=r"resumed with classes \d+ from digit_1 to .* \(was 10 from digit_0 to"):
            finetune.main(arguments(tmp_path / name, uninterrupted, *more))


def test_a_run_that_was_moved_resumes_without_its_pretrained_weights(digits, uninterrupted, tmp_path):
    origin, folder = tmp_path / "origin", tmp_path / "run"
    shutil.copytree(newest(uninterrupted) / "weights", origin)
    finetune.main(tiny(digits, folder, "--training-steps", 1, "--pretrained-checkpoint", origin))
    shutil.rmtree(origin)
    folder.rename(tmp_path / "moved")
    more = ["--pretrained-checkpoint", origin, "--training-steps", 2, "--resume"]
    finetune.main(tiny(digits, tmp_path / "moved", *more))
    assert newest(tmp_path / "moved").name == "step-2"
