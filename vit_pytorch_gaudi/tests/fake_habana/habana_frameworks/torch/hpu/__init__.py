import os

from habana_frameworks.torch.hpu import random

__all__ = ["is_available", "random"]


def is_available():
    return os.environ.get("FAKE_HABANA_CARDS", "8") != "0"
