"""Executors: what `trainingModel` and `inferenceModel` return."""

from __future__ import annotations

import inspect
import logging
import time
from typing import Any

import torch
from torch import Tensor, nn

from poptorch_host.attachment import Attachment
from poptorch_host.batching import Arguments
from poptorch_host.enums import ConnectionType, MeanReductionStrategy, OutputMode
from poptorch_host.errors import Error
from poptorch_host.hyperparameters import family_of
from poptorch_host.logs import logger
from poptorch_host.optim import Optimizer
from poptorch_host.options import Options
from poptorch_host.program import Program
from poptorch_host.training import TrainingProgram
from poptorch_host.weights import Wrapping


def trainingModel(
    model: nn.Module, options: Options | None = None, optimizer: torch.optim.Optimizer | None = None
) -> PoplarExecutor:
    """Wrap a model for training; its forward must contain the loss.

    The default optimizer is SGD with a learning rate of 0.01. Raises RuntimeError if the model is wrapped already,
    Error if `options` is no poptorch Options.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01) if optimizer is None else optimizer
    return PoplarExecutor(model, _own(options), optimizer)


def inferenceModel(model: nn.Module, options: Options | None = None) -> PoplarExecutor:
    """Make an executor for inference, in evaluation mode. It may share its model with a training executor.

    Raises Error if `options` is no poptorch Options, or has gradient accumulation.
    """
    own = _own(options)
    if own.Training.gradient_accumulation != 1:
        raise Error("Inference can't accumulate gradients: Options.Training.gradientAccumulation must be 1")
    return PoplarExecutor(model, own, None)


def _own(options: Options | None) -> Options:
    if options is None:
        return Options()
    if not isinstance(options, Options):
        raise Error(f"options must be a poptorch.Options, not {type(options).__name__}")
    options._freeze()
    return options.clone()


class PoplarExecutor(Attachment):
    """Runs a model as a program on the device. Unknown attributes are the user's model's.

    The first call, or `compile`, fixes the arguments' structure, shapes, types and constants, and copies the weights
    to the device. Weights changed on the host afterwards are not seen before `copyWeightsToDevice`,
    `load_state_dict` or a new attachment; weights read on the host are always the device's.
    """

    def __init__(self, model: nn.Module, options: Options, optimizer: torch.optim.Optimizer | None) -> None:
        super().__init__(model)
        self._train_flag = model.training  # PopTorch copies the model's top level here, so this stays
        self._options = options
        if options.output_mode == OutputMode.Default:
            options.output_mode = int(OutputMode.All if optimizer is None else OutputMode.Final)
        self._signature = inspect.signature(model.forward)
        self._latency: float | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._optimizer_names: set[str] = set()
        if optimizer is not None:
            self.setOptimizer(optimizer)
            self._wrapping = Wrapping(model, self._download)

    def __getattr__(self, name: str) -> Any:
        if name == "_user_model":  # not there while unpickling or copying
            raise AttributeError(name)
        return getattr(self._user_model, name)

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self._user_model

    @property
    def options(self) -> Options:
        """The executor's own options."""
        return self._options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program on one call's rows; returns outputs nested as the model's, on the CPU."""
        assert self._options.connection_type != ConnectionType.Never, (
            "Trying to run a model on an offline device (ConnectionType.Never): use ConnectionType.Always or OnDemand"
        )
        arguments = Arguments(self._signature, args, kwargs)
        if self._program is None:
            self._compile(arguments)
        assert self._program is not None
        arguments.check_same(self._program.first)
        if not self._attached:
            self.attachToDevice()
        if self._wrapping is None:
            self._take_newer_weights()
        start = time.perf_counter()
        try:
            outputs = self._program.run(arguments)
        finally:
            if self._wrapping is not None:
                self._wrapping.changed()
        self._latency = time.perf_counter() - start
        return outputs

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile for arguments like these; runs no step. A second time only warns."""
        if self._program is not None:
            logger.warning("The model is compiled already: compile() has no effect")
            return
        self._compile(Arguments(self._signature, args, kwargs))

    @torch.inference_mode(False)
    def _compile(self, arguments: Arguments) -> None:
        if self._wrapping is None:
            self._note_versions()
            self._program = Program(self._user_model, self._options, arguments)
        else:
            self._program = self._training_program(arguments)
        self._attached = True
        if self._random_state is not None:
            self.rng_state = self._random_state

    def _training_program(self, arguments: Arguments) -> TrainingProgram:
        assert self._wrapping is not None
        assert self._optimizer is not None
        self._wrapping.do()
        if isinstance(self._optimizer, Optimizer):  # state may have been loaded since setOptimizer
            self._snapshot._ipu_state = self._optimizer._ipu_state  # type: ignore[attr-defined]
        names = {id(p): name for name, p in self._user_model.named_parameters()}
        program = TrainingProgram(self._user_model, self._options, arguments, self._snapshot, names, self._train_flag)
        self._connect(self._optimizer, program)
        self._snapshot._ipu_state = None  # type: ignore[attr-defined]
        return program

    @staticmethod
    def _connect(optimizer: torch.optim.Optimizer, program: TrainingProgram) -> None:
        if isinstance(optimizer, Optimizer):
            optimizer._device = program.optimizer
            optimizer._ipu_state = optimizer._ipu_param = None  # the program has taken them over

    def setOptimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Train with this optimizer's present values from now on; changes made to it later are not seen.

        Error for values that were compiled as constants, ValueError if the gradients would have to be reduced in
        another way than compiled, AssertionError for an optimizer that PopTorch doesn't know.
        """
        family_of(optimizer)
        half = getattr(optimizer, "accum_type", torch.float32) == torch.float16
        training = self._options.Training
        if half and not getattr(optimizer, "use_combined_accum", False):
            running = MeanReductionStrategy.Running
            if training.meanAccumulationAndReplicationReductionStrategy != running:
                if self._program is not None:
                    raise ValueError(
                        "An accum_type of float16 needs the Running reduction strategy, but the model has been "
                        "compiled with another one"
                    )
                training.meanAccumulationAndReplicationReductionStrategy = running
        if isinstance(self._program, TrainingProgram):
            self._program.snapshot(optimizer)
            if optimizer is not self._optimizer:
                self._exchange(optimizer, self._program)
        self._optimizer, self._snapshot = optimizer, _frozen(optimizer)
        self._mention_new_names(optimizer)

    def _mention_new_names(self, optimizer: torch.optim.Optimizer) -> None:
        """Warn of attributes and group keys that appear after the first look: they change nothing."""
        names = {name for values in (vars(optimizer), *optimizer.param_groups) for name in values}
        names = {name for name in names if not name.startswith("_")} - {"step"}  # which torch's schedulers wrap
        new = names - self._optimizer_names if self._optimizer_names else set()
        level = logging.DEBUG if self._options._relax_optimizer_checks else logging.WARNING
        if new:
            logger.log(level, "Ignoring what the optimizer has got since it was first set: %s", ", ".join(sorted(new)))
        self._optimizer_names |= names

    def _exchange(self, optimizer: torch.optim.Optimizer, program: TrainingProgram) -> None:
        """Hand the device's state over from the old optimizer object to a new one."""
        if isinstance(self._optimizer, Optimizer):
            self._optimizer._ipu_state = program.optimizer.state()
            self._optimizer._device = None
        if isinstance(optimizer, Optimizer) and optimizer._ipu_state is not None:
            program.optimizer.load_state(optimizer._ipu_state)
        self._connect(optimizer, program)

    def destroy(self) -> None:
        """Copy the weights to the host, drop the program and leave a plain model; nothing before compiling."""
        if self._program is None:
            return
        if self._wrapping is not None:
            self._wrapping.undo()
        if isinstance(self._optimizer, Optimizer) and self._optimizer._device is not None:
            self._optimizer._ipu_state = self._optimizer._device.state()
            self._optimizer._ipu_param = self._optimizer._device.parameters_state()
            self._optimizer._device = None
        self._program = None
        self._attached = False

    def getTensorNames(self) -> list[str]:
        """Return the names of the tensors that can be anchored; AssertionError before compiling."""
        assert self._program is not None, "Compile the model before asking for its tensors"
        return self._program.tensor_names()

    def getAnchoredTensor(self, short_name: str) -> Tensor:
        """Return a tensor of the last call; AssertionError before compiling or if it isn't anchored."""
        assert self._program is not None, "Compile the model before asking for its tensors"
        return self._program.anchors.get(short_name)

    def save(self, filename: str) -> None:
        """Write model, options, optimizer and random state to a file that `poptorch.load` reads."""
        from poptorch_host.saving import save

        save(self, filename)

    def compileAndExport(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Compile for arguments like these, and `save`."""
        if self._program is None:
            self.compile(*args, **kwargs)
        self.save(filename)

    def getLatency(self) -> tuple[float, float, float]:
        """Return minimum, maximum and mean of the last call's duration in seconds: there is one, so all are equal."""
        if self._latency is None:
            raise Error("getLatency needs a call of the model first")
        return self._latency, self._latency, self._latency

    def cycleCount(self) -> int:
        """Refuse with Error: a host counts no IPU cycles."""
        raise Error("cycleCount counts IPU cycles, and a host has none: use getLatency()")


def _frozen(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return an optimizer of the same class with today's values on the same parameters."""
    copy: torch.optim.Optimizer = object.__new__(type(optimizer))
    copy.__dict__.update(vars(optimizer))
    copy.param_groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
    return copy
