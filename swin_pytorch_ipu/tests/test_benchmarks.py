"""benchmarks.yml: its format, its commands as they stand, and each of them run on a tiny model."""

import json
import math
import re
import shlex
import string

import pytest
import yaml

from ipu_options import create_program
from options import read_training, read_validation
from tests.forks import forks
from tests.runs import records
from tests.scripts import APP

SPEC = yaml.safe_load((APP / "benchmarks.yml").read_text())
BENCHMARKS = {name: entry for name, entry in SPEC.items() if "options" not in name}  # as examples-utils does
TRAINING = [name for name in BENCHMARKS if "validation" not in name]
LARGE = "SWIN_LARGE_224_22K_FINETUNE_1K_FP16_POD16"
DOCUMENTED = {  # → config, samples per update, host steps (None: the config's)
    **{f"tiny_train_{data}_pod16": ("SWIN_TINY", 1024, 10) for data in ("real", "gen")},
    **{f"base_384_train_{data}_pod16": ("SWIN_BASE_384", 1024, 10) for data in ("real", "gen")},
    **{f"base_linear_train_{data}_pod16": ("SWIN_BASE_LINEAR", 1024, 10) for data in ("real", "gen")},
    **{f"large_finetune_{data}_pod16": (LARGE, 8196, 10) for data in ("real", "gen")},
    "large_finetune_real_pod16_conv": (LARGE, 8196, None),
    "large_validation_real_pod16": (LARGE, None, None),
    "digits_train_gen_host": ("SWIN_DIGITS", 32, 50),
    "tiny_train_gen_host": ("SWIN_TINY", 64, 20),
}
VARIABLES = {"PYTORCH_EXE_DIR", "DATASETS_DIR"}

# A model of thousands of parameters; the last of several flags counts.
TINY = "--img-size 32 --embed-dim 8 --depths 1 1 --num-heads 1 1 --window-size 4 --batch-size 4 --num-workers 0"
TINY += " --tensorboard false --layers-per-ipu 2"
TRAINED = "--gradient-accumulation-steps 2 --replicas 1 --training-steps 4 --epochs 1 --warmup-epochs 0"


def words_of(name, variables):
    """The words that examples-utils runs: filled in, variables expanded, split as by a shell, W&B left out."""
    command = " ".join(BENCHMARKS[name]["cmd"].format().split())
    expanded = string.Template(command).substitute(variables)  # KeyError for an unknown one
    return [word for word in shlex.split(expanded) if "--wandb" not in word]


def test_every_documented_benchmark_is_there():
    assert set(BENCHMARKS) == {f"pytorch_swin_{name}" for name in DOCUMENTED}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_format(name):
    entry = BENCHMARKS[name]
    assert set(entry) == {"description", "cmd", "env", "data", "output"}
    json.loads(entry["env"]["POPLAR_ENGINE_OPTIONS"])
    for metric in entry["data"].values():
        assert re.compile(metric["regexp"]).groups == 1
        assert set(metric) <= {"regexp", "skip", "reduction_type"}
    assert {metric for _, metric in entry["output"]} == set(entry["data"])
    assert set(entry["data"]) == ({"throughput", "loss"} if name in TRAINING else {"accuracy"})
    readme = (APP / "README.md").read_text()
    used = set(re.findall(r"\$(\w+)", entry["cmd"]))
    assert used <= VARIABLES
    assert all(f"`{variable}`" in readme for variable in used)
    assert f"`{name.replace('pytorch_swin_', '')}`" in readme


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_command_as_it_stands(name):
    """Every flag resolves, to the document's numbers."""
    config, batch, steps = DOCUMENTED[name.replace("pytorch_swin_", "")]
    python, script, *arguments = words_of(name, {variable: f"/{variable.lower()}" for variable in VARIABLES})
    assert (python, script) == ("python3", "train_swin.py" if name in TRAINING else "validate.py")
    options = (read_training if name in TRAINING else read_validation)(arguments, "")
    assert options.config == config
    assert options.output == f"output/benchmarks/{name.replace('pytorch_swin_', '')}"
    assert options.generated_data == ("_gen_" in name)
    if "_real_" in name:
        assert options.data_path == "/datasets_dir/imagenet-raw-dataset"
    if name in TRAINING:
        program = create_program(options)
        assert program.global_batch == batch
        assert options.overwrite == (not name.endswith("_conv"))
        if steps:
            assert steps == (options.training_steps or options.generated_steps * options.epochs)
            assert (options.log_every, options.evaluate) == (1, False)
        if "pod" in name:
            assert len(options.layers_per_ipu) * options.replicas == 16
            assert options.executable_cache_dir == "/pytorch_exe_dir"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of the runs and logs of all benchmarks, tiny, in the file's order; exit statuses."""
    from common.imagenet import main

    folder = tmp_path_factory.mktemp("benchmarks")
    main(["sample", str(folder / "data" / "imagenet-raw-dataset")])
    variables = {"DATASETS_DIR": str(folder / "data"), "PYTORCH_EXE_DIR": str(folder / "cache")}
    statuses = {}
    for name in BENCHMARKS:
        _, *words = [word.replace("output/benchmarks", str(folder)) for word in words_of(name, variables)]
        more = TINY.split()
        if name in TRAINING:
            more += TRAINED.split()
            more += ["--generated-steps", "4", "--num-classes", "10"] if "_gen_" in name else []
        else:
            more = [*more[: more.index("--tensorboard")], "--layers-per-ipu", "2", "--device-iterations", "2"]
        if name.endswith("_conv"):
            more += ["--pretrained-model", "", "--log-every", "1"]
        statuses[name] = forks().run([*words, *more], folder / f"{name}.log", folder=APP).status
    return folder, statuses


@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_runs_and_its_metrics_are_found(name, finished):
    folder, statuses = finished
    text = (folder / f"{name}.log").read_text()
    assert statuses[name] == 0, text
    metrics = {}
    for metric, how in BENCHMARKS[name]["data"].items():
        values = [float(value) for value in re.findall(how["regexp"], text)]
        assert len(values) > how.get("skip", 0), f"{metric} is not in the output\n{text}"
        metrics[metric] = values
    run = folder / name.replace("pytorch_swin_", "")
    if name not in TRAINING:
        result = json.loads((run / "validation.json").read_text())
        assert metrics["accuracy"] == pytest.approx([100 * result["top1"]], abs=1e-3)
        assert result["samples"] == 360
        return
    train = records(run)
    assert len(train) == 4 == len(metrics["throughput"])
    assert metrics["loss"][: len(train)] == pytest.approx([line["loss"] for line in train], abs=5.1e-4)
    assert all(math.isfinite(line["loss"]) for line in train)
