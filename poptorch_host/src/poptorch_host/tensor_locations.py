"""Where tensors live: `Options.TensorLocations`."""

from __future__ import annotations

from typing import Dict, Optional

from poptorch_host.logs import without_effect
from poptorch_host.option_base import OptionGroup


class TensorLocationSettings:
    """Where a kind of tensor lives. Setters chain; a wrong type is an AssertionError."""

    def __init__(self) -> None:
        self._values: Dict[str, int] = {}

    def _set(self, name: str, value: int, kind: type) -> TensorLocationSettings:
        assert isinstance(value, kind), f"{name} needs {kind.__name__}, not {value!r}"
        self._values[name] = int(value)
        return self

    def minElementsForOffChip(self, min_elements: int) -> TensorLocationSettings:
        """Keep tensors with fewer elements on the chip."""
        return self._set("minElementsForOffChip", min_elements, int)

    def minElementsForReplicatedTensorSharding(self, min_elements: int) -> TensorLocationSettings:
        """Shard only tensors with at least this many elements."""
        return self._set("minElementsForReplicatedTensorSharding", min_elements, int)

    def useOnChipStorage(self, use: Optional[bool] = True) -> TensorLocationSettings:
        """Store on the chip (True), off it (False) or leave it open (None)."""
        if use is None:
            self._values.pop("onChip", None)
            return self
        return self._set("onChip", use, bool)

    def useReplicatedTensorSharding(self, use: bool = True) -> TensorLocationSettings:
        """Let each replica keep a share of the tensor."""
        return self._set("useReplicatedTensorSharding", use, bool)

    def useIOTilesToLoad(self, use: bool = True) -> TensorLocationSettings:
        """Load through I/O tiles."""
        return self._set("useIOTilesToLoad", use, bool)

    def useIOTilesToStore(self, use: bool = True) -> TensorLocationSettings:
        """Store through I/O tiles."""
        return self._set("useIOTilesToStore", use, bool)

    def toDict(self) -> Dict[str, int]:
        """Return what was set."""
        return dict(self._values)


class TensorLocationOptions(OptionGroup):
    """`Options.TensorLocations`: without effect on values; unset locations raise AttributeError when read."""

    location_activation: Dict[str, int]
    location_weight: Dict[str, int]
    location_optimizer: Dict[str, int]
    location_accumulator: Dict[str, int]
    num_io_tiles: int

    def _locate(self, kind: str, location: TensorLocationSettings) -> TensorLocationOptions:
        assert isinstance(location, TensorLocationSettings), f"{location!r} is no poptorch.TensorLocationSettings"
        without_effect(f"TensorLocations.set{kind.title()}Location (apart from replicated tensor sharding)")
        setattr(self, f"location_{kind}", location.toDict())
        return self

    def numIOTiles(self, num_tiles: int) -> TensorLocationOptions:
        """Set an even number of I/O tiles from 32 to 192 (else AssertionError)."""
        assert num_tiles in range(32, 193, 2), "numIOTiles must be an even number between 32 and 192."
        without_effect("TensorLocations.numIOTiles")
        self.num_io_tiles = num_tiles
        return self

    def setActivationLocation(self, location: TensorLocationSettings) -> TensorLocationOptions:
        """Place activations."""
        return self._locate("activation", location)

    def setWeightLocation(self, location: TensorLocationSettings) -> TensorLocationOptions:
        """Place weights."""
        return self._locate("weight", location)

    def setOptimizerLocation(self, location: TensorLocationSettings) -> TensorLocationOptions:
        """Place optimizer state; its sharding is what a host with several processes may follow."""
        return self._locate("optimizer", location)

    def setAccumulatorLocation(self, location: TensorLocationSettings) -> TensorLocationOptions:
        """Place gradient accumulators."""
        return self._locate("accumulator", location)
