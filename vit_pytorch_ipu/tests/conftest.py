from pathlib import Path

import pytest
import torch

from common.imagenet import main

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """scikit-learn's digits as class folders."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    main(["sample", str(folder)])
    return folder
