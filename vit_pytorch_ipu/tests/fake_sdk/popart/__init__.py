"""popart's enumerations that the app passes on."""

from enum import IntEnum

AccumulateOuterFragmentSchedule = IntEnum("AccumulateOuterFragmentSchedule", "OverlapMemoryOptimized")
SubgraphCopyingStrategy = IntEnum("SubgraphCopyingStrategy", "JustInTime")
SyntheticDataMode = IntEnum("SyntheticDataMode", "RandomNormal")
