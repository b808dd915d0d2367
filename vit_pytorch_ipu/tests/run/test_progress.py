"""Progress on a terminal and elsewhere, and the speed that it reports."""

from __future__ import annotations

import fcntl
import io
import math
import os
import re
import select
import struct
import sys
import termios

import pytest

from run.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_plain_lines_as_the_benchmarks_read_them(clock):
    stream = io.StringIO()
    with Progress(2000, steps_per_epoch=400, samples_per_step=100, stream=stream, clock=clock) as progress:
        clock.now += 0.5
        progress.report(1, learning_rate=0.03, loss=0.1234, accuracy=0.9117)
        clock.now += 1.0
        progress.report(401, learning_rate=1e-6, loss=12.5)
    lines = stream.getvalue().splitlines()
    assert lines[0] == (
        "Epoch 1/5, Step 1/2000, Lr 3.000e-02, loss: 0.123, accuracy: 0.912, throughput: 200.0 samples/sec, ETA 0:16:40"
    )
    assert lines[1].startswith("Epoch 2/5, Step 401/2000, Lr 1.000e-06, loss: 12.500, throughput: 40000.0 samples/sec")
    assert [float(found) for found in re.findall(r"throughput: *(.*?) samples\/sec", stream.getvalue())] == [200, 40000]
    assert re.findall(r"loss: *(\d*\.\d*)", stream.getvalue()) == ["0.123", "12.500"]


def test_time_to_go(clock):
    stream = io.StringIO()
    progress = Progress(5000, steps_per_epoch=10, samples_per_step=1, warmup=0, stream=stream, clock=clock)
    for step in range(1, 11):
        clock.now += 100.0 if step == 5 else 2.0
        progress.report(step, learning_rate=0, loss=0)
    assert stream.getvalue().splitlines()[-1].endswith("ETA 2:46:20")  # 4990 steps of 2 s, the slow one aside


def test_bar_on_a_terminal(clock):
    stream = Terminal()
    with Progress(10, steps_per_epoch=5, samples_per_step=8, start=4, stream=stream, clock=clock) as progress:
        for step in (5, 6):
            clock.now += 0.5
            progress.report(step, learning_rate=0.5, loss=0.25, accuracy=0.75)
        progress.note("saved step-6")
    text = stream.getvalue()
    assert "6/10" in text
    assert "4/10" in text
    assert "<" in text  # time to go
    assert "loss: 0.250, accuracy: 0.750, lr: 5.000e-01, 16.0 samples/sec" in text
    assert "saved step-6\n" in text
    assert "Epoch" not in text


@pytest.mark.parametrize(
    "variables",
    [
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"POPDIST_NUM_TOTAL_REPLICAS": "1", "POPDIST_NUM_LOCAL_REPLICAS": "1", "POPDIST_REPLICA_INDEX_OFFSET": "0"},
    ],
)
def test_no_bar_on_the_terminal_that_mpirun_makes(clock, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    with Progress(10, steps_per_epoch=5, samples_per_step=8, stream=stream, clock=clock) as progress:
        clock.now += 1
        progress.report(1, learning_rate=0, loss=0)
    assert "\r" not in stream.getvalue()
    assert stream.getvalue().startswith("Epoch 1/2, Step 1/10")


def test_notes_without_a_terminal(clock):
    stream = io.StringIO()
    Progress(10, steps_per_epoch=5, samples_per_step=8, stream=stream, clock=clock).note("saved")
    assert stream.getvalue() == "saved\n"


def test_reports_are_due_at_every_interval_and_at_the_end():
    progress = Progress(25, steps_per_epoch=5, samples_per_step=8, log_every=10, stream=io.StringIO())
    assert [step for step in range(1, 26) if progress.due(step)] == [10, 20, 25]


def test_speed_covers_all_steps_since_the_last_report_and_leaves_pauses_out(clock):
    progress = Progress(40, steps_per_epoch=5, samples_per_step=8, log_every=4, stream=io.StringIO(), clock=clock)
    clock.now += 2.0
    with progress.paused():
        clock.now += 1000.0
    assert progress.report(4, learning_rate=0, loss=0) == pytest.approx(16.0)


def test_summary_is_the_median_and_the_95th_percentile_after_warm_up(clock):
    progress = Progress(
        300, steps_per_epoch=5, samples_per_step=10, start=50, warmup=3, stream=io.StringIO(), clock=clock
    )
    assert math.isnan(progress.summary().throughput)
    for number in range(3):
        clock.now += 1000.0
        progress.report(51 + number, learning_rate=0, loss=0)
    for number in range(101):
        clock.now += 1.0 + number / 100
        progress.report(54 + number, learning_rate=0, loss=0)
    summary = progress.summary()
    assert summary.steps == 101
    assert summary.step_median == pytest.approx(1.5)
    assert summary.step_p95 == pytest.approx(1.95)
    assert summary.throughput == pytest.approx(10 / 1.5)
    assert (
        str(summary) == "median 6.7 samples/sec, step time 1.5000 s median, 1.9500 s p95, over 101 steps after warm-up"
    )


def test_fractions_of_steps_per_epoch(clock):
    stream = io.StringIO()
    progress = Progress(5, steps_per_epoch=2.5, samples_per_step=1, stream=stream, clock=clock)
    for step in range(1, 6):
        clock.now += 1
        progress.report(step, learning_rate=0, loss=0)
    assert re.findall(r"Epoch (\d/\d)", stream.getvalue()) == ["1/2", "1/2", "2/2", "2/2", "2/2"]


def test_other_processes_than_the_first_are_silent(clock, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for stream in (io.StringIO(), Terminal()):
        with Progress(10, steps_per_epoch=5, samples_per_step=8, stream=stream, clock=clock) as progress:
            clock.now += 1
            assert progress.report(1, learning_rate=0, loss=0) == pytest.approx(8.0)
            progress.note("nothing")
        assert stream.getvalue() == ""


@pytest.mark.parametrize("columns", [0, 90])
def test_a_real_terminal(columns, monkeypatch):
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", columns // 4, columns, 0, 0))
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with Progress(3, steps_per_epoch=3, samples_per_step=1) as progress:
            progress.report(3, learning_rate=0, loss=0.5)
        monkeypatch.undo()
        text = ""
        while "3/3" not in text:  # a terminal hands over what is written in pieces
            assert select.select([controller], [], [], 10)[0], text
            text += os.read(controller, 10000).decode()
    os.close(controller)
    lines = [line for line in text.replace("\n", "\r").split("\r") if line]
    assert "3/3" in lines[-1]
    if columns:
        assert {len(line) for line in lines} == {columns - 1}
    else:
        assert lines[-1].endswith("samples/sec]")
