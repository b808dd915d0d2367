"""Raw data, and the shards made of them."""

import shutil

import pytest

from common.imagenet import main as imagenet
from tests.shard_data import make


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """scikit-learn's digits, 16 pixels, as class folders (imagenet1k) and archives."""
    folder = tmp_path_factory.mktemp("raw")
    imagenet(["sample", str(folder), "--format", "all", "--size", "16"])
    return folder


@pytest.fixture(scope="session")
def shards(raw, tmp_path_factory):
    """The shards of the class folders; not to be changed."""
    return make(raw / "imagenet1k", tmp_path_factory.mktemp("shards") / "tf_records")


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")
