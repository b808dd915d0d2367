from importlib import import_module
from pathlib import Path

import pytest
import torch

from common.imagenet import ImageNetLayoutError, main
from run.errors import entry_point
from tests.scripts import Finished

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """scikit-learn's digits as class folders."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    main(["sample", str(folder)])
    return folder


@pytest.fixture
def attempt(capsys):
    """Run a script in this process, as its entry point does: quicker than a process of its own."""

    def attempt(script, *arguments) -> Finished:
        started = import_module(script[: -len(".py")]).main
        with pytest.raises(SystemExit) as ended:
            entry_point(started, list(map(str, arguments)), expected=(ImageNetLayoutError,))
        captured = capsys.readouterr()
        return Finished(int(ended.value.code or 0), captured.out, captured.err)

    return attempt
