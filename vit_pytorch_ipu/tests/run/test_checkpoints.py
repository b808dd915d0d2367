"""Checkpoints: exactness, damage, pruning, pointers and pickles."""

from __future__ import annotations

import errno
import json
import os
import pickle

import pytest
import torch

from run import checkpoints as module
from run.checkpoints import Checkpoints, best_of_run, find, verify
from run.errors import UserError
from run.manifest import write_manifest


@pytest.fixture
def said():
    return []


@pytest.fixture
def kept(tmp_path, said):
    return Checkpoints(tmp_path / "checkpoints", keep=2, tell=said.append)


def state_of(step):
    return {"step": step, "weights": torch.full((4, 3), float(step)), "optimizer": {0: (step, [0.1])}}


def steps(kept):
    return sorted(int(path.name[5:]) for path in kept.folder.glob("step-*"))


def write_extra(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "deep").mkdir()
    (folder / "deep" / "model.bin").write_bytes(bytes(range(256)))


def test_nothing_there(kept, tmp_path):
    assert kept.load() is None
    assert kept.load("best") is None
    assert not kept.folder.exists()
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        kept.load(3)
    with pytest.raises(UserError, match="is not a folder"):
        find(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no latest checkpoint"):
        find(tmp_path)


def test_a_saved_state_is_read_back_with_step_metric_and_files(kept):
    folder = kept.save(7, state_of(7), writers={"weights": write_extra}, metric=0.25)
    read = kept.load()
    assert folder == read.folder == kept.folder / "step-7"
    assert (read.step, read.metric) == (7, 0.25)
    assert read.state["weights"].equal(torch.full((4, 3), 7.0))
    assert read.state["optimizer"] == {0: (7, [0.1])}
    assert (folder / "weights" / "deep" / "model.bin").read_bytes() == bytes(range(256))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("manifest.json", "state.json", "state.safetensors", "weights/config.json", "weights/deep/model.bin"),
    }


def test_newest_are_kept_and_the_best_always(kept):
    for step, metric in [(1, 0.5), (2, 0.9), (3, None), (4, 0.9), (5, float("nan")), (6, 0.1)]:
        kept.save(step, state_of(step), metric=metric)
    assert steps(kept) == [2, 5, 6]
    assert kept.load("best").step == 2  # the earlier of equals
    assert kept.load().step == 6
    assert kept.load(5).metric is None
    assert json.loads((kept.folder / "best.json").read_text()) == {"step": 2, "folder": "step-2", "metric": 0.9}
    assert json.loads((kept.folder / "latest.json").read_text())["folder"] == "step-6"
    kept.save(7, state_of(7), metric=1.5)
    assert steps(kept) == [6, 7]
    assert json.loads((kept.folder / "best.json").read_text())["step"] == 7


def test_keep_zero_keeps_all(tmp_path):
    kept = Checkpoints(tmp_path, keep=0)
    for step in range(5):
        kept.save(step, state_of(step))
    assert steps(kept) == [0, 1, 2, 3, 4]


def test_latest_is_what_was_written_last_even_with_a_lower_step(kept):
    for step in (100, 200, 150):
        kept.save(step, state_of(step))
    assert kept.load().step == 150
    assert kept.load("200").step == 200


def test_saving_a_step_again_replaces_it(kept):
    kept.save(1, {"version": 1}, metric=0.9)
    kept.save(1, {"version": 2}, metric=0.1)
    assert kept.load().state == {"version": 2}
    assert kept.load("best").metric == 0.1
    assert sorted(path.name for path in kept.folder.iterdir()) == ["best.json", "latest.json", "step-1"]


def test_every_flipped_byte_and_every_cut_is_noticed(kept):
    folder = kept.save(1, state_of(1), writers={"weights": write_extra}, metric=0.5)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        damages = [content[:cut] for cut in {0, len(content) // 2, len(content) - 1}] + [content + b"x"]
        for place in range(len(content)):
            damages.append(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        for damaged in damages:
            path.write_bytes(damaged)
            with pytest.raises(UserError) as caught:
                verify(folder)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
        path.unlink()
        with pytest.raises(UserError, match="can't be read"):
            verify(folder)
        path.write_bytes(content)
    verify(folder)


@pytest.mark.parametrize("name", ["state.json", "state.safetensors", "manifest.json"])
def test_reading_walks_back_to_the_newest_intact_one_and_says_so(kept, said, name):
    for step in (1, 2):
        kept.save(step, state_of(step), metric=step / 10)
    damaged = kept.folder / "step-2" / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for which in ("latest", "best"):
        said.clear()
        assert kept.load(which).step == 1
        assert len(said) == 1
        assert said[0].startswith("skipping checkpoint step-2: %s " % damaged)
    with pytest.raises(UserError, match=name):
        kept.load(2)
    with pytest.raises(UserError, match=name):
        kept.load(kept.folder / "step-2")
    kept.save(2, state_of(2))
    assert kept.load(2).state["step"] == 2


def test_no_intact_one_is_an_error_not_a_fresh_start(kept):
    kept.save(1, state_of(1))
    (kept.folder / "step-1" / "state.json").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact"):
        kept.load()


def test_a_damaged_checkpoint_neither_replaces_nor_prunes_an_intact_one(kept, monkeypatch):
    for step in (1, 2):
        kept.save(step, state_of(step))
    writes = module.write_manifest

    def write_then_damage(folder, **about):
        writes(folder, **about)
        (folder / "state.json").write_text("{}")

    monkeypatch.setattr(module, "write_manifest", write_then_damage)
    for step in (2, 3):
        with pytest.raises(UserError, match=r"step-%d/state\.json has" % step):
            kept.save(step, state_of(-1))
    assert steps(kept) == [1, 2]
    assert json.loads((kept.folder / "latest.json").read_text())["step"] == 2
    assert kept.load().state["step"] == 2


def test_a_failed_save_leaves_everything_as_it_was(kept):
    kept.save(1, state_of(1))
    before = sorted(path.name for path in kept.folder.iterdir())

    def full(path):
        path.write_text("begun")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with pytest.raises(OSError, match="No space"):
        kept.save(2, state_of(2), writers={"weights": full})
    with pytest.raises(TypeError, match="set at /x"):
        kept.save(1, {"x": {1}})
    assert sorted(path.name for path in kept.folder.iterdir()) == before
    assert kept.load().state["step"] == 1


def test_a_full_disk_under_safetensors_keeps_its_error_number(kept, monkeypatch):
    def full(tensors, path):
        raise module.SafetensorError("I/O error: No space left on device (os error %d)" % errno.ENOSPC)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError) as caught:
        kept.save(1, state_of(1))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.endswith("state.safetensors")


def test_only_our_own_left_overs_are_cleared_and_only_by_a_save(kept):
    kept.save(1, state_of(1))
    ours = [".saving-step-5", ".removing-step-2", ".replaced-step-1"]
    others = [".saving-notes", "step-by-step", ".replaced-step-x", ".cache", "saving-step-3"]
    for name in ours + others:
        (kept.folder / name).mkdir()
    (kept.folder / ".latest.json.123.tmp").write_text("{")
    again = Checkpoints(kept.folder, keep=2)
    assert again.load().step == 1
    assert (kept.folder / ".saving-step-5").exists()
    again.save(2, state_of(2))
    there = {path.name for path in kept.folder.iterdir()}
    assert there == {"best.json", "latest.json", "step-1", "step-2", *others} - {"best.json"}


def test_a_checkpoint_that_was_being_replaced_counts_until_its_successor_is_there(kept):
    kept.save(4, state_of(4))
    os.rename(kept.folder / "step-4", kept.folder / ".replaced-step-4")
    again = Checkpoints(kept.folder)
    assert again.load().step == 4
    again.save(5, state_of(5))
    assert again.load(4).folder == kept.folder / "step-4"


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_pickles_are_never_loaded(kept, tmp_path, name):
    kept.save(1, state_of(1))
    folder, mark = kept.folder / "step-1", tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(str(mark)))
    (folder / name).write_bytes(bomb)
    (folder / "training_state.pt").write_bytes(bomb)
    (folder / "manifest.json").unlink()
    write_manifest(folder, step=1, serial=1, metric=None)
    verify(folder)
    with pytest.raises(UserError, match="holds no state that can be read"):
        kept.load()
    assert not mark.exists()


def test_another_format_is_refused(kept):
    folder = kept.save(1, state_of(1))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="format 2, this program reads 1"):
        verify(folder)


@pytest.mark.parametrize("text", ["", "[]", "5", "null", '{"step": 1}', "[" * 100000, "\x00", '{"format": "x"}'])
def test_a_manifest_that_makes_no_sense_is_damage(kept, text):
    folder = kept.save(1, state_of(1))
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        verify(folder)


@pytest.mark.parametrize("name", ["a/b", "../x", "state.json", "manifest.json"])
def test_writers_stay_inside_the_checkpoint(kept, name):
    with pytest.raises(ValueError):
        kept.save(1, {}, writers={name: write_extra})


def test_find_takes_a_run_folder_its_checkpoints_one_of_them_or_a_last_word(kept, tmp_path):
    for step, metric in [(1, 0.9), (2, 0.1)]:
        kept.save(step, state_of(step), metric=metric)
    one, two = kept.folder / "step-1", kept.folder / "step-2"
    assert find(tmp_path) == find(kept.folder) == find(two) == find(tmp_path / "latest") == find(str(tmp_path)) == two
    assert find(tmp_path, "best") == find(tmp_path / "best") == find(kept.folder / "best") == one
    assert find(tmp_path, 1) == find(tmp_path, "1") == find(tmp_path / "step-1") == find(tmp_path / "step_1") == one
    with pytest.raises(UserError, match=r"no checkpoint of step 3 in .*: there are 1, 2"):
        find(tmp_path / "step-3")
    (two / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state\.json"):
        find(two)
    assert find(tmp_path) == one


def test_best_without_a_metric_names_the_remedy(kept, tmp_path):
    kept.save(1, state_of(1))
    assert kept.load("best") is None
    with pytest.raises(UserError, match=r"no best checkpoint: none has a metric, ask for .*/latest"):
        find(tmp_path, "best")


@pytest.mark.parametrize(("metrics", "step"), [((0.9, 0.1), 1), ((0.1, 0.9), 2), ((None, None), 2)])
def test_the_best_checkpoint_of_a_run(tmp_path, metrics, step):
    """The latest of a run that was never evaluated."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for number, metric in enumerate(metrics, 1):
        checkpoints.save(number, {}, metric=metric)
    assert best_of_run(str(tmp_path)) == str(tmp_path / "checkpoints" / f"step-{step}")
    assert best_of_run("google/vit-base-patch16-224-in21k") == "google/vit-base-patch16-224-in21k"
