"""The program of the MAE scripts, and PopTorch's options of training, from the scripts' options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict

from ipu import poptorch_options
from ipu.program import Program
from options import LinprobeOptions, Options, PretrainOptions, ValidationOptions
from poptorch_host.backend import popart
from run.errors import UsageError

USUAL_IPUS = 4


def create_program(options: Options) -> Program:
    """How the options' model is run.

    Raises:
        UsageError: --ipus and --pipeline disagree, or shares of memory and IPUs.
    """
    training: Dict[str, Any] = {}
    if not isinstance(options, ValidationOptions):
        training = {
            "gradient_accumulation": options.gradient_accumulation_count,
            "replicas": options.replica,
            "seed": options.seed,
            "rebatched_worker_size": options.rebatched_worker_size if options.async_type == "rebatch" else None,
            "stochastic_rounding": options.half,
        }
    if not isinstance(options, (LinprobeOptions, ValidationOptions)):
        training.update(automatic_loss_scaling=options.use_als, shard_optimizer=options.rts)
    program = Program(
        micro_batch_size=options.batch_size,
        device_iterations=options.device_iterations,
        precision="16.16" if options.half else "32.32",
        running_mean=isinstance(options, PretrainOptions),
        workers=options.num_workers,
        asynchronous=options.async_type != "normal",
        ipus=_ipus(options),
        folded=isinstance(options, PretrainOptions),
        memory_proportion=tuple(options.memory_proportion),
        half_partials=options.half,
        cache_dir=options.executable_cache_dir,
        **training,
    )
    program.memory_proportions()
    return program


def evaluation_program(options: Options) -> Program:
    """How it is evaluated: one IPU after the other, each call as many batches as the script's device iterations."""
    iterations = options.device_iterations if isinstance(options, ValidationOptions) else 1
    return replace(create_program(options), sharded=True, device_iterations=iterations)


def training_options(options: Options) -> Any:
    """PopTorch options of training, with what the document's code sets for the compiler: speed and memory only."""
    made = poptorch_options.training_options(create_program(options))
    if isinstance(options, PretrainOptions):
        overlap = int(popart.AccumulateOuterFragmentSchedule.OverlapMemoryOptimized)
        made._Popart.set("accumulateOuterFragmentSettings.schedule", overlap)
    return made


def _ipus(options: Options) -> int:
    """IPUs of one pipeline."""
    folded = isinstance(options, PretrainOptions)
    if not options.pipeline and not folded:
        return options.ipus or USUAL_IPUS
    ipus = len(options.pipeline) // (2 if folded else 1)
    if not ipus or (folded and len(options.pipeline) % 2):
        raise UsageError(
            "the pipeline names %d stages: give as many for the decoder as for the encoder" % len(options.pipeline)
        )
    if options.ipus not in (None, ipus):
        raise UsageError("--ipus is %s and the pipeline needs %d IPUs: make them agree" % (options.ipus, ipus))
    return ipus
