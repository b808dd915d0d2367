"""Keep every torch app's run/ the same, byte for byte: check, or renew from vit_pytorch_ipu/run."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "vit_pytorch_ipu"
APPS = ["mae_pytorch_ipu", "swin_pytorch_ipu", "vit_pytorch_gaudi"]


def files(app: str, root: Path = ROOT) -> Dict[str, Path]:
    """Relative name → path of every source file under the app's run/."""
    folder = root / app / "run"
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.py"))}


def differences(root: Path = ROOT) -> List[str]:
    """One sentence for each file of an app's run/ that is missing, extra or different from the source's."""
    source = files(SOURCE, root)
    found = []
    for app in APPS:
        if not (root / app).is_dir():
            continue
        copy = files(app, root)
        found += [f"{app}/run/{name} is missing" for name in sorted(set(source) - set(copy))]
        found += [f"{app}/run/{name} is not in {SOURCE}" for name in sorted(set(copy) - set(source))]
        found += [
            f"{app}/run/{name} differs from {SOURCE}/run/{name}"
            for name in sorted(set(source) & set(copy))
            if not filecmp.cmp(source[name], copy[name], shallow=False)
        ]
    return found


def renew(root: Path = ROOT) -> None:
    """Replace run/ of every app that exists by the source's."""
    for app in APPS:
        if (root / app).is_dir():
            shutil.rmtree(root / app / "run", ignore_errors=True)
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / SOURCE / "run", root / app / "run", ignore=skip)


def main() -> None:
    """Command line: check, or with --renew make the copies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="store_true")
    if parser.parse_args().renew:
        renew()
    found = differences()
    if found:
        sys.exit("\n".join([*found, f"`make copies` renews them from {SOURCE}/run"]))


if __name__ == "__main__":
    main()
