"""The one place that decides between the Poplar SDK's PopTorch and this package's.

`from poptorch_host.backend import poptorch, popdist, popart, reason`: the SDK's modules where they can be imported,
else this package's; `reason` is the sentence that a program prints. POPTORCH_HOST=1 forces the host. The host
engine, and the torch that it needs, are imported where they were chosen and first used.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any, Optional

__all__ = ["is_host", "popart", "popdist", "poptorch", "reason"]


def _why_not_the_sdk() -> Optional[str]:
    """Import the SDK's PopTorch; return None if that worked, else the reason for the host."""
    if os.environ.get("POPTORCH_HOST", "") not in ("", "0"):
        return "POPTORCH_HOST is set"
    if importlib.util.find_spec("poptorch") is None:
        return "the Poplar SDK's poptorch is not installed"
    try:
        importlib.import_module("poptorch")
        importlib.import_module("popart")
    except Exception as error:
        text = " ".join(str(error).split())
        return f"the Poplar SDK's poptorch can't be imported ({type(error).__name__}: {text})"
    return None


def _sdk_popdist() -> Any:
    """Return the SDK's popdist or, where only that is missing, the stand-in that reads the environment."""
    try:
        importlib.import_module("popdist.poptorch")
    except ImportError:
        return importlib.import_module("poptorch_host.popdist")
    return importlib.import_module("popdist")


_why = _why_not_the_sdk()
is_host = _why is not None

if TYPE_CHECKING:
    import poptorch_host as poptorch
    from poptorch_host import popart, popdist
elif is_host:
    poptorch = importlib.import_module("poptorch_host")
    popdist = importlib.import_module("poptorch_host.popdist")
    popart = importlib.import_module("poptorch_host.popart")
else:
    poptorch = importlib.import_module("poptorch")
    popart = importlib.import_module("popart")
    popdist = _sdk_popdist()

if is_host:
    from poptorch_host.misc import __version__ as _version

    reason = f"poptorch: host (poptorch_host {_version}), because {_why}"
else:
    _version = getattr(poptorch, "__version__", "unknown")
    reason = f"poptorch: Poplar SDK (poptorch {_version}); POPTORCH_HOST=1 chooses the host"
