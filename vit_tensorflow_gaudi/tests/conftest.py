import os
import sys
import warnings
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", OMP_NUM_THREADS="1", MPLBACKEND="Agg")  # before TensorFlow is imported
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where each of the app's scripts runs

import pytest

with warnings.catch_warnings():  # TensorFlow's own, while it is imported
    warnings.simplefilter("ignore")
    import tensorflow as tf

from tests.runs import Finished, call, write_digits

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)


def pytest_configure(config):
    # Of TensorFlow 2.15 with newer NumPy, protobuf and setuptools than it was made with; nothing that we call.
    config.addinivalue_line("filterwarnings", "ignore:non-integer arguments to randrange:DeprecationWarning")
    for module in ("tensorflow", "keras", "tensorboard", "google", "flatbuffers"):
        config.addinivalue_line("filterwarnings", f"ignore::DeprecationWarning:{module}")


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """Shards with 96 scans for training and 37 for validation."""
    return write_digits(tmp_path_factory.mktemp("digits"), 96, 37)


@pytest.fixture
def attempt(capsys):
    """Run a script in this process, as its entry point does: quicker than a process of its own."""

    def attempt(script, *arguments) -> Finished:
        return call(script, capsys, *arguments)

    return attempt
