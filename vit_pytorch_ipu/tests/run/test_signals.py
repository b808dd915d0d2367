"""Stopping on SIGTERM, SIGINT and SIGUSR1, in real processes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from run.signals import StopOnSignal, worker_init

LOOP = """
import sys, time
from run.errors import Stopped, entry_point
from run.signals import StopOnSignal

def main(argv):
    with StopOnSignal() as stop:
        print("ready", flush=True)
        while not (stop.requested and sys.argv[1] == "obeys"):
            time.sleep(0.01)
        print("step finished and saved", flush=True)
    raise Stopped("saved: start again with --resume")

entry_point(main)
"""
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGUSR1])
def test_the_first_signal_lets_the_step_finish(start, number):
    process = start(LOOP, "obeys")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert output == "step finished and saved\n"
    name = signal.Signals(number).name
    more = "" if number == signal.SIGUSR1 else "; once more to stop at once"
    assert errors == (f"{name}: finishing this step, then saving{more}\nstopped: saved: start again with --resume\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_at_once(start, number):
    process = start(LOOP, "is stuck")
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (128 + number, "")


def test_a_warning_asks_and_never_ends_the_process(start):
    """Slurm's, or mpirun's for a SIGTERM: a launcher and a worker that is taken down may both send it."""
    process = start(LOOP, "is stuck")
    process.stdout.readline()
    process.send_signal(signal.SIGUSR1)
    assert process.stderr.readline() == "SIGUSR1: finishing this step, then saving\n"
    for number in (signal.SIGUSR1, signal.SIGTERM):  # what follows a warning when the time is up
        time.sleep(0.2)
        process.send_signal(number)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_request_that_comes_twice_within_a_moment_is_one():
    with StopOnSignal(quiet=True) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested


def test_forked_children_are_silent(capfd):
    with StopOnSignal():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        os.waitpid(child, 0)
    assert capfd.readouterr().err == ""


def test_handlers_come_back():
    numbers = [*SIGNALS, signal.SIGUSR1]
    before = [signal.getsignal(number) for number in numbers]
    with StopOnSignal() as stop:
        assert all(signal.getsignal(number) != handler for number, handler in zip(numbers, before))
    assert [signal.getsignal(number) for number in numbers] == before
    assert not stop.requested


WORKERS = """
import os, signal, sys, time
import torch
from run.signals import StopOnSignal, worker_init

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, index):
        time.sleep(0.05)
        return index

if __name__ == "__main__":
    os.setpgid(0, 0)
    with StopOnSignal() as stop:
        loader = torch.utils.data.DataLoader(Slow(), batch_size=4, num_workers=2, worker_init_fn=worker_init)
        for number, batch in enumerate(loader):
            if number == 1:
                os.killpg(0, getattr(signal, sys.argv[1]))
        print(number, stop.requested)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_to_the_whole_group_leaves_the_workers_at_work(run, name):
    code, output, errors = run(WORKERS, name)
    assert (code, output) == (0, "9 True\n")
    assert errors.count("finishing this step") == 1


def test_workers_obey_the_second_signal():
    child = os.fork()
    if child == 0:
        worker_init(0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) == 128 + signal.SIGTERM
