from __future__ import annotations

import os
import subprocess
import sys

import pytest

from common.sample import write_sample

SYNSETS = ("n01440764", "n01443537", "n02105855")


@pytest.fixture
def folder(tmp_path):
    """A folder called "data" and the means to fill it."""
    return Filler(tmp_path / "data")


class Filler:
    def __init__(self, root):
        self.root = root
        root.mkdir()

    def touch(self, *names):
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def write(self, name, content):
        self.touch(name)
        (self.root / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def classes(self, split, names=SYNSETS, images=2):
        self.touch(*(f"{split}/{name}/{name}_{k}.JPEG" for name in names for k in range(images)))

    def good(self, names=SYNSETS, validation="validation"):
        self.classes("train", names)
        self.classes(validation, names, 1)
        return self.root


@pytest.fixture
def cli():
    def run(*arguments):
        environment = {**os.environ, "PYTHONWARNINGS": "error"}
        return subprocess.run(
            [sys.executable, "-m", "common.imagenet", *map(str, arguments)],
            capture_output=True, encoding="utf-8", env=environment, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory):
    """The sample in all formats; tests must not change it."""
    root = tmp_path_factory.mktemp("sample")
    write_sample(root, format="all", size=16)
    return root
