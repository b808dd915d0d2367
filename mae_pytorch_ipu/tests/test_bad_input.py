"""What a user gets wrong is answered with one sentence and a status, never with a traceback."""

import os
import pickle
import shutil

import pytest

from tests.runs import tiny_finetuning, tiny_pretraining, tiny_probing, tiny_validation
from tests.scripts import run_script


class Hostile:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def one_sentence(done, status, *parts):
    assert done.status == status, done.error
    lines = [line for line in done.error.splitlines() if line.strip()]
    assert len(lines) == 1, done.error
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


PRETRAIN, FINETUNE, LINPROBE, VALIDATE = (
    "main_pretrain.py",
    "main_finetune.py",
    "main_linprobe.py",
    "finetune_validate.py",
)
CONFIGS = {PRETRAIN: "digits_pretrain", FINETUNE: "digits_scratch", LINPROBE: "digits_linprobe"}
CONFIGS[VALIDATE] = "digits_validate"


def test_unknown_flag_names_the_nearest():
    done = run_script(FINETUNE, "--config", "digits_scratch", "--layer-deca", 1)
    one_sentence(done, 2, "--layer-deca", "did you mean --layer-decay")


def test_unknown_config_names_the_nearest(attempt):
    one_sentence(attempt(PRETRAIN, "--config", "vit_base"), 2, "no config vit_base", "vit_base_pod16")


def test_a_config_of_another_script_is_named(attempt):
    one_sentence(attempt(VALIDATE, "--config", "vit_base_finetune"), 2, "main_finetune.py")
    one_sentence(attempt(PRETRAIN, "--config", "vit_base_linprobe"), 2, "main_linprobe.py")


@pytest.mark.parametrize(
    ("script", "words", "parts"),
    [
        (PRETRAIN, ["--device", "ipu"], ["PopTorch decides"]),
        (PRETRAIN, ["--sequence_length", 196], ["follows from the model"]),
        (PRETRAIN, ["--optimizer_step", 10], ["before every step"]),
        (PRETRAIN, ["--checkpoint", "checkpoint.pth"], ["--resume"]),
        (PRETRAIN, ["--log", "log.txt"], ["history.jsonl"]),
        (PRETRAIN, ["--finetune", "x"], ["main_finetune.py"]),
        (PRETRAIN, ["--lr", 1, "--blr", 1], ["--blr", "only without --lr"]),
        (PRETRAIN, ["--generated_steps", 3], ["only with --generated_data"]),
        (PRETRAIN, ["--generated_data", "--crop-scale-min", 0.5], ["only without --generated_data"]),
        (PRETRAIN, ["--rebatched_worker_size", 3], ["only with --async_type rebatch"]),
        (PRETRAIN, ["--evaluate", "false", "--eval-freq", 1], ["only with --evaluate"]),
        (PRETRAIN, ["--remap", "false", "--remap_so", "x.so"], ["only with --remap"]),
        (PRETRAIN, ["--wandb_run_name", "x"], ["only with --wandb"]),
        (FINETUNE, ["--start_epoch", 3], ["--resume knows"]),
        (FINETUNE, ["--eval"], ["finetune_validate.py"]),
        (FINETUNE, ["--dist_eval"], ["exact"]),
        (FINETUNE, ["--resplit"], ["resplit"]),
        (FINETUNE, ["--mask_ratio", 0.5], ["pretraining"]),
        (FINETUNE, ["--cls_token", "--global_pool"], ["only without --cls_token"]),
        (FINETUNE, ["--mixup_prob", 0.5], ["only with --mixup, --cutmix"]),
        (FINETUNE, ["--mixup", 1, "--mixup_switch_prob", 0.5], ["only with --mixup and --cutmix"]),
        (FINETUNE, ["--recount", 2], ["only with --reprob above 0"]),
        (FINETUNE, ["--aa", "rand-m9", "--color_jitter", 0.4], ["only without --aa"]),
        (LINPROBE, ["--layer_decay", 0.5], ["not trained"]),
        (LINPROBE, ["--mixup", 0.5], ["only cropped and flipped"]),
        (LINPROBE, ["--loss_scale", 2], ["on the host"]),
        (LINPROBE, ["--cls_token", "--global_pool"], ["two features"]),
        (VALIDATE, ["--lr", 1], ["only matters in training"]),
        (VALIDATE, ["--print_freq", 1], ["only matters in training"]),
        (VALIDATE, ["--model", "vit_base_patch16"], ["the weights tell it"]),
        (VALIDATE, ["--mean", 0.5], ["the weights tell it"]),
        (VALIDATE, ["--finetune", "x"], ["--resume names the weights"]),
        (VALIDATE, ["--async_type", "rebatch"], ["normal, async"]),
    ],
)
def test_flags_without_effect_are_refused(attempt, script, words, parts):
    one_sentence(attempt(script, "--config", CONFIGS[script], *words), 2, *parts)


@pytest.mark.parametrize(
    ("script", "words", "parts"),
    [
        (PRETRAIN, ["--embed-dim", 17], ["17", "2"]),
        (PRETRAIN, ["--input-size", 33], ["33", "8"]),
        (PRETRAIN, ["--mask-ratio", 0], ["0 is not above 0"]),
        (PRETRAIN, ["--mask-ratio", 1], ["leaves none visible or none masked"]),
        (PRETRAIN, ["--mask-ratio", 0.99], ["leaves none visible or none masked"]),
        (PRETRAIN, ["--model", "mae_vit_bas_patch16"], ["did you mean mae_vit_base_patch16"]),
        (PRETRAIN, ["--pipeline", 1, 1, 1], ["names 3 stages"]),
        (PRETRAIN, ["--pipeline", "[]"], ["names 0 stages"]),
        (PRETRAIN, ["--pipeline", 3, 1], ["places 3 encoder layers and the model has 2"]),
        (PRETRAIN, ["--pipeline", 2, 2], ["places 2 decoder layers and the model has 1"]),
        (PRETRAIN, ["--pipeline", 2, 0], ["places 0 decoder layers and the model has 1"]),
        (PRETRAIN, ["--pipeline", 2, -1, 1, 0], ["--pipeline: -1 is below 0"]),
        (PRETRAIN, ["--ipus", 2], ["--ipus is 2 and the pipeline needs 1"]),
        (PRETRAIN, ["--memory-proportion", 0.1, 0.1], ["the memory proportion has 2 values"]),
        (PRETRAIN, ["--memory-proportion", 7], ["--memory-proportion: 7.0 is above 1"]),
        (PRETRAIN, ["--memory-proportion", 0], ["--memory-proportion: 0.0 is not above 0"]),
        (PRETRAIN, ["--seed", 2**64], ["--seed: 18446744073709551616 is above"]),
        (LINPROBE, ["--seed", 2**64], ["--seed: 18446744073709551616 is above"]),
        (PRETRAIN, ["--mean", 0.5], ["--mean takes 3 values"]),
        (PRETRAIN, ["--std", 0.5, 0.5, 0], ["0 is not above 0"]),
        (PRETRAIN, ["--batch-size", 2000], ["has 1437 samples and one update takes 4000"]),
        (FINETUNE, ["--pipeline", 3], ["places 3 encoder layers and the model has 2"]),
        (FINETUNE, ["--pipeline", 2, -1], ["--pipeline: -1 is below 0"]),
        (FINETUNE, ["--aa", "v0"], ["v0 describes no RandAugment: give a description such as rand-m9"]),
        (FINETUNE, ["--aa", "rand-m9-q2"], ["rand-m9-q2 describes no RandAugment"]),
        (FINETUNE, ["--drop-path", 1], ["drop_path is a probability below 1"]),
        (FINETUNE, ["--cutmix-minmax", 0.5], ["--cutmix_minmax is [0.5]"]),
        (FINETUNE, ["--cutmix-minmax", 0.5, 0.2], ["the smallest side and then the largest"]),
        (FINETUNE, ["--layer-decay", 0], ["0 is not above 0"]),
        (FINETUNE, ["--nb-classes", 1000], ["have 10 classes", "1000"]),
        (LINPROBE, ["--num-heads", 3], ["16", "3"]),
    ],
)
def test_values_that_make_no_model_or_run(digits, tmp_path, attempt, script, words, parts):
    tiny = {PRETRAIN: tiny_pretraining, FINETUNE: tiny_finetuning, LINPROBE: tiny_probing}[script]
    done = attempt(script, *tiny(digits, tmp_path / "run", "--epochs", 1, *words))
    one_sentence(done, 1 if "--nb-classes" in words else 2, *parts)


@pytest.mark.parametrize(("script", "tiny"), [(FINETUNE, tiny_finetuning), (LINPROBE, tiny_probing)])
@pytest.mark.parametrize("which", ["", "latest", "checkpoints/step-1/weights"])
def test_overwriting_the_weights_to_start_from(digits, tmp_path, attempt, script, tiny, which):
    inside = tmp_path / "checkpoints" / "step-1" / "weights"
    inside.mkdir(parents=True)
    words = tiny(digits, tmp_path, "--overwrite", "--finetune", tmp_path / which)
    one_sentence(attempt(script, *words), 2, "--overwrite would remove", "give another --output")
    assert inside.is_dir()


@pytest.mark.parametrize(("script", "tiny"), [(PRETRAIN, tiny_pretraining), (FINETUNE, tiny_finetuning)])
def test_missing_and_wrongly_laid_out_data(digits, tmp_path, attempt, script, tiny):
    one_sentence(attempt(script, *tiny(tmp_path / "nowhere", tmp_path / "run", "--epochs", 1)), 1, "nowhere")
    shutil.copytree(digits / "train", tmp_path / "data" / "training")
    one_sentence(attempt(script, *tiny(tmp_path / "data", tmp_path / "other", "--epochs", 1)), 1, "train")


def test_weights_that_are_not_there(digits, tmp_path, attempt):
    done = attempt(FINETUNE, *tiny_finetuning(digits, tmp_path / "run", "--finetune", tmp_path / "none.pth"))
    one_sentence(done, 1, "none.pth does not exist")
    one_sentence(attempt(VALIDATE, *tiny_validation(digits, tmp_path / "valid", tmp_path)), 1, "no checkpoints")


def test_weights_of_another_size_or_kind(digits, tmp_path, attempt):
    folder = tmp_path / "pretrained"
    done = attempt(PRETRAIN, *tiny_pretraining(digits, folder, "--epochs", 1, "--batch-size", 500, "--evaluate", "no"))
    assert done.status == 0, done.error
    words = tiny_finetuning(digits, tmp_path / "run", "--finetune", folder)
    one_sentence(attempt(FINETUNE, *words, "--embed-dim", 32), 1, "has width 16, the model 32")
    done = attempt(VALIDATE, *tiny_validation(digits, tmp_path / "valid", folder))
    one_sentence(done, 1, "has no classification head: fine-tune it first")


def test_a_hostile_pickle_is_never_executed(digits, tmp_path, attempt):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Hostile(tmp_path / "executed")))
    done = attempt(FINETUNE, *tiny_finetuning(digits, tmp_path / "run", "--finetune", path))
    one_sentence(done, 1, "weights.pth")
    assert not (tmp_path / "executed").exists()


def test_no_remap_library(digits, tmp_path, attempt):
    words = tiny_pretraining(digits, tmp_path / "run", "--remap", "true", "--remap_so", tmp_path / "no.so")
    one_sentence(attempt(PRETRAIN, *words), 1, "no.so does not exist: build the remap op")


def test_validation_says_what_it_needs(attempt, digits):
    one_sentence(attempt(VALIDATE, "--data_path", digits), 2, "--resume is required")


def test_debug_shows_the_traceback(tmp_path):
    done = run_script(PRETRAIN, *tiny_pretraining(tmp_path / "nowhere", tmp_path / "run", "--epochs", 1, "--debug"))
    assert done.status == 1
    assert "Traceback" in done.error
