"""Options that mean something on IPUs only: accepted, kept, and mentioned once at debug level."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, TypeVar

from poptorch_host.enums import SyncPattern
from poptorch_host.logs import without_effect
from poptorch_host.option_base import OptionGroup
from poptorch_host.option_groups import PopartOptions

_Self = TypeVar("_Self", bound="DeviceOptions")


class DeviceOptions(OptionGroup):
    """The setters of `Options` without effect on a host."""

    log_dir: str = "."
    sync_pattern: int = int(SyncPattern.Full)
    available_memory_proportion: Dict[int, float]
    max_repeat_logs: int
    model_name: str
    use_model: bool
    ipu_id: int

    def __init__(self) -> None:
        self._popart = PopartOptions()
        self.available_memory_proportion = {}

    def setAvailableMemoryProportion(self: _Self, available_memory_proportion: Dict[str, float]) -> _Self:
        """Set temporary memory by IPU, {"IPU0": 0.5}; no effect on a host."""
        proportions = {}
        for key, share in available_memory_proportion.items():
            assert key.startswith("IPU"), f'available memory is given as {{"IPU0": 0.5}}, not with the key {key}'
            proportions[int(key[3:])] = share
        without_effect("setAvailableMemoryProportion")
        self.available_memory_proportion = proportions
        return self

    def enableExecutableCaching(self: _Self, path: Optional[str]) -> _Self:
        """Keep compiled programs in a folder, None for nowhere; a host has none to keep."""
        without_effect("enableExecutableCaching")
        if path is not None:
            self._popart.set("cachePath", path)
        self._popart.set("enableEngineCaching", path is not None)
        return self

    def syncPattern(self: _Self, sync_pattern: SyncPattern) -> _Self:
        """Choose which IPUs wait for each other; no effect on a host."""
        assert isinstance(sync_pattern, SyncPattern), f"{sync_pattern!r} is no poptorch.SyncPattern"
        return self._keep("syncPattern", sync_pattern=int(sync_pattern))

    def useIpuModel(self: _Self, use_model: bool) -> _Self:
        """Simulate the IPU; no effect on a host."""
        return self._keep("useIpuModel", use_model=use_model)

    def useIpuId(self: _Self, ipu_id: int) -> _Self:
        """Choose a device; no effect on a host."""
        return self._keep("useIpuId", ipu_id=ipu_id)

    def logDir(self: _Self, log_dir: str) -> _Self:
        """Choose the folder of the SDK's log files; no effect on a host."""
        return self._keep("logDir", log_dir=log_dir)

    def modelName(self: _Self, name: str) -> _Self:
        """Name the model in profiles; no effect on a host."""
        return self._keep("modelName", model_name=name)

    def maxRepeatLogs(self: _Self, max_lines: Optional[int] = 4) -> _Self:
        """Limit repeated log lines, None for no limit; no effect on a host."""
        return self._keep("maxRepeatLogs", max_repeat_logs=-1 if max_lines is None else max_lines)

    def enableStableNorm(self: _Self, enabled: bool) -> _Self:
        """Use the slower, more accurate norms, which a host has anyway."""
        without_effect("enableStableNorm")
        self._popart.set("enableStableNorm", enabled)
        return self

    def logCycleCount(self: _Self, log_cycle_count: bool) -> _Self:
        """Count IPU cycles; no effect on a host."""
        without_effect("logCycleCount")
        self._popart.set("instrumentWithHardwareCycleCounter", log_cycle_count)
        return self

    def enableProfiling(self: _Self, profile_dir: Optional[str] = None) -> _Self:
        """Write a PopVision profile; a host writes none (use torch.profiler)."""
        without_effect("enableProfiling")
        engine = dict(self._popart.options.get("engineOptions", {}))
        engine.update({"autoReport.directory": profile_dir or ".", "autoReport.all": "true"})
        self._popart.setEngineOptions(engine)
        return self

    def showCompilationProgressBar(self: _Self, show: bool = True) -> _Self:  # noqa: ARG002
        """Show a bar while compiling; a host needs none."""
        return self._keep("showCompilationProgressBar")

    def disableModuleNamescope(self: _Self) -> _Self:
        """Leave module names out of operator names; no effect on a host."""
        return self._keep("disableModuleNamescope")

    def sourceLocationExcludes(self: _Self, excludes: List[str]) -> _Self:  # noqa: ARG002
        """Hide stack frames from the SDK's graph dumps; no effect on a host."""
        return self._keep("sourceLocationExcludes")

    def appendToLocationExcludes(self: _Self, *excludes: str) -> _Self:  # noqa: ARG002
        """Hide further stack frames from the SDK's graph dumps; no effect on a host."""
        return self._keep("appendToLocationExcludes")

    def _keep(self: _Self, setter: str, **values: Any) -> _Self:
        without_effect(setter)
        return self.set(**values)
