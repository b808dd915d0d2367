"""Execution strategies: which blocks form a stage and on which IPU a stage runs.

A host computes the same values under every strategy; they only decide how many pipeline stages there are.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple, TypeVar, Union

from poptorch_host.enums import AutoStage, Liveness
from poptorch_host.logs import without_effect

_Phased = TypeVar("_Phased", bound="PhasedExecution")


class Stage:
    """Blocks, named by their `user_id`, that run on one IPU."""

    def __init__(self, *block_ids: str) -> None:
        assert all(isinstance(b, str) for b in block_ids), f"block ids are strings, not {block_ids}"
        self._blocks = block_ids
        self._ipu: Optional[int] = None

    @property
    def blocks(self) -> Tuple[str, ...]:
        """The ids of the blocks."""
        return self._blocks

    def ipu(self, ipu: int) -> Stage:
        """Choose the IPU."""
        assert isinstance(ipu, int), f"an IPU id is an int, not {ipu!r}"
        self._ipu = ipu
        return self


class Phase:
    """Stages that run in parallel; strings are the blocks of one stage."""

    def __init__(self, *arg: Union[str, Stage]) -> None:
        stages = [a for a in arg if isinstance(a, Stage)]
        if len(stages) == len(arg):
            self.stages: List[Stage] = stages
            return
        blocks = [a for a in arg if isinstance(a, str)]
        assert len(blocks) == len(arg), f"a phase takes either block ids or stages, not {arg}"
        self.stages = [Stage(*blocks)]

    def stage(self, idx: int) -> Stage:
        """Return one stage."""
        return self.stages[idx]

    def ipus(self, *ipus: int) -> None:
        """Choose one IPU for each stage."""
        assert len(ipus) == len(self.stages), f"{len(self.stages)} stages but {len(ipus)} IPUs"
        for stage, ipu in zip(self.stages, ipus):
            stage.ipu(ipu)


class ExecutionStrategy:
    """What the strategies share: `stage(block_id)` and the IPU on which a block runs."""

    checks_stages = False  # whether the number of stages bounds GA (training) and DI (inference)

    def __init__(self, stages: Sequence[Stage], auto_stage: AutoStage = AutoStage.SameAsIpu) -> None:
        self._auto_stage = auto_stage
        self._block_map: Dict[str, Stage] = {}
        self._stage_ids: Dict[str, int] = {}
        for stage_id, stage in enumerate(stages):
            for block in stage.blocks:
                assert block not in self._block_map, f"{block} is in more than one stage"
                self._block_map[block] = stage
                self._stage_ids[block] = stage_id

    def stage(self, block_id: str) -> Stage:
        """Return the stage a listed block belongs to."""
        assert block_id in self._block_map, f"Unknown block {block_id}, known are {list(self._block_map)}"
        return self._block_map[block_id]

    def ipu(self, block_id: str, ipu_id: Optional[int], automatic: Dict[str, int]) -> int:
        """Return the IPU of a block that runs now.

        `automatic` is the running trace's table of stage ids for blocks that the strategy doesn't list. The
        stage's IPU wins over the block's; a block without either runs on the IPU with its stage's number.
        """
        if self._block_map:
            chosen = self.stage(block_id)._ipu
            return next(i for i in (chosen, ipu_id, self._stage_ids[block_id]) if i is not None)
        if self._auto_stage == AutoStage.SameAsIpu:
            assert ipu_id is not None, f"poptorch.AutoStage.SameAsIpu needs an ipu_id, block {block_id} has none"
            return ipu_id
        stage_id = automatic.setdefault(block_id, len(automatic) + 1)
        return stage_id if ipu_id is None else ipu_id


class PipelinedExecution(ExecutionStrategy):
    """Run stages as a pipeline, the default.

    `args`: nothing, one `AutoStage`, or the stages in order, each a `Stage`, a block id or a list of ids.
    """

    checks_stages = True

    def __init__(self, *args: Union[AutoStage, Stage, str, Sequence[str]]) -> None:
        if len(args) == 1 and isinstance(args[0], AutoStage):
            super().__init__([], args[0])
            return
        super().__init__([_stage(arg) for arg in args])


def _stage(arg: Union[AutoStage, Stage, str, Sequence[str]]) -> Stage:
    assert not isinstance(arg, AutoStage), "an AutoStage can't be mixed with stages"
    if isinstance(arg, Stage):
        return arg
    return Stage(arg) if isinstance(arg, str) else Stage(*arg)


class ShardedExecution(PipelinedExecution):
    """Run one stage after another; arguments as for `PipelinedExecution`."""

    checks_stages = False


class PhasedExecution(ExecutionStrategy):
    """What the two phased strategies share. `phases`: `Phase`s, or lists of stages or of block ids."""

    def __init__(self, *phases: Union[Phase, Sequence[Stage], Sequence[str]]) -> None:
        assert phases, "phased execution has no AutoStage: list the phases"
        self._phases = [p if isinstance(p, Phase) else _phase(p) for p in phases]
        self._tensors_liveness = Liveness.AlwaysLive
        super().__init__([stage for phase in self._phases for stage in phase.stages])

    def phase(self, phase: int) -> Phase:
        """Return one phase."""
        assert isinstance(phase, int), f"phases are counted 0, 1, …, not {phase!r}"
        assert phase >= 0, f"phases are counted from 0, not {phase}"
        return self._phases[phase]

    def useSeparateBackwardPhase(self: _Phased, use: bool = True) -> _Phased:
        """Don't share a phase between forward and backward; no effect on a host."""
        assert isinstance(use, bool), f"{use!r} is no bool"
        without_effect("useSeparateBackwardPhase")
        return self


def _phase(arg: Union[Sequence[Stage], Sequence[str]]) -> Phase:
    return Phase(arg) if isinstance(arg, str) else Phase(*arg)


class ParallelPhasedExecution(PhasedExecution):
    """Run phases alternately on two groups of IPUs."""

    def sendTensorsOffChipAfterFwd(self, off_chip: bool = True) -> ParallelPhasedExecution:
        """Move tensors off the chip after the forward pass; no effect on a host."""
        assert isinstance(off_chip, bool), f"{off_chip!r} is no bool"
        without_effect("sendTensorsOffChipAfterFwd")
        self._tensors_liveness = Liveness.OffChipAfterFwd if off_chip else Liveness.AlwaysLive
        return self


class SerialPhasedExecution(PhasedExecution):
    """Run phases one after another on one group of IPUs."""

    def setTensorsLiveness(self, liveness: Liveness) -> SerialPhasedExecution:
        """Choose where tensors stay between phases; no effect on a host."""
        assert isinstance(liveness, Liveness), f"{liveness!r} is no poptorch.Liveness"
        without_effect("setTensorsLiveness")
        self._tensors_liveness = liveness
        return self
