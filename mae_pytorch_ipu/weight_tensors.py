"""Tensors of a checkpoint by name: renamed by a table, queries, keys and values apart or together, shapes compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Mapping, Optional

import torch
from torch import Tensor

from run.errors import UserError

State = Dict[str, Tensor]

PARTS = ("query", "key", "value")


def translated(name: str, table: Mapping[str, str]) -> Optional[str]:
    """`name` by a table of whole names, or of names without their last part (weight or bias); None if it is in none.

    The first number of a name, that of its block, is `*` in the table.
    """
    number = re.search(r"(?<=[._])\d+(?=\.)", name)
    general = name if number is None else f"{name[: number.start()]}*{name[number.end() :]}"
    stem, _, leaf = general.rpartition(".")
    found = table.get(general) or (f"{table[stem]}.{leaf}" if stem in table else None)
    return found if found is None or number is None else found.replace("*", number.group())


def joined(state: State) -> State:
    """Query, key and value (or q, k and v) layers put together to one `qkv` layer per block that has all three."""
    state = dict(state)
    for parts in (PARTS, ("q", "k", "v")):
        for query in [name for name in state if f".{parts[0]}." in name]:
            names = [query.replace(f".{parts[0]}.", f".{part}.") for part in parts]
            if all(name in state for name in names):
                state[query.replace(f".{parts[0]}.", ".qkv.")] = torch.cat([state.pop(name) for name in names])
    return state


def parted(state: State) -> State:
    """`qkv` layers taken apart to query, key and value layers."""
    result: State = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            result.update((name.replace(".qkv.", f".{part}."), piece) for part, piece in zip(PARTS, tensor.chunk(3)))
        else:
            result[name] = tensor
    return result


def check_shapes(loaded: Mapping[str, Tensor], wanted: Mapping[str, Tensor], place: Path) -> None:
    """Refuse tensors of other shapes than the model's, whose names they have.

    Raises:
        UserError: it names the first of them, and tells a head for other classes from a body of another size.
    """
    for name, tensor in loaded.items():
        theirs, ours = tensor.shape, wanted[name].shape
        if name.startswith("head.") and theirs[1:] == ours[1:] and theirs[:1] != ours[:1]:
            raise UserError(
                f"{place} has a head for {theirs[0]} classes, the model for {ours[0]}: "
                "ask for a new head (new_head), or build the model for as many classes"
            )
        if theirs != ours:
            sizes = ["×".join(map(str, shape)) or "a single number" for shape in (theirs, ours)]
            raise UserError(
                f"{place} has {name} of {sizes[0]}, the model of {sizes[1]}: build the model with the file's sizes"
            )
