"""PopTorch programs on plain PyTorch: `import poptorch_host as poptorch`.

The names are those of `poptorch_host.api`, imported when the first is used, so that `poptorch_host.backend` can
choose the Poplar SDK without importing the engine.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, List

from poptorch_host.misc import __version__ as __version__

if TYPE_CHECKING:
    from poptorch_host.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = importlib.import_module("poptorch_host.api")
    return [*api.__all__, "__version__"] if name == "__all__" else getattr(api, name)


def __dir__() -> List[str]:
    return sorted([*globals(), *importlib.import_module("poptorch_host.api").__all__])
