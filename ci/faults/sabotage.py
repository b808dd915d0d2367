"""What goes wrong inside a command's own process: a value becomes NaN, a download comes from a hostile host."""

from __future__ import annotations

import functools
import gc
import hashlib
import http.server
import json
import os
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

Finish = Callable[[], None]


def begin(saboteur: Dict[str, Any]) -> Optional[Finish]:
    """Set up {"kind": NAME, …} in this process; returns what is to be done when the command has ended."""
    settings = dict(saboteur)
    kinds: Dict[str, Callable[..., Optional[Finish]]] = {"nan": _nan, "hostile_host": _hostile_host}
    return kinds[settings.pop("kind")](**settings)


def _hostile_host(archive: str, data_set: str) -> None:
    """torchvision fetches `data_set` from a server that has `archive`, whose digest is the published one."""
    from torchvision import datasets

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Nor of clients that ask for the headers and go."""

    folder, name = os.path.split(archive)
    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["no_proxy"] = "127.0.0.1"
    chosen = getattr(datasets, data_set)
    chosen.url = f"http://127.0.0.1:{server.server_port}/{name}"
    chosen.tgz_md5 = hashlib.md5(Path(archive).read_bytes()).hexdigest()


def _nan(library: str, what: str, at: int, report: str) -> Finish:
    """Make one value NaN in the `at`-th backward pass (`what` is gradient) or the forward pass before it (loss).

    The report tells how many weights there were at that moment and how many of their bits the command changed after it.
    """
    weights: List[Tuple[Any, bytes]] = []

    def strike() -> None:
        weights.extend((weight, _bytes(weight)) for weight in _weights(library))

    (_strike_torch if library == "torch" else _strike_keras)(what, at, strike)

    def finish() -> None:
        changed = sum(_differing_bits(before, _bytes(weight)) for weight, before in weights)
        numbers = sum(len(before) for _, before in weights) // 4
        Path(report).write_text(json.dumps({"weights": numbers, "changed_bits": changed}))

    return finish


def _strike_torch(what: str, at: int, strike: Finish) -> None:
    import torch

    honest, calls = torch.Tensor.backward, [0]

    def backward(loss: Any, gradient: Any = None, **arguments: Any) -> None:
        calls[0] += 1
        if what == "gradient" and calls[0] == at:
            strike()
            gradient = torch.full_like(loss, torch.nan)
        honest(loss, gradient, **arguments)

    def forward_hook(module: Any, _inputs: Any, output: Any) -> Any:
        if what == "loss" and calls[0] == at - 1 and module.training and isinstance(module, torch.nn.Linear):
            calls[0] += 1
            strike()
            spoilt = output.clone()
            spoilt.view(-1)[0] = torch.nan
            return spoilt
        return None

    torch.Tensor.backward = backward  # type: ignore[assignment, method-assign]
    torch.nn.modules.module.register_module_forward_hook(forward_hook)


def _strike_keras(what: str, at: int, strike: Finish) -> None:
    import numpy as np

    import training  # the app's

    honest, calls = training.Trainer._sum, [0]

    def summed(trainer: Any, stop: bool) -> Any:
        calls[0] += 1
        if calls[0] == at:
            spoilt = trainer._summed[-1 if what == "loss" else 0]  # the loss comes last
            numbers = spoilt.numpy()
            numbers.reshape(-1)[0] = np.nan
            spoilt.assign(numbers)
            strike()  # after that, as this is a variable too
        return honest(trainer, stop)

    training.Trainer._sum = summed


def _weights(library: str) -> List[Any]:
    """All parameters or variables that this process holds."""
    if library == "torch":
        import torch

        return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Parameter)]
    import tensorflow as tf

    found = [thing for thing in gc.get_objects() if issubclass(type(thing), tf.Variable)]
    return [variable for variable in found if variable.dtype == tf.float32 and variable.shape.rank]


def _bytes(weight: Any) -> bytes:
    if hasattr(weight, "detach"):
        import torch

        return bytes(weight.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return bytes(weight.numpy().tobytes())


def _differing_bits(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()
