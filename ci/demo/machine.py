"""What the demo ran on: versions, processor, commit."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Dict, List, Mapping, Optional

from .apps import ROOT
from .running import cores

PACKAGES = {
    "torch": ["torch", "torchvision", "numpy"],
    "tensorflow": ["tensorflow-cpu", "tensorflow", "keras", "numpy"],
}


def environment(devices: Mapping[str, str], root: Path = ROOT) -> Dict[str, str]:
    """Label → text, for the page; `devices` is what the apps, by their titles, said they ran on."""
    rows = {"Processor": f"{processor()}, {cores()} {'core' if cores() == 1 else 'cores'}"}
    for device in dict.fromkeys(devices.values()):
        rows["Device of " + ", ".join(title for title, one in devices.items() if one == device)] = device
    rows["System"] = (
        f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}"
    )
    for name, packages in PACKAGES.items():
        rows[f".venv/{name}"] = versions(root / ".venv" / name, packages)
    rows["Commit"] = commit(root) or ""
    return {label: text for label, text in rows.items() if text}


def versions(folder: Path, packages: List[str]) -> str:
    """Those of the packages that an environment has, with their versions."""
    paths = [str(path) for path in folder.glob("lib/python*/site-packages")]
    found = {one.metadata["Name"].lower(): one.version for one in distributions(path=paths)} if paths else {}
    return ", ".join(f"{package} {found[package]}" for package in packages if package in found)


def processor() -> str:
    """Its name."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    named = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def commit(root: Path) -> Optional[str]:
    """Short hash of the commit, and whether files differ from it; None where there is no git repository."""
    try:
        short = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
        found = subprocess.run(short, capture_output=True, text=True, check=True).stdout.strip()
        changes = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(changes, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return found + (" with changes" if changed else "")
