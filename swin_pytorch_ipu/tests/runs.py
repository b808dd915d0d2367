"""Tiny runs of the training script and what they leave."""

import json
from pathlib import Path

from safetensors.torch import load_file

# A Swin of 10 thousand parameters on the digits config: a step takes milliseconds.
TINY = "--embed-dim 16 --depths 1 1 --num-heads 1 2 --patch-size 4 --window-size 4 --layers-per-ipu 2"
TINY += " --batch-size 16 --gradient-accumulation-steps 2 --num-workers 0 --log-every 1 --tensorboard false"


def tiny(digits, output, *more):
    """Arguments of a tiny run on the digits sample."""
    given = ["--cfg", "SWIN_DIGITS", "--data-path", digits, "--output", output, *TINY.split(), *more]
    return list(map(str, given))


def records(folder, split="train"):
    lines = [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def losses(folder, split="train"):
    return [line["loss"] for line in records(folder, split)]


def newest(folder):
    pointer = json.loads((Path(folder) / "checkpoints" / "latest.json").read_text())
    return Path(folder) / "checkpoints" / pointer["folder"]


def weights(folder, inside="weights"):
    """Tensors of the newest checkpoint."""
    return load_file(newest(folder) / inside / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
