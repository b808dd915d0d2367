"""Which types a program computes in on the host, and rounding to float16.

POPTORCH_HOST_NUMERICS chooses: "fast" (default) computes what PopTorch would do in float16 in bfloat16 with float32
master weights and float32 accumulators; "exact" keeps real float16 weights, activations and gradients and rounds the
update stochastically where `Precision.enableStochasticRounding(True)` asks for it. The forward and backward passes
themselves round to nearest in both.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from poptorch_host.errors import SettingError

_INT_STEP = 1 << 13  # float32 keeps 23 bits of mantissa, float16 ten: the 13 in between are rounded away
_HALF_TINY = 2.0**-14  # smallest normal float16; below it the spacing is constant
_HALF_SPACING = 2.0**-24
_HALF_MAX = 65504.0
_BOUNDARY = {torch.float64: torch.float32, torch.bfloat16: torch.float32}


def numerics() -> str:
    """Return "fast" or "exact", from POPTORCH_HOST_NUMERICS; SettingError for anything else."""
    chosen = os.environ.get("POPTORCH_HOST_NUMERICS") or "fast"
    if chosen not in ("fast", "exact"):
        raise SettingError(f"POPTORCH_HOST_NUMERICS is {chosen!r}: use fast or exact")
    return chosen


def half_type(exact: bool) -> torch.dtype:
    """Return what stands for float16 on the device."""
    return torch.float16 if exact else torch.bfloat16


def to_device_type(dtype: torch.dtype, exact: bool) -> torch.dtype:
    """Return the type that values of a user's type have inside a program (int64 stays, torch's indices need it)."""
    if dtype == torch.float16:
        return half_type(exact)
    return _BOUNDARY.get(dtype, dtype)


def to_host_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which an output of a program comes back (PopTorch's boundary: int32, float32, float16)."""
    if dtype == torch.int64:
        return torch.int32
    if dtype == torch.bfloat16:
        return torch.float16  # inside a program bfloat16 only ever stands for float16
    return torch.float32 if dtype == torch.float64 else dtype


def cast_module(module: nn.Module, exact: bool) -> None:
    """Convert parameters and buffers in place to their device types.

    Batch normalisation keeps float32 weights and statistics in "fast": running averages stall in eight bits.
    """
    statistics = {
        id(tensor)
        for child in module.modules()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
        for tensor in (*child.parameters(recurse=False), *child.buffers(recurse=False))
    }
    for tensor in (*module.parameters(), *module.buffers()):
        wide = not exact and tensor.dtype == torch.float16 and id(tensor) in statistics
        tensor.data = tensor.data.to(torch.float32 if wide else to_device_type(tensor.dtype, exact))


def round_to_half(x: Tensor, stochastic: bool, generator: torch.Generator | None = None) -> Tensor:
    """Round float32 values to float16, to nearest or (stochastic) up or down with the right expectation.

    Stochastic rounding takes the upper neighbour with probability (x - lower)/(upper - lower): values that float16
    represents, infinities and NaN stay, and beyond the largest float16 the result is infinite where rounding to
    nearest would make it so. Normal numbers: 13 random bits are added below the last float16 bit and cut off.
    """
    if not stochastic:
        return x.half()
    bits = x.float().view(torch.int32)
    noise = torch.randint(0, _INT_STEP, bits.shape, dtype=torch.int32, device=x.device, generator=generator)
    normal = (bits + noise).bitwise_and_(-_INT_STEP).view(torch.float32)
    # Subnormal float16 numbers are multiples of 2^-24, whatever their float32 exponent.
    steps = x.float() / _HALF_SPACING
    small = (steps + noise.float() / _INT_STEP).floor_() * _HALF_SPACING
    rounded = torch.where(x.abs() < _HALF_TINY, small.copysign_(x), normal)
    return torch.where(x.isfinite() & (x.abs() < _HALF_MAX), rounded, x).half()
