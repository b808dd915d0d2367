"""The enumerations of popart that programs turn into integers for `Options._Popart`."""

from __future__ import annotations

import enum


class SyntheticDataMode(enum.IntEnum):
    """What stands for inputs with synthetic data."""

    Off = 0
    Zeros = 1
    RandomNormal = 2
    RandomUniform = 3


class AccumulateOuterFragmentSchedule(enum.IntEnum):
    """In which order weights are updated."""

    Scheduler = 0
    Serial = 1
    OverlapCycleOptimized = 2
    OverlapMemoryOptimized = 3


class SubgraphCopyingStrategy(enum.IntEnum):
    """When inputs of subgraphs are copied."""

    OnEnterAndExit = 0
    JustInTime = 1
