"""The program of the MAE scripts, and PopTorch's options of training, from the scripts' options."""

from __future__ import annotations

from typing import Any, Union

from ipu import poptorch_options
from ipu.program import Program
from options import FinetuneOptions, PretrainOptions
from poptorch_host.backend import popart
from run.errors import UsageError


def create_program(options: Union[PretrainOptions, FinetuneOptions]) -> Program:
    """How the options' model is trained.

    Raises:
        UsageError: --ipus and --pipeline disagree, or shares of memory and IPUs.
    """
    folded = isinstance(options, PretrainOptions)
    if folded and len(options.pipeline) % 2:
        raise UsageError(
            "the pipeline names %d stages: give as many for the decoder as for the encoder" % len(options.pipeline)
        )
    ipus = len(options.pipeline) // (2 if folded else 1)
    if options.ipus not in (None, ipus):
        raise UsageError("--ipus is %s and the pipeline needs %d IPUs: make them agree" % (options.ipus, ipus))
    program = Program(
        micro_batch_size=options.batch_size,
        gradient_accumulation=options.gradient_accumulation_count,
        replicas=options.replica,
        device_iterations=options.device_iterations,
        precision=options.precision,
        seed=options.seed,
        automatic_loss_scaling=options.use_als,
        running_mean=True,
        workers=options.num_workers,
        asynchronous=options.async_type != "normal",
        rebatched_worker_size=options.rebatched_worker_size if options.async_type == "rebatch" else None,
        ipus=ipus,
        folded=folded,
        memory_proportion=tuple(options.memory_proportion),
        half_partials=options.half,
        stochastic_rounding=options.half,
        shard_optimizer=options.rts,
        cache_dir=options.executable_cache_dir,
    )
    program.memory_proportions()
    return program


def training_options(options: Union[PretrainOptions, FinetuneOptions]) -> Any:
    """PopTorch options of training, with what the document's code sets for the compiler: speed and memory only."""
    made = poptorch_options.training_options(create_program(options))
    if isinstance(options, PretrainOptions):
        overlap = int(popart.AccumulateOuterFragmentSchedule.OverlapMemoryOptimized)
        made._Popart.set("accumulateOuterFragmentSettings.schedule", overlap)
    return made
