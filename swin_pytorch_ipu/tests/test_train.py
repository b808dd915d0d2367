"""Training and validation as users start them, on a Swin of some thousand parameters."""

import json
import shutil
import zipfile
from functools import partial

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import validate
from models import create_model
from run.checkpoints import Checkpoints
from run.errors import UserError
from run.jpeg import HAS_PARTS
from tests.runs import losses, newest, records, same, tiny, weights
from train_swin import main
from weights import save_weights


def validated(folder, *arguments):
    validate.main(["--cfg", "SWIN_DIGITS", "--output", str(folder), *map(str, arguments)])
    return json.loads((folder / "validation.json").read_text())


SIZES = ["--embed-dim", "16", "--depths", "1", "1", "--num-heads", "1", "2", "--layers-per-ipu", "2"]
SIZES += ["--num-workers", "0"]


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Some epochs of a tiny Swin."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    given = ["--epochs", 6, "--warmup-epochs", 1, "--gradient-accumulation-steps", 1, "--base-lr", 0.3]
    given += ["--crop-scale-min", 1]
    given += ["--eval-freq", 3, "--save-freq", 0, "--ema-decay", 0.98, "--label-smoothing", 0, "--precision", "32.32"]
    main(tiny(digits, folder, *given))
    return folder


def test_it_learns_and_leaves_a_complete_run_folder(trained):
    train, held_out = records(trained), records(trained, "validation")
    assert sum(line["loss"] for line in train[-20:]) / 20 < 0.5 * train[0]["loss"]
    assert held_out[-1]["accuracy"] > 0.6
    assert [line["samples"] for line in held_out] == [360, 360]
    assert (trained / "curves.png").stat().st_size > 10_000
    recipe = json.loads((trained / "recipe.json").read_text())
    assert recipe["steps"] == 6 * recipe["updates_per_epoch"] == 6 * 89
    assert recipe["warmup_steps"] == 89
    assert recipe["peak_learning_rate"] == pytest.approx(0.3 * 16 / 1024)
    assert train[0]["learning_rate"] == pytest.approx(3.2e-4 * 16 / 1024)  # set before the step, and not zero
    assert max(line["learning_rate"] for line in train) == pytest.approx(recipe["peak_learning_rate"])
    assert yaml.safe_load((trained / "config.yaml").read_text())["config"] == "SWIN_DIGITS"


def test_validation_repeats_the_runs_own_score(trained, digits, tmp_path, capsys):
    result = validated(tmp_path, "--checkpoint", trained, "--data-path", digits, "--batch-size", 7, *SIZES,
                       "--precision", "32.32")  # fmt: skip
    best = max(line["accuracy"] for line in records(trained, "validation"))
    assert result["top1"] == pytest.approx(best, abs=1e-9)
    assert result["samples"] == 360
    assert f" * Acc@1 {100 * best:.3f} Acc@5 " in capsys.readouterr().out


def test_the_averaged_weights_are_another_model(trained, digits, tmp_path):
    given = ["--checkpoint", trained, "--data-path", digits, *SIZES, "--precision", "32.32"]
    plain, averaged = validated(tmp_path, *given), validated(tmp_path, *given, "--ema")
    assert averaged["checkpoint"].endswith("weights/ema")
    assert averaged["loss"] != plain["loss"]
    assert averaged["top1"] > 0.6


def test_fine_tuning_for_other_images_and_classes_takes_over_what_fits(trained, digits, tmp_path, capsys):
    """From 32 pixels and windows of 4 to 48 with windows of 6; three of the ten classes, found by name."""
    for split in ("train", "validation"):
        for name in ("digit_2", "digit_5", "digit_8"):
            shutil.copytree(digits / split / name, tmp_path / "data" / split / name)
    given = ["--pretrained-model", trained, "--img-size", 48, "--window-size", 6, "--epochs", 1, "--base-lr", 0]
    given += ["--warmup-lr", 0, "--min-lr", 0]
    given += ["--gradient-accumulation-steps", 1, "--precision", "32.32"]
    main(tiny(tmp_path / "data", tmp_path / "run", *given))
    said = capsys.readouterr().out
    assert "relative_position_bias_table 7×7 → 11×11" in said
    assert "head 10 → 3 classes" in said
    assert records(tmp_path / "run", "validation")[-1]["accuracy"] > 0.6  # nothing was learned here
    old, new = weights(trained), weights(tmp_path / "run")
    assert torch.equal(new["head.weight"], old["head.weight"][[2, 5, 8]])
    config = json.loads((newest(tmp_path / "run") / "weights" / "config.json").read_text())
    assert config["id2label"] == {"0": "digit_2", "1": "digit_5", "2": "digit_8"}


@pytest.mark.parametrize(("metrics", "taken"), [((0.9, 0.5), 1), ((None, None), 2)])
def test_fine_tuning_starts_from_the_best_checkpoint_of_a_run(digits, tmp_path, metrics, taken):
    """Or the latest, if none was ever evaluated."""
    saved, checkpoints = {}, Checkpoints(tmp_path / "old" / "checkpoints", keep=3)
    sizes = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "image_size": 32, "window_size": 4}
    for step, metric in enumerate(metrics, 1):
        model = create_model("swin_tiny_patch4_window7_224", num_classes=10, **sizes)
        saved[step] = model.state_dict()
        checkpoints.save(step, {}, writers={"weights": partial(save_weights, model)}, metric=metric)
    still = ["--training-steps", 1, "--evaluate", "false", "--precision", "32.32"]
    still += [word for name in ("--base-lr", "--warmup-lr", "--min-lr") for word in (name, 0)]
    main(tiny(digits, tmp_path / "run", "--pretrained-model", tmp_path / "old", *still))
    assert same(weights(tmp_path / "run"), saved[taken])


def test_validation_on_other_classes_is_refused(trained, digits, tmp_path):
    for split in ("train", "validation"):
        shutil.copytree(digits / split, tmp_path / "data" / split)
        (tmp_path / "data" / split / "digit_0").rename(tmp_path / "data" / split / "digit_z")
    with pytest.raises(UserError, match="has no head for the data's classes"):
        validated(tmp_path / "v", "--checkpoint", trained, "--data-path", tmp_path / "data", *SIZES)


def test_classes_in_another_order_are_found_by_name(trained, digits, tmp_path):
    """Folders renamed so that the order changes: the checkpoint's rows are put in the data's order."""
    source = newest(trained) / "weights"
    shutil.copytree(source, tmp_path / "w")
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    config["id2label"].update({"0": "digit_1", "1": "digit_0"})
    (tmp_path / "w" / "config.json").write_text(json.dumps(config))
    given = ["--data-path", digits, *SIZES, "--precision", "32.32"]
    right = validated(tmp_path / "a", "--checkpoint", source, *given)
    swapped = validated(tmp_path / "b", "--checkpoint", tmp_path / "w", *given)
    assert swapped["top1"] < right["top1"] - 0.1


@pytest.mark.parametrize("precision", ["32.32", "16.16", "mixed"])
def test_every_precision_trains(digits, tmp_path, precision):
    main(tiny(digits, tmp_path, "--precision", precision, "--training-steps", 3, "--evaluate", "false"))
    assert len(losses(tmp_path)) == 3
    assert all(1.5 < loss < 4.0 for loss in losses(tmp_path))
    kept = {"32.32": torch.float32, "16.16": torch.float16, "mixed": torch.float32}[precision]
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {kept}


def test_mixed_precision_computes_in_bfloat16_with_float32_weights(digits, tmp_path):
    seen = set()

    def note(module, _, output):
        if isinstance(module, nn.Linear):
            seen.add((module.weight.dtype, output.dtype))

    handle = register_module_forward_hook(note)
    try:
        main(tiny(digits, tmp_path, "--precision", "mixed", "--training-steps", 1, "--evaluate", "false"))
    finally:
        handle.remove()
    assert seen == {(torch.float32, torch.bfloat16)}


@pytest.mark.parametrize(
    "changes",
    [
        "--optimizer sgd --momentum 0.5",
        "--mixup 0.8 --cutmix 1.0 --drop-path-rate 0.2",
        "--mixup 0.8 --cutmix-minmax 0.2 0.8 --mixup-mode elem --batch-size 1 --gradient-accumulation-steps 4",
        "--auto-augment rand-m9-mstd0.5-inc1 --reprob 1 --remode const --recount 2 --random-flip",
        "--lr-scheduler linear --color-jitter 0.4 --device-iterations 2",
        "--lr-scheduler step --decay-epochs 1 --decay-rate 0.5 --use-checkpoint",
        "--lr-legacy --clip-grad 0 --rts --replicas 2 --compile-only false",
        "--ape --patch-norm false --qkv-bias false --qk-scale 0.3 --mlp-ratio 2",
        "--precision 16.16 --accum-type fp32 --first-order-type fp32 --second-order-type fp16 --loss-scaling 8",
        "--img-size 40 52 --window-size 3 5 --drop-rate 0.1 --attn-drop-rate 0.1",
        "--ema-decay 0.9 --ema-every 2 --ema-evaluate --evaluate true",
        "--generated-data --generated-steps 2 --num-classes 5",
        "--model swin_small_patch4_window7_224 --seed 3 --betas 0.8 0.99 --eps 1e-6 --num-classes 10 --amp 0.3",
    ],
    ids=lambda changes: changes.split()[0].lstrip("-") + "_" + changes.split()[1].lstrip("-"),
)
def test_options_train(digits, tmp_path, changes):
    words = tiny(digits, tmp_path / "run", "--training-steps", 2, "--evaluate", "false", *changes.split())
    if "--generated-data" in words:
        del words[2:4]  # --data-path would have no effect
    main(words)
    assert len(losses(tmp_path / "run")) == 2
    assert all(0.5 < loss < 6.0 for loss in losses(tmp_path / "run"))


def test_evaluation_of_the_average_is_that_of_its_weights(digits, tmp_path):
    given = ["--ema-decay", 0.9, "--ema-evaluate", "--training-steps", 6, "--eval-freq", 0.05, "--base-lr", 0.4]
    main(tiny(digits, tmp_path / "run", *given, "--precision", "32.32", "--warmup-epochs", 0))
    held_out = records(tmp_path / "run", "validation")
    assert [line["step"] for line in held_out] == [2, 4, 6]
    for line in held_out[1:]:
        place = tmp_path / "run" / "checkpoints" / f"step-{line['step']}" / "weights" / "ema"
        again = validated(tmp_path / "v", "--checkpoint", place, "--data-path", digits, *SIZES, "--precision", "32.32")
        assert again["loss"] == pytest.approx(line["loss"], rel=1e-5)
    first, last = held_out[0]["loss"], held_out[-1]["loss"]
    assert first != last


def test_compile_only_trains_nothing(digits, tmp_path, capsys):
    main(tiny(digits, tmp_path, "--compile-only"))
    assert "compiled; nothing was trained" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints").exists()


def test_dry_run_stops_after_the_numbers(digits, tmp_path, capsys):
    main(tiny(digits, tmp_path, "--dry-run"))
    assert "global batch   32 = micro-batch 16 × accumulation 2 × replicas 1" in capsys.readouterr().out
    assert (tmp_path / "config.yaml").is_file()
    assert not (tmp_path / "history.jsonl").exists()


def test_training_reads_packed_images_and_archives(digits, tmp_path):
    from dataset.pack import main as pack

    ends = {}
    for kind in ("zip", "packed"):
        more = ["--size", "32"] if kind == "packed" else []
        pack(["--data-path", str(digits), "--output", str(tmp_path / kind), "--format", kind, *more])
        main(tiny(tmp_path / kind, tmp_path / f"run_{kind}", "--training-steps", 2, "--log-every", 1))
        ends[kind] = losses(tmp_path / f"run_{kind}")
    main(tiny(digits, tmp_path / "run_folders", "--training-steps", 2))
    ends["folders"] = losses(tmp_path / "run_folders")
    assert ends["zip"] == ends["folders"]
    # Packing changes nothing at 32 pixels; where simplejpeg is, folders' JPEGs are decoded less exactly.
    assert ends["packed"] == pytest.approx(ends["folders"], abs=2e-3)
    assert HAS_PARTS or ends["packed"] == ends["folders"]
    assert all(records(tmp_path / f"run_{kind}", "validation")[-1]["samples"] == 360 for kind in ends)


def test_archives_whose_splits_differ_in_their_classes_are_refused(digits, tmp_path, attempt):
    for name, split, classes in (("train", "train", (0, 1, 2)), ("val", "validation", (0, 2))):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for number in classes:
                for picture in sorted((digits / split / f"digit_{number}").iterdir())[:16]:
                    archive.write(picture, f"digit_{number}/{picture.name}")
    done = attempt("train_swin.py", *tiny(tmp_path, tmp_path / "run", "--epochs", 1))
    assert (done.status, done.error.count("\n")) == (1, 1), done.error
    assert "class 1 in" in done.error
    assert "is digit_1 in the train split and digit_2 in the validation split" in done.error
    main(tiny(tmp_path, tmp_path / "run", "--epochs", 1, "--evaluate", "false"))


def test_bad_images_are_replaced_listed_and_counted(digits, tmp_path, attempt):
    data = tmp_path / "digits"
    shutil.copytree(digits, data)
    for path in sorted((data / "train" / "digit_0").iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:100])
    given = ["--epochs", 1, "--evaluate", "false", "--overwrite"]
    main(tiny(data, tmp_path / "run", *given, "--bad-image-ratio", 0.01))
    assert len((tmp_path / "run" / "bad_images.txt").read_text().splitlines()) == 5
    done = attempt("train_swin.py", *tiny(data, tmp_path / "run", *given))
    assert done.status == 1
    assert "bad_images.txt" in done.error


def test_a_loss_that_is_not_finite_is_caught_before_the_weights_change(digits, tmp_path, attempt):
    given = ["--training-steps", 3, "--evaluate", "false", "--loss-scaling", "1e39", "--precision", "32.32"]
    done = attempt("train_swin.py", *tiny(digits, tmp_path, *given))
    assert done.status == 1
    assert "step 1 at learning rate" in done.error
    assert "(samples " in done.error


def test_odd_shares_cannot_be_mixed(digits, tmp_path, attempt):
    given = ["--mixup", 0.8, "--batch-size", 3, "--gradient-accumulation-steps", 1]
    done = attempt("train_swin.py", *tiny(digits, tmp_path, *given))
    assert (done.status, done.error.count("\n")) == (2, 1)
    assert "make it an even number" in done.error


def test_the_checkpoint_opens_in_timm(trained):
    import timm

    from models import create_model
    from weights import load_weights, save_weights  # the app's own layout is Microsoft's; timm's is a call away

    source = newest(trained) / "weights"
    ours = create_model("swin_tiny_patch4_window7_224", image_size=32, window_size=4, embed_dim=16, depths=(1, 1),
                        num_heads=(1, 2), num_classes=10)  # fmt: skip
    load_weights(ours, source)
    save_weights(ours, trained.parent / "timm", "timm")
    theirs = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=16, depths=(1, 1),
                               num_heads=(1, 2), num_classes=10)  # fmt: skip
    theirs.load_state_dict(load_file(trained.parent / "timm" / "model.safetensors"), strict=False)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(images), theirs.eval()(images), atol=1e-5)
