"""The machine and the versions that a result belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, Dict

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "timm", "transformers", "tensorflow-cpu", "keras")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # those that matrix products care about


def versions() -> Dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {name: version(name) for name in PACKAGES if any(distributions(name=name))}
    return {"python": platform.python_version(), **found}


def machine() -> Dict[str, Any]:
    """Processor, cores that this process may use, its vector extensions, and GPUs by name."""
    rows: Dict[str, str] = {}
    information = Path("/proc/cpuinfo")
    if information.is_file():
        first = information.read_text().split("\n\n")[0]
        rows = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    has = rows.get("flags", "").split()
    return {
        "processor": rows.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "extensions": [flag for flag in FLAGS if flag in has],
        "gpus": _gpus(),
    }


def _gpus() -> Any:
    """Names as the driver says them; asking torch would take seconds."""
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.split(": ", 1)[1].split(" (UUID")[0] for line in found.splitlines() if ": " in line]
