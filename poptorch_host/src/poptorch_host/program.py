"""A compiled model: its weights on the device and the work of one call."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any, Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from poptorch_host.anchors import Anchors
from poptorch_host.annotations import running_on_ipu, stage_count, trace_blocks
from poptorch_host.batching import Arguments, Cut, Outputs, to_device
from poptorch_host.distributed import device_for
from poptorch_host.enums import OutputMode
from poptorch_host.errors import Error
from poptorch_host.forward import ForwardMode
from poptorch_host.loss import collect_markers
from poptorch_host.options import Options
from poptorch_host.precision import half_type, numerics
from poptorch_host.weights import DeviceWeights


class Program:
    """An inference program, and what a training program shares with it.

    A call runs device iterations × accumulation steps × local replicas one after another.
    """

    training = False

    def __init__(self, model: nn.Module, options: Options, arguments: Arguments) -> None:
        self.options = options
        self.world = options.Distributed.launched
        self.device = device_for(self.world)
        self.exact = numerics() == "exact"
        self.cut = _cut(options)
        first_rows = arguments.cut(self.cut)[0]
        self.weights = DeviceWeights(model, self.device, self.exact)
        self.module = self.weights.module
        self._set_mode()
        self.random_state = self._seed()
        self.first = arguments.signature_only()
        self._mode = self._forward_mode()
        self._autocast = _autocast(self.module, arguments, self.device, self.exact)
        self._module_call: Callable[..., Any] = self.module
        self._synthetic = bool(options._Popart.options.get("syntheticDataMode"))
        self._trace(first_rows)
        if os.environ.get("POPTORCH_HOST_COMPILE") == "1" and type(self._mode) is ForwardMode:
            self._module_call = torch.compile(self.module)
        self.anchors = Anchors(
            options.anchored_tensors, OutputMode(options.output_mode), options.output_return_period, self.tensor_names()
        )

    @torch.inference_mode(False)  # which also switches gradients on, whatever the caller's mode is
    def run(self, arguments: Arguments) -> Any:
        """Do one call's work and return its outputs, assembled on the CPU."""
        rows = arguments.cut(self.cut)
        outputs = Outputs(OutputMode(self.options.output_mode), self.options.output_return_period, self.cut)
        self._begin_call()
        with self._random_stream():
            for iteration in range(self.cut.iterations):
                self._run_iteration(iteration, rows, outputs)
                self._end_iteration(iteration)
        self._end_call()
        return outputs.assemble(self._spec, self._constants, self._types)

    def _run_iteration(self, iteration: int, rows: list[list[Any]], outputs: Outputs) -> None:
        for step in range(self.cut.accumulation):
            for replica in range(self.cut.replicas):
                micro_batch = rows[(iteration * self.cut.accumulation + step) * self.cut.replicas + replica]
                result = self._micro_batch(micro_batch, replica)
                if outputs.wants(iteration, step):
                    outputs.add(self._detached(result), replica)

    def _begin_call(self) -> None:
        self.anchors.begin()

    def _micro_batch(self, leaves: list[Any], replica: int) -> Any:  # noqa: ARG002
        with torch.no_grad():
            return self._forward(self._inputs(leaves))[0]

    def _end_iteration(self, iteration: int) -> None:
        self.anchors.record(iteration, self._read)

    def _end_call(self) -> None:
        """Look at what the device found during the call."""

    def _inputs(self, leaves: list[Any]) -> list[Any]:
        """Bring one micro-batch to the device, or generate it there."""
        if self._synthetic:
            leaves = [self._made_up(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return [to_device(leaf, self.device, self.exact) for leaf in leaves]

    def _forward(self, inputs: list[Any]) -> tuple[Any, list[Tensor]]:
        """Run the model on one micro-batch; return its outputs and its loss markers."""
        args, kwargs = self.first.rebuild(inputs)
        with collect_markers() as markers, running_on_ipu(), self._autocast(), self._mode:
            return self._module_call(*args, **kwargs), markers

    def _made_up(self, leaf: Tensor) -> Tensor:
        """Generate an input on the device: normally distributed, or zeros where only whole numbers fit."""
        make = torch.randn if leaf.is_floating_point() else torch.zeros
        return make(leaf.shape, dtype=leaf.dtype, device=self.device)

    def _set_mode(self) -> None:
        self.module.eval()  # PopART takes dropout out of inference programs

    def _forward_mode(self) -> ForwardMode:
        return ForwardMode(self.device, self.exact)

    def _trace(self, leaves: list[Any]) -> None:
        """Run one forward pass that leaves no trace itself, to learn the loss, the outputs and the stages."""
        before = [buffer.clone() for buffer in self.module.buffers()]
        random_state = self.random_state
        with self._random_stream(), trace_blocks(self.options._execution_strategy) as ipus:
            inputs = self._inputs(leaves)
            with torch.set_grad_enabled(self.training):
                result, markers = self._forward(inputs)
        self.random_state = random_state
        for buffer, value in zip(self.module.buffers(), before):
            buffer.copy_(value)
        self._learn_outputs(result, inputs)
        self._check(list(ipus), markers)

    def _learn_outputs(self, result: Any, inputs: list[Any]) -> None:
        leaves, self._spec = tree_flatten(result)
        for leaf in leaves:
            if dataclasses.is_dataclass(leaf):  # it would be kept as a constant, with the tensors of this pass
                raise Error(f"A model can't return a {type(leaf).__name__}: return a tensor, tuple, list or dict")
        self._constants = [None if isinstance(x, Tensor) else x for x in leaves]
        self._types = [x.dtype if isinstance(x, Tensor) else None for x in leaves]
        # Outputs in memory that the next update or the caller overwrites are copied.
        kept = (*self.module.parameters(), *self.module.buffers(), *inputs)
        memory = {t.untyped_storage().data_ptr() for t in kept if isinstance(t, Tensor)}
        self._aliases = [isinstance(x, Tensor) and x.untyped_storage().data_ptr() in memory for x in leaves]

    def _detached(self, result: Any) -> list[Any]:
        leaves, _ = tree_flatten(result)
        detached = []
        for leaf, alias in zip(leaves, self._aliases):
            if isinstance(leaf, Tensor):
                leaf = torch.zeros_like(leaf) if self._synthetic else leaf.detach()
                leaf = leaf.clone() if alias else leaf
            detached.append(leaf)
        return detached

    def _check(self, ipus: list[int], markers: list[Tensor]) -> None:  # noqa: ARG002
        stages = stage_count(ipus)
        if self.pipelined(ipus) and self.cut.iterations < stages:
            raise Error(
                f"Pipelined inference with {stages} stages needs at least as many device iterations, not "
                f"{self.cut.iterations}: raise Options.deviceIterations"
            )
        self._check_ipus(ipus)

    def pipelined(self, ipus: list[int]) -> bool:
        """Say whether the blocks seen form a pipeline."""
        return stage_count(ipus) > 1 and self.options._execution_strategy.checks_stages

    def _check_ipus(self, ipus: list[int]) -> None:
        number = max(ipus, default=0) + 1
        if number & (number - 1) and not self.options.auto_round_num_ipus:
            raise Error(f"{number} IPUs are no power of two: use Options.autoRoundNumIPUs(True)")

    def tensor_names(self) -> list[str]:
        """Return what can be anchored."""
        return [name for name, _ in (*self.module.named_parameters(), *self.module.named_buffers())]

    def _read(self, name: str) -> Tensor:
        tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return self.weights.masters.get(name, tensors[name])

    def _seed(self) -> Tensor:
        seed = getattr(self.options, "random_seed", None)
        seed = torch.initial_seed() if seed is None else seed
        generator = torch.Generator(self.device)
        # Each process draws its own numbers, as each replica does by running after the others.
        generator.manual_seed((seed + 0x9E3779B97F4A7C15 * self.world.process_id) % 2**63)
        return generator.get_state()

    @contextlib.contextmanager
    def _random_stream(self) -> Iterator[None]:
        """Draw random numbers from the device's stream and leave the host's alone."""
        cuda = self.device.type == "cuda"
        outside = torch.cuda.get_rng_state(self.device) if cuda else torch.get_rng_state()
        self._set_stream(self.random_state)
        try:
            yield
        finally:
            self.random_state = torch.cuda.get_rng_state(self.device) if cuda else torch.get_rng_state()
            self._set_stream(outside)

    def _set_stream(self, state: Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state, self.device)
        else:
            torch.set_rng_state(state)


def _cut(options: Options) -> Cut:
    """Return how this process's calls are cut; Error where replicas or period don't fit processes or iterations."""
    period, iterations = options.output_return_period, options.device_iterations
    if options.output_mode == OutputMode.EveryN and (period > iterations or iterations % period):
        raise Error(f"OutputMode.EveryN: the period {period} must divide the {iterations} device iterations")
    return Cut(iterations, options.Training.gradient_accumulation, options.local_replicas)


def _autocast(
    module: nn.Module, arguments: Arguments, device: torch.device, exact: bool
) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return the context in which float16 inputs meet float32 weights: none if there is only one of them."""
    half = half_type(exact)
    weights = {p.dtype for p in module.parameters() if p.is_floating_point()}
    inputs = {leaf.dtype for leaf in arguments.leaves if isinstance(leaf, Tensor)}
    if torch.float32 in weights and (half in weights or torch.float16 in inputs):
        return lambda: torch.autocast(device.type, half)
    return contextlib.nullcontext
