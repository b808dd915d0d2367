"""Run folders: locks between real processes, earlier runs, resuming."""

from __future__ import annotations

import os
import signal

import pytest

from run.errors import UsageError, UserError
from run.folder import open_run


def earlier_run(path):
    (path / "checkpoints" / "step-3").mkdir(parents=True)
    (path / "history.jsonl").write_text("{}\n")
    (path / "config.yaml").write_text("a: 1\n")
    (path / "my notes.txt").write_text("mine")


@pytest.fixture
def holder(tmp_path):
    """A process that holds the run folder, with a child of its own as a loader's worker is."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            with open_run(tmp_path / "run", resume=False):
                os.fork()
                os.write(writing, b"x")
                signal.pause()
        finally:
            os._exit(0)
    os.read(reading, 2)
    yield child
    os.killpg(child, signal.SIGKILL)
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_new_folder_is_made_with_its_parents(tmp_path):
    with open_run(tmp_path / "a" / "b", resume=False) as folder:
        assert folder.path.is_dir()
        assert not folder.resuming
        assert folder.checkpoints == tmp_path / "a" / "b" / "checkpoints"
        assert folder.config == tmp_path / "a" / "b" / "config.yaml"


def test_a_folder_in_use_is_refused_with_its_holder_and_free_when_that_is_killed(tmp_path, holder):
    for choice in ({"resume": True}, {"resume": False}, {"resume": False, "overwrite": True}):
        with pytest.raises(UserError, match="is in use by process %d on " % holder):
            with open_run(tmp_path / "run", **choice):
                pytest.fail("not locked")
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with open_run(tmp_path / "run", resume=True):  # although the worker still runs
        pass


def test_a_second_time_in_the_same_process_is_refused_too(tmp_path):
    with open_run(tmp_path, resume=False):
        with pytest.raises(UserError, match="in use by process %d" % os.getpid()):
            with open_run(tmp_path / "." / "", resume=False):
                pytest.fail("not locked")
    with open_run(tmp_path, resume=False):
        pass


def test_lock_goes_with_an_error(tmp_path):
    with pytest.raises(KeyError):
        with open_run(tmp_path, resume=False):
            raise KeyError
    with open_run(tmp_path, resume=False):
        pass


def test_an_earlier_run_is_only_touched_on_request(tmp_path):
    earlier_run(tmp_path)
    for _ in range(2):
        with pytest.raises(UsageError, match="holds an earlier run: give --resume, --overwrite or another --output"):
            with open_run(tmp_path, resume=False):
                pytest.fail("not refused")
    with open_run(tmp_path, resume=True) as folder:
        assert folder.resuming
    assert (tmp_path / "checkpoints" / "step-3").is_dir()


@pytest.mark.parametrize("name", ["run", "file"])
def test_the_flag_for_another_folder_is_the_scripts(tmp_path, name, holder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"give another --name$"):
        with open_run(tmp_path / name, resume=True, flag="--name"):
            pytest.fail("not refused")


def test_overwrite_removes_a_run_and_nothing_else(tmp_path):
    earlier_run(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with open_run(tmp_path, resume=False, overwrite=True) as folder:
        assert not folder.resuming
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "my notes.txt", "elsewhere"}


def test_the_options_that_a_dry_run_leaves_are_no_earlier_run(tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with open_run(tmp_path, resume=False) as folder:
        assert not folder.resuming


def test_resuming_without_a_checkpoint_starts_afresh_and_says_so(tmp_path, capsys):
    (tmp_path / "history.jsonl").write_text("")
    with open_run(tmp_path, resume=True) as folder:
        assert not folder.resuming
    assert "nothing to resume in %s" % tmp_path in capsys.readouterr().out


def test_what_a_killed_first_save_left_is_nothing_to_resume(tmp_path, capsys):
    (tmp_path / "checkpoints" / ".saving-step-3").mkdir(parents=True)
    with open_run(tmp_path, resume=True) as folder:
        assert not folder.resuming
    assert "nothing to resume in %s" % tmp_path in capsys.readouterr().out
    (tmp_path / "checkpoints" / ".replaced-step-2").mkdir()  # which was whole
    with open_run(tmp_path, resume=True) as folder:
        assert folder.resuming


def test_resume_and_overwrite_contradict(tmp_path):
    with pytest.raises(UsageError, match="give one of them"):
        with open_run(tmp_path, resume=True, overwrite=True):
            pytest.fail("not refused")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't be used as run folder .*: give another --output"):
        with open_run(tmp_path / "file", resume=False):
            pytest.fail("not refused")
