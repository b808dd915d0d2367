import shutil
from pathlib import Path

import pytest
import torch

from common import custom_op

SOURCE = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def remap():
    """The operators of the host library, built on first use."""
    custom_op.load(custom_op.build(SOURCE, "host"))
    return torch.ops.remap


@pytest.fixture
def copy(tmp_path) -> Path:
    """The sources where a test may build and change them."""
    folder = tmp_path / "op"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("build", "__pycache__", ".*"))
    return folder
