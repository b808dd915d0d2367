"""train.py on a tiny model: what it writes, its run folder, its flags."""

import json

import numpy as np
import pytest
import tensorflow as tf

import building
import checkpoints
from models import create_model
from tests.runs import final_weights, measured, tiny
from weights import read_npz, save_npz


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A whole run with nearly every flag."""
    import train

    folder = tmp_path_factory.mktemp("run") / "run"
    flags = ["--epochs", 3, "--steps_per_epoch", 4, "--checkpoint_steps", 2, "--keep_checkpoints", 2, "--seed", 5]
    flags += ["--save_summary_steps", 2, "--profile", "3,4", "--initial_lr", 0.3, "--dropout", 0.2, "--clip_norm", 2]
    train.main(tiny(digits, folder, *flags))
    return folder


def test_it_writes_all_there_is_to_keep(run):
    names = {path.name for path in run.iterdir()} - {".lock"}
    assert names == {"config.json", "history.jsonl", "curves.png", "weights.npz", "checkpoints", "logs"}
    assert (run / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_history_holds_every_update_and_validation(run):
    records = measured(run)
    assert [(r["step"], r["split"]) for r in records] == [
        (1, "train"), (2, "train"), (2, "validation"),
        (3, "train"), (4, "train"), (4, "validation"),
        (5, "train"), (6, "train"), (6, "validation"),
    ]  # fmt: skip
    train = [r for r in records if r["split"] == "train"]
    assert [r["learning_rate"] for r in train[:3]] == pytest.approx([0.0, 0.3 * 2 / 4, 0.3])
    assert all(r["samples"] == 37 for r in records if r["split"] == "validation")
    assert all(0 <= r["accuracy"] <= 1 and r["gradient_norm"] > 0 for r in train)


def test_config_tells_what_the_run_was(run):
    config = json.loads((run / "config.json").read_text())
    assert config["options"]["seed"] == 5
    assert config["options"]["device"] == "CPU"
    assert config["options"]["num_classes"] == config["vit"]["num_classes"] == 10
    assert config["class_names"] == [str(number) for number in range(1, 11)]


def test_the_newest_and_the_best_checkpoints_are_kept(run):
    assert [path.name for path in checkpoints.listed(run / "checkpoints")] == ["ckpt-6", "ckpt-5"]
    validations = [r for r in measured(run) if r["split"] == "validation"]
    best = max(validations, key=lambda r: (r["accuracy"], -r["step"]))
    assert [path.name for path in checkpoints.listed(run / "checkpoints" / "best")] == [f"ckpt-{best['step']}"]


def summaries(logs):
    """(folder, tag) → steps of its entries."""
    tags = {}
    for folder in (logs, logs / "eval"):
        for path in folder.glob("events.*"):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    tags.setdefault((folder.name, value.tag), []).append(event.step)
    return tags


def test_tensorboard_has_the_documents_tags(run):
    tags = summaries(run / "logs")
    assert tags["logs", "lr"] == tags["logs", "loss"] == tags["logs", "accuracy"] == [0, 1, 2]
    assert tags["eval", "loss"] == tags["eval", "accuracy"] == [0, 1, 2]
    assert tags["eval", "evaluation_accuracy_vs_iterations"] == [2, 4, 6]
    assert tags["logs", "batch_loss"] == tags["logs", "examples/sec"] == [2, 4, 6, 8, 10, 12]
    assert ("logs", "_hparams_/session_start_info") in tags


def test_the_profile_is_there(run):
    assert list((run / "logs").rglob("*.xplane.pb"))


def test_weights_and_last_checkpoint_agree_and_the_evaluation_repeats(run, digits, attempt):
    model = create_model(config=building.ViTConfig(**json.loads((run / "config.json").read_text())["vit"]))
    building.load_any(model, run / "checkpoints" / "ckpt-6")
    save_npz(model, run.parent / "last.npz")
    one, other = read_npz(run.parent / "last.npz"), final_weights(run)
    assert all((one[name] == other[name]).all() for name in one)
    last = [r for r in measured(run) if r["split"] == "validation"][-1]
    for path in (run / "weights.npz", run / "checkpoints" / "ckpt-6"):
        done = attempt("train.py", *tiny(digits, run.parent / "unused", "--evaluate_checkpoint_path", path))
        assert done.status == 0, done.error
        assert f"accuracy {last['accuracy']:.4f}, top-5 {last['top5']:.4f} (37 samples)" in done.output
    assert not (run.parent / "unused").exists()


def test_a_run_does_not_evaluate_with_another_number_of_heads(run, digits, attempt):
    """Nothing in the shapes of a checkpoint tells; the numbers would be wrong."""
    for flag in ("--evaluate_checkpoint_path", "--weights"):
        words = tiny(digits, run.parent / "heads", flag, run)
        words[words.index("--num_heads") + 1] = "4"
        done = attempt("train.py", *words)
        assert done.status == 1
        assert "is of 2 heads, the model of 4" in done.error


def test_a_foreign_config_is_one_sentence(tmp_path, digits, attempt):
    """Hugging Face's models have a config.json, too."""
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    image = tmp_path / "image.png"
    image.touch()
    resume = tiny(digits, tmp_path, "--resume_from_checkpoint_path", tmp_path, "--weights", "none")
    (tmp_path / "checkpoints").mkdir()
    for suffix in (".index", ".data-00000-of-00001"):
        (tmp_path / "checkpoints" / f"ckpt-1{suffix}").touch()
    checkpoints._record(tmp_path / "checkpoints" / "ckpt-1")
    for words in (["predict.py", "--checkpoint", tmp_path, image], ["train.py", *resume]):
        done = attempt(*words)
        assert done.status == 1
        assert "holds a config.json that is not of this program: give a run folder" in done.error


def test_without_a_device_the_record_names_the_one_that_was_found(digits, tmp_path, attempt):
    words = tiny(digits, tmp_path / "run", "--dry_run")
    at = words.index("--device")
    found = attempt("train.py", *words[:at], *words[at + 2 :])
    device = json.loads((tmp_path / "run" / "config.json").read_text())["options"]["device"]
    assert f"device: {device} (" in found.output


def test_summaries_come_when_asked_for_whatever_the_reports(digits, tmp_path, attempt):
    flags = ["--epochs", 1, "--steps_per_epoch", 12, "--save_summary_steps", 4, "--validation_steps", 0]
    words = tiny(digits, tmp_path / "run", *flags)
    words[words.index("--log_every") + 1] = "5"
    done = attempt("train.py", *words)
    assert done.status == 0, done.error
    assert summaries(tmp_path / "run" / "logs")["logs", "batch_loss"] == [4, 8, 12]
    assert [r["step"] for r in measured(tmp_path / "run")] == [5, 6]
    assert done.output.count("Step ") == 2


def test_summaries_of_a_resumed_run_count_from_where_it_goes_on(tmp_path):
    import callbacks

    written = callbacks.TensorBoardScalars(tmp_path, start=8, every=8, options={})
    for batch in (9, 15):
        written.on_train_batch_end(batch, {"update": 1, "loss": 0.5})
    written.on_train_end()
    assert summaries(tmp_path)[tmp_path.name, "global_step/sec"] == [16]


def test_a_run_folder_is_not_mixed_with_an_earlier_run(run, digits, attempt):
    done = attempt("train.py", *tiny(digits, run))
    assert done.status == 2
    assert "holds an earlier run" in done.error
    assert len(measured(run)) == 9


def test_overwrite_removes_the_runs_files_only(digits, tmp_path, attempt):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    done = attempt("train.py", *tiny(digits, folder, "--epochs", 1, "--steps_per_epoch", 1, "--overwrite"))
    assert done.status == 0, done.error
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_in_use_is_locked(digits, tmp_path, attempt):
    import fcntl

    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = attempt("train.py", *tiny(digits, tmp_path))
    assert done.status == 1
    assert "is in use" in done.error


def test_a_dry_run_leaves_an_earlier_run_alone(digits, tmp_path, attempt):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    assert attempt("train.py", *tiny(digits, folder, "--dry_run", "--overwrite")).status == 2
    assert (folder / "checkpoints").is_dir()


def test_only_the_shards_that_are_read_have_to_be_there(run, digits, tmp_path, attempt):
    (tmp_path / "validation").symlink_to(digits / "validation")
    flags = ["--evaluate_checkpoint_path", run]
    assert "has no shards like train/train" in attempt("train.py", *tiny(tmp_path, tmp_path / "u", *flags)).error
    names = [str(number) for number in range(10)]
    (tmp_path / "dataset_info.json").write_text(json.dumps({"classes": names}))
    done = attempt("train.py", *tiny(tmp_path, tmp_path / "u", *flags))
    assert done.status == 0, done.error
    (tmp_path / "train").symlink_to(digits / "train")
    (tmp_path / "validation").unlink()
    done = attempt("train.py", *tiny(tmp_path, tmp_path / "new", "--steps_per_epoch", 1, "--validation_steps", 0))
    assert done.status == 0, done.error


def test_dry_run_prints_and_saves_the_numbers_only(digits, tmp_path, attempt, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = tiny(digits, tmp_path / "run", "--dry_run")
    for _ in range(2):  # nothing that a dry run leaves is in the way of the next
        done = attempt("train.py", *words)
        assert done.status == 0, done.error
    assert "16 = 8 × 1 workers × 2 micro-steps" in done.output
    assert "12 micro-steps, 6 updates, 96 of 96 images" in done.output
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", ".lock"}


def test_without_output_runs_are_numbered(digits, tmp_path, attempt, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = tiny(digits, tmp_path, "--dry_run")
    at = words.index("--output")
    del words[at : at + 2]
    (tmp_path / "output" / "ViT-B_16").mkdir(parents=True)
    (tmp_path / "output" / "ViT-B_16" / "history.jsonl").touch()
    assert attempt("train.py", *words).status == 0
    assert (tmp_path / "output" / "ViT-B_16-2" / "config.json").is_file()


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--dataset", "/nowhere"], 1, "/nowhere does not exist"),
        (["--dataset", __file__], 1, "test_train.py does not exist"),
        (["--num_classes", 3], 2, "--num_classes 3 is less than the 10 classes"),
        (["--image_size", 20], 2, "image size 20 is not a multiple of the patch size 8"),
        (["--weights", "none.npz"], 1, "none.npz"),
        (["--resume_from_checkpoint_path", "/nowhere"], 1, "there is no checkpoint /nowhere"),
        (["--evaluate_checkpoint_path", "/nowhere"], 1, "there is no checkpoint /nowhere"),
        (["--train_subset", "train/x"], 1, "train/x"),
        (["--epochs", 2, "--steps_per_epoch", 5, "--profile", "12,15"], 2, "after the run's last micro-step, 10"),
    ],
)
def test_mistakes_are_one_sentence(digits, tmp_path, attempt, flags, status, said):
    done = attempt("train.py", *tiny(digits, tmp_path / "run", *flags))
    assert done.status == status
    assert said in done.error
    assert "Traceback" not in done.error
    assert done.error.count("\n") == 1


def test_a_weight_file_to_resume_from_begins_at_its_epoch(run, digits, tmp_path, attempt):
    flags = ["--resume_from_checkpoint_path", run / "weights.npz", "--resume_from_epoch", 2, "--epochs", 3]
    flags += ["--steps_per_epoch", 2, "--initial_lr", 0, "--validation_steps", 2, "--augmentation", "google"]
    done = attempt("train.py", *tiny(digits, tmp_path / "run", *flags))
    assert done.status == 0, done.error
    records = measured(tmp_path / "run")
    assert [(r["step"], r["split"]) for r in records] == [(3, "train"), (3, "validation")]
    assert records[1]["samples"] == 16
    before, after = final_weights(run), final_weights(tmp_path / "run")
    assert all((before[name] == after[name]).all() for name in before)


def test_weights_of_another_run_get_a_new_head_unless_asked(run, digits, tmp_path, attempt):
    for number, more in enumerate(([], ["--pretrained_top"])):
        flags = ["--weights", run, "--epochs", 1, "--steps_per_epoch", 1, "--lr_sched", "constant"]
        flags += ["--initial_lr", 0, "--validation_steps", 0, *more]
        words = tiny(digits, tmp_path / str(number), *flags)
        at = words.index("--warmup_steps")
        done = attempt("train.py", *words[:at], *words[at + 2 :])
        assert done.status == 0, done.error
        found = final_weights(tmp_path / str(number))
        assert np.any(found["head/kernel"]) == bool(more)
        assert [r["split"] for r in measured(tmp_path / str(number))] == ["train"]


def test_bf16_vit_keras_and_other_schedules_and_optimizers_run(digits, tmp_path, attempt):
    words = tiny(digits, tmp_path / "run", "-d", "bf16", "--variant", "vit_keras", "--optimizer", "rmsprop")
    at = words.index("--warmup_steps")
    words = [*words[:at], *words[at + 2 :], "--lr_sched", "exp", "--final_lr", "0.001", "--initial_lr", "0.01"]
    try:
        done = attempt("train.py", *words, "--epochs", 2, "--steps_per_epoch", 2, "--eval_resize", "squash")
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert done.status == 0, done.error
    assert "bf16" in done.output
    rates = [r["learning_rate"] for r in measured(tmp_path / "run") if r["split"] == "train"]
    assert rates == pytest.approx([0.01, 0.001])
    assert final_weights(tmp_path / "run")["head/kernel"].dtype == np.float32


def test_dump_config_dumps(digits, tmp_path, attempt):
    file = tmp_path / "dump.json"
    file.write_text(json.dumps({"dump_root": str(tmp_path / "dump"), "tensor_debug_mode": "CURT_HEALTH"}))
    try:
        words = tiny(digits, tmp_path / "run", "--dump_config", file, "--epochs", 1, "--steps_per_epoch", 1)
        done = attempt("train.py", *words, "--validation_steps", 0)
    finally:
        tf.debugging.experimental.disable_dump_debug_info()
    assert done.status == 0, done.error
    assert list((tmp_path / "dump").glob("tfdbg_events.*"))
