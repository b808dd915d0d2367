"""Data sets and helpers for the tests of the data loader."""

import multiprocessing
import threading
import time

import torch
from torch.utils.data import Dataset, IterableDataset

from poptorch_host.enums import DataLoaderMode
from poptorch_host.options import Options

SYNC, ASYNC, REBATCHED = DataLoaderMode.Sync, DataLoaderMode.Async, DataLoaderMode.AsyncRebatched


class Rows(Dataset):
    """Row i is the number i."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.tensor(index)


class Stream(IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(torch.arange(self.n))


def options_for(iterations=1, accumulation=1, replicas=1, seed=None):
    options = Options().deviceIterations(iterations).replicationFactor(replicas)
    options.Training.gradientAccumulation(accumulation)
    return options if seed is None else options.randomSeed(seed)


def epoch(loader):
    return [batch.tolist() for batch in loader]


def running():
    """Threads and child processes of this process, this thread apart."""
    return [t.name for t in threading.enumerate()][1:] + [p.name for p in multiprocessing.active_children()]


def settle(condition):
    """Wait until the condition holds."""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()
