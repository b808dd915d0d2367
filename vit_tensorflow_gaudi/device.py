"""The device: chosen, explained and set up, in the order that each needs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Optional, Tuple

import tensorflow as tf

import distributed
from errors import UserError
from launcher import Place, place, say
from options import TrainOptions

_MARKER = "made-by-vit_tensorflow_gaudi"
_HCCL_MEMORY = "1000"  # MB, the document's allowance for several cards


def choose(asked: Optional[str]) -> Tuple[str, str]:
    """Device and why.

    Raises:
        UserError: the device that was asked for is not here.
    """
    habana = importlib.util.find_spec("habana_frameworks") is not None
    if asked == "HPU" and not habana:
        raise UserError(
            "--device HPU needs habana_frameworks.tensorflow, which is not installed: "
            "run on a Gaudi machine with SynapseAI 1.14 or older, or give --device CPU or GPU"
        )
    if asked == "GPU" and not tf.config.list_physical_devices("GPU"):
        raise UserError("--device GPU: TensorFlow sees no GPU, install `tensorflow[and-cuda]` or give --device CPU")
    if asked:
        return asked, "as asked for"
    if habana:
        return "HPU", "habana_frameworks is installed"
    if tf.config.list_physical_devices("GPU"):
        return "GPU", "there is one, and no HPU"
    return "CPU", "there is neither HPU nor GPU"


def set_up(options: TrainOptions) -> Tuple[str, distributed.Workers]:
    """Set precision, threads and determinism, load the device's library and connect the processes.

    Returns the device and the workers. Nothing else of TensorFlow may have run before.
    """
    distributed.refuse_unasked(options.distributed)
    device, reason = choose(options.device)
    options.check_device(device)
    here = place() if options.distributed else Place(0, 1, 0, 1, "")
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if options.dtype == "bf16" else "float32")
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    if device == "HPU":
        _load_habana(options, here)
    elif device == "GPU":
        _take_gpu(here)
    else:
        tf.config.set_visible_devices([], "GPU")
        _set_threads(here)
    workers = _connect(options, device, here)
    say(f"device: {device} ({reason}), {options.dtype}, {describe(workers)}")
    return device, workers


def describe(workers: distributed.Workers) -> str:
    """How many processes there are and how they add up."""
    if workers.size == 1:
        return "one process"
    return f"{workers.size} processes, sums by {workers.means}"


def _connect(options: TrainOptions, device: str, here: Place) -> distributed.Workers:
    if here.size == 1:
        strategy = tf.distribute.OneDeviceStrategy("/device:HPU:0") if device == "HPU" else None
        return distributed.alone(strategy)
    if options.batch_size % here.size:
        raise UserError(f"--batch_size {options.batch_size} is not a multiple of {here.size} workers: give one")
    reduction = options.reduction
    if reduction == "auto":
        reduction = "mpi" if device == "CPU" and here.launcher == "mpirun" else "strategy"
    return distributed.join(
        here,
        reduction=reduction,
        base_port=options.base_tf_server_port,
        make_strategy=_hpu_strategy if device == "HPU" else tf.distribute.MultiWorkerMirroredStrategy,
    )


def threads(here: Place) -> int:
    """Cores for this process: those it may use, and no more than its share of the machine's."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:
        allowed = os.cpu_count() or 1
    share = max(1, (os.cpu_count() or 1) // here.local_size)
    wished = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, share, int(wished) if wished.isdigit() and int(wished) else allowed)


def _set_threads(here: Place) -> None:
    count = threads(here)
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)


def _take_gpu(here: Place) -> None:
    gpus = tf.config.list_physical_devices("GPU")
    if here.local_rank >= len(gpus):
        raise UserError(f"{here.local_size} processes share {len(gpus)} GPUs: start one process per GPU")
    mine = gpus[here.local_rank]
    tf.config.set_visible_devices([mine], "GPU")
    tf.config.experimental.set_memory_growth(mine, True)


def _load_habana(options: TrainOptions, here: Place) -> None:
    """Habana's order: environment first, since the module reads it as it is loaded, then the module."""
    if here.size > 1:
        os.environ.setdefault("TF_HCCL_MEMORY_ALLOWANCE_MB", _HCCL_MEMORY)
    _set_recipe_cache(options, here)
    try:
        from habana_frameworks.tensorflow import load_habana_module
    except ImportError as error:
        raise UserError(
            f"habana_frameworks.tensorflow can't be loaded ({error}): install the habana-tensorflow of this "
            f"TensorFlow ({tf.__version__}), see requirements-hpu.txt"
        ) from error
    load_habana_module()


def _hpu_strategy() -> tf.distribute.Strategy:
    from habana_frameworks.tensorflow.distribute import HPUStrategy

    return HPUStrategy()


def recipe_cache_folder(folder: str) -> Path:
    """Our own folder in the user's: what one version compiled is of no use to another."""
    try:
        from importlib.metadata import version

        habana = version("habana-tensorflow")
    except ImportError:
        habana = "unknown"
    return Path(folder) / f"vit-tf{tf.__version__}-habana{habana}"


def _set_recipe_cache(options: TrainOptions, here: Place) -> None:
    """TF_RECIPE_CACHE_PATH wins over the flag; nothing is removed but, when asked, a folder that this app made."""
    if "TF_RECIPE_CACHE_PATH" in os.environ or not options.recipe_cache:
        return
    folder = recipe_cache_folder(options.recipe_cache)
    if options.clear_recipe_cache and here.local_rank == 0 and (folder / _MARKER).is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).touch()
    os.environ["TF_RECIPE_CACHE_PATH"] = str(folder)
