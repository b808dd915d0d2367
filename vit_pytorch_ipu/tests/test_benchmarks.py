"""benchmarks.yml: its format, its commands as they stand, and each of them run on a tiny model."""

import json
import math
import os
import re
import shlex
import string
import subprocess
import sys

import pytest
import yaml

from ipu_options import create_program
from options import REFUSED_IN_FINETUNING, FinetuneOptions, PretrainOptions, ValidationOptions, refused_in_validation
from run.options import parse
from tests.scripts import APP, environment
from tests.stand_in_poprun import plan

SPEC = yaml.safe_load((APP / "benchmarks.yml").read_text())
BENCHMARKS = {name: entry for name, entry in SPEC.items() if "options" not in name}  # as examples-utils does
TRAINING = [name for name in BENCHMARKS if "validation" not in name]
DOCUMENTED = {  # → script, config, samples per update, host steps (None: the config's)
    "finetune_gen_pod16": ("finetune.py", "b16_imagenet1k", 2040, 10),
    "pretrain_gen_pod16": ("pretrain.py", "b16_in1k_pretrain", 4096, 10),
    "lamb_pretrain_gen_pod16": ("pretrain.py", "b16_in1k_pretrain_lamb", 65536, 10),
    "lamb_pretrain_gen_pod64": ("pretrain.py", "b16_in1k_pretrain_lamb", 65536, 12),
    "lamb_pretrain_real_pod64_conv": ("pretrain.py", "b16_in1k_pretrain_lamb", 65536, None),
    "pretrain_validation_real_pod4": ("validation.py", "b16_in1k_pretrain_valid", None, None),
    "finetune_real_pod16_conv": ("finetune.py", "b16_imagenet1k", 2040, None),
    "finetune_validation_real_pod4": ("validation.py", "b16_imagenet1k_valid", None, None),
    "digits_finetune_gen_host": ("finetune.py", "digits", 32, 50),
    "finetune_gen_host": ("finetune.py", "b16_imagenet1k", 64, 20),
    "pretrain_gen_host": ("pretrain.py", "b16_in1k_pretrain", 64, 20),
}
OPTIONS = {
    "finetune.py": (FinetuneOptions, REFUSED_IN_FINETUNING),
    "pretrain.py": (PretrainOptions, {}),
    "validation.py": (ValidationOptions, refused_in_validation()),
}
VARIABLES = {"PYTORCH_EXE_DIR", "DATASETS_DIR", "HOSTS", "VIPU_CLI_API_HOST", "IPUOF_VIPU_API_PARTITION_ID"}
VARIABLES |= {"TCP_IF_INCLUDE"}

# A model of thousands of parameters; the last of several flags counts.
TINY = "--hidden-size 16 --num-hidden-layers 4 --num-attention-heads 2 --mlp-dim 16 --image-size 32"
TINY += (
    " --micro-batch-size 2 --gradient-accumulation 7 --device-iterations 1 --dataloader-workers 0 --tensorboard false"
)
SMALLER = {
    "finetune.py": f"{TINY} --patches-size 8 --replication-factor 1 --training-steps 4 --warmup-steps 1",
    "pretrain.py": f"{TINY} --patches-size 8 --replication-factor 2 --representation-size 16 --recompute-mid-layers 1",
    "validation.py": "--image-size 32 --layers-per-ipu 1 1 1 1 --num-labels 10",
}


def words_of(name, variables):
    """The words that examples-utils runs: filled in, variables expanded, split as by a shell, W&B left out."""
    command = " ".join(BENCHMARKS[name]["cmd"].format().split())
    expanded = string.Template(command).substitute(variables)  # KeyError for an unknown one
    return [word for word in shlex.split(expanded) if "--wandb" not in word]


def split(words):
    """(launcher's words, script, the script's arguments)."""
    python = words.index("python3")
    return words[:python], words[python + 1], words[python + 2 :]


def resolve(script, arguments):
    cls, refused = OPTIONS[script]
    return parse(cls, arguments, configs=APP / "configs.yml", script=script, description="", refused=refused)


@pytest.fixture
def variables(tmp_path, monkeypatch):
    """Of the caller, in a folder where the runs that others read have been."""
    for name in ("lamb_pretrain_real_pod64_conv", "finetune_real_pod16_conv"):
        (tmp_path / "output" / "benchmarks" / name / "checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return {name: f"/{name.lower()}" for name in VARIABLES}


def test_every_documented_benchmark_is_there():
    assert set(BENCHMARKS) == {f"pytorch_vit_{name}" for name in DOCUMENTED}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_format(name):
    entry = BENCHMARKS[name]
    assert set(entry) == {"description", "cmd", "env", "data", "output"}
    assert all(isinstance(value, str) for value in entry["env"].values())
    json.loads(entry["env"]["POPLAR_ENGINE_OPTIONS"])
    for metric in entry["data"].values():
        assert re.compile(metric["regexp"]).groups == 1
        assert set(metric) <= {"regexp", "skip", "reduction_type"}
        assert metric.get("reduction_type", "mean") in {"mean", "final", "min", "value"}
    assert all(metric in entry["data"] for _, metric in entry["output"])
    assert set(entry["data"]) == ({"throughput", "loss"} if name in TRAINING else {"accuracy"})
    assert not re.search("[{}]", entry["cmd"])  # examples-utils fills in parameters there


def test_variables_are_marked_and_documented():
    readme = (APP / "README.md").read_text()
    for entry in BENCHMARKS.values():
        used = set(re.findall(r"\$(\w+)", entry["cmd"]))
        assert used <= VARIABLES
        assert all(f"`{name}`" in readme for name in used)
        unmarked = set(re.findall(r"(?<![\w$])[A-Z]\w*_[A-Z]\w*", entry["cmd"])) - {
            "POPLAR_ENGINE_OPTIONS",
            "MASTER_ADDR",
        }
        assert not unmarked


def test_no_two_share_a_run_folder(variables):
    outputs = {}
    for name in BENCHMARKS:
        _, script, arguments = split(words_of(name, variables))
        options = resolve(script, arguments)
        outputs[name] = options.output
        assert options.output == f"output/benchmarks/{name.replace('pytorch_vit_', '')}"
        assert getattr(options, "overwrite", False) == (name in TRAINING and "_gen_" in name)
    assert len(set(outputs.values())) == len(outputs)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_command_as_it_stands(name, variables):
    """Every flag resolves, to the document's numbers; poprun's layout is the one that the script is told."""
    script, config, batch, steps = DOCUMENTED[name.replace("pytorch_vit_", "")]
    launcher, called, arguments = split(words_of(name, variables))
    assert called == script
    options = resolve(script, arguments)
    assert options.config == config
    assert (options.dataset == "generated") == ("_gen_" in name)
    if "_real_" in name:
        assert options.dataset_path == "/datasets_dir/imagenet-raw-dataset"
    if batch:
        assert create_program(options).global_batch == batch
    if "host" not in name and script != "validation.py":
        assert options.executable_cache_dir == "/pytorch_exe_dir"
    if steps and options.epochs:
        assert options.iterations * options.epochs == steps
    elif steps:
        assert (options.training_steps, options.iterations) == (steps, steps)
    assert bool(launcher) == ("pod64" in name)
    if launcher:
        places, _ = plan([*launcher[1:], "python3"])
        assert len(places) == 8
        assert int(places[0]["POPDIST_NUM_TOTAL_REPLICAS"]) == options.replication_factor == 16
        local = create_program(options).samples_per_step // 8
        assert local % options.rebatched_worker_size == 0


def tiny(name, variables, folder):
    """The command of a benchmark with a tiny model, two of its instances, its run folder elsewhere."""
    launcher, script, arguments = split(words_of(name, variables))
    counts = {"--num-replicas=16": "--num-replicas=2", "--num-instances=8": "--num-instances=2"}
    launcher = [counts.get(word, word) for word in launcher]
    more = SMALLER[script].split()
    more += ["--dataloader-workers", "1" if "--rebatched-worker-size" in arguments else "0"]
    if script != "validation.py":
        more += ["--layers-per-ipu", "4"] if "host" in name else ["--layers-per-ipu", "1", "1", "1", "1"]
    if script != "validation.py" and "_real_" in name:
        more += ["--num-labels", "10"]
    if name == "pytorch_vit_finetune_real_pod16_conv":
        more += ["--pretrained-checkpoint", "none"]
    if script == "pretrain.py":
        more += ["--epochs", "1", "--warmup-steps", "1"]
        more += ["--iterations", "4"] if "_gen_" in name else ["--gradient-accumulation", "70"]
    arguments = [word.replace("output/benchmarks", str(folder)) for word in arguments]
    return [*launcher, "python3", script, *arguments, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of the runs and logs of all benchmarks, tiny, in the file's order; exit statuses."""
    from common.imagenet import main

    folder = tmp_path_factory.mktemp("benchmarks")
    main(["sample", str(folder / "data" / "imagenet-raw-dataset")])
    variables = {name: f"x{name.lower()}" for name in VARIABLES}
    variables.update(DATASETS_DIR=str(folder / "data"), PYTORCH_EXE_DIR=str(folder / "cache"))
    jobs = [{"name": name, "words": tiny(name, variables, folder), "folder": str(folder)} for name in BENCHMARKS]
    for name in BENCHMARKS:
        words = words_of(name, variables)
        if "pod64" not in name and not name.endswith("_conv"):  # as it stands but for the run folder
            again = ["--overwrite", "false"] if name in TRAINING else []
            words[words.index("--output") + 1] = str(folder / "dry" / name)
            dry = [word.replace("output/benchmarks", str(folder)) for word in words]
            jobs.append({"name": f"{name}-dry", "words": [*dry, *again, "--dry-run"], "folder": str(folder)})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tests.forked_runs", str(folder / "jobs.json")]
    path = os.pathsep.join([str(APP), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        command, cwd=APP, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def extracted(name, text):
    """Metrics as examples-utils reads them: all matches as numbers, sorted for a mean, the first ones left out."""
    found = {}
    for metric, how in BENCHMARKS[name]["data"].items():
        values = [float(value) for value in re.findall(how["regexp"], text)]
        assert len(values) > how.get("skip", 0), f"{metric} is not in the output\n{text}"
        kept = sorted(values)[how.get("skip", 0) :]
        found[metric] = values[-1] if how.get("reduction_type") == "final" else sum(kept) / len(kept)
    return found


@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_runs_and_its_metrics_are_found(name, finished):
    folder, statuses = finished
    text = (folder / f"{name}.log").read_text()
    assert statuses[name] == 0, text
    metrics = extracted(name, text)
    run = folder / name.replace("pytorch_vit_", "")
    if name not in TRAINING:
        result = json.loads((run / "validation.json").read_text())
        assert metrics["accuracy"] == pytest.approx(100 * result["top1"], abs=1e-5)
        assert result["samples"] == 360
        return
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    train = [line for line in history if line["split"] == "train"]
    assert len(train) >= 4
    assert metrics["loss"] == pytest.approx(train[-1]["loss"], abs=5.1e-4)
    assert 0 < metrics["throughput"] <= max(line["throughput"] for line in train) + 0.1
    assert all(math.isfinite(line["loss"]) for line in train)
    assert len(train) == text.count("throughput: ")  # one process prints
    assert json.loads((run / "recipe.json").read_text())["processes"] == (2 if "pod64" in name else 1)


@pytest.mark.parametrize("name", [n for n in BENCHMARKS if "pod64" not in n and not n.endswith("_conv")])
def test_dry_run_as_it_stands(name, finished):
    folder, statuses = finished
    assert statuses[f"{name}-dry"] == 0, (folder / f"{name}-dry.log").read_text()
    run = folder / "dry" / name
    assert (run / "config.yaml").is_file()
    if name in TRAINING:
        recipe = json.loads((run / "recipe.json").read_text())
        _, _, batch, steps = DOCUMENTED[name.replace("pytorch_vit_", "")]
        assert (recipe["global_batch"], recipe["steps"]) == (batch, steps)
        if "digits" not in name:
            assert recipe["parameters"] == (87_158_248 if "pretrain" in name else 86_567_656)
