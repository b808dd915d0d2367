"""benchmarks.yml: its format, its commands as they stand, and each of them run on a tiny model."""

import json
import math
import re
import shlex
import string

import pytest
import yaml

from ipu_options import create_program
from options import (
    REFUSED_IN_FINETUNING,
    REFUSED_IN_PRETRAINING,
    FinetuneOptions,
    PretrainOptions,
    ValidationOptions,
    refused_in_validation,
)
from run.options import parse
from tests.forked_runs import run_all
from tests.scripts import APP, environment
from tests.stand_in_poprun import plan

SPEC = yaml.safe_load((APP / "benchmarks.yml").read_text())
BENCHMARKS = {name: entry for name, entry in SPEC.items() if "options" not in name}  # as examples-utils does
TRAINING = [name for name in BENCHMARKS if "validation" not in name]
# → script, config, samples per update, epochs, steps of an epoch (None: of ImageNet-1k)
DOCUMENTED = {
    "train_real_pod16": ("main_pretrain.py", "vit_base_pod16", 4128, 1, None),
    "train_real_pod64": ("main_pretrain.py", "vit_base_pod64", 4128, 3, None),
    "train_real_pod64_conv": ("main_pretrain.py", "vit_base_pod64", 4128, 1600, None),
    "finetune_real_pod16_conv": ("main_finetune.py", "vit_base_finetune", 8192, 100, None),
    "validation_real_pod16": ("finetune_validate.py", "vit_base_validate", None, None, None),
    "train_gen_pod16": ("main_pretrain.py", "vit_base_pod16", 4128, 1, 10),
    "train_gen_pod64": ("main_pretrain.py", "vit_base_pod64", 4128, 1, 10),
    "finetune_gen_pod16": ("main_finetune.py", "vit_base_finetune", 8192, 1, 10),
    "train_gen_host": ("main_pretrain.py", "vit_base_pod16", 64, 1, 20),
    "finetune_gen_host": ("main_finetune.py", "vit_base_finetune", 64, 1, 20),
    "digits_train_gen_host": ("main_pretrain.py", "digits_pretrain", 128, 1, 50),
}
OPTIONS = {
    "main_pretrain.py": (PretrainOptions, REFUSED_IN_PRETRAINING),
    "main_finetune.py": (FinetuneOptions, REFUSED_IN_FINETUNING),
    "finetune_validate.py": (ValidationOptions, refused_in_validation()),
}
VARIABLES = {"DATASETS_DIR", "HOSTS", "VIPU_CLI_API_HOST", "IPUOF_VIPU_API_PARTITION_ID", "TCP_IF_INCLUDE"}

# A model of thousands of parameters; the last of several flags counts.
TINY = "--input_size 32 --patch_size 8 --embed_dim 16 --depth 4 --num_heads 2 --mlp_dim 16 --tensorboard false"
TINY += " --log_every 1 --epochs 1 --warmup_epochs 0"
DECODER = " --decoder_embed_dim 16 --decoder_depth 4 --decoder_num_heads 2"
PLACED = {"main_pretrain.py": " --pipeline 1 1 1 1 1 1 1 1", "main_finetune.py": " --pipeline 1 1 1 1"}
ON_ONE = {"main_pretrain.py": " --pipeline 4 4", "main_finetune.py": " --pipeline 4"}


def words_of(name, **variables):
    """The words that examples-utils runs: filled in, variables expanded, split as by a shell."""
    command = " ".join(BENCHMARKS[name]["cmd"].format().split())
    given = {**{variable: f"/{variable.lower()}" for variable in VARIABLES}, **BENCHMARKS[name]["env"], **variables}
    return shlex.split(string.Template(command).substitute(given))  # KeyError for an unknown one


def split(words):
    """(launcher's words, script, the script's arguments)."""
    python = words.index("python3")
    return words[:python], words[python + 1], words[python + 2 :]


def resolve(script, arguments):
    cls, refused = OPTIONS[script]
    return parse(cls, arguments, configs=APP / "configs.yml", script=script, description="", refused=refused)


def test_every_documented_benchmark_is_there():
    assert set(BENCHMARKS) == {f"pytorch_mae_{name}" for name in DOCUMENTED}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_format(name):
    entry = BENCHMARKS[name]
    assert set(entry) == {"description", "cmd", "env", "data", "output"}
    assert json.loads(entry["env"]["POPLAR_ENGINE_OPTIONS"]) == {"target.hostSyncTimeout": "3000"}
    assert entry["env"]["PYTORCH_EXE_DIR"] == "/tmp/pt_cache/"
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
        assert used <= VARIABLES | set(entry["env"])
        assert all(f"`{name}`" in readme for name in used)
        exported = {"POPLAR_ENGINE_OPTIONS", "MASTER_ADDR"}
        assert set(re.findall(r"(?<![\w$])[A-Z]\w*_[A-Z]\w*", entry["cmd"])) <= exported


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_command_as_it_stands(name):
    """Every flag resolves, to the document's numbers; poprun's layout is the one that the script is told."""
    short = name.replace("pytorch_mae_", "")
    script, config, batch, epochs, steps = DOCUMENTED[short]
    launcher, called, arguments = split(words_of(name))
    assert called == script
    options = resolve(script, arguments)
    assert options.config == config
    assert options.output == f"output/benchmarks/{short}"
    assert getattr(options, "overwrite", False) == (name in TRAINING and not name.endswith("_conv"))
    assert options.generated_data == ("_gen_" in name)
    if "_real_" in name:
        assert options.data_path == "/datasets_dir/imagenet-raw-dataset"
    if "host" not in name:
        assert options.executable_cache_dir == "/tmp/pt_cache/"
    if name in TRAINING:
        program = create_program(options)
        assert (program.global_batch, options.epochs) == (batch, epochs)
        assert options.generated_steps == (steps or 1)
        assert options.evaluate == name.endswith("_conv")
    assert bool(launcher) == ("pod64" in name)
    if launcher:
        places, _ = plan([*launcher[1:], "python3"])
        assert len(places) == 4
        assert int(places[0]["POPDIST_NUM_TOTAL_REPLICAS"]) == options.replica == 16


def tiny(name, folder):
    """The command of a benchmark with a tiny model, two of its instances, its run folder elsewhere."""
    variables = {"DATASETS_DIR": str(folder / "data"), "PYTORCH_EXE_DIR": str(folder / "cache")}
    launcher, script, arguments = split(words_of(name, **variables))
    counts = {"--num-replicas=16": "--num-replicas=2", "--num-instances=4": "--num-instances=2"}
    more = "--num_workers 0" if script == "finetune_validate.py" else TINY
    if script != "finetune_validate.py":
        more += DECODER if script == "main_pretrain.py" else ""
        more += (ON_ONE if "host" in name else PLACED)[script]
        more += " --async_type normal --num_workers 0"
        if "_gen_" in name:
            more += " --batch_size 2 --generated_steps 4"
        if "pod" in name:
            more += " --gradient_accumulation_count 15 --batch_size 2 --replica 2"
    arguments = [word.replace("output/benchmarks", str(folder)) for word in arguments]
    return shlex.join([*(counts.get(word, word) for word in launcher), "python3", script, *arguments, *more.split()])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of the runs and logs of all benchmarks, tiny, in the file's order; exit statuses."""
    from common.imagenet import main

    folder = tmp_path_factory.mktemp("benchmarks")
    main(["sample", str(folder / "data" / "imagenet-raw-dataset")])
    for image in (folder / "data").rglob("*[1-46-9].JPEG"):  # a fifth is enough
        image.unlink()
    jobs = [
        {"name": name, "line": tiny(name, folder), "cwd": str(APP), "log": str(folder / f"{name}.log")}
        for name in BENCHMARKS
    ]
    return folder, run_all(jobs, folder, environment())


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
    run = folder / name.replace("pytorch_mae_", "")
    if name not in TRAINING:
        result = json.loads((run / "validation.json").read_text())
        assert metrics["accuracy"] == pytest.approx(100 * result["top1"], abs=1e-3)
        assert result["samples"] == 72
        return
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    train = [line for line in history if line["split"] == "train"]
    assert len(train) >= 4
    assert metrics["loss"] == pytest.approx(train[-1]["loss"], abs=5.1e-4)
    assert 0 < metrics["throughput"] <= max(line["throughput"] for line in train) + 0.1
    assert all(math.isfinite(line["loss"]) for line in train)
    assert len(train) == text.count("throughput: ")  # one process prints
    assert json.loads((run / "recipe.json").read_text())["processes"] == (2 if "pod64" in name else 1)
