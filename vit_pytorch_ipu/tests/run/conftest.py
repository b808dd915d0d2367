"""Real processes for tests: a script that uses run/, alone or several as a launcher starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[2]
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PMIX_NAMESPACE")


def _start(code, *words, **environment):
    """Start Python on `code`; standard output and error are pipes of text."""
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHED and "OMPI" not in name}
    clean.update(PYTHONPATH=str(APP), OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1", **environment)
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean)


def _run(code, *words, **environment):
    """Run Python on `code`; return exit code, output and errors."""
    (result,) = _finish([_start(code, *words, **environment)])
    return result


def _finish(processes):
    """Wait for processes, but leave none behind; return (exit code, output, errors) of each."""
    try:
        results = [process.communicate(timeout=120) for process in processes]
        return [(process.returncode, *result) for process, result in zip(processes, results)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run_together(code, *words, count=2, launcher="torchrun"):
    """Run `count` processes as torchrun or mpirun starts them; return (exit code, output, errors) of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(count):
        if launcher == "torchrun":
            place = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank}
            place.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        else:
            place = {"OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_SIZE": count, "OMPI_COMM_WORLD_LOCAL_RANK": rank}
            place["PMIX_NAMESPACE"] = "test-" + port  # mpirun names the job but gives no address
        environment = {name: str(value) for name, value in place.items()}
        started.append(_start(code, *words, **environment))
    return _finish(started)


@pytest.fixture
def start():
    return _start


@pytest.fixture
def run():
    return _run


@pytest.fixture
def run_together():
    return _run_together
