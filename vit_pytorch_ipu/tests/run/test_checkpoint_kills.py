"""kill -9 of a process that saves: at every operation on files, and at random moments."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback

import pytest
import torch

from run.checkpoints import Checkpoints, verify

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}  # reading changes nothing and is not counted
STEPS = [1, 2, 2, 3]  # a new one, another, a replacement, one that prunes


def state_of(version):
    return {"version": version, "weights": torch.full((50,), float(version)), "nested": {1: (version, None)}}


def save(kept, step, version):
    kept.save(step, state_of(version), writers={"weights.txt": lambda path: path.write_text(str(version))})


def check(folder, at_least):
    """The newest intact checkpoint is whole and no older than what was finished; return its version."""
    read = Checkpoints(folder, keep=1, tell=pytest.fail).load()
    if read is None:
        assert at_least == 0
        return 0
    version = read.state["version"]
    assert at_least <= version <= at_least + 1
    assert read.state["weights"].equal(torch.full((50,), float(version)))
    assert read.state["nested"] == {1: (version, None)}
    assert (read.folder / "weights.txt").read_text() == str(version)
    return version


def in_child(work):
    """Run `work(report)` in a forked process; return its id and the end of a pipe that gets what it reports."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(lambda version: os.write(writing, b"%d\n" % version))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    return child, reading


def finish(child, reading):
    """Wait for a child; return whether it was killed and the last version that it reported."""
    _, status = os.waitpid(child, 0)
    done = b"".join(iter(lambda: os.read(reading, 1000), b""))
    os.close(reading)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status), max(map(int, done.split()), default=0)


def save_all(folder, report, kill_at=None):
    count = [0]

    def hook(event, args):
        if event in OPERATIONS and (event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR)):
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    os.fsync = lambda descriptor: None  # a kill, unlike a power cut, loses nothing that was written; saves time
    kept = Checkpoints(folder, keep=1)
    for version, step in enumerate(STEPS, start=1):
        save(kept, step, version)
        report(version)
    return count[0]


def test_a_kill_before_any_operation_on_files_loses_nothing_that_was_finished(tmp_path):
    point, killed, seen = 0, True, set()
    while killed:
        point += 1
        folder = tmp_path / str(point)
        killed, finished = finish(*in_child(lambda report: save_all(folder, report, kill_at=point)))  # noqa: B023
        seen.add(check(folder, finished))
        kept = Checkpoints(folder, keep=1)
        kept.save(9, state_of(9))
        assert kept.load().state["version"] == 9
        assert sorted(path.name for path in folder.iterdir()) == ["latest.json", "step-9"]
    assert point > 40
    assert seen == {0, 1, 2, 3, 4}


def test_random_kills_of_a_process_that_saves_without_end(tmp_path):
    chance = random.Random(0)
    version, kills = 0, 0

    def work(report):
        kept = Checkpoints(tmp_path, keep=2)
        for number in range(version + 1, version + 200):
            save(kept, number % 7, number)
            report(number)

    while kills < 20:
        child, reading = in_child(work)
        time.sleep(chance.uniform(0.002, 0.08))
        os.kill(child, signal.SIGKILL)
        killed, finished = finish(child, reading)
        assert killed
        kills += 1
        version = check(tmp_path, max(finished, version))
        for folder in tmp_path.glob("step-*"):
            verify(folder)
    assert version >= 3
