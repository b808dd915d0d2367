"""ViT-B/16 training in two processes, as torchrun starts them, against one with the same batch and cores."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing

import torch

from benchmarks.contenders.common import flops_of, matmul
from benchmarks.contenders.vit_gaudi import app_vit
from benchmarks.interleaved import Built, Settings
from benchmarks.machine import ROOT

PROCESSES = 2


def ours(settings: Settings) -> Built:
    """The Gaudi app's distributed step: each process has its share of the batch and of the threads."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.contenders.processes", json.dumps(settings)]
    other = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **_place(1, port)})
    os.environ.update(_place(0, port))
    alone = _join(settings)
    from run import distributed

    def step() -> torch.Tensor:
        distributed.any_rank(False)  # the other one starts when this one does
        result: torch.Tensor = alone.step()
        return result

    def close() -> None:
        distributed.any_rank(True)
        other.wait()

    return Built(step, lambda: PROCESSES * flops_of(step), alone.parameters, close=close)


def one_process(settings: Settings) -> Built:
    """One process with all threads."""
    return app_vit(settings)


def one_thread(settings: Settings) -> Built:
    """One process with one thread: what a second core brings is this one's time over the others'."""
    torch.set_num_threads(1)
    return app_vit(settings)


def _place(rank: int, port: int) -> dict[str, str]:
    """Torchrun's variables."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    return {
        **{name: str(value) for name, value in numbers.items()},
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _join(settings: Settings) -> Built:
    torch.set_num_threads(max(1, settings.threads // PROCESSES))
    sys.path.insert(0, str(ROOT / "vit_pytorch_gaudi"))
    from run import distributed

    distributed.barrier()  # starts torch.distributed
    return app_vit(settings, cards=PROCESSES)


def main() -> None:
    """The second process: steps with the first one until that says stop."""
    alone = _join(Settings(*json.loads(sys.argv[1])))
    from run import distributed

    while not distributed.any_rank(False):
        alone.step()


CONTENDERS = {"ours": ours, "one_process": one_process, "one_thread": one_thread, "matmul": matmul}

if __name__ == "__main__":
    main()
