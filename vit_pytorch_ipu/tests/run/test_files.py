"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from run.files import digest, files_below, write_atomically


def test_content_is_replaced_whole(tmp_path):
    for content in ("first ü", b"second"):
        write_atomically(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a.txt", "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_files_and_digests(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/d", "b/e", "a"):
        (tmp_path / name).write_bytes(name.encode() * 1_000_000)
    assert list(files_below(tmp_path)) == ["a", "b/c/d", "b/e"]
    assert digest(tmp_path / "b" / "e") == hashlib.sha256(b"b/e" * 1_000_000).hexdigest()
