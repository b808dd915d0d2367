"""Measure a set of works one after another; JSON of each and a Markdown report in one folder.

    python -m benchmarks                         # small set on a CPU: under 15 minutes on two quiet cores
    python -m benchmarks --set full              # every work, contender, dtype and mode: hours
    python -m benchmarks --device cuda           # full set on a GPU
    python -m benchmarks swin mae_bf16 --set full --output /tmp/results      # what begins with these words
    python -m benchmarks vit_b --set full --repeats 4       # fewer turns: sooner, and a wider spread

Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import List, NamedTuple, Sequence

from benchmarks.interleaved import WITH_HELPERS, WORKS
from benchmarks.machine import ROOT
from benchmarks.report import write_report

TENSORFLOW = ROOT / ".venv" / "tensorflow" / "bin" / "python"
TORCH_WORKS = [work for work in WORKS if work not in (*WITH_HELPERS, "keras_vit")]


class Entry(NamedTuple):
    """A name, which its JSON file has too, and the command that makes the file but for --json."""

    name: str
    command: List[str]


def step(work: str, dtype: str = "bf16", mode: str = "train", *words: str) -> Entry:
    """A work of `benchmarks.side_by_side`."""
    python = str(TENSORFLOW) if work == "keras_vit" else sys.executable
    command = [python, "-m", "benchmarks.side_by_side", work, "--dtype", dtype, "--mode", mode, *words]
    return Entry(f"{work}_{dtype}_{mode}", command)


def script(name: str, file: str, *words: str, python: str = sys.executable) -> Entry:
    """A measurement that is a program of its own."""
    return Entry(name, [python, "-m", f"benchmarks.{file}", *words])


def small_set() -> List[Entry]:
    """Each goal once, on a CPU: the contenders that it names."""

    def against(work: str, *names: str) -> Entry:
        return step(work, "bf16", "train", "--repeats", "5", "--contenders", "ours", *names, "matmul")

    return [
        against("vit_ti", "ours_compiled", "timm_shipped", "timm_tuned", "timm_compiled"),
        against("vit_b", "timm_shipped", "timm_tuned", "timm_compiled"),
        against("mae", "transformers_shipped", "transformers_tuned", "transformers_compiled"),
        against("swin", "timm_shipped", "timm_tuned", "torchvision_shipped", "torchvision_tuned", "timm_compiled"),
        against("keras_vit", "plain_keras"),
        script("executor_overhead", "executor_overhead", "--precision", "bf16", "--repeats", "8"),
        script("input_pipelines_jpeg", "input_pipelines", "jpeg"),
    ]


def full_set() -> List[Entry]:
    """Everything on a CPU."""
    kinds = [(dtype, mode) for dtype in ("bf16", "fp32") for mode in ("train", "inference")]
    return [
        *(step(work, *kind) for work in (*TORCH_WORKS, "keras_vit") for kind in kinds),
        step("processes", "bf16", "train", "--threads", "2"),
        *(step(f"{work}_end_to_end") for work in ("vit_ti", "vit_b")),
        script("executor_overhead", "executor_overhead"),
        script(
            "executor_overhead_vit_b", "executor_overhead", "--width", "768", "--heads", "12", "--precision", "bf16"
        ),
        *(script(f"input_pipelines_{kind}", "input_pipelines", kind) for kind in ("jpeg", "packed")),
        script("input_pipelines_keras", "input_pipelines", "keras", python=str(TENSORFLOW)),
    ]


def cuda_set() -> List[Entry]:
    """Everything in torch on one GPU. A turn is several steps, for a step takes milliseconds."""
    gpu = ["--device", "cuda", "--warm-up", "2"]
    bf16 = [*gpu, "--batch-size", "128", "--steps-per-turn", "20"]
    fp32 = [*gpu, "--batch-size", "64", "--steps-per-turn", "5"]
    sizes = ["--width", "768", "--heads", "12", "--micro-batch", "64", "--steps", "10"]
    return [
        *(step(work, "bf16", mode, *bf16) for work in TORCH_WORKS for mode in ("train", "inference")),
        *(step(work, "fp32", "train", *fp32) for work in TORCH_WORKS),
        *(step(f"{work}_end_to_end", "bf16", "train", *gpu, "--batch-size", "64") for work in ("vit_ti", "vit_b")),
        script("executor_overhead_vit_b", "executor_overhead", "--device", "cuda", *sizes),
    ]


def run(entries: Sequence[Entry], folder: Path, words: Sequence[str] = ()) -> List[str]:
    """Run the entries, with `words` added; names of those that failed. The others are in the report all the same."""
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for entry in entries:
        print(f"\n{entry.name}", flush=True)
        began = time.monotonic()
        done = subprocess.run([*entry.command, *words, "--json", str(folder / f"{entry.name}.json")], cwd=ROOT)
        print(f"{time.monotonic() - began:.0f} s", flush=True)
        if done.returncode:
            failed.append(entry.name)
    write_report(folder)
    return failed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("works", nargs="*", help="beginnings of names; default all of the set")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--set", choices=("small", "full"), default="small", help="on a CPU; default small")
    parser.add_argument("--repeats", type=int, help="turns of each contender; default as the programs have it")
    parser.add_argument("--output", type=Path, help="folder; default benchmarks/results/DEVICE")
    parser.add_argument("--list", action="store_true", help="print the names of the set and stop")
    args = parser.parse_args()
    if args.device == "cuda":
        entries = cuda_set()
    else:
        entries = full_set() if args.set == "full" else small_set()
    unknown = [word for word in args.works if not any(entry.name.startswith(word) for entry in entries)]
    if unknown:
        parser.error(f"no work of this set begins with {unknown[0]}; --list shows their names")
    entries = [entry for entry in entries if not args.works or entry.name.startswith(tuple(args.works))]
    if args.list:
        print("\n".join(entry.name for entry in entries))
        return
    folder = (args.output or ROOT / "benchmarks" / "results" / args.device).resolve()
    failed = run(entries, folder, ["--repeats", str(args.repeats)] if args.repeats else ())
    print(f"\n{folder / 'report.md'}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
