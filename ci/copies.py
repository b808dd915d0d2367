"""Keep what apps share the same in each of them, byte for byte: check, or renew from vit_pytorch_ipu."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "vit_pytorch_ipu"
IPU_APPS = ["mae_pytorch_ipu", "swin_pytorch_ipu"]
TORCH_APPS = [*IPU_APPS, "vit_pytorch_gaudi"]
# A folder or a file of the source → the apps that hold a copy.
SHARED = {
    "run": TORCH_APPS,
    "dataset/images.py": TORCH_APPS,
    "dataset/cifar10.py": TORCH_APPS,
    "dataset/folders.py": TORCH_APPS,
    "dataset/generated.py": TORCH_APPS,
    "dataset/transforms.py": TORCH_APPS,
}


def files(app: str, shared: str, root: Path = ROOT) -> Dict[str, Path]:
    """Name relative to the app → path of the source files that `shared`, a folder or a file, stands for in `app`."""
    place = root / app / shared
    found = sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.is_file() else []
    return {str(path.relative_to(root / app)): path for path in found}


def differences(root: Path = ROOT) -> List[str]:
    """One sentence for each shared file that is missing from an app, extra or different from the source's."""
    found = []
    for shared, apps in SHARED.items():
        source = files(SOURCE, shared, root)
        for app in apps:
            if not (root / app).is_dir():
                continue
            copy = files(app, shared, root)
            found += [f"{app}/{name} is missing" for name in sorted(set(source) - set(copy))]
            found += [f"{app}/{name} is not in {SOURCE}" for name in sorted(set(copy) - set(source))]
            found += [
                f"{app}/{name} differs from {SOURCE}/{name}"
                for name in sorted(set(source) & set(copy))
                if not filecmp.cmp(source[name], copy[name], shallow=False)
            ]
    return found


def renew(root: Path = ROOT) -> None:
    """Replace what every app that exists shares by the source's."""
    for shared, apps in SHARED.items():
        for app in apps:
            if not (root / app).is_dir():
                continue
            if (root / SOURCE / shared).is_dir():
                shutil.rmtree(root / app / shared, ignore_errors=True)
            for name, path in files(SOURCE, shared, root).items():
                (root / app / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, root / app / name)


def main() -> None:
    """Command line: check, or with --renew make the copies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="store_true")
    if parser.parse_args().renew:
        renew()
    found = differences()
    if found:
        sys.exit("\n".join([*found, f"`make copies` renews them from {SOURCE}"]))


if __name__ == "__main__":
    main()
