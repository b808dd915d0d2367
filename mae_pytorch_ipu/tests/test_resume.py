"""A run that is killed or asked to stop, and resumed, ends in the very same weights."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import main_finetune
import main_linprobe
import main_pretrain
from dataset import ImageDataset
from run.errors import Stopped, UsageError
from tests.runs import measured, newest, same_bits, tiny_finetuning, tiny_pretraining, tiny_probing
from tests.scripts import APP, environment

PRETRAINING = ["--epochs", 2, "--batch-size", 32, "--saveckp-freq", 1, "--lr", 0.003]  # 44 updates
FINETUNING = [*PRETRAINING, "--eval-freq", 1, "--mixup", 0.8, "--cutmix", 1, "--drop-path", 0.3]
FINETUNING += ["--aa", "rand-m9-mstd0.5-inc1", "--reprob", 0.25, "--layer-decay", 0.75, "--device-iterations", 2]
SCRIPTS = {
    "main_pretrain": (main_pretrain.main, tiny_pretraining, PRETRAINING),
    "main_finetune": (main_finetune.main, tiny_finetuning, FINETUNING),
}


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """Folders of uninterrupted runs by script."""
    folders = {}
    for script, (main, words, recipe) in SCRIPTS.items():
        folders[script] = tmp_path_factory.mktemp("whole") / script
        main(words(digits, folders[script], *recipe))
    return folders


@pytest.mark.parametrize("script", SCRIPTS)
def test_from_the_first_epochs_checkpoint(digits, whole, tmp_path, script):
    main, words, recipe = SCRIPTS[script]
    folder = tmp_path / "run"
    shutil.copytree(whole[script], folder)
    shutil.rmtree(newest(folder))
    main(words(digits, folder, *recipe, "--resume"))
    assert same_bits(folder, whole[script])
    assert measured(folder) == measured(whole[script])


@pytest.mark.parametrize("script", SCRIPTS)
def test_from_wherever_it_was_asked_to_stop(digits, whole, tmp_path, script, monkeypatch):
    main, words, recipe = SCRIPTS[script]
    folder, honest, calls = tmp_path / "run", ImageDataset.sample, []

    def sample(self, epoch, index):
        calls.append(index)
        if len(calls) == 500:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, epoch, index)

    monkeypatch.setattr(ImageDataset, "sample", sample)
    with pytest.raises(Stopped, match="which is saved; go on with --resume"):
        main(words(digits, folder, *recipe))
    stopped = newest(folder).name
    assert stopped not in {path.name for path in (whole[script] / "checkpoints").iterdir()}
    main(words(digits, folder, *recipe, "--resume"))
    assert same_bits(folder, whole[script])
    assert measured(folder) == measured(whole[script])


def start(digits, folder):
    words = ["main_finetune.py", *tiny_finetuning(digits, folder, *FINETUNING, "--resume")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=APP, env=environment(), **quiet)


def test_killed_and_then_terminated_as_a_process(digits, whole, tmp_path):
    folder = tmp_path / "run"
    history = folder / "history.jsonl"
    for steps, number, status in ((13, signal.SIGKILL, -9), (16, signal.SIGTERM, 75)):
        process = start(digits, folder)
        while process.poll() is None and not (history.exists() and history.read_text().count("train") >= steps):
            time.sleep(0.01)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
        assert process.returncode == status, error
    main_finetune.main(tiny_finetuning(digits, folder, *FINETUNING, "--resume"))
    assert same_bits(folder, whole["main_finetune"])
    assert measured(folder) == measured(whole["main_finetune"])


def test_a_flipped_byte_is_found_and_the_checkpoint_before_it_used(digits, whole, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole["main_pretrain"], folder)
    path = newest(folder) / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    main_pretrain.main(tiny_pretraining(digits, folder, *PRETRAINING, "--resume"))
    assert "skipping checkpoint step-44" in capsys.readouterr().out
    assert same_bits(folder, whole["main_pretrain"])


def test_what_is_done_is_done(digits, whole, capsys):
    main_pretrain.main(tiny_pretraining(digits, whole["main_pretrain"], *PRETRAINING, "--resume"))
    assert "all 44 steps are done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "flag", "value", "said"),
    [
        ("main_pretrain", "--mask-ratio", 0.5, "mask_ratio 0.5 (was 0.75)"),
        ("main_pretrain", "--seed", 1, "seed 1 (was 0)"),
        ("main_pretrain", "--weight-decay", 0.5, "weight_decay 0.5 (was 0.05)"),
        ("main_finetune", "--layer-decay", 0.5, "layer_decay 0.5 (was 0.75)"),
        ("main_finetune", "--mixup", 0.5, "mixup 0.5 (was 0.8)"),
        ("main_finetune", "--gradient-accumulation-count", 4, "gradient_accumulation_count 4 (was 2)"),
    ],
)
def test_another_recipe_cannot_be_resumed(digits, whole, script, flag, value, said):
    main, words, recipe = SCRIPTS[script]
    with pytest.raises(UsageError) as caught:
        main(words(digits, whole[script], *recipe, "--resume", flag, value))
    assert said in str(caught.value)


def changed_classes(digits, folder):
    """Data with a class less, and with one of another name and label."""
    for name, change in (("fewer", shutil.rmtree), ("renamed", lambda path: path.rename(path.with_name("zero")))):
        shutil.copytree(digits, folder / name)
        for split in ("train", "validation"):
            change(folder / name / split / "digit_0")
    return [folder / "fewer", folder / "renamed"]


def test_other_classes_cannot_be_resumed(digits, whole, tmp_path):
    probing = ["--epochs", 1, "--batch-size", 250, "--evaluate", "false"]
    main_linprobe.main(tiny_probing(digits, tmp_path / "probe", *probing))
    for data in changed_classes(digits, tmp_path):
        with pytest.raises(UsageError, match=r"resumed with classes \d+ from digit_1 to .* \(was 10 from digit_0 to"):
            main_finetune.main(tiny_finetuning(data, whole["main_finetune"], *FINETUNING, "--epochs", 3, "--resume"))
        with pytest.raises(UsageError, match=r"resumed with classes \d+ from digit_1 to .* \(was 10 from digit_0 to"):
            main_linprobe.main(tiny_probing(data, tmp_path / "probe", *probing, "--epochs", 2, "--resume"))


def test_classes_mean_nothing_to_pretraining(digits, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole["main_pretrain"], folder)
    _, renamed = changed_classes(digits, tmp_path)
    main_pretrain.main(tiny_pretraining(renamed, folder, *PRETRAINING, "--epochs", 3, "--resume"))
    assert newest(folder).name == "step-66"


def test_a_longer_run_and_other_places_can_be_asked_for(digits, whole, tmp_path):
    """Layout on IPUs, loading and length are no part of what a run is; nor are the weights that it started from."""
    folder = tmp_path / "run"
    shutil.copytree(whole["main_finetune"], folder)
    more = ["--epochs", 3, "--rts", "false", "--num-workers", 1, "--finetune", tmp_path / "gone"]
    main_finetune.main(tiny_finetuning(digits, folder, *FINETUNING, *more, "--resume"))
    assert newest(folder).name == "step-33"
