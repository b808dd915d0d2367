"""Fine-tuning from options to a validated run; what the device mixes; what a run starts from."""

import json
import shutil

import pytest
import torch
import yaml

import finetune_validate
import main_finetune
import main_pretrain
from building import gelu_of
from checkpoint import load_model
from dataset.mixing import Mixing, draw_rows, partners
from finetuning import Finetuning
from ipu.recipe import Recipe
from ipu_options import create_program
from models import create_model
from models.supervised import Supervised
from options import FinetuneOptions, ValidationOptions
from run import distributed
from run.checkpoints import Checkpoints
from run.errors import UsageError
from tests.runs import losses, newest, records, same_bits, tiny_finetuning, tiny_pretraining, tiny_validation, weights
from tests.scripts import APP
from weights import save_weights

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

# A step of the small model of the digits configs takes a few milliseconds at this size, and it has something to learn.
SMALL = ["--embed-dim", 48, "--num-heads", 3, "--mlp-dim", 96, "--batch-size", 32, "--gradient-accumulation-count", 1]
RECIPE = [*SMALL, "--epochs", 2, "--warmup-epochs", 0.5, "--lr", 0.003]


def finetuned(digits, folder, *more):
    main_finetune.main(tiny_finetuning(digits, folder, *more))
    return folder


def score(folder):
    return records(folder, "validation")[-1]["accuracy"]


@pytest.fixture(scope="module")
def pretrained(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    words = [*SMALL, "--decoder-embed-dim", 32, "--epochs", 30, "--warmup-epochs", 3, "--lr", 0.004]
    main_pretrain.main(tiny_pretraining(digits, folder, *words, "--log-every", 100))
    return folder


@pytest.fixture(scope="module")
def trained(digits, pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    more = ["--finetune", pretrained, "--gelu-type", "none", "--eval-freq", 1]
    return finetuned(digits, folder, *RECIPE, *more)


def test_pretraining_helps(digits, trained, tmp_path):
    """The same updates from random weights do worse."""
    scratch = finetuned(digits, tmp_path / "scratch", *RECIPE)
    assert len(losses(scratch)) == len(losses(trained)) == 88
    assert score(trained) > score(scratch) + 0.1
    assert losses(trained, "validation")[-1] < losses(scratch, "validation")[-1] - 0.2


def test_a_complete_run_folder(trained):
    train, held_out = records(trained), records(trained, "validation")
    assert train[0]["learning_rate"] == 0
    assert [line["samples"] for line in held_out] == [360, 360]
    assert [line["step"] for line in held_out] == [44, 88]
    assert (trained / "curves.png").stat().st_size > 10_000
    assert json.loads((trained / "recipe.json").read_text())["peak_learning_rate"] == 0.003
    config = json.loads((newest(trained) / "weights" / "config.json").read_text())
    assert config["class_names"] == [f"digit_{digit}" for digit in range(10)]
    assert (config["eval_resize"], config["image_mean"]) == ("direct", [0.485, 0.456, 0.406])
    assert config["sizes"]["gelu"] == "tanh"  # pretraining's
    assert config["sizes"]["num_classes"] == 10


def test_validation_repeats_the_runs_own_score(digits, trained, tmp_path, capsys):
    finetune_validate.main(tiny_validation(digits, tmp_path / "valid", trained, "--batch-size", 7))
    found = json.loads((tmp_path / "valid" / "validation.json").read_text())
    best = max(records(trained, "validation"), key=lambda line: line["accuracy"])
    assert found["top1"] == pytest.approx(best["accuracy"], abs=1e-9)
    assert found["top5"] == pytest.approx(best["top5"], abs=1e-9)
    assert found["loss"] == pytest.approx(best["loss"], rel=1e-5)
    assert found["samples"] == 360
    output = capsys.readouterr().out
    assert f"Accuracy: {100 * best['accuracy']:.3f} % (top-1)" in output
    assert "resized as a whole, 32×32 pixels" in output


def test_predictions_of_the_run_folder_are_those_that_were_counted(digits, trained, attempt):
    images = sorted((digits / "validation").rglob("*.JPEG"))[::6]
    done = attempt("predict.py", "--checkpoint", trained, "--json", *images)
    assert done.status == 0, done.error
    found = json.loads(done.output)["predictions"]
    hits = [line["top5"][0]["name"] == path.parent.name for line, path in zip(found, images)]
    assert sum(hits) / len(hits) == pytest.approx(score(trained), abs=0.12)  # every sixth image


def test_validation_of_a_file_and_at_another_size(digits, trained, tmp_path):
    model = load_model(trained, reconstructs=False).model
    save_weights(model, tmp_path / "file", "pth", class_names=[str(label) for label in range(10)])
    torch_file = tmp_path / "file" / "model.pth"
    words = tiny_validation(digits, tmp_path / "valid", torch_file)
    with pytest.raises(Exception, match="give a folder with one"):  # 48 wide is no published size
        finetune_validate.main(words)
    words = tiny_validation(digits, tmp_path / "valid", f"{trained}/latest", "--input-size", 48, "--half")
    finetune_validate.main(words)
    found = json.loads((tmp_path / "valid" / "validation.json").read_text())
    assert 0.1 < found["top1"] <= 1
    assert "eval_resize: null" in (tmp_path / "valid" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("swapped", ["class 0 is digit_0", "digit_1 in the data"]),
        ("fewer", ["trained for 10 classes and the data has 9"]),
    ],
)
def test_validation_on_other_classes_is_refused(trained, digits, tmp_path, attempt, change, words):
    for split in ("train", "validation"):
        shutil.copytree(digits / split, tmp_path / "data" / split)
        first = tmp_path / "data" / split / "digit_0"
        shutil.rmtree(first) if change == "fewer" else first.rename(first.with_name("digit_z"))
    done = attempt("finetune_validate.py", *tiny_validation(tmp_path / "data", tmp_path / "valid", trained))
    assert done.status == 1, done.error
    assert all(word in done.error for word in words)


def test_validation_on_generated_images_measures_speed(trained, tmp_path):
    words = tiny_validation("none", tmp_path / "valid", trained, "--generated-data", "--generated-steps", 2)
    del words[2:4]  # --data-path would have no effect
    finetune_validate.main(words)
    assert json.loads((tmp_path / "valid" / "validation.json").read_text())["samples"] == 120


def test_the_gelu_is_the_weights_unless_asked_for(pretrained, digits, tmp_path, capsys):
    assert gelu_of(str(pretrained)) == "tanh"
    words = ["--epochs", 1, "--batch-size", 64, *SMALL[:6], "--finetune", pretrained, "--dry-run"]
    finetuned(digits, tmp_path / "run", *words, "--gelu-type", "erf")
    assert "trained with gelu tanh, erf is used here" in capsys.readouterr().out
    save_weights(create_model("vit_base_patch16", depth=1, num_classes=0), tmp_path / "file", "pth")
    assert gelu_of(str(tmp_path / "file" / "model.pth")) == "erf"  # as published files, which do not say


def test_random_weights_are_told(digits, tmp_path, capsys):
    finetuned(digits, tmp_path / "run", "--epochs", 1, "--dry-run")
    assert "no --finetune: the weights are random" in capsys.readouterr().out


SHORT = ["--epochs", 1, "--batch-size", 64, "--lr", 0.003, "--evaluate", "false"]  # 11 updates


@pytest.mark.parametrize(
    "changes",
    [
        ["--half", "--loss-scale", 1024],
        ["--half", "--use-als"],
        ["--cls-token"],
        ["--aa", "rand-m9-mstd0.5-inc1", "--reprob", 0.25, "--remode", "rand", "--recount", 2],
        ["--color-jitter", 0.4, "--random-flip", "true"],
        ["--mixup", 0.8, "--cutmix", 1.0, "--mixup-switch-prob", 0.5, "--mixup-prob", 0.9],
        ["--cutmix-minmax", 0.2, 0.8, "--mixup-mode", "elem", "--batch-size", 45],
        ["--mixup", 0.8, "--batch-size", 63, "--mixup-mode", "pair", "--device-iterations", 2],
        ["--drop-path", 0.3, "--replica", 2, "--device-iterations", 2, "--rts", "false"],
        ["--clip-grad", 0.5, "--layer-decay", 0.5, "--smoothing", 0.0],
        ["--eval-resize", "crop", "--evaluate", "true", "--nb-classes", 10],
        ["--pipeline", "[]", "--ipus", 2, "--gradient-accumulation-count", 3],
    ],
    ids=lambda changes: " ".join(map(str, changes)),
)
def test_options_train(digits, tmp_path, changes):
    found = losses(finetuned(digits, tmp_path / "run", *SHORT, *changes))
    assert 3 <= len(found) <= 15
    assert all(1.5 < loss < 3.0 for loss in found)


def test_one_image_in_a_half_micro_batch_of_an_odd_number(digits, tmp_path):
    with pytest.raises(UsageError, match="share of an update is 15 of them"):
        finetuned(
            digits, tmp_path / "run", *SHORT, "--batch-size", 15, "--gradient-accumulation-count", 1, "--mixup", 1
        )


@pytest.mark.parametrize("changes", [["--clip-grad", 1e-4], ["--layer-decay", 0.3], ["--smoothing", 0.4]])
def test_options_change_what_is_learnt(digits, tmp_path, changes):
    words = [*SHORT, "--warmup-epochs", 0, "--min-lr", 0.003]
    first, second = (finetuned(digits, tmp_path / name, *words, *more) for name, more in [("a", []), ("b", changes)])
    assert not same_bits(first, second)


def test_the_class_token_is_read_with_the_trained_norm(digits, pretrained, tmp_path):
    words = [*SHORT, *SMALL[:6], "--finetune", pretrained, "--cls-token", "--lr", 0]
    run = finetuned(digits, tmp_path / "run", *words)
    names = weights(run)
    assert "norm.weight" in names
    assert "fc_norm.weight" not in names
    assert (names["norm.weight"] == weights(pretrained)["norm.weight"]).all()
    pooled = finetuned(digits, tmp_path / "pooled", *words[:-3], "--lr", 0)
    assert "fc_norm.weight" in weights(pooled)


def test_fine_tuning_starts_from_a_fine_tuned_run_with_a_new_head(digits, trained, tmp_path):
    fewer = tmp_path / "three"
    for split in ("train", "validation"):
        (fewer / split).mkdir(parents=True)
        for name in sorted(path.name for path in (digits / split).iterdir())[:3]:
            (fewer / split / name).symlink_to(digits / split / name)
    run = finetuned(fewer, tmp_path / "run", *RECIPE, "--epochs", 1, "--finetune", trained)
    assert score(run) > 0.6


def test_a_run_folder_gives_its_best_checkpoint(digits, pretrained, tmp_path):
    run = tmp_path / "pretrained"
    shutil.copytree(pretrained, run)
    expected = weights(run)["patch_embed.proj.weight"]

    def write_worse(folder):
        model = load_model(pretrained, reconstructs=True).model
        torch.nn.init.zeros_(model.patch_embed.proj.weight)
        save_weights(model, folder)

    Checkpoints(run / "checkpoints").save(9999, {}, writers={"weights": write_worse}, metric=-1e6)
    assert not weights(run)["patch_embed.proj.weight"].any()  # the newest
    words = [*SMALL, "--epochs", 1, "--lr", 0]
    for place, wanted in ((run, expected), (run / "latest", 0 * expected)):
        tuned = finetuned(digits, tmp_path / place.name / "tuned", *words, "--finetune", place)
        assert torch.equal(weights(tuned)["patch_embed.proj.weight"], wanted)


def second_of_two(batch_size, folder):
    """A training object of two updates per call, as on the second of two processes."""
    options = FinetuneOptions(
        config="test",
        batch_size=batch_size,
        gradient_accumulation_count=2,
        replica=2,
        device_iterations=2,
        mixup=0.8,
        cutmix=1.0,
        pipeline=[1],
        seed=4,
    )
    model = create_model("vit_base_patch16", image_size=16, patch_size=8, width=16, depth=1, heads=2, mlp_width=32)
    recipe = Recipe(100, 1, 1, 1, 10, 20, 1.0, 0, 1.0, "", 0, processes=2, precision="", device="")
    return Finetuning(options, create_program(options), recipe, Supervised(model, MEAN, STD), [], folder)


@pytest.mark.parametrize("batch_size", [4, 3])
def test_every_update_of_a_call_has_its_own_rows_of_this_process(monkeypatch, tmp_path, batch_size):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    training = second_of_two(batch_size, tmp_path)
    rows = 2 * 2 * batch_size
    images, labels = torch.randint(0, 256, (rows, 3, 16, 16), dtype=torch.uint8), torch.arange(rows)
    inputs = training.device_inputs(6, (images, labels))
    mixing = Mixing(mixup_alpha=0.8, cutmix_alpha=1.0)
    expected = [draw_rows(mixing, 4, update, 4, batch_size, (16, 16), (1, 2)) for update in (10, 11)]
    assert torch.equal(inputs[2], torch.cat(expected))
    assert inputs[0] is images
    if batch_size == 4:
        assert len(inputs) == 3
    else:
        assert torch.equal(inputs[3], partners(images))
        assert inputs[4].tolist() == [index ^ 1 for index in range(rows)]


def test_documented_commands_need_no_config():
    """`main_finetune.py --finetune MODEL_DIR --data_path DATA`, and the validation of what it trained."""
    entries = yaml.safe_load((APP / "configs.yml").read_text())
    for options, script in ((FinetuneOptions, "main_finetune.py"), (ValidationOptions, "finetune_validate.py")):
        assert entries[options.__dataclass_fields__["config"].default]["script"] == script
