"""What a crash of the machine may take: nothing that a run still needs."""

import os
from pathlib import Path

import tensorflow as tf

from checkpoints import Checkpoints, listed
from files import write_atomically


def watch(monkeypatch):
    """Names in the order in which they were flushed (+) and removed (-), temporary names shortened."""
    events, flush, remove = [], os.fsync, Path.unlink

    def fsync(descriptor):
        events.append("+" + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        flush(descriptor)

    def unlink(self, missing_ok=False):
        if self.exists():
            events.append("-" + self.name)
        remove(self, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "unlink", unlink)
    return events


def test_a_file_and_then_its_name_are_on_the_disk(tmp_path, monkeypatch):
    events = watch(monkeypatch)
    write_atomically(tmp_path / "x", "content")
    assert events == [f"+.x.{os.getpid()}.tmp", f"+{tmp_path.name}"]


def test_a_checkpoint_is_on_the_disk_before_the_one_before_it_goes(tmp_path, monkeypatch):
    model = tf.keras.Sequential([tf.keras.layers.Dense(2, input_shape=(3,))])
    saved = Checkpoints(tmp_path / "run", model, tf.keras.optimizers.SGD(), keep=1)
    saved.save(1)
    events = watch(monkeypatch)
    saved.save(2)
    assert [prefix.name for prefix in listed(tmp_path / "run")] == ["ckpt-2"]
    going = min(number for number, event in enumerate(events) if event.startswith("-ckpt-1"))
    flushed = events[:going]
    assert {"+ckpt-2.index", "+ckpt-2.data-00000-of-00001"} <= set(flushed)
    assert flushed[-1] == "+run"  # the folder, with the names of all of them
