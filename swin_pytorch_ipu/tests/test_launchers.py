"""train_swin.sh and the scripts of Swin-L: their commands, what they refuse, and real training through them."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ipu_options import create_program, training_options
from options import read_training
from run.errors import UsageError
from tests.forks import forks
from tests.runs import losses, tiny
from tests.scripts import APP, environment
from tests.stand_in_poprun import plan

TOOLS = Path(sys.executable).parent
TRAIN = "./train_swin.sh"
POD16, POD64 = (f"./swin_large_224_22k_finetune_1k_fp16_{pod}.sh" for pod in ("pod16", "pod64"))
LARGE = "SWIN_LARGE_224_22K_FINETUNE_1K_FP16_"
WEIGHTS = "swin_large_patch4_window7_224_22k.pth"


def launch(script, *words, path=(), **changes):
    """Run a script as a user does, with folders before everything else on PATH."""
    places = os.pathsep.join([*map(str, path), str(TOOLS), "/usr/bin", "/bin"])
    command = [script, *map(str, words)]
    variables = environment(PATH=places, MASTER_PORT="29500", **changes)
    return subprocess.run(command, cwd=APP, env=variables, capture_output=True, text=True, timeout=120)


def dry(script, words, **changes):
    """The command that --dry-run prints, as words."""
    done = launch(script, "--dry-run", *shlex.split(words), **changes)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return shlex.split(line)


def options_of(words):
    return read_training(words[words.index("train_swin.py") + 1 :], "")


def test_pod16_is_one_process_of_two_replicas():
    words = dry(POD16, "--data-path d --output o -- --epochs 2")
    given = ["--pretrained-model", WEIGHTS, "--data-path", "d", "--output", "o", "--epochs", "2"]
    assert words == ["python3", "train_swin.py", "--cfg", f"{LARGE}POD16", *given]
    options = options_of(words)
    assert create_program(options).global_batch == 8196
    assert (options.precision, options.epochs) == ("16.16", 2)


def test_pod64_is_two_instances_of_poprun():
    words = dry(POD64, "-n a,b -s controller -p pod64 -b 10.5.0.0/16 --launcher poprun")
    assert words[:7] == [
        "env",
        "IPUOF_VIPU_API_TIMEOUT=3600",
        "POPLAR_LOG_LEVEL=WARN",
        'POPLAR_ENGINE_OPTIONS={"target.hostSyncTimeout": "3000"}',
        "MASTER_ADDR=a",
        "MASTER_PORT=29500",
        "poprun",
    ]
    assert {"--host=a,b", "--num-replicas=8", "--num-instances=2", "--num-ilds=2", "--ipus-per-replica=8"} < set(words)
    assert {"--vipu-server-host=controller", "--vipu-partition=pod64", "--vipu-server-timeout=3600"} < set(words)
    (mpi,) = [word for word in words if word.startswith("--mpi-global-args")]
    assert mpi.endswith("--mca oob_tcp_if_include 10.5.0.0/16 --mca btl_tcp_if_include 10.5.0.0/16")
    places, program = plan(words[7:])
    assert len(places) == 2
    assert program[0] == "python3"
    options = options_of(words)
    assert options.pretrained_model == WEIGHTS
    assert options.replicas == 8 == int(places[0]["POPDIST_NUM_TOTAL_REPLICAS"])
    assert len(options.layers_per_ipu) == 8
    assert create_program(options).global_batch == 8208


def test_the_last_of_two_wins():
    assert "--pretrained-model other.pth" in " ".join(dry(POD16, "--pretrained-model other.pth"))
    words = dry(POD64, "-i 4 --launcher torchrun")
    assert words[:4] == ["torchrun", "--standalone", "--nproc-per-node=4", "train_swin.py"]


def test_which_launcher(tmp_path):
    assert dry(TRAIN, "--cfg SWIN_TINY") == ["python3", "train_swin.py", "--cfg", "SWIN_TINY"]
    assert dry(TRAIN, "--cfg SWIN_TINY -i 2 -r 4")[0] == "torchrun"
    (tmp_path / "poprun").symlink_to(APP / "tests" / "stand_in_poprun.py")
    assert "poprun" in dry(TRAIN, "--cfg SWIN_TINY -i 2 -r 4 -s x -p y", path=[tmp_path])
    assert dry(TRAIN, "--cfg SWIN_TINY", path=[tmp_path])[0] == "python3"


def test_words_with_blanks_and_quotes_reach_the_script_unchanged():
    odd = ["--wandb-run-name", "two words; $HOME 'quoted' \"twice\"", "--auto-augment", ""]
    done = launch(TRAIN, "--cfg", "SWIN_TINY", "--dry-run", "--", *odd)
    assert shlex.split(done.stdout)[-4:] == odd


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "the config is missing: give --cfg"),
        ("--cfg", "--cfg needs a value"),
        ("--cfg x --epochs 3", "there is no option --epochs; arguments of train_swin.py stand after --"),
        ("--cfg x -r 4.5", "-r takes a whole number from 1, not 4.5"),
        ("--cfg x -i 2", "several instances share the replicas: give -r"),
        ("--cfg x -i 2 -r 3", "3 replicas can't be dealt out to 2 processes"),
        ("--cfg x -i 2 -r 2 --launcher python3", "python3 starts one process, not 2"),
        ("--cfg x --launcher mpirun", "--launcher is poprun, torchrun or python3, not mpirun"),
        ("--cfg x -r 2 --launcher poprun -p y", "poprun needs the V-IPU controller: give -s"),
        ("--cfg x -r 2 --launcher poprun -s y", "poprun needs the V-IPU partition: give -p"),
        ("--cfg x -s y -p z --launcher poprun", "poprun needs the number of replicas: give -r"),
    ],
)
def test_refused(words, says):
    done = launch(TRAIN, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"train_swin.sh: {says}")
    assert done.stderr.count("\n") == 1


def test_help_and_what_others_than_poprun_have_no_use_for():
    for script in (TRAIN, POD16, POD64):
        done = launch(script, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Usage: {script} ")
        assert all(option in done.stdout for option in ("--cfg", "-r", "-i", "--dry-run", "--launcher"))
    done = launch(POD16, "-s", "x", "--dry-run")
    name = POD16[2:]
    assert done.stderr == f"{name}: -s is for IPUs and has no effect with python3\n"


def test_without_the_launcher(tmp_path):
    for name in ("bash", "env", "dirname", "cat"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    command = [TRAIN, "--cfg", "x", "-i", "2", "-r", "2"]
    done = subprocess.run(command, cwd=APP, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "train_swin.sh: torchrun is not on PATH: activate the environment that it is installed in\n"


def test_the_scripts_are_clean():
    scripts = [TRAIN, POD16, POD64, "scripts/launch.sh"]
    done = subprocess.run([TOOLS / "shellcheck", "-x", *scripts], cwd=APP, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    for script in scripts[:3]:
        assert "set -euo pipefail" in (APP / script).read_text()
        assert os.access(APP / script, os.X_OK)


GIVEN = "--gradient-accumulation-steps 2 --training-steps 3 --precision 32.32 --replicas 4 --batch-size 8"


def test_two_instances_of_poprun_train_as_one_process_does(digits, tmp_path):
    """With nothing but PopRun's variables the processes find each other; each runs two of the four replicas."""
    (tmp_path / "poprun").symlink_to(APP / "tests" / "stand_in_poprun.py")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = ["--cfg", "SWIN_DIGITS", "-r", 4, "-i", 2, "-s", "x", "-p", "y", "-k", 1, "--data-path", digits]
    more = tiny(digits, tmp_path / "two", *GIVEN.split())[4:]
    places = os.pathsep.join([str(tmp_path), str(TOOLS), "/usr/bin", "/bin"])
    done = subprocess.run(
        [TRAIN, *map(str, words), "--", *more],
        cwd=APP,
        env=environment(PATH=places, MASTER_PORT=port),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one = forks().run(["train_swin.py", *tiny(digits, tmp_path / "one", *GIVEN.split())], tmp_path / "log")
    assert one.status == 0, one.output
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert json.loads((tmp_path / "two" / "recipe.json").read_text())["processes"] == 2
    assert done.stdout.count("Step 3/3") == 1


def test_replicas_that_differ_from_popruns(monkeypatch):
    for name, value in (("TOTAL", "4"), ("LOCAL", "2")):
        monkeypatch.setenv(f"POPDIST_NUM_{name}_REPLICAS", value)
    with pytest.raises(UsageError, match="poprun runs 4 replicas and the options say 2: make them agree"):
        training_options(read_training(["--cfg", f"{LARGE}POD16"], ""))
