"""The device of a run, and all that knows of Habana's packages, which are imported here alone and only for an HPU.

Their mode is settled by an environment variable that they read when they are imported, and torch from 2.5 on may import
them by itself: so `set_environment` comes first, before torch, and this module imports torch only in functions.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Tuple

from options import DeviceOptions
from run.errors import UsageError, UserError
from run.launcher import cores_are_own, local_size, place

if TYPE_CHECKING:
    import torch

LAZY = "PT_HPU_LAZY_MODE"
PACKAGE = "habana_frameworks"
# SynapseAI from which on a process without the variable is not in lazy mode; its eager mode is for Gaudi 2 and later.
FIRST_WITHOUT_LAZY = (1, 21)
HPU = "hpu"  # torch's name for it; a process sees one card, the one that its launcher gave it


def _no_mark() -> None:
    """Only lazy mode gathers operations that somebody has to send off."""


@dataclass(frozen=True)
class Device:
    """Where a run computes.

    Attributes:
        torch_device: torch's name of it.
        mode: "compile", "eager" or "lazy".
        reason: why this device and mode.
        mark_step: sends off what lazy mode has gathered; in other modes it does nothing.
    """

    torch_device: torch.device
    mode: str
    reason: str
    mark_step: Callable[[], None] = _no_mark
    is_hpu: bool = False

    @property
    def is_cpu(self) -> bool:
        """Whether reading a number from the device costs nothing."""
        return self.torch_device.type == "cpu" and not self.is_hpu

    def autocast(self, enabled: bool) -> Any:
        """Context in which arithmetic is bfloat16 where autocast allows it."""
        import torch

        return torch.autocast(self.torch_device.type, dtype=torch.bfloat16, enabled=enabled)

    def compiled(self, module: Any) -> Any:
        """The module as the mode runs it; what is trained by several processes is wrapped before."""
        import torch

        if self.mode != "compile":
            return module
        return torch.compile(module, backend="hpu_backend" if self.is_hpu else "inductor")

    def distributed(self, module: Any) -> Any:
        """The module with its gradients averaged over all processes."""
        from torch.nn.parallel import DistributedDataParallel

        megabytes = 256 if self.is_hpu else 25  # as Habana's own image models set it; torch's default
        return DistributedDataParallel(
            module, broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=megabytes
        )

    def seed(self, seed: int) -> None:
        """Seed all generators of this process."""
        from run.randomness import seed_everything

        seed_everything(seed)
        if self.is_hpu:
            _random().manual_seed(seed)

    def rng_state(self) -> Optional[torch.Tensor]:
        """State of an HPU's generator; None elsewhere, where `run.randomness` knows them all."""
        return _random().get_rng_state() if self.is_hpu else None

    def restore_rng_state(self, state: Optional[torch.Tensor]) -> None:
        """Put an HPU's generator back to where `rng_state` found one, if it did."""
        if self.is_hpu and state is not None:
            _random().set_rng_state(state)

    def describe(self) -> str:
        """The device, mode and reason in a line."""
        import torch

        if self.torch_device.type == "cuda":
            name = torch.cuda.get_device_name(self.torch_device)
        else:
            name = "Gaudi" if self.is_hpu else f"{torch.get_num_threads()} threads"
        return f"{'hpu' if self.is_hpu else self.torch_device.type} ({name}), {self.mode} mode; {self.reason}"


class HpuMode(NamedTuple):
    """Mode of a run on an HPU and the reason for it."""

    mode: str
    reason: str


def set_environment(options: DeviceOptions) -> Optional[HpuMode]:
    """Settle the mode of Habana's packages if this run may use them; to be called before torch is imported.

    Returns:
        The mode, for `open_device`; None for a run that has no use for an HPU.

    Raises:
        UsageError: a mode that the device has not.
        UserError: an HPU without the packages for it, or they were imported in another mode.
    """
    if not _may_be_hpu(options):
        if options.mode == "lazy" or options.run_lazy_mode:
            raise UsageError("lazy mode is an HPU's, and this run has none: leave it out")
        return None
    if not _installed():
        raise UserError(f"--device hpu needs {PACKAGE}, which is not installed: install SynapseAI or give --device cpu")
    settled = hpu_mode(options)
    lazy = "1" if settled.mode == "lazy" else "0"
    if f"{PACKAGE}.torch" in sys.modules and os.environ.get(LAZY) != lazy:
        raise UserError(f"{PACKAGE} was imported before its mode was settled: export {LAZY}={lazy} and start again")
    os.environ[LAZY] = lazy
    return settled


def hpu_mode(options: DeviceOptions) -> HpuMode:
    """As asked for, by a flag or the variable, else what the installed software does by default."""
    if options.mode:
        return HpuMode(options.mode, f"--mode {options.mode}")
    if options.run_lazy_mode is not None:
        return HpuMode("lazy" if options.run_lazy_mode else "eager", "--run-lazy-mode")
    if os.environ.get(LAZY) in ("0", "1"):
        return HpuMode("lazy" if os.environ[LAZY] == "1" else "compile", f"{LAZY}={os.environ[LAZY]}")
    version = _version()
    return HpuMode("compile" if version >= FIRST_WITHOUT_LAZY else "lazy", "SynapseAI %d.%d" % version)


def open_device(options: DeviceOptions, hpu: Optional[HpuMode] = None) -> Device:
    """The device that the options ask for; several HPUs also get their process group.

    Args:
        options: of the run.
        hpu: what `set_environment` returned.

    Raises:
        UserError: it is not there, or in another mode than asked.
    """
    import torch

    _limit_threads()
    missing = ""
    if hpu:
        found, missing = _open_hpu(hpu)
        if found:
            return found
        if options.device == "hpu":
            raise UserError(f"--device hpu: {missing}; check `hl-smi` or give --device cpu")
    mode = options.mode or "eager"
    if mode == "lazy" or options.run_lazy_mode:
        raise UserError(f"lazy mode needs an HPU: {missing}")
    wanted = "cpu" if not options.use_hpu else options.device
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise UserError("--device cuda: torch finds no GPU; check `nvidia-smi` or give --device cpu")
    if has_cuda and wanted in ("auto", "cuda"):
        device = torch.device("cuda", place().local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return Device(device, mode, "asked for" if wanted == "cuda" else f"{missing or 'no HPU'}, a GPU is there")
    return Device(torch.device("cpu"), mode, "asked for" if wanted == "cpu" else f"{missing or 'no HPU'}, no GPU")


def fused_optimizer(name: str) -> Any:
    """Habana's class for optimizer `name`, "SGD" or "AdamW", which exists for lazy mode."""
    from habana_frameworks.torch.hpex import optimizers

    return getattr(optimizers, f"Fused{name}")


def _open_hpu(asked: HpuMode) -> Tuple[Optional[Device], str]:
    """The HPU, or why there is none."""
    import habana_frameworks.torch.core as core
    import habana_frameworks.torch.hpu as hpu
    import torch

    if not hpu.is_available():
        return None, "Habana's packages are installed but no HPU is there"
    _check_mode(asked.mode == "lazy")
    if place().world_size > 1:
        _join_hpus()
    mark_step = core.mark_step if asked.mode == "lazy" else _no_mark
    return Device(torch.device(HPU), asked.mode, f"an HPU is there; {asked.reason}", mark_step, True), ""


def _check_mode(lazy: bool) -> None:
    """Hold the mode in which the packages came up against the one that was asked for."""
    try:
        from habana_frameworks.torch.utils.internal import is_lazy
    except ImportError:
        return  # releases before that had lazy mode only, or can't tell
    if is_lazy() != lazy:
        raise UserError(f"Habana's packages came up in another mode: export {LAZY}={int(lazy)} and start again")


def _join_hpus() -> None:
    """Start torch.distributed over HCCL; Habana's helper tells the driver this process's card."""
    import torch.distributed as dist
    from habana_frameworks.torch.distributed.hccl import initialize_distributed_hpu

    from run.distributed import store

    here = place()
    if "MASTER_ADDR" not in os.environ and local_size() != here.world_size:
        raise UserError("the processes are on several hosts: export MASTER_ADDR, the name of the first one's host")
    initialize_distributed_hpu()
    dist.init_process_group("hccl", store=store(), rank=here.rank, world_size=here.world_size)


def _random() -> Any:
    from habana_frameworks.torch.hpu import random

    return random


def _may_be_hpu(options: DeviceOptions) -> bool:
    return bool(options.use_hpu) and (options.device == "hpu" or (options.device == "auto" and _installed()))


def _installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def _version() -> Tuple[int, int]:
    """SynapseAI's release."""
    for name in ("habana-torch-plugin", "habana_torch_plugin"):
        try:
            major, minor = importlib.metadata.version(name).split(".")[:2]
            return int(major), int(minor)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
    return FIRST_WITHOUT_LAZY


def _limit_threads() -> None:
    """Share the host's cores among its processes, unless the launcher has bound each to its own or the user says."""
    import torch

    processes = local_size()
    if "OMP_NUM_THREADS" not in os.environ and not cores_are_own(processes):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
