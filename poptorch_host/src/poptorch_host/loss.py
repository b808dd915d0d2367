"""Loss markers: which tensor a training program differentiates.

PopTorch takes no particular output as the loss. It looks for markers, the results of `identity_loss` and of the
built-in losses; one that feeds another marker is plain arithmetic, and exactly one must remain.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator

import torch.nn.functional as F
from torch import Tensor

from poptorch_host.errors import Error

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"sum": Tensor.sum, "mean": Tensor.mean, "none": Tensor.clone}

BUILT_IN_LOSSES: frozenset[Callable[..., Tensor]] = frozenset(
    {
        F.nll_loss,
        F.cross_entropy,
        F.binary_cross_entropy,
        F.binary_cross_entropy_with_logits,
        F.mse_loss,
        F.l1_loss,
        F.smooth_l1_loss,
        F.kl_div,
        F.poisson_nll_loss,
        F.ctc_loss,
        F.hinge_embedding_loss,
        F.cosine_embedding_loss,
        F.margin_ranking_loss,
        F.soft_margin_loss,
        F.multilabel_soft_margin_loss,
        F.triplet_margin_loss,
    }
)

_markers: list[Tensor] | None = None  # those of the forward pass that is running


def identity_loss(x: Tensor, reduction: str) -> Tensor:
    """Mark `x`, reduced by "sum", "mean" or "none", as the loss; AssertionError for any other reduction.

    With "none" the loss has the shape of `x` and every element is differentiated with weight 1, as in a sum.
    """
    assert reduction in _REDUCTIONS, f"Unsupported reduction {reduction!r}, use one of {', '.join(_REDUCTIONS)}"
    result = _REDUCTIONS[reduction](x)
    mark(result)
    return result


def mark(loss: Tensor) -> None:
    """Note a loss for the `collect_markers` around it, if there is one."""
    if _markers is not None:
        _markers.append(loss)


@contextlib.contextmanager
def collect_markers() -> Iterator[list[Tensor]]:
    """Collect the losses marked inside, in the order of execution."""
    global _markers
    outer, _markers = _markers, []
    try:
        yield _markers
    finally:
        _markers = outer


def is_marker(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether a call of torch's is a built-in loss; cross-entropy only counts with class indices."""
    if function not in BUILT_IN_LOSSES:
        return False
    if function is not F.cross_entropy:
        return True
    target = args[1] if len(args) > 1 else kwargs["target"]
    return not target.is_floating_point()


def find_loss(markers: list[Tensor]) -> int:
    """Return the index of the one marker that feeds no other marker.

    Raises Error if there is none, if several are left, or if the one left depends on no trained weight.
    """
    if not markers:
        raise Error(
            "Couldn't find a loss in graph! Use one of torch's losses inside the model, or mark your own with "
            "poptorch.identity_loss"
        )
    fed = set().union(*(_ancestors(marker) for marker in markers))
    final = [i for i, marker in enumerate(markers) if marker.grad_fn is None or marker.grad_fn not in fed]
    if len(final) > 1:
        raise Error(
            f"Multiple independent losses found in graph: {len(final)}. Combine them and mark the result with "
            "poptorch.identity_loss"
        )
    if markers[final[0]].grad_fn is None:
        raise Error("The loss depends on no weight that requires a gradient")
    return final[0]


def _ancestors(loss: Tensor) -> set[Any]:
    """Return the nodes of the autograd graph that lead to `loss`, its own node left out."""
    found: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        for source, _ in node.next_functions if node is not None else ():
            if source is not None and source not in found:
                found.add(source)
                waiting.append(source)
    return found
