"""Whole runs of train.py in this process."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import train
from device import Device
from models import create_model
from tests.scripts import records, tiny
from weights import save_weights


def test_a_run_leaves_what_is_promised(attempt, digits, tmp_path):
    folder = tmp_path / "run"
    some = ["--num_steps", 6, "--eval_every", 4, "--throughput_warmup_steps", 2, "--tensorboard", "true"]
    done = attempt("train.py", *tiny(digits, folder, *some))
    assert (done.status, done.error) == (0, "")
    assert [record["step"] for record in records(folder, "validation")] == [4, 6]  # at the end, too
    for record in records(folder, "validation"):
        assert record["samples"] == 360
        assert 0 <= record["accuracy"] <= record["top5"] <= 1
    last = records(folder, "speed")[-1]
    assert last["images_per_second"] > 0
    assert 0 < last["step_time_p50"] <= last["step_time_p90"] <= last["step_time_p99"]
    assert {"config.yaml", "recipe.json", "history.jsonl", "curves.png", "tensorboard", "checkpoints"} <= {
        path.name for path in folder.iterdir()
    }
    recipe = json.loads((folder / "recipe.json").read_text())
    assert (recipe["batch"], recipe["steps"]) == ({"micro": 8, "accumulation": 2, "cards": 1}, 6)
    assert "16 = micro-batch 8 × accumulation 2 × cards 1; grows with the cards" in done.output
    assert "images/s without warm-up, step time p50" in done.output


def test_a_compiler_traces_it_and_it_computes_the_same(digits, tmp_path, monkeypatch):
    """By torch.compile up to the graphs of both passes, which the backend runs here without generating code."""
    few = ["--num_steps", 3, "--num_hidden_layers", 1, "--hidden_dropout_prob", 0, "--eval_batch_size", 360]
    train.main(tiny(digits, tmp_path / "eager", *few))
    backends, honest = [], torch.compile

    def trace(module, backend):
        backends.append(backend)
        return honest(module, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", trace)
    train.main(tiny(digits, tmp_path / "compiled", *few, "--mode", "compile"))
    assert backends == ["inductor"]
    for split in ("train", "validation"):
        compiled, eager = ([one["loss"] for one in records(tmp_path / run, split)] for run in ("compiled", "eager"))
        assert compiled == pytest.approx(eager, abs=1e-5)


def test_tensorboard_lies_in_the_run_folder_and_has_speed_and_accuracy(digits, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    train.main(tiny(digits, folder, "--num_steps", 3, "--throughput_warmup_steps", 1, "--tensorboard", "true"))
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    wanted = {"loss/train", "learning_rate/train", "throughput/train", "accuracy/validation", "top5/validation"}
    assert wanted | {"images_per_second/speed", "step_time_p99/speed"} <= set(events.Tags()["scalars"])
    assert [point.step for point in events.Scalars("loss/train")] == [1, 2, 3]


def test_pretrained_weights_get_a_new_head_and_move_with_the_run(attempt, digits, tmp_path):
    sizes = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "mlp_width": 64}
    save_weights(create_model("ViT-B_16", image_size=16, num_classes=4, **sizes), tmp_path / "start.npz", "npz")
    given = ["--pretrained_dir", tmp_path / "start.npz", "--num_steps", 2, "--learning_rate", 0]
    done = attempt("train.py", *tiny(digits, tmp_path / "run", *given))
    assert done.status == 0, done.error
    assert "start.npz" in done.output
    assert "resized embeddings.positions" in done.output
    loss = [record["loss"] for record in records(tmp_path / "run", "train")]
    assert loss == pytest.approx([np.log(10)] * 2, rel=1e-5)  # of a head that is zero
    (tmp_path / "start.npz").unlink()
    done = attempt("train.py", *tiny(digits, tmp_path / "run", *given, "--resume", "--num_steps", 3))
    assert done.status == 0, done.error


def test_without_weights_the_run_ends_at_once_or_is_told_to_go_on(attempt, digits, tmp_path):
    missing = ["--pretrained_dir", "checkpoint/ViT-B_16.npz", "--num_steps", 1]
    done = attempt("train.py", *tiny("/nowhere", tmp_path / "run", *missing))  # before the data are looked for
    assert done.status == 1
    assert "checkpoint/ViT-B_16.npz does not exist: fetch https://" in done.error
    assert "/ViT-B_16.npz, or give none for random weights" in done.error
    assert len(done.error.splitlines()) == 1
    done = attempt("train.py", *tiny(digits, tmp_path / "perf", *missing, "--internal-perf-measure"))
    assert done.status == 0, done.error
    assert "training starts from random weights" in done.output


def test_dry_run_prints_the_plan_and_stops(attempt, digits, tmp_path):
    done = attempt("train.py", *tiny(digits, tmp_path / "run", "--dry-run", "--local_rank", 3))
    assert done.status == 0
    assert "global batch" in done.output
    assert "warning: --local_rank has no effect" in done.output
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_second_run_of_the_name_is_refused(attempt, digits, tmp_path):
    arguments = tiny(digits, tmp_path / "run", "--num_steps", 1)
    assert attempt("train.py", *arguments).status == 0
    done = attempt("train.py", *arguments)
    assert done.status == 2
    assert "holds an earlier run: give --resume, --overwrite" in done.error
    assert attempt("train.py", *arguments, "--overwrite").status == 0


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--data_path", "/nowhere"], 1, "/nowhere does not exist: correct the path"),
        (["--img_size", "33"], 2, "not a multiple of the patches"),
        (["--num_attention_heads", "3"], 2, "not divisible by 3 heads"),
        (["--train_batch_size", "2000"], 2, "one optimizer step takes 2000"),
        (["--global_batch_size", "9"], 2, "no multiple of 1 cards × micro-batch 8"),
        (["--num_classes", "7"], 1, "10 classes and the model is set up for 7"),
        (["--resume", "/nowhere"], 1, "/nowhere is not a folder"),
        (["--learning_rate", "1e30", "--max_grad_norm", "0"], 1, "is not finite (samples"),
    ],
)
def test_what_goes_wrong_is_one_sentence(attempt, digits, tmp_path, flags, status, said):
    done = attempt("train.py", *tiny(digits, tmp_path / "run", "--num_steps", 9, *flags))
    assert done.status == status
    assert said in done.error
    assert done.error.startswith("error: ")
    assert len(done.error.splitlines()) == 1


def test_a_bad_image_is_replaced_and_listed(attempt, tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (20, 14), (number * 60, 9, 9)).save(tmp_path / f"data/{split}/{name}/{number}.jpg")
    for name in ("cat/1.jpg", "dog/2.jpg"):
        (tmp_path / "data/train" / name).write_bytes(b"\xff\xd8 no image")
    flags = ["--train_batch_size", 8, "--num_steps", 2, "--bad_image_ratio", 0.3, "--dataset", "imagenet1K"]
    done = attempt("train.py", *tiny(tmp_path / "data", tmp_path / "run", *flags))
    assert done.status == 0, done.error
    assert "cat/1.jpg" in (tmp_path / "run" / "bad_images.txt").read_text()
    flags[flags.index("--bad_image_ratio") + 1] = 0.01
    done = attempt("train.py", *tiny(tmp_path / "data", tmp_path / "strict", *flags))
    assert done.status == 1
    assert "2 of 8 images cannot be decoded" in done.error


@pytest.mark.parametrize(("flags", "saved"), [(["--checkpoint_save_steps", 1], "step-1"), ([], "")])
def test_what_an_accelerator_spoilt_between_reports_is_not_saved(attempt, digits, tmp_path, monkeypatch, flags, saved):
    monkeypatch.setattr(Device, "is_cpu", False)
    wild = ["--learning_rate", 1e30, "--max_grad_norm", 0, "--warmup_steps", 0, "--log_every", 100, "--num_steps", 9]
    done = attempt("train.py", *tiny(digits, tmp_path / "run", *wild, *flags))
    assert done.status == 1
    assert "of step 2 at learning rate" in done.error
    assert "".join(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")) == saved
