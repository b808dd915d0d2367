"""What holds on the Poplar SDK's own Python 3.8 and torch 2.0.1, with stand-ins for what is missing here."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.scripts import APP

ROOT = APP.parent
FAKE_SDK = Path(__file__).parent / "fake_sdk"
NEWER = set((Path(__file__).parent / "newer_than_torch_2_0_1.txt").read_text().split())
SOURCES = [path for path in APP.rglob("*.py") if not {"tests", "data", "output"} & set(path.relative_to(APP).parts)]
SOURCES += [path for path in (ROOT / "common").rglob("*.py") if "tests" not in path.parts]
BACKEND = ROOT / "poptorch_host/src/poptorch_host/backend.py"
SCRIPTS = ["finetune", "pretrain", "validation", "predict"]

# ONNX export needs packages that Python 3.8 has no fit versions of, and says so before it comes to this.
GUARDED = {"export.py": {"torch.export"}}

# Not on the SDK's machines: what only other features need. Its horovod is there, but nothing may want it.
WITHOUT = ["horovod", "wandb", "onnx", "onnxruntime", "onnxscript", "transformers", "timm", "poptorch_host.api"]
WITHOUT += ["poptorch_host.executor", "poptorch_host.options", "poptorch_host.popdist", "poptorch_host.popart"]

BLOCKED = f"""
import sys
from importlib.machinery import ModuleSpec
class Missing:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name in {WITHOUT} else None
    def create_module(self, spec):
        raise ImportError(spec.name + " is not there")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Missing())
"""
TINY = "--dataset generated --num-labels 10 --hidden-size 16 --num-hidden-layers 4 --num-attention-heads 2 --mlp-dim 16"
TINY += " --image-size 32 --micro-batch-size 2 --gradient-accumulation 7 --layers-per-ipu 1 1 1 1 --evaluate false"


def on_the_sdk(code, *words, **variables):
    """Run `code` with the fake SDK on the path and without what an IPU machine lacks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POP")}
    path = os.pathsep.join([str(FAKE_SDK), str(APP)])
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *map(str, words)],
        cwd=APP,
        env=dict(kept, PYTHONPATH=path, OMP_NUM_THREADS="1", **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_scripts_import_and_dry_run_on_the_sdk(tmp_path):
    """All scripts come with the SDK's PopTorch and without the host engine, up to the model on its IPUs."""
    code = f"""
import contextlib, io
import poptorch
for name in {SCRIPTS}:
    __import__(name)
import finetune, pretrain, validation
tiny, folder = sys.argv[1].split(), sys.argv[2]
finetune.main(["--config", "b16_imagenet1k", *tiny, "--output", folder + "/f", "--pretrained", "none", "--dry-run"])
small = ["--representation-size", "16", "--recompute-mid-layers", "1", "--epochs", "1"]
pretrain.main(["--config", "b16_in1k_pretrain", *tiny, *small, "--output", folder + "/p", "--dry-run"])
validation.main(["--config", "b16_imagenet1k_valid", "--output", folder + "/v", "--dry-run"])
assert poptorch.blocks == 2 * [("embeddings", 0), *[(f"layer{{i}}", i) for i in range(4)], ("tail", 3)], poptorch.blocks
print(sorted(name for name in sys.modules if name.split(".")[0] == "poptorch_host"))
"""
    done = on_the_sdk(code, TINY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("poptorch: Poplar SDK (poptorch 3.4.0)") == 3
    assert "16.16: float16 arithmetic, float16 weights" in done.stdout
    assert done.stdout.splitlines()[-1] == "['poptorch_host', 'poptorch_host.backend', 'poptorch_host.misc']"
    for folder in ("f", "p", "v"):
        assert yaml.safe_load((tmp_path / folder / "config.yaml").read_text())["layers_per_ipu"]


def test_popdists_options_under_poprun_only():
    """Training and inference take PopRun's options where its variables are, the SDK's own elsewhere."""
    code = """
import popdist.poptorch, poptorch
from ipu.poptorch_options import inference_options, replicas_of_inference
from ipu_options import create_program, training_options
from options import FinetuneOptions
from pathlib import Path
from run.options import parse
given = parse(FinetuneOptions, sys.argv[1:], configs=Path("configs.yml"), script="finetune.py", description="")
options = training_options(given)
calls = dict(options._calls)
print(type(options) is popdist.poptorch.Options, calls.get("replicationFactor"), replicas_of_inference())
assert calls["Training.gradientAccumulation"] == (30,)
assert calls["deviceIterations"] == (8,)
assert calls["Training.accumulationAndReplicationReductionType"] == ("Mean",)
inference = inference_options(create_program(given), device_iterations=1, processes=2)
assert dict(inference._calls)["deviceIterations"] == (4,)
"""
    words = ["--config", "b16_imagenet1k", "--replication-factor", "16"]
    done = on_the_sdk(code, *words)
    assert (done.returncode, done.stdout) == (0, "False (16,) 1\n"), done.stderr
    numbers = {"TOTAL_REPLICAS": "16", "LOCAL_REPLICAS": "2"}
    done = on_the_sdk(code, *words, **{f"POPDIST_NUM_{name}": value for name, value in numbers.items()})
    assert (done.returncode, done.stdout) == (0, "True None 2\n"), done.stderr


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", [*SOURCES, BACKEND], ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_backend_names_the_sdk(path):
    tops = {name.split(".")[0] for name in imports_of(path)}
    assert not tops & {"horovod", "popdist", "poptorch", "popart"}


def torch_names(path):
    """Dotted names of torch and torchvision that a file uses, with the line; `.name` alone as a tensor's."""
    tree = ast.parse(path.read_text())
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}", node.lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts, value = [node.attr], node.value
            while isinstance(value, ast.Attribute):
                parts.insert(0, value.attr)
                value = value.value
            if isinstance(value, ast.Name) and value.id in known:
                yield ".".join([known[value.id], *parts]), node.lineno
            else:
                yield f"torch.Tensor.{node.attr}", node.lineno


@pytest.mark.parametrize("path", [*SOURCES, BACKEND], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_newer_than_torch_2_0_1(path):
    allowed = GUARDED.get(path.name, set())
    newer = [f"line {line}: {name}" for name, line in torch_names(path) if name in NEWER - allowed]
    assert not newer


def test_a_newer_name_is_found(tmp_path):
    """However it is written: imported, by an alias, dotted, as a method."""
    path = tmp_path / "newer.py"
    lines = ["import torch", "from torch import nn as n", "from torch import export", "n.RMSNorm(3)"]
    path.write_text("\n".join([*lines, "torch.compiler.reset()", "x.f().register_post_accumulate_grad_hook(f)"]))
    found = {name for name, _ in torch_names(path)} & NEWER
    hook = "torch.Tensor.register_post_accumulate_grad_hook"
    assert found == {"torch.nn.RMSNorm", "torch.compiler", "torch.export", hook}
    assert {"torch.nn.RMSNorm", "torch.export", "torch.compiler", "torch.utils.data.StackDataset"} <= NEWER
    assert not {"torch.nn.LayerNorm", "torch.compile", "torch.nn.functional.scaled_dot_product_attention"} & NEWER


def test_requirements():
    """Pinned, without torch and poptorch (the SDK's wheels), covering what the app's own file has but for extras."""

    def pins(name):
        lines = (APP / name).read_text().splitlines()
        return dict(re.fullmatch(r"([\w-]+)==([\w.]+)", line).groups() for line in lines if line[:1].isalpha())

    sdk, own = pins("requirements-ipu.txt"), pins("requirements.txt")
    extras = {"onnx", "onnxruntime", "onnxscript", "simplejpeg"}  # export; faster decoding where it is there
    assert set(own) - set(sdk) - extras == {"torch"}
    assert not {"poptorch", "horovod"} & set(sdk)
    assert sdk["torchvision"] == "0.15.2"
    text = (APP / "requirements-ipu.txt").read_text()
    assert "-e .." in text
    assert "-e ../poptorch_host" in text
