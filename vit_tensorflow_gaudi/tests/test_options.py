"""The command line: the document's flags and defaults, and what is refused."""

import dataclasses
import json
import re

import pytest

import train
from command_line import parse
from errors import UsageError
from options import RECIPE, TrainOptions, table

DOCUMENTED = {
    "dataset": "/data/tensorflow/imagenet/tf_records", "optimizer": "sgd", "dtype": "fp32", "batch_size": 32,
    "lr_sched": "WarmupCosine", "initial_lr": 0.06, "final_lr": 1e-5, "warmup_steps": 4000, "epochs": 10,
    "steps_per_epoch": None, "validation_steps": None, "profile": "0", "model": "ViT-B_16",
    "train_subset": "train/train", "val_subset": "validation/validation", "grad_accum_steps": 8,
    "resume_from_checkpoint_path": None, "resume_from_epoch": 0, "evaluate_checkpoint_path": None,
    "weights_path": None, "deterministic": False, "seed": None, "distributed": False, "base_tf_server_port": 7850,
    "save_summary_steps": 0, "recipe_cache": "/tmp/vit_recipe_cache", "dump_config": None,
}  # fmt: skip


def options(*words):
    return parse(TrainOptions, list(words), script="train.py", description="")


def test_the_documents_flags_have_its_defaults():
    found = dataclasses.asdict(options())
    assert {name: found[name] for name in DOCUMENTED} == DOCUMENTED


def test_the_documents_aliases():
    assert options("-d", "bf16", "--dataset_dir", "x").dtype == "bf16"
    assert options("--dataset_dir", "x").dataset == "x"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bach_size", "4"], "there is no flag --bach_size: did you mean --batch_size?"),
        (["--batch-size=4"], "did you mean --batch_size?"),
        (["--batch", "4"], "there is no flag --batch"),
        (["stray"], "stray belongs to no flag"),
        (["--batch_size", "4.5"], "'4.5' is no whole number"),
        (["--batch_size", "0"], "0 is below 1"),
        *((["--initial_lr", word], f"--initial_lr: {word} is no finite number") for word in ("nan", "inf", "1e999")),
        (["--epochs"], "expected one argument"),
        (["--model", "ViT-H_14"], "invalid choice: 'ViT-H_14'"),
        (["--deterministic"], "--deterministic needs --seed"),
        (["--deterministic", "maybe"], "neither true nor false"),
        (["--profile", "15,12"], "--profile 15,12"),
        (["--profile", "x"], "--profile x"),
        (["--dropout", "1"], "no probability below 1"),
        (["--resume_from_epoch", "3"], "--resume_from_epoch has no effect here"),
        (["--resume_from_checkpoint_path", "x.h5", "--resume_from_epoch", "10"], "leaves nothing of --epochs 10"),
        (["--resume_from_checkpoint_path", "run", "--resume_from_epoch", "3"], "only with a weight file"),
        (["--dry_run", "--overwrite"], "--dry_run changes nothing and --overwrite empties the run folder"),
        (["--resume_from_checkpoint_path", "x", "--evaluate_checkpoint_path", "x"], "give one"),
        (["--resume_from_checkpoint_path", "x", "--overwrite"], "--overwrite has no effect here"),
        (["--final_lr", "0"], "--final_lr has no effect here, only with --lr_sched linear or exp"),
        (["--lr_sched", "exp", "--warmup_steps", "0"], "--warmup_steps has no effect here"),
        (["--weights", "none", "--weights_path", "x"], "--weights_path has no effect"),
        (["--device", "CPU", "--jit_compile"], "on a CPU XLA is slower"),
        (["--device", "CPU", "--recipe_cache", ""], "--recipe_cache has no effect here, only with --device HPU"),
        (["--base_tf_server_port", "1"], "only with --distributed"),
        (["--weight_decay", "0.1"], "only with --optimizer adamw or lamb"),
    ],
)
def test_wrong_words_are_one_sentence(words, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        options(*words)


def test_zero_false_and_empty_values_can_be_given():
    found = options("--deterministic", "false", "--recipe_cache", "", "--dropout", "0", "--seed", "0", "--clip_norm=0")
    assert (found.deterministic, found.recipe_cache, found.dropout, found.seed) == (False, "", 0.0, 0)
    assert found.clip == 0
    assert (options().clip, options("--optimizer", "adam").clip) == (1.0, 0.0)


def test_deterministic_turns_augmentation_off():
    assert options().augment
    assert not options("--deterministic", "--seed", "1").augment


@pytest.mark.parametrize("words", [["--jit_compile"], ["--recipe_cache", ""], ["--clear_recipe_cache"]])
def test_flags_of_a_device_are_refused_where_another_one_is_found(words):
    """Without --device that shows only when the device is looked for."""
    found = options(*words)
    with pytest.raises(UsageError, match=f"{words[0]} has no effect here, only with --device"):
        found.check_device("CPU")
    found.check_device("GPU" if words[0] == "--jit_compile" else "HPU")
    options().check_device("CPU")


def test_profile_windows():
    windows = [options("--profile", word).profile_window() for word in ("0", "7", "12,15")]
    assert windows == [None, (7, 7), (12, 15)]


def test_variants():
    google, keras = options(), options("--variant", "vit_keras")
    assert not google.sizes()["representation"]
    assert keras.sizes()["representation"]
    assert not options("--variant", "vit_keras", "--weights", "none").sizes()["representation"]


def test_dump_config(tmp_path):
    file = tmp_path / "dump.json"
    file.write_text(json.dumps({"dump_root": "d", "tensor_debug_mode": "CONCISE_HEALTH", "output_regex": ".*"}))
    found = options("--dump_config", str(file))
    assert found.dump() == {"dump_root": "d", "tensor_debug_mode": "CONCISE_HEALTH"}
    assert found.sizes()["dropout"] == 0
    for content, said in (("{", "can't be read"), ('{"a": 1, "dump_root": "d"}', "takes"), ("{}", "dump_root always")):
        file.write_text(content)
        with pytest.raises(UsageError, match=said):
            options("--dump_config", str(file))
    file.write_text('{"dump_root": "d", "output_regex": "x"}')
    with pytest.raises(UsageError, match="output_regex"):
        options("--dump_config", str(file))


def test_help_names_every_flag_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        train.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for field in dataclasses.fields(TrainOptions):
        assert f"--{field.name} " in text
    assert text.count("(default: ") == len(dataclasses.fields(TrainOptions))


def test_the_recipe_is_made_of_options_and_the_table_shows_all():
    names = {field.name for field in dataclasses.fields(TrainOptions)}
    assert set(RECIPE) <= names
    assert {line.split()[0] for line in table(options()).splitlines()} == names


def test_wrong_flags_exit_with_2_and_one_line(attempt):
    done = attempt("train.py", "--bach_size", 4)
    assert done.status == 2
    assert done.error == "error: there is no flag --bach_size: did you mean --batch_size?\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bad_image_ratio=-0.1"], "argument --bad_image_ratio: -0.1 is no share from 0 to 1"),
        (["--bad_image_ratio=1.5"], "argument --bad_image_ratio: 1.5 is no share from 0 to 1"),
        *(([f"--bad_image_ratio={word}"], f"{word} is no finite number") for word in ("nan", "inf")),
        (["--bad_image_ratio", "few"], "'few' is no number"),
        (["--train_shards", "4.5"], "argument --train_shards: '4.5' is no whole number"),
        (["--workers", "0"], "0 is below 1"),
        (["--trian_shards", "4"], "there is no flag --trian_shards: did you mean --train_shards?"),
        (["--splits", "test"], "invalid choice: 'test'"),
        (["--verify", "--limit", "3"], "--limit has no effect here, only without --verify"),
        (["--verify", "--raw_data_dir", "y"], "leave --raw_data_dir out"),
        (["--raw_data_dir", "y", "--image_format", "PPM", "--quality", "90"], "only with --image_format JPEG"),
        ([], "--raw_data_dir is missing"),
    ],
)
def test_wrong_words_of_preprocess_imagenet_are_one_sentence(words, said, attempt):
    done = attempt("preprocess_imagenet.py", "--local_scratch_dir", "/nowhere/x", *words)
    assert done.status == 2
    assert said in done.error
    assert done.error.count("\n") == 1


def test_preprocess_imagenet_without_a_folder_is_one_sentence(attempt):
    done = attempt("preprocess_imagenet.py")
    assert (done.status, done.error.count("\n")) == (2, 1)
    assert "required: --local_scratch_dir" in done.error
