"""Keep what apps share the same in each of them, byte for byte: check, or renew from their source."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VIT, MAE, SWIN, GAUDI = "vit_pytorch_ipu", "mae_pytorch_ipu", "swin_pytorch_ipu", "vit_pytorch_gaudi"


class Shared(NamedTuple):
    """A folder or a file of the app `source`, of which other apps hold a copy."""

    path: str
    source: str
    apps: List[str]


SHARED = [
    Shared("run", VIT, [MAE, SWIN, GAUDI]),
    Shared("ipu", VIT, [MAE, SWIN]),
    *(Shared(f"dataset/{name}.py", VIT, [MAE, SWIN, GAUDI]) for name in ("images", "cifar10", "folders")),
    *(Shared(f"dataset/{name}.py", VIT, [MAE, SWIN, GAUDI]) for name in ("generated", "transforms")),
    *(Shared(path, MAE, [SWIN]) for path in ("dataset/augmentation.py", "dataset/mixing.py", "models/supervised.py")),
    Shared("remapping.py", MAE, [SWIN]),
    *(Shared(f"{name}.py", VIT, [MAE, SWIN, GAUDI]) for name in ("image_files", "ranking", "weight_tensors")),
    Shared("rollout.py", VIT, [MAE, GAUDI]),
    Shared("models/drop_path.py", VIT, [MAE, SWIN]),
    Shared("export.py", VIT, [SWIN]),
    Shared("scripts/launch.sh", VIT, [MAE]),
    Shared("tests/conftest.py", VIT, [MAE, SWIN, GAUDI]),
    Shared("tests/stand_in_poprun.py", VIT, [MAE, SWIN]),
]


def files(app: str, path: str, root: Path = ROOT) -> Dict[str, Path]:
    """Name relative to the app → path of the source files that `path`, a folder or a file, stands for in `app`."""
    place = root / app / path
    found = sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.is_file() else []
    return {str(file.relative_to(root / app)): file for file in found}


def differences(root: Path = ROOT) -> List[str]:
    """One sentence for each shared file that is missing from an app, extra or different from the source's."""
    found = []
    for shared in SHARED:
        source = files(shared.source, shared.path, root)
        for app in shared.apps:
            if not (root / app).is_dir():
                continue
            copy = files(app, shared.path, root)
            found += [f"{app}/{name} is missing" for name in sorted(set(source) - set(copy))]
            found += [f"{app}/{name} is not in {shared.source}" for name in sorted(set(copy) - set(source))]
            found += [
                f"{app}/{name} differs from {shared.source}/{name}"
                for name in sorted(set(source) & set(copy))
                if not filecmp.cmp(source[name], copy[name], shallow=False)
            ]
    return found


def renew(root: Path = ROOT) -> None:
    """Replace what every app that exists shares by the source's."""
    for shared in SHARED:
        source = files(shared.source, shared.path, root)
        for app in shared.apps:
            if not (root / app).is_dir():
                continue
            if (root / app / shared.path).is_dir():
                shutil.rmtree(root / app / shared.path)
            for name, path in source.items():
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
        sys.exit("\n".join([*found, "`make copies` renews them"]))


if __name__ == "__main__":
    main()
