"""run_vit.sh: the commands it makes for Open MPI 4 and 5 and every kind of hostfile, and what it refuses."""

import shlex
import signal
import subprocess
import time

import pytest

from options import parse_options
from recipe import batch_of
from tests import stand_ins
from tests.scripts import APP
from tests.stand_ins import OPEN_MPI_4, OPEN_MPI_5, TOOLS, launch, noted

RUN = "run_vit.sh"
DOCUMENTED = shlex.split("""
    --name imagenet1k_TF --dataset imagenet1K --data_path /dataset --model_type ViT-B_16
    --pretrained_dir /pretrained/ViT-B_16.npz --output_dir /output --num_steps 20000 --eval_every 1000
    --train_batch_size 64 --gradient_accumulation_steps 2 --img_size 384 --learning_rate 0.06 --autocast
""")
TRAINING = ["python3", f"{APP}/train.py"]


@pytest.fixture
def bin(tmp_path):  # the folder of stand-ins
    folder = tmp_path / "bin"
    stand_ins.mpirun(folder)
    stand_ins.machine(folder)
    stand_ins.shell(folder, "ssh", stand_ins.SSH.format(folder=folder))
    return folder


def dry(bin, *words, hosts=None, **changes):
    """(comments, hostfile, words of each command) of --dry-run."""
    if hosts is not None:
        (bin / "hostfile").write_text(hosts)
        words = ("--hostfile", bin / "hostfile", *words)
    done = launch(bin, RUN, "--dry-run", *words, **changes)
    assert (done.returncode, done.stderr) == (0, "")
    plan, *lines, log = done.stdout.splitlines()
    assert log.startswith("# output also in ")
    commands = [shlex.split(line) for line in lines if line.startswith("mpirun ")]
    return [plan, log], [line for line in lines if not line.startswith("mpirun ")], commands


def mpi_words(command):
    """mpirun's own words, those of the environment apart."""
    end = command.index("python3")
    assert command[end : end + 2] == TRAINING
    kept, exported = [], []
    words = iter(command[1:end])
    for word in words:
        if word == "-x":
            exported.append(next(words))
        elif word == "--hostfile":
            assert next(words).endswith(".hosts")
        elif word != "--allow-run-as-root":  # only root gives it
            kept.append(word)
    return kept, exported


def arguments(command):
    return command[command.index(TRAINING[1]) + 1 :]


def test_the_documents_command_on_eight_cards(bin):
    """Open MPI 4: 4 processes on each of two sockets of 24 cores, 6 cores for each."""
    stand_ins.mpirun(bin, OPEN_MPI_4)
    _, hosts, (command,) = dry(bin, hosts="worker-0.worker.space.svc slots=8\n")
    kept, exported = mpi_words(command)
    assert kept == shlex.split(
        "--tag-output --merge-stderr-to-stdout --mca orte_keep_fqdn_hostnames 1 -np 8 --bind-to core"
        " --map-by ppr:4:socket:PE=6 --report-bindings --rank-by core"
    )
    assert exported[:2] == ["MASTER_ADDR=worker-0.worker.space.svc", "MASTER_PORT=15566"]
    assert {"PATH", "PYTHONPATH"} < set(exported)
    assert hosts == ["worker-0.worker.space.svc slots=8"]
    given = arguments(command)
    added = given.index("--global_batch_size")
    assert given[added : added + 2] == ["--global_batch_size", "512"]
    assert given[:added] + given[added + 2 :] == DOCUMENTED


def test_open_mpi_5_has_other_words_for_the_same(bin):
    _, _, (command,) = dry(bin, hosts="worker-0 slots=8\n")
    kept, _ = mpi_words(command)
    assert kept == shlex.split(
        "--output tag,merge -np 8 --bind-to core --map-by ppr:4:package:PE=6 --report-bindings --rank-by slot"
    )


@pytest.mark.parametrize("flag", [["--config", "digits"], ["--config=digits"]])
def test_a_config_is_not_overruled_by_the_documents_arguments(bin, flag):
    comments, _, (command,) = dry(bin, "--cards", "1", "--", *flag, "--device", "cpu")
    assert arguments(command) == [*flag, "--device", "cpu"]
    assert comments[1] == "# output also in output/digits.log"
    comments, _, _ = dry(bin, "--cards", "1", "--", *flag, "--name", "mine", "--output_dir", "/results")
    assert comments[1] == "# output also in /results/mine.log"


@pytest.mark.parametrize(("nodes", "cards", "accumulation"), [(1, 1, 16), (1, 2, 8), (1, 4, 4), (1, 8, 2), (2, 8, 1)])
def test_the_global_batch_stays_512(bin, nodes, cards, accumulation):
    """With a micro-batch of 32 on every card, as in the document's 8-card run."""
    hosts = "".join(f"w{node} slots={cards}\n" for node in range(nodes))
    _, _, (command,) = dry(bin, hosts=hosts)
    options = parse_options(arguments(command))
    batch = batch_of(options, nodes * cards)
    assert (batch.micro, batch.accumulation, batch.total) == (32, accumulation, 512)
    assert (options.num_steps, options.learning_rate, options.autocast) == (20000, 0.06, True)


@pytest.mark.parametrize(
    "hosts",
    [
        "a slots=8\nb slots=8\n",
        "a\nb\n",  # the MPI operator before 0.4
        "a slots=8 max_slots=8\n\nb slots = 8",  # no newline at the end
        "# two workers\na slots=8 # first\n  b  slots=8\n",
        "a:8\nb:8\n",  # Intel MPI's
        "a slots=4\nb slots=4\na slots=4\nb slots=4\n",
        "a\na\na\na\na\na\na\na\n" + "b\n" * 8,  # a line for each process
        "a max_slots=4\nb max_slots=4\n",
    ],
)
@pytest.mark.parametrize("version", [OPEN_MPI_4, OPEN_MPI_5])
def test_hostfiles(bin, hosts, version):
    """mpirun gets a hostfile of its own with the slots, of which the versions think differently without."""
    stand_ins.mpirun(bin, version)
    _, written, (command,) = dry(bin, hosts=hosts)
    assert written == ["a slots=8", "b slots=8"]
    assert command[command.index("-np") + 1] == "16"
    assert "MASTER_ADDR=a" in command


def test_what_the_operator_sets_is_found(bin):
    """Open MPI 5 itself does not look at the first of these variables."""
    (bin / "hosts").write_text("w-0 slots=2\nw-1 slots=2\n")
    for name in ("HOSTSFILE", "OMPI_MCA_orte_default_hostfile", "PRTE_MCA_prte_default_hostfile"):
        assert dry(bin, **{name: str(bin / "hosts")})[1] == ["w-0 slots=2", "w-1 slots=2"]
    assert dry(bin, HOSTSFILE=str(bin / "hosts"), NUM_NODES="1")[1] == ["w-0 slots=2"]
    assert dry(bin, "--nodes", "1", HOSTSFILE=str(bin / "hosts"), NUM_NODES="2")[1] == ["w-0 slots=2"]
    assert dry(bin, hosts="x slots=3\n", HOSTSFILE=str(bin / "hosts"))[1] == ["x slots=3"]


@pytest.mark.parametrize(
    ("machine", "words", "binding"),
    [
        ({}, "--cards 8", "--bind-to core --map-by ppr:4:package:PE=6 --report-bindings"),
        ({}, "--cards 4", "--bind-to core --map-by ppr:2:package:PE=12 --report-bindings"),
        ({"cores": 28}, "--cards 8", "--bind-to core --map-by ppr:4:package:PE=7 --report-bindings"),
        ({"cores": 27}, "--cards 8", "--bind-to core --map-by ppr:4:package:PE=6 --report-bindings"),
        ({"threads": 1}, "--cards 8", "--bind-to core --map-by ppr:4:package:PE=6 --report-bindings"),
        ({"sockets": 1, "cores": 2}, "--cards 2", "--bind-to core --map-by ppr:2:package:PE=1 --report-bindings"),
        ({"sockets": 4, "cores": 8}, "--cards 8", "--bind-to core --map-by ppr:2:package:PE=4 --report-bindings"),
        ({}, "--cards 8 --pe 5", "--bind-to core --map-by ppr:4:package:PE=5 --report-bindings"),
        ({}, "--cards 8 --pe 0", "--bind-to none --map-by ppr:8:node"),
        ({}, "--cards 1", "--bind-to none --map-by ppr:1:node"),  # Open MPI 5 refuses cores of two sockets
        ({}, "--cards 3 --pe 8", "--bind-to core --map-by ppr:3:node:PE=8 --report-bindings"),
        ({"sockets": 1, "cores": 2}, "--cards 4", "--bind-to none --map-by ppr:4:node"),  # more processes than cores
        # What a container may use: 95 of 96 threads have all cores; half of each socket; one socket alone.
        ({"allowed": "0-94"}, "--cards 8", "--bind-to core --map-by ppr:4:package:PE=6 --report-bindings"),
        ({"allowed": "0-11,24-35"}, "--cards 8", "--bind-to core --map-by ppr:4:package:PE=3 --report-bindings"),
        ({"allowed": "0-11,24-27,30"}, "--cards 4", "--bind-to core --map-by ppr:2:package:PE=2 --report-bindings"),
        ({"allowed": "0-23"}, "--cards 8", "--bind-to core --map-by ppr:8:package:PE=3 --report-bindings"),
    ],
)
def test_cores_of_a_process(bin, machine, words, binding):
    stand_ins.machine(bin, **machine)
    _, _, (command,) = dry(bin, *words.split())
    start = command.index("--bind-to")
    assert command[start : command.index("--rank-by")] == binding.split()


def test_the_cores_are_those_of_the_first_host(bin):
    """The launcher's pod is on another kind of machine than the workers."""
    stand_ins.machine(bin, sockets=1, cores=2)
    rows = "".join(f"{core},{core},{core // 16}\n" for core in range(32))
    far = f"echo \"pid 1's current affinity list: 0-31\"; echo '{rows}'"
    stand_ins.shell(bin, "ssh", f'[[ $5 == far && $6 == *lscpu* ]] || exit 255\ncat <<"END"\n$({far})\nEND\n{far}')
    _, _, (command,) = dry(bin, "--cards", "8", hosts="far\n")
    assert "ppr:4:package:PE=4" in command
    plan, _, (command,) = dry(bin, "--cards", "8", hosts="unknown\n")
    assert "ppr:8:node" in command
    assert "cores of unknown: unknown" in plan[0]


def test_the_cards_of_this_machine(bin):
    assert dry(bin)[1] == ["localhost slots=1"]
    stand_ins.shell(bin, "hl-smi", '[[ $* == "-Q index -f csv,noheader" ]] && printf "0\\n1\\n2\\n3\\n"')
    assert dry(bin)[1] == ["localhost slots=4"]
    assert dry(bin, "--cards", "2")[1] == ["localhost slots=2"]
    assert dry(bin, hosts="other\n")[1] == ["other slots=8"]  # the document's, since those here are not the worker's
    stand_ins.shell(bin, "hl-smi", "echo 'no driver' >&2; exit 1")
    assert dry(bin)[1] == ["localhost slots=1"]


def test_variables_that_the_processes_get(bin):
    given = {"PT_HPU_LAZY_MODE": "1", "HCCL_OVER_TCP": "1", "HABANA_LOGS": "/tmp", "HABANA_VISIBLE_MODULES": "0"}
    _, _, (command,) = dry(bin, hosts="w slots=8\n", SECRET="x", MASTER_ADDR="10.0.0.1", MASTER_PORT="29500", **given)
    _, exported = mpi_words(command)
    assert exported[:2] == ["MASTER_ADDR=10.0.0.1", "MASTER_PORT=29500"]
    assert {"PT_HPU_LAZY_MODE", "HCCL_OVER_TCP", "HABANA_LOGS"} < set(exported)
    assert not {"SECRET", "HABANA_VISIBLE_MODULES", "HOME"} & set(exported)


def test_setup_runs_once_on_every_host_before(bin):
    _, _, (first, second) = dry(bin, "--setup", hosts="a slots=8\nb slots=8\n", MPI_ROOT="/opt/openmpi")
    assert first[first.index("-np") + 1] == "2"
    assert first[first.index("--map-by") + 1] == "ppr:1:node"
    assert first[-2:] == ["bash", f"{APP}/setup.sh"]
    assert second[second.index("-np") + 1] == "16"
    for command in (first, second):
        assert command[command.index("--prefix") + 1] == "/opt/openmpi"


def test_what_mpirun_gets_and_where_the_output_goes(bin, tmp_path):
    """The printed command is the one that runs, odd words included; the log grows with every run."""
    odd = ["--wandb-run-name", "two words; $HOME 'quoted' \"twice\"", "--wandb", ""]
    given = ["--cards", "2", "--setup", "--", "--output-dir", tmp_path / "out", "--name=run", *odd]
    stand_ins.mpirun(bin, code="print('from mpirun', flush=True); print('an error', file=sys.stderr)")
    _, hosts, printed = dry(bin, *given)
    for _ in range(2):
        done = launch(bin, RUN, *given)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("from mpirun\nan error\n") == 2
    calls = noted(bin)
    assert [words for words, _, _ in calls] == [words[1:] for words in printed] * 2
    assert all(lines == hosts == ["localhost slots=2"] for _, _, lines in calls)
    assert all(variables["PYTHONPATH"].split(":")[0] == str(APP.parent) for _, variables, _ in calls)
    log = (tmp_path / "out" / "run.log").read_text()
    assert log == done.stdout * 2
    assert calls[0][0][-len(odd) :] != odd
    assert calls[1][0][-len(odd) :] == odd


def test_a_failed_setup_ends_it(bin, tmp_path):
    stand_ins.mpirun(bin, code="sys.exit(3)")
    done = launch(bin, RUN, "--setup", "--", "--output_dir", tmp_path)
    assert done.returncode == 3
    assert len(noted(bin)) == 1


def test_it_waits_for_hosts_that_come_late(bin, tmp_path):
    code = f'echo . >>{tmp_path}/tries; (($(wc -l <{tmp_path}/tries) > 2)) || {{ echo "no such name" >&2; exit 255; }}'
    stand_ins.shell(bin, "ssh", f"[[ $6 == true ]] || exit 0\n{code}")
    stand_ins.shell(bin, "sleep", ":")
    (bin / "hostfile").write_text("late slots=2\n")
    done = launch(bin, RUN, "--hostfile", bin / "hostfile", "--", "--output_dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len((tmp_path / "tries").read_text().split()) == 3
    assert len(noted(bin)) == 1


def test_a_host_that_never_answers(bin, tmp_path):
    stand_ins.shell(bin, "ssh", 'echo "ssh: connect to host: timed out" >&2; exit 255')
    (bin / "hostfile").write_text("gone slots=2\n")
    done = launch(bin, RUN, "--hostfile", bin / "hostfile", "--wait", "0", "--", "--output_dir", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "run_vit.sh: gone did not answer ssh in time: ssh: connect to host: timed out\n"
    assert not (bin / "mpirun.log").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("-x", "there is no option -x"),
        ("--device cpu", "there is no option --device; arguments of train.py stand after --"),
        ("--hostfile", "--hostfile needs a value"),
        ("--cards --dry-run", "--cards needs a value"),
        ("--cards 0", "--cards takes a whole number from 1, not 0"),
        ("--pe 2.5", "--pe takes a whole number from 0, not 2.5"),
        ("--nodes 08", "--nodes takes a whole number from 1, not 08"),
        ("--nodes 2", "2 hosts are wanted and there are 1"),
        ("--hostfile /nowhere", "the hostfile /nowhere can't be read"),
        ("--hostfile /tmp", "the hostfile /tmp can't be read"),
        ("--hostfile /dev/null", "the hostfile /dev/null names no host"),
    ],
)
def test_refused(bin, words, says):
    done = launch(bin, RUN, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.startswith("run_vit.sh: ")
    assert done.stderr.count("\n") == 1
    assert not (bin / "mpirun.log").exists()


def test_hosts_that_are_too_few_or_too_small(bin):
    (bin / "hostfile").write_text("a slots=8\nb slots=4\n")
    given = ["--hostfile", bin / "hostfile", "--dry-run"]
    done = launch(bin, RUN, *given, NUM_NODES="3")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "3 hosts are wanted and there are 2" in done.stderr
    assert "a host has 4 slots" in launch(bin, RUN, *given, "--cards", "8").stderr
    assert dry(bin, "--hostfile", bin / "hostfile")[1] == ["a slots=4", "b slots=4"]
    assert "NUM_NODES takes a whole number from 1, not two" in launch(bin, RUN, *given, NUM_NODES="two").stderr


def test_other_mpis_and_none(bin, tmp_path):
    stand_ins.mpirun(bin, "HYDRA build details:")
    done = launch(bin, RUN)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        'run_vit.sh: mpirun is not Open MPI\'s but says "HYDRA build details:": put Open MPI 4 or 5 on PATH\n'
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "hostname", "awk", "sort"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    done = launch(bin, RUN, PATH=str(tools))
    assert done.returncode == 1
    assert done.stderr == "run_vit.sh: mpirun is not on PATH: activate the environment that Open MPI is installed in\n"


def start(bin, *words):
    environment = {"PATH": f"{bin}:/usr/bin:/bin"}
    command = ["bash", str(APP / RUN), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=heed_every_signal)


def heed_every_signal():
    """Bash can't trap what was ignored when it began, as SIGHUP is for what nohup runs."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


READY = "print('ready', flush=True)\nfor _ in range(600): time.sleep(.1)"


def test_a_request_to_stop_reaches_the_processes(bin, tmp_path):
    """mpirun passes SIGUSR1 on; on SIGTERM it would kill them."""
    code = "signal.signal(signal.SIGUSR1, lambda *_: (os.write(1, b'asked\\n'), sys.exit(75)))\n" + READY
    stand_ins.mpirun(bin, code=code)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with start(bin, "--", "--output_dir", tmp_path) as process:
            assert process.stdout.readline().startswith("# 1 x 1 processes")
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            assert process.wait(timeout=20) == 75
            assert process.stdout.read() == "asked\n"


def test_a_second_request_ends_it_at_once(bin, tmp_path):
    code = "signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'asked\\n'))\n"
    code += f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n{READY}"
    stand_ins.mpirun(bin, code=code)
    with start(bin, "--", "--output_dir", tmp_path) as process:
        assert [process.stdout.readline() for _ in range(2)][1] == "ready\n"
        for _ in range(2):
            process.send_signal(signal.SIGTERM)  # a launcher's pair, which is one request
            time.sleep(0.2)
        assert process.stdout.readline() == "asked\n"
        assert process.poll() is None
        time.sleep(2.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143


def test_help_and_style():
    for script in (RUN, "setup.sh"):
        done = subprocess.run([APP / script, "--help"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "--dry-run" in done.stdout
    scripts = [RUN, "setup.sh", "scripts/launch.sh"]
    done = subprocess.run([TOOLS / "shellcheck", "-x", *scripts], cwd=APP, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    for script in (RUN, "setup.sh"):
        assert "set -euo pipefail" in (APP / script).read_text()
