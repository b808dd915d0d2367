"""Pretraining from options to a complete run folder; twins that must give the same bits."""

import json
import re
import shutil

import pytest
import yaml

import main_pretrain
from poptorch_host.backend import poptorch
from run.errors import UsageError
from tests.runs import losses, measured, newest, records, same_bits, tiny_pretraining, weights
from tests.scripts import APP


def pretrained(digits, folder, *more):
    main_pretrain.main(tiny_pretraining(digits, folder, *more))
    return folder


@pytest.fixture(scope="module")
def one_epoch(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    return pretrained(digits, folder, "--epochs", 1, "--warmup-epochs", 0.25, "--lr", 0.003)


def test_it_learns_and_leaves_a_complete_run_folder(one_epoch):
    train, held_out = records(one_epoch), records(one_epoch, "validation")
    assert train[0]["learning_rate"] == 0
    assert train[-1]["loss"] < 0.85 * train[0]["loss"]
    assert held_out[-1]["samples"] == 360
    assert held_out[-1]["loss"] == pytest.approx(sum(losses(one_epoch)[-5:]) / 5, rel=0.1)
    assert [line["step"] for line in train] == list(range(1, 90))
    assert (one_epoch / "curves.png").stat().st_size > 10_000
    recipe = json.loads((one_epoch / "recipe.json").read_text())
    assert (recipe["global_batch"], recipe["updates"], recipe["warmup_steps"]) == (16, 89, 22)
    assert yaml.safe_load((one_epoch / "config.yaml").read_text())["embed_dim"] == 16


def test_its_weights_say_what_they_are(one_epoch):
    config = json.loads((newest(one_epoch) / "weights" / "config.json").read_text())
    assert config["model"] == "mae_vit_base_patch16"
    assert (config["sizes"]["width"], config["sizes"]["decoder_width"]) == (16, 16)
    assert (config["sizes"]["gelu"], config["sizes"]["norm_pix_loss"]) == ("tanh", True)
    assert config["image_mean"] == [0.485, 0.456, 0.406]
    assert "decoder_pred.weight" in weights(one_epoch)


def test_a_second_run_in_the_same_folder_is_refused(one_epoch, digits):
    with pytest.raises(UsageError, match="--resume"):
        pretrained(digits, one_epoch, "--epochs", 1)


SHORT = ["--epochs", 1, "--batch-size", 32, "--lr", 0.003]  # 22 updates


@pytest.fixture(scope="module")
def short(digits, tmp_path_factory):
    return pretrained(digits, tmp_path_factory.mktemp("runs") / "short", *SHORT)


def test_masks_drawn_while_loading_are_those_of_the_device(short, digits, tmp_path):
    """Sent as one-hot matrices, which do what indices do; the order of sums may differ in the last bit."""
    on_host = pretrained(digits, tmp_path / "run", *SHORT, "--mask-on-host", "true")
    assert losses(on_host) == pytest.approx(losses(short), abs=1e-6)
    assert losses(on_host, "validation") == pytest.approx(losses(short, "validation"), abs=1e-6)
    assert pretrained(digits, tmp_path / "other", *SHORT, "--mask-on-host", "false").exists()
    assert same_bits(tmp_path / "other", short)


@pytest.mark.parametrize("library", ["../remap_custom_op", "built"])
def test_remapped_activations_change_no_bit(short, digits, tmp_path, library):
    if library == "built":
        from common.custom_op import build

        library = build(APP.parent / "remap_custom_op", "host")
    remapped = pretrained(digits, tmp_path / "run", *SHORT, "--remap", "true", "--remap-so", library)
    assert measured(remapped) == measured(short)
    assert same_bits(remapped, short)


def test_calls_of_several_updates_are_the_same_updates(short, digits, tmp_path):
    constant = [*SHORT, "--warmup-epochs", 0, "--min-lr", 0.003]
    one = pretrained(digits, tmp_path / "one", *constant)
    two = pretrained(digits, tmp_path / "two", *constant, "--device-iterations", 2)
    assert same_bits(one, two)
    assert not same_bits(one, short)


@pytest.mark.parametrize(
    "changes",
    [
        ["--half", "--loss-scale", 1024],
        ["--half", "--use-als"],
        ["--half", "--mask-on-host", "true"],
        ["--async-type", "normal"],
        ["--async-type", "rebatch", "--rebatched-worker-size", 8, "--num-workers", 1],
        ["--replica", 2, "--rts", "true"],
        ["--mask-ratio", 0.5, "--norm-pix-loss", "false", "--gelu-type", "erf"],
        ["--input-size", 48, "--mean", 0.5, 0.5, 0.5, "--std", 0.5, 0.5, 0.5],
        ["--evaluate", "true", "--eval-freq", 1, "--saveckp-freq", 1],
    ],
    ids=lambda changes: " ".join(map(str, changes)),
)
def test_options_train(digits, tmp_path, changes):
    words = ["--epochs", 1, "--batch-size", 64, "--lr", 0.003, "--evaluate", "false", *changes]
    folder = pretrained(digits, tmp_path / "run", *words)
    found = losses(folder)
    assert 5 <= len(found) <= 12
    assert all(0.4 < loss < 3.0 for loss in found)
    assert found[-1] < found[0]


def test_generated_images(digits, tmp_path):
    words = tiny_pretraining(digits, tmp_path / "run", "--generated-data", "--generated-steps", 3, "--epochs", 2)
    del words[2:4]  # --data-path would have no effect
    main_pretrain.main(words)
    assert len(losses(tmp_path / "run")) == 6
    assert records(tmp_path / "run", "validation")[-1]["samples"] == 48


def test_compiling_only_trains_nothing(digits, tmp_path, capsys, monkeypatch):
    compiled = []
    honest = poptorch.PoplarExecutor.compile
    monkeypatch.setattr(poptorch.PoplarExecutor, "compile", lambda self, *given: compiled.append(honest(self, *given)))
    pretrained(digits, tmp_path / "run", "--epochs", 1, "--compile-only")
    assert "compiled; nothing was trained" in capsys.readouterr().out
    assert len(compiled) == 1
    assert not (tmp_path / "run" / "history.jsonl").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_dry_run_prints_and_saves_the_options_and_stops(digits, tmp_path, capsys):
    pretrained(digits, tmp_path / "run", "--epochs", 1, "--dry-run")
    assert "peak 0.000125" in capsys.readouterr().out  # 2e-3 for 256 samples, 16 of them
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_loss_that_is_not_finite_is_caught_before_the_weights_change(digits, tmp_path, attempt):
    words = tiny_pretraining(digits, tmp_path / "run", "--epochs", 1, "--evaluate", "false", "--warmup-epochs", 0)
    done = attempt("main_pretrain.py", *words, "--loss-scale", "1e38", "--lr", 0.25)
    assert done.status == 1
    assert done.error.count("\n") == 1
    assert re.search(r"step \d at learning rate 0\.2", done.error)
    assert "(samples " in done.error


def test_bad_images_are_replaced_listed_and_end_the_run_above_the_ratio(digits, tmp_path, attempt):
    data = tmp_path / "digits"
    shutil.copytree(digits, data)
    first = sorted((data / "train").iterdir())[0]
    for path in sorted(first.iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:100])
    words = [*SHORT, "--evaluate", "false", "--overwrite"]
    pretrained(data, tmp_path / "run", *words, "--bad-image-ratio", 0.01)
    assert len((tmp_path / "run" / "bad_images.txt").read_text().splitlines()) == 5
    done = attempt("main_pretrain.py", *tiny_pretraining(data, tmp_path / "run", *words))
    assert done.status == 1
    assert "bad_images.txt" in done.error
