"""Contenders in processes of their own that compute in turn, so that the machine's moods meet all of them alike."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

# Work → module of benchmarks.contenders.
WORKS = {
    "vit_b": "vit",
    "vit_ti": "vit",
    "vit_gaudi": "vit_gaudi",
    "mae": "mae",
    "swin": "swin",
    "keras_vit": "keras_vit",
    "processes": "processes",
    "vit_b_end_to_end": "end_to_end",
    "vit_ti_end_to_end": "end_to_end",
}
WITH_HELPERS = ("processes", "vit_b_end_to_end", "vit_ti_end_to_end")  # whose steps other processes help with
OURS = "ours"
MATMUL = "matmul"  # the contender whose speed is the peak that the others are held against


class Settings(NamedTuple):
    """What every contender is told."""

    work: str
    batch_size: int = 8
    image_size: int = 224
    device: str = "cpu"
    threads: int = 1
    dtype: str = "bf16"  # or fp32
    mode: str = "train"  # or inference


@dataclass(frozen=True)
class Built:
    """A contender that is ready to go.

    Attributes:
        step: makes one step; the result may still be on its way on the device.
        flops: makes one step, not the first one, and returns its floating-point operations.
        parameters: of the model, those that are trained.
        images: of one step; None: a batch.
        close: to be called after the last step.
    """

    step: Callable[[], Any]
    flops: Callable[[], int]
    parameters: int = 0
    images: Optional[int] = None
    close: Callable[[], Any] = bool


Contenders = Dict[str, Callable[[Settings], Built]]


class Facts(NamedTuple):
    """What a contender says of itself once it has warmed up."""

    parameters: int
    images: int
    gflop: float
    first_step_seconds: float  # with torch.compile's time, where it is used


class Turn(NamedTuple):
    """Seconds that one step took."""

    cpu: float
    wall: float


class ContenderFailedError(Exception):
    """A contender's process ended before its time; it has printed why."""


def contenders_of(work: str) -> Contenders:
    """All contenders of a work by name, ours first."""
    found: Contenders = import_module(f"benchmarks.contenders.{WORKS[work]}").CONTENDERS
    return found


def build(contender: str, settings: Settings) -> Built:
    """`contender` of the settings' work."""
    return contenders_of(settings.work)[contender](settings)


def finish(value: Any, device: str) -> None:
    """Wait until the device has made `value` and all else that it was told to do."""
    if hasattr(value, "cpu"):
        value.cpu()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def work_at(connection: Connection, name: str, settings: Settings) -> None:
    """Build a contender, warm it up, and make as many steps as each message says, until it says 0."""
    built = build(name, settings)
    began = time.perf_counter()
    finish(built.step(), settings.device)
    first = time.perf_counter() - began
    gflop = built.flops() / 1e9
    connection.send(Facts(built.parameters, built.images or settings.batch_size, gflop, first))
    with suppress(EOFError):  # when the harness has ended
        while steps := connection.recv():
            connection.send(take_turn(built.step, steps, settings.device))
    built.close()


def take_turn(step: Callable[[], Any], steps: int, device: str) -> Turn:
    """Make `steps` steps; time of one. A GPU's memory is given back for the next contender's turn."""
    if device == "cuda":
        finish(step(), device)  # takes the memory again
    cpu, wall = time.process_time(), time.perf_counter()
    value = None
    for _ in range(steps):
        value = step()
    finish(value, device)
    turn = Turn((time.process_time() - cpu) / steps, (time.perf_counter() - wall) / steps)
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
    return turn


class Contender:
    """A process that makes steps of one implementation on demand; `facts` are known when it has warmed up."""

    def __init__(self, name: str, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work_at, args=(theirs, name, settings))
        self.process.start()
        theirs.close()
        self.facts: Facts = self._answer()

    def turn(self, steps: int) -> Turn:
        """Make `steps` steps; time of one."""
        self.connection.send(steps)
        turn: Turn = self._answer()
        return turn

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):  # it has ended
            self.connection.send(0)
        self.process.join()

    def _answer(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError as error:
            raise ContenderFailedError(f"{self.name} ended before its time: its message is above") from error


class Measured(NamedTuple):
    """Facts of each contender, and its turns in the order in which they were taken."""

    facts: Dict[str, Facts]
    turns: Dict[str, List[Turn]]


def measure(names: Sequence[str], settings: Settings, warm_up: int, repeats: int, steps: int) -> Measured:
    """Turns of `steps` steps of every contender, interleaved: A B C, C B A, …"""
    with ExitStack() as running:
        contenders = {name: running.enter_context(closing(Contender(name, settings))) for name in names}
        turns: Dict[str, List[Turn]] = {name: [] for name in names}
        for repeat in range(warm_up + repeats):
            for name in names if repeat % 2 == 0 else reversed(names):
                turn = contenders[name].turn(steps)
                if repeat >= warm_up:
                    turns[name].append(turn)
    return Measured({name: contender.facts for name, contender in contenders.items()}, turns)
