"""Killed, stopped, damaged: a resumed run is the run that was never interrupted, bit for bit."""

import json
import random
import shutil
import signal
import subprocess
import time

import pytest
import tensorflow as tf
from tensorflow.python.framework import config

import checkpoints
import train
from dataset import pipeline
from errors import Stopped, UsageError, UserError
from evaluation import Evaluator
from tests.runs import APP, command, environment, measured, run_script, same_weights, tiny

UPDATES = 18


def arguments(digits, folder, *more):
    """Updates of 2, 2 and 1 micro-steps; checkpoints within epochs; augmentation and dropout on."""
    flags = ["--epochs", 6, "--steps_per_epoch", 5, "--checkpoint_steps", 4, "--seed", 3, "--optimizer", "adam"]
    return tiny(digits, folder, *flags, "--initial_lr", 0.01, *more)


def resumed(digits, folder, *more):
    return arguments(digits, folder, "--resume_from_checkpoint_path", folder, *more)


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.main(arguments(digits, folder))
    return folder


def start(digits, folder):
    return subprocess.Popen(
        command("train.py", *resumed(digits, folder)),
        cwd=APP,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def updates_done(folder):
    path = folder / "history.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def test_killed_at_random_moments_it_ends_in_the_same_weights(digits, uninterrupted, tmp_path):
    folder, kills, chance = tmp_path / "run", 0, random.Random(20)
    for wanted in (2, 8):
        process = start(digits, folder)
        while updates_done(folder) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)  # anywhere: in an update, in saving, in between
        kills += process.poll() is None
        process.kill()
        process.communicate()
    assert kills
    last = run_script("train.py", *resumed(digits, folder))
    assert last.status == 0, last.error
    assert "going on from" in last.output
    assert same_weights(uninterrupted, folder)
    assert measured(folder) == measured(uninterrupted)


def test_sigterm_finishes_the_update_saves_and_exits_with_75(digits, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(digits, folder)
    while updates_done(folder) < 4:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 75, error
    assert "--resume_from_checkpoint_path" in error
    done = updates_done(folder)
    assert checkpoints.listed(folder / "checkpoints")[0].name == f"ckpt-{done}"
    train.main(resumed(digits, folder))
    assert same_weights(uninterrupted, folder)
    assert measured(folder) == measured(uninterrupted)


@pytest.fixture
def _determinism_ends():
    """Turn TensorFlow's determinism off again, of which later runs would get other bits than earlier ones."""
    yield
    config.disable_op_determinism()


@pytest.mark.usefixtures("_determinism_ends")
def test_two_deterministic_runs_are_equal_bit_for_bit(digits, tmp_path):
    for name in ("one", "two"):
        flags = ["--deterministic", "--seed", 1, "--epochs", 1, "--steps_per_epoch", 4, "--lr_sched", "constant"]
        words = tiny(digits, tmp_path / name, *flags)
        at = words.index("--warmup_steps")
        train.main([*words[:at], *words[at + 2 :]])
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert measured(tmp_path / "one") == measured(tmp_path / "two")


@pytest.mark.parametrize("part", ["data-00000-of-00001", "index"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(digits, uninterrupted, tmp_path, part, capsys):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    newest = folder / "checkpoints" / f"ckpt-{UPDATES}.{part}"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train.main(resumed(digits, folder))
    assert f"skipping checkpoint ckpt-{UPDATES}" in capsys.readouterr().out
    assert same_weights(uninterrupted, folder)
    assert checkpoints.find(folder).name == f"ckpt-{UPDATES}"


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 4  # of the index: in the padding of its footer, on which TensorFlow has no checksum
    path.write_bytes(content)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("part", ["data-00000-of-00001", "index", "sha256"])
@pytest.mark.parametrize("damage", [_flip_a_bit, _cut])
def test_damage_anywhere_is_found(uninterrupted, tmp_path, damage, part):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    damage(folder / "checkpoints" / f"ckpt-{UPDATES}.{part}")
    assert checkpoints.find(folder) == checkpoints.listed(folder / "checkpoints")[1]


def test_a_checkpoint_that_a_kill_left_unfinished_is_none(digits, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    for path in (folder / "checkpoints").glob("*.sha256"):
        path.unlink()
    assert checkpoints.find(folder) is None
    train.main(resumed(digits, folder))
    assert same_weights(uninterrupted, folder)
    names = {path.name.split(".")[0] for path in (folder / "checkpoints").glob("ckpt-*")}
    assert names == {path.name for path in checkpoints.listed(folder / "checkpoints")}


def test_killed_just_after_the_checkpoint_of_an_epoch_no_evaluation_is_lost(
    digits, uninterrupted, tmp_path, monkeypatch
):
    folder, honest = tmp_path / "run", checkpoints.Checkpoints.save

    def killed(self, update, **how):
        honest(self, update, **how)
        if update == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train.main(arguments(digits, folder))
    monkeypatch.undo()
    train.main(resumed(digits, folder))
    assert measured(folder) == measured(uninterrupted)


def test_if_all_are_damaged_it_says_so(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    for path in (folder / "checkpoints").glob("*.index"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact"):
        checkpoints.find(folder)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seed", 4], r"seed 4 \(was 3\)"),
        (["--hidden_size", 32], r"hidden_size 32 \(was 16\)"),
        (["--optimizer", "sgd"], r"optimizer sgd \(was adam\)"),
        (["--grad_accum_steps", 1], r"grad_accum_steps 1 \(was 2\)"),
        (["--steps_per_epoch", 6], r"steps_per_epoch 6 \(was 5\)"),
    ],
)
def test_another_recipe_can_not_be_resumed_and_leaves_no_trace(digits, uninterrupted, flags, said):
    before = (uninterrupted / "config.json").read_bytes()
    with pytest.raises(UsageError, match=said):
        train.main(resumed(digits, uninterrupted, *map(str, flags)))
    assert (uninterrupted / "config.json").read_bytes() == before


def test_other_classes_can_not_be_resumed(digits, uninterrupted, tmp_path):
    """As many, but one with another name: labels may mean something else."""
    other = shutil.copytree(digits, tmp_path / "other")
    names = json.loads((uninterrupted / "config.json").read_text())["class_names"]
    (other / "dataset_info.json").write_text(json.dumps({"classes": ["renamed", *names[1:]]}))
    with pytest.raises(UsageError, match=r"classes 10 from renamed to .* \(was 10 from "):
        train.main(resumed(other, uninterrupted))


@pytest.mark.parametrize("place", ["", "weights.npz", "checkpoints"])
def test_overwriting_the_weights_to_start_from_is_refused(digits, uninterrupted, place):
    flags = ["--overwrite", "--weights", uninterrupted / place]
    with pytest.raises(UsageError, match=r"--overwrite would remove .*, the weights to start from"):
        train.main([*arguments(digits, uninterrupted), *map(str, flags)])
    assert (uninterrupted / "weights.npz").is_file()


def test_a_run_that_was_moved_goes_on_with_its_seed_and_another_output(digits, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "moved")
    for path in (tmp_path / "moved" / "checkpoints").glob(f"ckpt-{UPDATES}.*"):
        path.unlink()
    before = sorted(path.name for path in (tmp_path / "moved" / "checkpoints").iterdir())
    words = arguments(digits, tmp_path / "new", "--resume_from_checkpoint_path", tmp_path / "moved")
    at = words.index("--seed")
    train.main([*words[:at], *words[at + 2 :]])
    assert same_weights(uninterrupted, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "moved" / "checkpoints").iterdir()) == before


def test_a_stop_in_an_evaluation_saves_at_once_and_the_resumed_run_makes_it_up(
    digits, uninterrupted, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    honest = Evaluator.__call__

    def asked_to_stop(self, batches):
        signal.raise_signal(signal.SIGTERM)
        return honest(self, batches)

    monkeypatch.setattr(Evaluator, "__call__", asked_to_stop)
    with pytest.raises(Stopped, match="after update 3"):
        train.main(arguments(digits, folder))
    monkeypatch.undo()
    assert not (folder / "checkpoints" / "best").exists()
    train.main(resumed(digits, folder))
    assert same_weights(uninterrupted, folder)
    found = [record for record in measured(folder) if record["split"] == "validation"]
    assert found == [record for record in measured(uninterrupted) if record["split"] == "validation"]


def test_a_finished_run_that_is_resumed_has_nothing_left_to_do(digits, uninterrupted, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    monkeypatch.setattr(pipeline, "training_dataset", None)
    train.main(resumed(digits, folder))
    assert measured(folder) == measured(uninterrupted)


def test_a_full_disk_is_answered_in_one_sentence(digits, tmp_path, monkeypatch, attempt):
    def full(self, prefix):
        raise tf.errors.ResourceExhaustedError(None, None, f"{prefix}; No space left on device [Op:SaveV2]")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    done = attempt("train.py", *arguments(digits, tmp_path / "run"))
    assert done.status == 1
    assert done.error == "error: no space is left on the disk: free some, or give another folder\n"
