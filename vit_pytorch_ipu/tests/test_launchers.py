"""run_singlehost.sh and run_multihosts.sh: their commands, what they refuse, and real training through them."""

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

from ipu_options import create_program, training_options
from options import PretrainOptions
from run.errors import UsageError
from run.options import parse
from tests.scripts import APP, environment

TOOLS = Path(sys.executable).parent
SINGLE, MULTI = "./run_singlehost.sh", "./run_multihosts.sh"
FOUR = "-n a,b,c,d -s controller -o eno1 -b 10.5.0.0/16 -p pod64 -c cluster"
BENCHMARK = "--config b16_in1k_pretrain --dataset generated --epochs 1 --micro-batch-size 12 --byteio true"
BENCHMARK += " --enable-rts true --optimizer-state-offchip false --evaluate false"


@pytest.fixture
def workplace(tmp_path):
    """A folder of links to the app's files, so that logs and runs stay out of the app's folder."""
    folder = tmp_path / "app"
    folder.mkdir()
    for name in os.listdir(APP):
        if name not in {"data", "output", "tests", "__pycache__"}:
            (folder / name).symlink_to(APP / name)
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
        [script, *map(str, words)],
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
    assert log.startswith("# output also in output/vit_scalability_")
    assert not (workplace / "output").exists()
    return [shlex.split(line) for line in lines]


def pretrain_options(words):
    return parse(PretrainOptions, words, configs=APP / "configs.yml", script="pretrain.py", description="")


def flags(words):
    """{"--flag": "value"} of a script's arguments."""
    return dict(zip(words[::2], words[1::2]))


def benchmark_of(words, script="pretrain.py"):
    """Flags after pretrain.py, and the output folder apart from them."""
    found = flags(words[words.index(script) + 1 :])
    return found, found.pop("--output")


def test_poprun_on_four_hosts(workplace):
    """The documented layout: 16 replicas, 8 instances and link domains, 65,472 images per update."""
    ((env, *line),) = dry(workplace, MULTI, f"{FOUR} --launcher poprun")
    start = line.index("poprun")
    assert env == "env"
    assert line[:start] == [
        "IPUOF_VIPU_API_TIMEOUT=1000",
        "POPLAR_LOG_LEVEL=WARN",
        'POPLAR_ENGINE_OPTIONS={"target.hostSyncTimeout": "3000"}',
        "MASTER_ADDR=a",
        "MASTER_PORT=29500",
    ]
    end = line.index("python3")
    assert line[start + 1 : end] == [
        "-vv",
        "--host=a,b,c,d",
        "--num-replicas=16",
        "--num-instances=8",
        "--num-ilds=8",
        "--ipus-per-replica=4",
        "--vipu-server-host=controller",
        "--vipu-partition=pod64",
        "--vipu-allocation=cluster",
        "--update-partition=yes",
        "--remove-partition=no",
        "--mpi-global-args=--output-filename output_poprun --mca oob_tcp_if_include eno1"
        " --mca btl_tcp_if_include 10.5.0.0/16",
        "--mpi-local-args=-x OPAL_PREFIX -x LD_LIBRARY_PATH -x PATH -x PYTHONPATH -x CPATH -x POPLAR_SDK_ENABLED"
        " -x POPLAR_ENGINE_OPTIONS -x POPLAR_LOG_LEVEL -x IPUOF_VIPU_API_TIMEOUT -x MASTER_ADDR -x MASTER_PORT",
    ]
    given, output = benchmark_of(line)
    assert output.startswith("output/vit_scalability_")
    assert given == {
        **flags(BENCHMARK.split()),
        **flags(["--iterations", "256", "--gradient-accumulation", "341", "--rebatched-worker-size", "1364"]),
        **flags(["--dataloader-workers", "32", "--replication-factor", "16"]),
    }


@pytest.mark.parametrize(
    ("words", "replicas", "instances", "accumulation"),
    [
        ("-n a,b", 8, 4, 682),
        ("-n a,b,c", 12, 6, 455),
        ("-n a,b,c,d,e,f,g,h", 32, 16, 170),
        ("-n a,b -r 4 -i 2", 4, 2, 1365),
    ],
)
def test_other_numbers_of_hosts(workplace, words, replicas, instances, accumulation):
    (line,) = dry(workplace, MULTI, f"{words} -s x -p y --launcher poprun")
    assert {f"--num-replicas={replicas}", f"--num-instances={instances}", f"--num-ilds={instances}"} < set(line)
    given, _ = benchmark_of(line)
    assert given["--replication-factor"] == str(replicas)
    assert given["--gradient-accumulation"] == str(accumulation)
    assert 12 * replicas * accumulation <= 65536 < 12 * replicas * (accumulation + 1)
    assert 12 * replicas // instances * accumulation % int(given["--rebatched-worker-size"]) == 0


def test_poprun_on_one_host(workplace):
    """4 replicas in one process, 65,520 images per update."""
    (line,) = dry(workplace, SINGLE, "-s controller -p pod16 --launcher poprun")
    assert line[:3] == ["env", "IPUOF_VIPU_API_HOST=controller", "IPUOF_VIPU_API_PARTITION_ID=pod16"]
    assert {"--num-replicas=4", "--num-instances=1", "--ipus-per-replica=4", "--vipu-partition=pod16"} < set(line)
    given, output = benchmark_of(line)
    assert output.startswith("output/vit_scalability_")
    assert given == {
        **flags(BENCHMARK.split()),
        **flags(["--iterations", "64", "--gradient-accumulation", "1365", "--rebatched-worker-size", "1365"]),
        **flags(["--dataloader-workers", "64", "--replication-factor", "4"]),
    }


@pytest.mark.parametrize(("script", "words", "batch"), [(SINGLE, "", 65520), (MULTI, "-n a,b,c,d", 65472)])
def test_the_benchmarks_options_are_pretrain_pys(workplace, script, words, batch):
    (line,) = dry(workplace, script, f"-s x -p y --launcher poprun {words}")
    options = pretrain_options(line[line.index("pretrain.py") + 1 :])
    assert create_program(options).global_batch == batch
    assert options.dataset == "generated"


def test_torchrun_on_four_hosts(workplace):
    """One torchrun for each host: here directly, on the others through ssh; they meet at the first."""
    lines = dry(workplace, MULTI, f"-n {socket.gethostname()},b,c,d -b eno2")
    assert len(lines) == 4
    for rank, line in enumerate(lines):
        if rank:
            assert line[:4] == ["ssh", "-o", "BatchMode=yes", "bcd"[rank - 1]]
            assert len(line) == 5
            remote = line[4]
            assert remote.startswith(f"cd {workplace} && exec env PATH=")
            line = [word for word in shlex.split(remote.split(" exec env ")[1]) if not word.startswith("PATH=")]
        assert line[:4] == ["env", "GLOO_SOCKET_IFNAME=eno2", "NCCL_SOCKET_IFNAME=eno2", "torchrun"]
        assert line[4:9] == [
            "--nnodes=4",
            f"--node-rank={rank}",
            "--nproc-per-node=2",
            f"--master-addr={socket.gethostname()}",
            "--master-port=29500",
        ]
        assert benchmark_of(line)[0]["--gradient-accumulation"] == "341"


def test_poprun_is_taken_where_it_is_on_path(workplace):
    assert dry(workplace, SINGLE, "")[0][:2] == ["torchrun", "--standalone"]
    stub(workplace, "poprun")
    assert "poprun" in dry(workplace, SINGLE, "-s x -p y")[0]
    assert "poprun" in dry(workplace, MULTI, "-n a -s x -p y")[0]
    assert dry(workplace, SINGLE, "--launcher torchrun")[0][0] == "torchrun"


def test_what_poprun_gets(workplace):
    """The command that --dry-run prints is the one that runs, arguments with blanks and quotes included."""
    stub(workplace, "poprun", "print('from poprun')")
    odd = ["--wandb-run-name", "two words; $HOME 'quoted' \"twice\"", "--loss", ""]
    shown = launch(workplace, MULTI, *FOUR.split(), "--dry-run", "--", *odd)
    printed = shlex.split(shown.stdout.splitlines()[0])
    done = launch(workplace, MULTI, *FOUR.split(), "--", *odd)
    assert (done.returncode, done.stdout, done.stderr) == (0, "from poprun\n", "")
    ((arguments, variables),) = noted(workplace, "poprun")
    assert arguments[-4:] == odd
    undated = [word for word in arguments if "vit_scalability_" not in word]
    assert undated == [word for word in printed[printed.index("poprun") + 1 :] if "vit_scalability_" not in word]
    for assignment in printed[1 : printed.index("poprun")]:
        name, _, value = assignment.partition("=")
        assert variables[name] == value
    (log,) = (workplace / "output").glob("vit_scalability_*.log")
    assert log.read_text() == "from poprun\n"


def test_a_config_instead_of_the_benchmark(workplace):
    (line,) = dry(workplace, SINGLE, "--config b16_in1k_pretrain_lamb -- --epochs 1 --byteio")
    assert line[3:9] == ["pretrain.py", "--config", "b16_in1k_pretrain_lamb", "--replication-factor", "4", "--output"]
    assert line[10:] == ["--epochs", "1", "--byteio"]


@pytest.mark.parametrize("script", [SINGLE, MULTI])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("-x", "there is no option -x"),
        ("--gradient-accumulation 3", "arguments of pretrain.py stand after --"),
        ("-n a -s", "-s needs a value"),
        ("-n a -s --dry-run", "-s needs a value"),
        ("-n a -p", "-p needs a value"),
        ("-n a -r 4.5", "-r takes a whole number from 1, not 4.5"),
        ("-n a -i 0", "-i takes a whole number from 1, not 0"),
        ("-n a -r 3 -i 2", "3 replicas can't be dealt out to 2 processes"),
        ("-n a -r 5462 -i 2", "5462 replicas are more than"),
        ("-n a --launcher mpirun", "--launcher is poprun or torchrun, not mpirun"),
        ("-n a --launcher poprun -p x", "poprun needs the V-IPU controller: give -s"),
        ("-n a --launcher poprun -s x", "poprun needs the V-IPU partition: give -p"),
    ],
)
def test_refused(workplace, script, words, says):
    given = words.split()
    if script == SINGLE and given[0] == "-n":
        given = given[2:]
    done = launch(workplace, script, *given)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.startswith(f"{script[2:]}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "the hosts are missing: give -n"),
        ("-n a,,b", "-n a,,b has an empty name"),
        ("-n a,b,c -i 4", "4 processes can't be dealt out to 3 hosts"),
        ("-n a,b -b 10.5.0.0/16", "torchrun takes the name of a network interface, not 10.5.0.0/16"),
        ("-n localhost,b", "b can't reach localhost"),
    ],
)
def test_refused_on_several_hosts(workplace, words, says):
    done = launch(workplace, MULTI, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_and_what_torchrun_has_no_use_for(workplace):
    for script in (SINGLE, MULTI):
        done = launch(workplace, script, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert all(option in done.stdout for option in ("-s", "-p", "--dry-run", "--launcher"))
    assert all(option in done.stdout for option in ("-n", "-o", "-b", "-c"))
    done = launch(workplace, SINGLE, "-s", "x", "--dry-run")
    assert done.returncode == 0
    assert done.stderr == "run_singlehost.sh: -s is for IPUs and has no effect with torchrun\n"


def test_without_any_launcher(workplace):
    tools = workplace / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "date", "cat"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    done = launch(workplace, SINGLE, PATH=str(tools))
    assert done.returncode == 1
    assert (
        done.stderr == "run_singlehost.sh: torchrun is not on PATH: activate the environment that it is installed in\n"
    )


def test_a_host_that_fails_stops_the_others(workplace):
    stub(workplace, "torchrun", "time.sleep(60 if '--node-rank=0' in sys.argv else 0); sys.exit(3)")
    began = time.monotonic()
    done = launch(workplace, MULTI, "-n", "localhost,127.0.0.1")
    assert done.returncode == 3
    assert time.monotonic() - began < 30
    assert len(noted(workplace, "torchrun")) == 2


def test_a_signal_is_passed_on(workplace):
    """As a batch system ends a job: the run saves, exits with 75, and so does the script."""
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\nprint('ready', flush=True)\ntime.sleep(60)"
    stub(workplace, "torchrun", code)
    path = os.pathsep.join([str(workplace / "bin"), os.environ["PATH"]])
    process = subprocess.Popen(
        [SINGLE, "--launcher", "torchrun"], cwd=workplace, env=environment(PATH=path), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_ctrl_c_is_waited_for(workplace):
    """A terminal interrupts script and run alike: the script ends when the run has saved, with its status."""
    code = "def stop(*_): time.sleep(2); sys.exit(75)\nsignal.signal(signal.SIGINT, stop)\n"
    stub(workplace, "torchrun", code + "print('ready', flush=True)\ntime.sleep(60)")
    path = os.pathsep.join([str(workplace / "bin"), os.environ["PATH"]])
    process = subprocess.Popen(
        [SINGLE, "--launcher", "torchrun"],
        cwd=workplace,
        env=environment(PATH=path),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 75
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_scripts_are_clean():
    scripts = ["run_singlehost.sh", "run_multihosts.sh", "scripts/launch.sh", "scripts/benchmark.sh"]
    for script in scripts:
        subprocess.run(["bash", "-n", script], cwd=APP, check=True)
    done = subprocess.run([TOOLS / "shellcheck", "-x", *scripts], cwd=APP, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    for script in scripts[:2]:
        assert "set -euo pipefail" in (APP / script).read_text()


# A ViT of 20 thousand parameters on the digits, 4 replicas.
_WORDS = "--hidden-size 32 --num-hidden-layers 2 --num-attention-heads 2 --mlp-dim 64 --representation-size 32"
_WORDS += " --recompute-mid-layers 1 --layers-per-ipu 2 --micro-batch-size 8 --gradient-accumulation 4 --epochs 1"
_WORDS += " --warmup-steps 2 --hidden-dropout-prob 0 --attention-probs-dropout-prob 0 --dataloader-workers 0"
TINY = [*_WORDS.split(), "--tensorboard", "false"]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines], [line["samples"] for line in lines if line["split"] == "validation"]


@pytest.fixture(scope="module")
def alone(digits, tmp_path_factory):
    """What one process without a launcher gives."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    given = ["--config", "digits_pretrain", "--dataset-path", str(digits), "--output", str(folder), *TINY]
    command = [sys.executable, "pretrain.py", *given, "--replication-factor", "4"]
    done = subprocess.run(command, cwd=APP, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return losses(folder)


def agrees(workplace, digits, alone, script, *words):
    """Train two processes through a script: the same losses as one, every sample evaluated once, one log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    given = ["--config", "digits_pretrain", "-r", "4", "-i", "2", *words, "--", "--dataset-path", digits, *TINY]
    done = launch(workplace, script, *given, MASTER_PORT=port)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = [path for path in (workplace / "output").iterdir() if path.is_dir()]
    found, samples = losses(run)
    assert found == pytest.approx(alone[0], abs=1e-5)
    assert samples == alone[1] == [360]
    assert json.loads((run / "recipe.json").read_text())["processes"] == 2
    log = run.with_suffix(".log").read_text()
    assert log.count("validation accuracy") == 1
    assert "Step 6/6" in log


def test_two_hosts_train_as_one_process_does(workplace, digits, alone):
    """Two torchruns of one process each, started and joined as on two hosts."""
    agrees(workplace, digits, alone, MULTI, "-n", "localhost,127.0.0.1")


def test_two_instances_of_poprun_train_as_one_process_does(workplace, digits, alone):
    """With nothing but PopRun's variables the processes find each other; each runs two of the four replicas."""
    (workplace / "bin").mkdir()
    (workplace / "bin" / "poprun").symlink_to(APP / "tests" / "stand_in_poprun.py")
    agrees(workplace, digits, alone, SINGLE, "-s", "x", "-p", "y")


def test_replicas_that_differ_from_popruns(monkeypatch):
    options = pretrain_options(["--config", "digits_pretrain", "--replication-factor", "2"])
    for name, value in (("TOTAL", "4"), ("LOCAL", "2")):
        monkeypatch.setenv(f"POPDIST_NUM_{name}_REPLICAS", value)
    with pytest.raises(UsageError, match="poprun runs 4 replicas and the options say 2: make them agree"):
        training_options(options)
    same = pretrain_options(["--config", "digits_pretrain", "--replication-factor", "4"])
    assert training_options(same).replication_factor == 4


def test_a_variable_that_nobody_exported():
    """examples-utils leaves it as it stands, and a folder of that name would be made."""
    options = pretrain_options(["--config", "digits_pretrain", "--executable-cache-dir", "$PYTORCH_EXE_DIR"])
    with pytest.raises(UsageError, match=r"\$PYTORCH_EXE_DIR: export this variable"):
        training_options(options)
