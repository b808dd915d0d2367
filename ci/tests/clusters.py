"""Slurm and Kubernetes on one machine: what they give a script or a pod, and stand-ins that start real processes."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
TORCH, TENSORFLOW = ROOT / ".venv" / "torch" / "bin", ROOT / ".venv" / "tensorflow" / "bin"

# A task for each of SLURM_NTASKS. As srun does, it hands USR1 on to all processes of a task and kills them on TERM.
SRUN = """#!{python}
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
tasks, asked = [], []

def hand_on(number, _):
    asked.append(number)
    for task in tasks:
        os.killpg(task.pid, signal.SIGKILL if number == signal.SIGTERM else number)

signal.signal(signal.SIGUSR1, hand_on)
signal.signal(signal.SIGTERM, hand_on)
for number in range(int(os.environ["SLURM_NTASKS"])):
    local = number % int(os.environ["SLURM_NTASKS_PER_NODE"])
    place = {{"SLURM_PROCID": str(number), "SLURM_LOCALID": str(local)}}
    started = subprocess.Popen(words, start_new_session=True, env={{**os.environ, **place}})
    tasks.append(started)
    if asked:  # it was signalled before it was in the list
        hand_on(asked[0], None)
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCONTROL = """#!/bin/bash
echo "$*" >>{log}
if [[ $1 == show ]]; then seq --format 127.0.0.%g "$SLURM_NNODES"; fi
"""
QUIET = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "MPLBACKEND": "Agg", "POPTORCH_HOST_DEVICE": "cpu"}


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def free_port() -> int:
    """From the range of which torch.sbatch takes one by the job's number."""
    for port in range(20000 + os.getpid() % 10000, 40000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


class Slurm:
    """A job in the queue of one machine: the script with its #SBATCH options, over which sbatch's words win."""

    def __init__(self, folder: Path, script: str, app: str, **options: str) -> None:
        self.script, self.app = EXAMPLES / "slurm" / script, ROOT / app
        header = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", self.script.read_text(), re.MULTILINE)
        self.options = {**dict(header), **{name.replace("_", "-"): value for name, value in options.items()}}
        self.bin, self.log = folder / "bin", folder / "scontrol.log"
        program(self.bin / "srun", SRUN.format(python=sys.executable))
        program(self.bin / "scontrol", SCONTROL.format(log=self.log))
        self.job = str(free_port() - 20000)

    def start(self, *words: object, **variables: str) -> subprocess.Popen:
        """Start it as slurmd does: a copy of the script, in the folder where it was submitted."""
        copy = self.bin / "slurm_script"
        copy.write_text(self.script.read_text())
        nodes, per_node = int(self.options["nodes"]), int(self.options["ntasks-per-node"])
        given = {"SLURM_JOB_ID": self.job, "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": str(nodes)}
        given.update({"SLURM_NTASKS": str(nodes * per_node), "SLURM_NTASKS_PER_NODE": str(per_node)})
        given.update({"SLURM_CPUS_PER_TASK": self.options["cpus-per-task"], **QUIET, **variables})
        return subprocess.Popen(
            ["bash", str(copy), *map(str, words)],
            cwd=self.app,
            env={**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin", **given},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def requeued(self) -> int:
        """How often the job was sent back into the queue."""
        return self.log.read_text().splitlines().count(f"requeue {self.job}")


def objects(name: str) -> list:
    """Kubernetes objects of a file."""
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes" / name).read_text()))


def pod_command(job: dict, index: int, replaced: dict) -> tuple:
    """(words, folder) of the pod's container: the variables of its index and a machine's places filled in."""
    container = job["spec"]["template"]["spec"]["containers"][0]
    words = [word.replace("$(NODE_RANK)", str(index)) for word in container["command"] + container["args"]]
    for old, new in replaced.items():
        assert any(old in word for word in words), f"{old} is not in {shlex.join(words)}"
        words = [word.replace(old, str(new)) for word in words]
    assert container["workingDir"].startswith("/apps/")
    return words, ROOT / container["workingDir"][len("/apps/") :]


def start_pod(words: list, folder: Path, tools: Path) -> subprocess.Popen:
    """Start what a pod runs, with the environment that its image has on PATH."""
    return subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, **QUIET, "PATH": f"{tools}:/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_steps(history: Path, steps: int, process: subprocess.Popen) -> None:
    """Return when the history has this many lines of training."""
    until = time.monotonic() + 240
    while not (history.exists() and history.read_text().count('"train"') >= steps):
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > until:
            process.kill()
            raise AssertionError(f"{history} has not reached {steps} steps in time")
        time.sleep(0.02)
