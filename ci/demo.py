"""Run the apps on the digits sample from nothing and print one table; `make demo` calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "vit_pytorch_ipu"
LEAST_ACCURACY = 0.95
# OpenMP's threads wait for each other actively, which costs a factor of ten and more where other programs want the
# cores too; a short active wait keeps four fifths of the speed of an idle machine and most of it on a busy one.
ENVIRONMENT = {"MPLBACKEND": "Agg", "GOMP_SPINCOUNT": "3000"}


def python(*arguments: str, folder: Path = APP) -> float:
    """Run this environment's Python in `folder`; returns the seconds it took, exits with its status if it fails."""
    print("$ cd {} && python {}".format(folder.name, " ".join(arguments)), flush=True)
    began = time.monotonic()
    status = subprocess.run([sys.executable, *arguments], cwd=folder, env={**ENVIRONMENT, **os.environ}).returncode
    if status:
        sys.exit(status)
    return time.monotonic() - began


def table(rows: Dict[str, Any]) -> str:
    """Two columns, aligned."""
    width = max(map(len, rows))
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in rows.items())


def main() -> None:
    """Sample → fine-tune → validate → table; exit 1 below 95 % on the held-out digits."""
    began = time.monotonic()
    python("-m", "common.imagenet", "sample", "data/digits")
    trained = python("finetune.py", "--config", "digits", "--overwrite")
    python("validation.py", "--config", "digits_valid")

    recipe = json.loads((APP / "output/digits/recipe.json").read_text())
    score = json.loads((APP / "output/digits_valid/validation.json").read_text())
    rows = {
        "model": "ViT, {:,} parameters, from scratch".format(recipe["parameters"]),
        "data": "scikit-learn's digits, {:,} for training, {:,} held out".format(recipe["samples"], score["samples"]),
        "updates": "{:,} of {} images, {:.0f} epochs".format(
            recipe["updates"], recipe["global_batch"], recipe["epochs"]
        ),
        "top-1": "{:.2f} % of the held-out digits".format(100 * score["top1"]),
        "top-5": "{:.2f} %".format(100 * score["top5"]),
        "training": "{:.0f} s, {:.0f} images/s".format(trained, recipe["updates"] * recipe["global_batch"] / trained),
        "all": f"{time.monotonic() - began:.0f} s",
        "curves": "vit_pytorch_ipu/output/digits/curves.png",
    }
    print(f"\n{table(rows)}", flush=True)
    if score["top1"] < LEAST_ACCURACY:
        sys.exit("error: top-1 is below %.0f %%" % (100 * LEAST_ACCURACY))


if __name__ == "__main__":
    main()
