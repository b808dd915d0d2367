"""Signals that ask for a stop, and those that end the process."""

import os
import signal
import time

import pytest

from signals import StopOnSignal

APART = 0.15  # seconds, more than between the two signals of one request


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_first_signal_asks_for_a_stop(number, capfd):
    before = signal.getsignal(number)
    with StopOnSignal() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert signal.getsignal(number) == before
    more = "" if number == signal.SIGUSR1 else "; once more to stop at once"
    assert capfd.readouterr().err == f"{signal.Signals(number).name}: finishing this update, then saving{more}\n"


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM], 0),  # Slurm's warning, and then its time is up
        ([signal.SIGUSR1, signal.SIGTERM, signal.SIGINT], 128 + signal.SIGINT),
        ([signal.SIGTERM, signal.SIGTERM], 128 + signal.SIGTERM),
        ([signal.SIGTERM, signal.SIGUSR1], 0),
    ],
)
def test_a_second_one_ends_the_process_unless_it_is_a_warning(numbers, status):
    child = os.fork()
    if child == 0:
        with StopOnSignal():
            for number in numbers:
                time.sleep(APART)
                os.kill(os.getpid(), number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
