"""Several processes: who they are, how TensorFlow finds them, and sums over them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import numpy as np
import tensorflow as tf

from errors import UsageError, UserError
from launcher import Place, place, say

_DIGITS = 20  # bits of an integer that a float32 carries without loss, with room

_NAP = 1e-4  # seconds


class Workers:
    """The processes of a run, or this one alone: sums over them and where the model's variables are made.

    Args:
        here: place of this process.
        strategy: tf.distribute strategy that computes.
        communicator: of mpi4py; None to sum through the strategy.
    """

    def __init__(self, here: Place, strategy: tf.distribute.Strategy, communicator: Optional[Any] = None) -> None:
        self.rank, self.size = here.rank, here.size
        self.strategy = strategy
        self._communicator = communicator
        self._plain = strategy is tf.distribute.get_strategy()  # the default one, which changes nothing

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @property
    def means(self) -> str:
        """What sums over the processes."""
        return type(self.strategy).__name__ if self._communicator is None else "MPI"

    def scope(self) -> contextlib.AbstractContextManager:
        """Where variables that training changes are made."""
        return self.strategy.scope()

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function` as the strategy wants it; inside a tf.function."""
        return function(*arguments) if self._plain else self.strategy.run(function, args=arguments)

    def sum(self, vector: tf.Tensor) -> tf.Tensor:
        """A float32 vector summed over all processes, which must all call this."""
        if self.size == 1:
            return vector
        if self._communicator is None:
            return self._sum_by_strategy(vector)
        from mpi4py import MPI

        summed = vector.numpy()  # a copy, which nobody else sees
        # MPI waits at full speed, which takes the core from the process waited for where programs share it: up to a
        # factor of ten. Waiting asleep for all to arrive costs a fraction of a millisecond.
        arrived = self._communicator.Ibarrier()
        while not arrived.Test():
            time.sleep(_NAP)
        self._communicator.Allreduce(MPI.IN_PLACE, summed, MPI.SUM)
        return tf.convert_to_tensor(summed)

    @tf.function
    def _sum_by_strategy(self, vector: tf.Tensor) -> tf.Tensor:
        def reduce(part: tf.Tensor) -> tf.Tensor:
            here = tf.identity(part)  # on the replica's device, where the sum is to be
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

        return self.strategy.run(reduce, args=(vector,))

    def total(self, values: Sequence[float]) -> List[float]:
        """The same for numbers, exact for integers below 2^24."""
        return [float(value) for value in self.sum(tf.constant(values, tf.float32)).numpy()]

    def agree(self, number: int) -> int:
        """The first process's whole number (below 2^60), on all of them."""
        mine = number if self.is_main else 0
        parts = self.total([mine >> shift & (1 << _DIGITS) - 1 for shift in (0, _DIGITS, 2 * _DIGITS)])
        return sum(int(part) << shift for part, shift in zip(parts, (0, _DIGITS, 2 * _DIGITS)))

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process goes through the context, then the others do; they fail with it."""
        failure: Optional[BaseException] = None
        if self.is_main:
            try:
                yield
            except UserError as error:
                failure = error
            if self.total([float(failure is not None)])[0] and failure is not None:
                raise failure
        else:
            if self.total([0.0])[0]:
                raise UserError("the first process could not go on: see its message")
            yield

    def same_start(self, variables: Sequence[tf.Variable]) -> None:
        """Give every process the first one's values."""
        if self._communicator is None:  # a strategy does this as it makes the variables
            return
        for variable in variables:
            value = tf.cast(variable, tf.float32) if self.is_main else tf.zeros(variable.shape)
            summed = self.sum(tf.reshape(value, [-1]))
            variable.assign(tf.cast(tf.reshape(summed, variable.shape), variable.dtype))


def alone(strategy: Optional[tf.distribute.Strategy] = None) -> Workers:
    """This process as the only one."""
    return Workers(Place(0, 1, 0, 1, ""), strategy or tf.distribute.get_strategy())


def refuse_unasked(distributed: bool) -> None:
    """UsageError if several processes were started and --distributed was not given: each would train alone."""
    here = place()
    if here.size > 1 and not distributed:
        raise UsageError(f"{here.launcher} started {here.size} processes: give --distributed, or start one")


def communicator(here: Place) -> Any:
    """mpi4py's world, which must be as large as the launcher says.

    Raises:
        UserError: mpi4py is missing, or belongs to another MPI than mpirun.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(f"mpi4py can't be used ({error}): pip install -r requirements.txt") from error
    world = MPI.COMM_WORLD
    if (world.rank, world.size) != (here.rank, here.size):
        raise UserError(
            f"mpirun says rank {here.rank} of {here.size}, mpi4py rank {world.rank} of {world.size}: "
            "they belong to different MPIs, use the mpirun of the MPI that mpi4py loads"
        )
    return world


def cluster(here: Place, base_port: int, hosts: Sequence[str]) -> Dict[str, Any]:
    """TF_CONFIG's content: on each host ports from `base_port` up, hosts in the order of the ranks.

    Raises:
        UsageError: the processes can't be dealt out evenly to the hosts, or a port is none.
    """
    per_host, rest = divmod(here.size, len(hosts))
    if rest or not per_host:
        raise UsageError(
            f"{here.size} processes can't be dealt out evenly to the {len(hosts)} hosts of MULTI_HLS_IPS: "
            "start a multiple"
        )
    if base_port + per_host > 65536:
        raise UsageError(f"--base_tf_server_port {base_port} leaves no ports for {per_host} workers: give a lower one")
    workers = [f"{host}:{base_port + number}" for host in hosts for number in range(per_host)]
    return {"cluster": {"worker": workers}, "task": {"type": "worker", "index": here.rank}}


def hosts() -> List[str]:
    """Addresses in MULTI_HLS_IPS, which name the hosts in the order of the ranks; this one without."""
    return [host.strip() for host in os.environ.get("MULTI_HLS_IPS", "127.0.0.1").split(",") if host.strip()]


def set_tf_config(here: Place, base_port: int, world: Any) -> None:
    """Set TF_CONFIG unless it is set.

    Raises:
        UserError: the ranks are not dealt out host by host, or this worker's port is in use.
    """
    if "TF_CONFIG" in os.environ:
        return
    config = cluster(here, base_port, hosts())
    names = world.allgather(socket.gethostname())
    if len(hosts()) > 1:
        per_host = here.size // len(hosts())
        blocks = [set(names[start : start + per_host]) for start in range(0, here.size, per_host)]
        if any(len(block) > 1 for block in blocks):
            raise UserError("the ranks are not placed host by host: start with mpirun --map-by ppr:N:node")
    port = int(config["cluster"]["worker"][here.rank].rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(f"port {port} is in use: give another --base_tf_server_port") from error
    os.environ["TF_CONFIG"] = json.dumps(config)
    say(f"workers: {', '.join(config['cluster']['worker'])}")


def join(here: Place, *, reduction: str, base_port: int, make_strategy: Callable[[], Any]) -> Workers:
    """Connect with the other processes.

    Args:
        here: this process, as the launcher says.
        reduction: "mpi" or "strategy".
        base_port: for the strategy's servers.
        make_strategy: makes the strategy that connects them.
    """
    if here.launcher == "TF_CONFIG":
        if reduction == "mpi":
            raise UsageError("--reduction mpi needs mpirun, TF_CONFIG alone allows --reduction strategy")
        return Workers(here, make_strategy())
    world = communicator(here)
    if reduction == "mpi":
        return Workers(here, tf.distribute.get_strategy(), world)
    set_tf_config(here, base_port, world)
    return Workers(here, make_strategy())


def flat(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """One float32 vector of all."""
    return tf.concat([tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in tensors], axis=0)


def unflat(vector: tf.Tensor, shapes: Sequence[Sequence[int]]) -> List[tf.Tensor]:
    """Tensors of `shapes` from the vector that `flat` made."""
    parts = tf.split(vector, [int(np.prod(shape)) for shape in shapes])
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes)]
