"""benchmarks.yml: its format, its commands as they stand, and the metrics in the output of a run."""

import re
import shlex
import string

import pytest
import yaml

import train
from options import parse_options
from recipe import batch_of
from tests import stand_ins
from tests.scripts import APP
from tests.stand_ins import launch

SPEC = yaml.safe_load((APP / "benchmarks.yml").read_text())
BENCHMARKS = {name: entry for name, entry in SPEC.items() if "options" not in name}  # as examples-utils does
CARDS = {  # → processes, images of an optimizer step, steps
    "finetune_gen_1card": (1, 512, 30),
    "finetune_gen_8cards": (8, 512, 100),
    "finetune_gen_16cards": (16, 512, 100),
    "finetune_real_8cards_conv": (8, 512, 20000),
    "finetune_real_16cards_conv": (16, 512, 20000),
    "finetune_gen_host": (1, 16, 12),
    "digits_gen_host": (1, 32, 50),
}
SMALL = "--device cpu --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 --mlp_dim 16 --img_size 32"
SMALL += " --patches_size 8 --dataloader_workers 0 --num_classes 10 --train_batch_size 8 --global_batch_size 16"
SMALL += " --gradient_accumulation_steps 1 --num_steps 14 --warmup_steps 1 --autocast false --num_samples 64"
SMALL += " --tensorboard false"


def words_of(name, folder):
    """The words that examples-utils runs: variables expanded, split as by a shell; KeyError for an unknown variable."""
    (folder / "hostfile").write_text("a slots=8\nb slots=8\n")
    variables = {"DATASETS_DIR": "/data", "PRETRAINED_DIR": "/weights", "HOSTSFILE": str(folder / "hostfile")}
    return shlex.split(string.Template(BENCHMARKS[name]["cmd"]).substitute(variables))


def training(name, folder):
    """(processes, train.py's arguments) of a benchmark."""
    words = words_of(name, folder)
    if words[0] == "python3":
        return 1, words[words.index("train.py") + 1 :]
    assert words[0] == "./run_vit.sh"
    stand_ins.mpirun(folder / "bin")
    stand_ins.machine(folder / "bin")
    stand_ins.shell(folder / "bin", "ssh", "exit 255")
    done = launch(folder / "bin", "run_vit.sh", "--dry-run", *words[1:])
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("mpirun ")]
    command = shlex.split(line)
    return int(command[command.index("-np") + 1]), command[command.index(f"{APP}/train.py") + 1 :]


def test_every_benchmark_is_known():
    assert set(BENCHMARKS) == {f"pytorch_vit_gaudi_{name}" for name in CARDS}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_command_as_it_stands(name, tmp_path):
    short = name.replace("pytorch_vit_gaudi_", "")
    processes, batch, steps = CARDS[short]
    found, arguments = training(name, tmp_path)
    options = parse_options(arguments)
    assert found == processes
    assert batch_of(options, processes).total == batch
    assert options.num_steps == steps
    assert str(options.run_folder) == f"output/benchmarks/{short}"
    assert (options.dataset == "generated") == ("_gen_" in name)
    assert options.overwrite == ("_gen_" in name)
    if "_real_" in name:
        assert (options.data_path, options.pretrained_dir) == ("/data/imagenet", "/weights/ViT-B_16.npz")
    assert options.device == ("hpu" if "card" in name else "auto")
    assert options.throughput_warmup_steps < steps


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_format(name):
    entry = BENCHMARKS[name]
    assert set(entry) == {"description", "cmd", "data", "output"}
    for metric in entry["data"].values():
        assert re.compile(metric["regexp"]).groups == 1
        assert metric["reduction_type"] == "final"
    assert {metric for _, metric in entry["output"]} == set(entry["data"])
    assert not re.search("[{}]", entry["cmd"])  # examples-utils fills in parameters there


@pytest.mark.parametrize("name", ["pytorch_vit_gaudi_finetune_gen_8cards", "pytorch_vit_gaudi_digits_gen_host"])
def test_the_metrics_are_found(name, tmp_path, capsys):
    """A small model, one process."""
    _, arguments = training(name, tmp_path)
    arguments = [word.replace("output/benchmarks", str(tmp_path / "out")) for word in arguments]
    train.main([*arguments, *SMALL.split()])
    text = capsys.readouterr().out
    for metric, how in BENCHMARKS[name]["data"].items():
        values = [float(value) for value in re.findall(how["regexp"], text)]
        assert values, f"{metric} is not in the output\n{text}"
        assert values[-1] >= 0
