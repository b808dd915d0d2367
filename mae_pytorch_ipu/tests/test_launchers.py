"""scripts/*.sh: their commands, what they refuse, and real training through them."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipu_options import create_program
from options import PretrainOptions, ValidationOptions
from run.options import parse
from tests.runs import losses, tiny_pretraining
from tests.scripts import APP, environment

TOOLS = Path(sys.executable).parent
ONE, MANY, EVAL = "scripts/mae_base_pod16.sh", "scripts/mae_base_pod64.sh", "scripts/eval.sh"
DOCUMENTED = "-n host1,host2,host3,host4 -s host0 -p partition_name -c cluster_name"


@pytest.fixture
def workplace(tmp_path):
    """A folder of links to the app's files, so that logs and runs stay out of the app's folder; scripts are copies."""
    folder = tmp_path / "app"
    (folder / "scripts").mkdir(parents=True)
    for name in os.listdir(APP):
        if name not in {"data", "output", "tests", "scripts", "__pycache__"}:
            (folder / name).symlink_to(APP / name)
    for path in (APP / "scripts").glob("*.sh"):
        (folder / "scripts" / path.name).write_text(path.read_text())
    return folder


def stub(folder, name, code=""):
    """A launcher that notes its words and environment as a line of JSON in FOLDER/NAME.log, then runs `code`."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    note = f"open({str(folder / name)!r} + '.log', 'a').write(json.dumps([sys.argv[1:], dict(os.environ)]) + '\\n')"
    path.write_text(f"#!{sys.executable}\nimport json, os, signal, sys, time\n{note}\n{code}\n")
    path.chmod(0o755)


def noted(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.log").read_text().splitlines()]


def launch(workplace, script, *words, **changes):
    """Run a script as a user does, with the stubs of the workplace before everything else on PATH."""
    path = os.pathsep.join([str(workplace / "bin"), str(TOOLS), "/usr/bin", "/bin"])
    changes = {"PATH": path, "MASTER_PORT": "29500", **changes}
    return subprocess.run(
        ["bash", script, *map(str, words)],
        cwd=workplace,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=120,
    )


def dry(workplace, script, words, **changes):
    """The commands that --dry-run prints, as words; its last line says where the log goes."""
    done = launch(workplace, script, "--dry-run", *shlex.split(words), **changes)
    assert done.returncode == 0, done.stderr
    *lines, log = done.stdout.splitlines()
    assert log.startswith("# output also in output/mae_")
    assert not (workplace / "output").exists()
    return [shlex.split(line) for line in lines]


def pretraining_of(line):
    """What main_pretrain.py makes of a command's arguments."""
    words = line[line.index("main_pretrain.py") + 1 :]
    return parse(PretrainOptions, words, configs=APP / "configs.yml", script="main_pretrain.py", description="")


def test_poprun_on_the_documents_four_hosts(workplace):
    """Shown where there is no poprun as well, since V-IPU's controller is named."""
    (line,) = dry(workplace, MANY, DOCUMENTED)
    engine = 'POPLAR_ENGINE_OPTIONS={"opt.enableMultiAccessCopies": "false", "target.hostSyncTimeout": "900"}'
    poprun = "MASTER_ADDR=host1 MASTER_PORT=29500 poprun -vv --num-replicas=16 --num-instances=4"
    poprun += " --host=host1,host2,host3,host4 --ipus-per-replica=4 --vipu-server-host=host0"
    poprun += " --vipu-server-timeout=3600 --vipu-partition=partition_name --vipu-allocation=cluster_name"
    passed = "--mpi-local-args=-x OPAL_PREFIX -x LD_LIBRARY_PATH -x PATH -x PYTHONPATH -x CPATH"
    passed += " -x IPUOF_VIPU_API_TIMEOUT=3600 -x POPLAR_LOG_LEVEL=WARN -x POPLAR_SDK_ENABLED -x POPLAR_ENGINE_OPTIONS"
    passed += " -x MASTER_ADDR -x MASTER_PORT"
    program = ["python3", "main_pretrain.py", "--config", "vit_base_pod64"]
    assert line == ["env", engine, *poprun.split(), passed, *program]


def test_one_host_without_arguments(workplace):
    """As the document shows it: the whole of a POD16 in one process."""
    (line,) = dry(workplace, ONE, "")
    assert line == ["python3", "main_pretrain.py", "--config", "vit_base_pod16"]
    program = create_program(pretraining_of(line))
    assert (program.global_batch, program.replicas, program.ipus) == (4128, 4, 4)
    words = f"-n {socket.gethostname()} -s controller -p part --config digits_pretrain -- --seed 3"
    (line,) = dry(workplace, ONE, words)
    assert line[:3] == ["env", "IPUOF_VIPU_API_HOST=controller", "IPUOF_VIPU_API_PARTITION_ID=part"]
    assert line[3:] == ["python3", "main_pretrain.py", "--config", "digits_pretrain", "--seed", "3"]


@pytest.mark.parametrize(
    ("words", "replicas", "instances", "batch"),
    [
        ("-n a", 4, 1, 4128),
        ("-n a,b", 8, 2, 4128),
        ("-n a,b,c", 12, 3, 4104),
        ("-n a,b,c,d -i 8", 16, 8, 4128),
        ("-n a,b,c,d,e,f,g,h", 32, 8, 4032),
        ("-n a,b -r 4", 4, 2, 4128),
    ],
)
def test_other_numbers_of_hosts(workplace, words, replicas, instances, batch):
    """As many micro-batches for an update as are within the document's 4,128 images."""
    (line,) = dry(workplace, MANY, f"{words} -s x -p y --launcher poprun")
    assert {f"--num-replicas={replicas}", f"--num-instances={instances}"} < set(line)
    program = create_program(pretraining_of(line))
    assert (program.replicas, program.global_batch) == (replicas, batch)
    assert 4128 - 6 * replicas < batch <= 4128


def test_torchrun_on_four_hosts(workplace):
    """One torchrun for each host: here directly, on the others through ssh; they meet at the first."""
    lines = dry(workplace, MANY, f"-n {socket.gethostname()},b,c,d -- --data_path 'my data'")
    assert len(lines) == 4
    for rank, line in enumerate(lines):
        if rank:
            assert line[:4] == ["ssh", "-o", "BatchMode=yes", "bcd"[rank - 1]]
            assert len(line) == 5
            assert line[4].startswith(f"cd {workplace} && exec env PATH=")
            line = [word for word in shlex.split(line[4].split(" exec env ")[1]) if not word.startswith("PATH=")]
        torchrun = f"torchrun --nnodes=4 --node-rank={rank} --nproc-per-node=1"
        torchrun += f" --master-addr={socket.gethostname()} --master-port=29500"
        assert line[:6] == torchrun.split()
        assert line[6:] == ["main_pretrain.py", "--config", "vit_base_pod64", "--data_path", "my data"]


def test_what_poprun_gets(workplace):
    """It is taken where it is on PATH; what --dry-run prints is what runs, blanks and quotes included."""
    stub(workplace, "poprun", "print('from poprun')")
    odd = ["--wandb-run-name", "two words; $HOME 'quoted' \"twice\"", "--gelu_type", ""]
    assert dry(workplace, MANY, "-n localhost --launcher torchrun")[0][0] == "torchrun"
    ((*printed,),) = dry(workplace, MANY, f"{DOCUMENTED} -- {shlex.join(odd)}")
    done = launch(workplace, MANY, *DOCUMENTED.split(), "--", *odd)
    assert (done.returncode, done.stdout, done.stderr) == (0, "from poprun\n", "")
    ((arguments, variables),) = noted(workplace, "poprun")
    assert arguments[-4:] == odd
    assert arguments == printed[printed.index("poprun") + 1 :]
    for assignment in printed[1 : printed.index("poprun")]:
        name, _, value = assignment.partition("=")
        assert variables[name] == value
    (log,) = (workplace / "output").glob("mae_pod64_*.log")
    assert log.read_text() == "from poprun\n"


def test_validation(workplace):
    (line,) = dry(workplace, EVAL, "")
    arguments = line[line.index("finetune_validate.py") + 1 :]
    options = parse(
        ValidationOptions, arguments, configs=APP / "configs.yml", script="finetune_validate.py", description=""
    )
    assert (options.resume, options.batch_size) == ("checkpoint_mae_vit_base_finetune", 16)
    assert options.data_path == "./data/imagenet1k"
    stub(workplace, "python3", "sys.exit(7)")
    done = launch(workplace, EVAL, "a run", "some data", "--", "--half", "false")
    assert done.returncode == 7
    given = ["--resume", "a run", "--batch_size", "16", "--data_path", "some data", "--half", "false"]
    assert noted(workplace, "python3")[0][0] == ["finetune_validate.py", *given]


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        (ONE, "-x", "there is no option -x"),
        (ONE, "--epochs 3", "arguments of main_pretrain.py stand after --"),
        (ONE, "-s", "-s needs a value"),
        (ONE, "-p --dry-run", "-p needs a value"),
        (ONE, "-n far", "far is not this host: run the script there, or mae_base_pod64.sh"),
        (ONE, "-n localhost,far", "localhost,far is not this host"),
        (MANY, "", "the hosts are missing: give -n"),
        (MANY, "-n a,,b", "-n a,,b has an empty name"),
        (MANY, "-n a -x", "there is no option -x"),
        (MANY, "-n a,b,c -i 4", "4 processes can't be dealt out to 3 hosts"),
        (MANY, "-n a -r 4.5", "-r takes a whole number from 1, not 4.5"),
        (MANY, "-n a -r 3 -i 2", "3 replicas can't be dealt out to 2 processes"),
        (MANY, "-n a -r 689", "689 replicas are more than an update has micro-batches, 688"),
        (MANY, "-n a --launcher mpirun", "--launcher is poprun or torchrun, not mpirun"),
        (MANY, "-n a --launcher poprun -p x", "poprun needs the V-IPU controller: give -s"),
        (MANY, "-n a --launcher poprun -s x", "poprun needs the V-IPU partition: give -p"),
        (MANY, "-n localhost,far", "far can't reach localhost"),
        (EVAL, "a b c", "c is one word too many"),
        (EVAL, "--batch_size 3", "arguments of finetune_validate.py stand after --"),
        ("scripts/alignment.sh", "--seed 3", "arguments of alignment.py stand after --"),
    ],
)
def test_refused(workplace, script, words, says):
    done = launch(workplace, script, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.startswith(f"{Path(script).name}: ")
    assert done.stderr.count("\n") == 1


def test_help_and_what_has_no_effect(workplace):
    for script in (ONE, MANY):
        done = launch(workplace, script, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert all(f"\n  {option}" in done.stdout for option in ("-n", "-s", "-p", "-c", "    --dry-run", "-h, --help"))
    for script in (EVAL, "scripts/alignment.sh"):
        assert "--dry-run" in launch(workplace, script, "--help").stdout
    done = launch(workplace, ONE, "-c", "x", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "mae_base_pod16.sh: -c has no effect on one host\n")
    done = launch(workplace, MANY, "-n", "localhost", "-s", "x", "--launcher", "torchrun", "--dry-run")
    assert (done.returncode, done.stdout[:8]) == (0, "torchrun")
    assert done.stderr == "mae_base_pod64.sh: -s is for IPUs and has no effect with torchrun\n"


def test_without_any_launcher(workplace):
    tools = workplace / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "date", "cat", "hostname"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    done = launch(workplace, MANY, "-n", "localhost", PATH=str(tools))
    assert done.returncode == 1
    says = "torchrun is not on PATH: activate the environment that it is installed in"
    assert done.stderr == f"mae_base_pod64.sh: {says}\n"


def test_a_host_that_fails_stops_the_others(workplace):
    stub(workplace, "torchrun", "time.sleep(60 if '--node-rank=0' in sys.argv else 0); sys.exit(3)")
    began = time.monotonic()
    done = launch(workplace, MANY, "-n", "localhost,127.0.0.1")
    assert done.returncode == 3
    assert time.monotonic() - began < 30
    assert len(noted(workplace, "torchrun")) == 2


def test_a_signal_is_passed_on(workplace):
    """As a batch system ends a job: the run saves, exits with 75, and so does the script."""
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\nprint('ready', flush=True)\ntime.sleep(60)"
    stub(workplace, "python3", code)
    path = os.pathsep.join([str(workplace / "bin"), os.environ["PATH"]])
    command = ["bash", ONE]
    process = subprocess.Popen(command, cwd=workplace, env=environment(PATH=path), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_scripts_are_clean():
    scripts = sorted(str(path.relative_to(APP)) for path in (APP / "scripts").glob("*.sh"))
    assert len(scripts) == 5
    done = subprocess.run([TOOLS / "shellcheck", "-x", *scripts], cwd=APP, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    for script in scripts:
        if not script.endswith("launch.sh"):
            assert "set -euo pipefail" in (APP / script).read_text()


def test_two_hosts_train_as_one_process_does(workplace, digits, attempt):
    """Two torchruns of one process each, started and joined as on two hosts: the same losses, evaluated once."""
    given = tiny_pretraining(digits, workplace / "alone", "--epochs", 1, "--batch-size", 32, "--replica", 2)
    alone = attempt("main_pretrain.py", *given)
    assert alone.status == 0, alone.error
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    given[given.index("--output") + 1] = str(workplace / "two")
    words = ["-n", "localhost,127.0.0.1", "-r", "2", "--config", "digits_pretrain", "--", *given[2:]]
    done = launch(workplace, MANY, *words, MASTER_PORT=port)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(workplace / "two") == pytest.approx(losses(workplace / "alone"), abs=1e-5)
    assert losses(workplace / "two", "validation") == pytest.approx(losses(workplace / "alone", "validation"), abs=1e-5)
    assert json.loads((workplace / "two" / "recipe.json").read_text())["processes"] == 2
    (log,) = (workplace / "output").glob("mae_pod64_*.log")
    assert log.read_text().count("validation loss") == 1
