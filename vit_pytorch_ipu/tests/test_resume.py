"""Kill real processes at random moments; the resumed run must end in the very same weights."""

import json
import random
import signal
import subprocess
import time

import pytest
from safetensors.torch import load_file

from tests.scripts import APP, command, environment, run_script, tiny

STEPS = 24


def arguments(digits, folder, *more):
    every = ["--training-steps", STEPS, "--checkpoint-save-steps", 2, "--eval-every", 12, "--hidden-dropout-prob", 0.2]
    return tiny(digits, folder, *every, "--gradient-accumulation", 4, *more)


def final_weights(folder):
    return load_file(folder / "checkpoints" / f"step-{STEPS}" / "weights" / "model.safetensors")


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
    losses = [
        [json.loads(line)["loss"] for line in (run / "history.jsonl").read_text().splitlines()]
        for run in (uninterrupted, folder)
    ]
    assert losses[0] == losses[1]


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
    import shutil

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


def test_another_recipe_cannot_be_resumed(digits, uninterrupted):
    done = run_script("finetune.py", *arguments(digits, uninterrupted, "--resume", "--random-seed", 1))
    assert done.status == 2
    assert "random_seed 1 (was 42)" in done.error
