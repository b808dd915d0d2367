"""What holds on the Poplar SDK's own Python 3.8 and torch 2.0.1, with stand-ins for what is missing here."""

import ast
import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.scripts import APP

ROOT = APP.parent
NEWER = set((ROOT / "vit_pytorch_ipu" / "tests" / "newer_than_torch_2_0_1.txt").read_text().split())
SOURCES = [path for path in APP.rglob("*.py") if not {"tests", "data", "output"} & set(path.relative_to(APP).parts)]
OWN = [path for path in SOURCES if not {"run", "ipu"} & set(path.relative_to(APP).parts)]  # vit_pytorch_ipu tests those

# Not on the SDK's machines: what only other features need. Its horovod is there, but nothing may want it.
WITHOUT = ["horovod", "wandb", "transformers", "sklearn", "poptorch_host.api", "poptorch_host.executor"]
WITHOUT += ["poptorch_host.options", "poptorch_host.popdist", "poptorch_host.popart"]

SDK = f"""
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
from tests import fake_sdk
poptorch = fake_sdk.install()
"""
TINY = "--generated_data --embed_dim 16 --depth 4 --num_heads 2 --mlp_dim 16 --input_size 32 --patch_size 8"
TINY += " --batch_size 2 --gradient_accumulation_count 15 --evaluate false --epochs 1 --dry-run"


def on_the_sdk(code, *words, **variables):
    """Run `code` with the stand-ins and without what an IPU machine lacks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POP")}
    return subprocess.run(
        [sys.executable, "-c", SDK + code, *map(str, words)],
        cwd=APP,
        env=dict(kept, PYTHONPATH=str(APP), OMP_NUM_THREADS="1", **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_scripts_import_and_dry_run_on_the_sdk(tmp_path):
    """All scripts come with the SDK's PopTorch and without the host engine, up to the model on its IPUs."""
    code = """
import convert, finetune_validate, main_finetune, main_linprobe, main_pretrain, predict, visualize
import scripts.alignment
tiny, folder = sys.argv[1].split(), sys.argv[2]
decoder = ["--decoder_embed_dim", "16", "--decoder_depth", "4", "--decoder_num_heads", "2"]
decoder += ["--pipeline", *"11111111", "--remap", "false"]
main_pretrain.main(["--config", "vit_base_pod16", *tiny, *decoder, "--output", folder + "/p"])
encoder = [(f"encoder{i}", i) for i in range(4)]
decoder = [*[(f"decoder{i}", i) for i in range(4)], ("decoder_embed", 0), ("prediction", 3)]
assert fake_sdk.BLOCKS == encoder + decoder, fake_sdk.BLOCKS
fake_sdk.BLOCKS.clear()
more = ["--pipeline", *"1111", "--nb_classes", "10"]
main_finetune.main(["--config", "vit_base_finetune", *tiny, *more, "--output", folder + "/f"])
assert fake_sdk.BLOCKS == encoder, fake_sdk.BLOCKS
resumed = ["--resume", folder + "/f", "--output", folder + "/v", "--dry-run"]
finetune_validate.main(["--config", "vit_base_validate", *resumed])
print(sorted(name for name in sys.modules if name.split(".")[0] == "poptorch_host"))
"""
    done = on_the_sdk(code, TINY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("poptorch: Poplar SDK (poptorch 3.4.0)") == 3
    assert "16.16: float16 arithmetic, float16 weights" in done.stdout
    assert done.stdout.splitlines()[-1] == "['poptorch_host', 'poptorch_host.backend', 'poptorch_host.misc']"
    for folder in ("p", "f", "v"):
        assert "pipeline" in yaml.safe_load((tmp_path / folder / "config.yaml").read_text())


def test_what_an_ipu_is_told():
    """PopTorch's options of pretraining, on one host and under PopRun; masks on the host; the remap op is needed."""
    code = """
from pathlib import Path
import torch
from building import build_autoencoder
from ipu.poptorch_options import replicas_of_inference
from ipu_options import training_options
from options import PretrainOptions
from run.errors import UserError
from run.options import parse
words = ["--config", "vit_base_pod16", "--replica", "16", *sys.argv[1:]]
given = parse(PretrainOptions, words, configs=Path("configs.yml"), script="main_pretrain.py", description="")
options = training_options(given)
calls = dict(options.calls)
print(type(options) is fake_sdk.PoprunOptions, calls.get("replicationFactor"), replicas_of_inference())
assert calls["Training.gradientAccumulation"] == (172,)
assert calls["deviceIterations"] == (1,)
assert calls["setExecutionStrategy"] == (("pipelined", "AutoIncrement"),)
assert calls["setAvailableMemoryProportion"] == ({f"IPU{i}": 0.15 for i in range(4)},)
assert calls["Training.accumulationAndReplicationReductionType"] == ("Mean",)
assert calls["Training.setMeanAccumulationAndReplicationReductionStrategy"] == ("Running",)
assert calls["Precision.enableStochasticRounding"] == (True,)
assert calls["Precision.setPartialsType"] == (torch.half,)
assert calls["_Popart.set"] == ("accumulateOuterFragmentSettings.schedule", 1)
try:
    build_autoencoder(given)
except UserError as error:
    assert "missing.so does not exist: build the remap op" in str(error), error
else:
    raise AssertionError("an IPU needs the remap op")
"""
    words = ["--remap_so", "missing.so", "--embed_dim", "24", "--num_heads", "2", "--mlp_dim", "24"]
    done = on_the_sdk(code, *words)
    assert (done.returncode, done.stdout) == (0, "False (16,) 1\n"), done.stderr
    numbers = {"POPDIST_NUM_TOTAL_REPLICAS": "16", "POPDIST_NUM_LOCAL_REPLICAS": "4"}
    done = on_the_sdk(code, *words, **numbers)
    assert (done.returncode, done.stdout) == (0, "True None 4\n"), done.stderr


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(APP)))
def test_only_the_backend_names_the_sdk(path):
    tops = {name.split(".")[0] for name in imports_of(path)}
    assert not tops & {"horovod", "popdist", "poptorch", "popart"}


def torch_names(path):
    """Dotted names of torch and torchvision that a file uses, with the line; `.name` alone as a tensor's."""
    tree, known = ast.parse(path.read_text()), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
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


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(APP)))
def test_no_name_newer_than_torch_2_0_1(path):
    newer = [f"line {line}: {name}" for name, line in torch_names(path) if name in NEWER]
    assert not newer


def test_a_newer_name_is_found(tmp_path):
    """However it is written: imported, by an alias, dotted, as a method."""
    path = tmp_path / "newer.py"
    lines = ["import torch", "from torch import nn as n", "from torch import export", "n.RMSNorm(3)"]
    path.write_text("\n".join([*lines, "torch.compiler.reset()", "x.f().register_post_accumulate_grad_hook(f)"]))
    hook = "torch.Tensor.register_post_accumulate_grad_hook"
    assert {name for name, _ in torch_names(path)} & NEWER == {
        "torch.nn.RMSNorm",
        "torch.compiler",
        "torch.export",
        hook,
    }


def test_requirements():
    """Pinned, without torch and poptorch (the SDK's wheels), covering what the app's own file has."""

    def pins(name):
        lines = (APP / name).read_text().splitlines()
        return dict(re.fullmatch(r"([\w-]+)==([\w.]+)", line).groups() for line in lines if line[:1].isalpha())

    sdk, own = pins("requirements-ipu.txt"), pins("requirements.txt")
    assert set(own) - set(sdk) - {"simplejpeg"} == {"torch"}  # decoding does without it
    assert not {"poptorch", "horovod"} & set(sdk)
    assert sdk["torchvision"] == "0.15.2"
    text = (APP / "requirements-ipu.txt").read_text()
    assert "-e .." in text
    assert "-e ../poptorch_host" in text
