"""Where activations are laid out anew over an IPU's tiles, kept out of the model files.

Blocks leave their outputs spread unevenly and in pieces over the tiles, so that additions, norms and softmax after them
have to fetch what they need. A remap copies a tensor into rows of `grain_size` elements, evenly over all tiles: other
places, the same numbers. The op is built from remap_custom_op/; on a host it is the identity.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any, List, Sequence, Tuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from common import custom_op
from poptorch_host.backend import is_host, poptorch
from run.errors import UserError


def remap(
    tensor: Tensor,
    grain_size: int = 8,
    *,
    bwd_grain_size: int = 0,
    fwd_clone_layout: bool = False,
    bwd_clone_layout: bool = False,
    fwd_after_matmul: bool = False,
    bwd_after_matmul: bool = False,
    debug_str: str = "remap",
) -> Tensor:
    """`tensor` (any shape), value for value, in another tile layout; so is its gradient on the way back.

    `grain_size`: elements that stay together on a tile, in the gradient `bwd_grain_size` (0: as many). clone_layout
    keeps the layout in that direction. after_matmul first regroups the last dimension, which 4 must divide, of a
    matmul's output. `debug_str` names the op in profiles.
    """
    if not is_host and not poptorch.isRunningOnIpu():
        return tensor  # the SDK's custom_op gives zeros outside of a compiled model
    attributes = {
        "fwd_grain_size": grain_size,
        "bwd_grain_size": bwd_grain_size,
        "fwd_clone_layout": int(fwd_clone_layout),
        "bwd_clone_layout": int(bwd_clone_layout),
        "fwd_after_matmul": int(fwd_after_matmul),
        "bwd_after_matmul": int(bwd_after_matmul),
        "debug_str": debug_str,
    }
    return poptorch.custom_op([tensor], "RemapCE", "ai.graphcore", 1, [tensor], attributes)[0]


def remap_input(module: nn.Module, **attributes: Any) -> RemovableHandle:
    """Let `module` get its first input remapped; `attributes` are those of `remap`."""
    return module.register_forward_pre_hook(functools.partial(_before, **_checked(attributes)))


def remap_output(module: nn.Module, **attributes: Any) -> RemovableHandle:
    """Remap what `module` returns, a tensor; `attributes` are those of `remap`."""
    return module.register_forward_hook(functools.partial(_after, **_checked(attributes)))


def remap_boundaries(blocks: Sequence[nn.Module], **attributes: Any) -> List[RemovableHandle]:
    """One remap before the first of `blocks`, which follow one another, and one after each: none twice in a row."""
    after = [remap_output(block, **attributes) for block in blocks]
    return [remap_input(blocks[0], **attributes), *after] if after else []


def load_library(path: Path) -> None:
    """Load the op from `path`: the library, or the folder of its sources, where it is built on first use.

    An IPU needs it before the model is compiled. A host does without; loaded, the op takes each tensor through the
    plan of the tiles and back, which checks the plan and costs some copies. UserError if it can't be had.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: build the remap op, as the README says.")
    try:
        library = custom_op.build(path, "host" if is_host else "ipu") if path.is_dir() else path
        custom_op.load(library)
    except custom_op.CustomOpError as error:
        raise UserError(str(error)) from error


def _checked(attributes: Any) -> Any:
    """The same attributes; TypeError now, not in the first step, for one that `remap` doesn't have."""
    inspect.signature(remap).bind(None, **attributes)
    return attributes


def _before(module: nn.Module, inputs: Tuple[Any, ...], **attributes: Any) -> Tuple[Any, ...]:  # noqa: ARG001
    return (remap(inputs[0], **attributes), *inputs[1:])


def _after(module: nn.Module, inputs: Any, output: Tensor, **attributes: Any) -> Tensor:  # noqa: ARG001
    return remap(output, **attributes)
