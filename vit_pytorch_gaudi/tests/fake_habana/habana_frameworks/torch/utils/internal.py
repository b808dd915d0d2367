import os

from habana_frameworks.torch import LAZY


def is_lazy():
    return LAZY if "FAKE_HABANA_MODE" not in os.environ else os.environ["FAKE_HABANA_MODE"] == "lazy"
