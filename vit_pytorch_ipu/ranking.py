"""The likeliest classes of images, under names that people read."""

from __future__ import annotations

import hashlib
from typing import Any, Dict, List

from torch import Tensor

# SHA-256 of ImageNet-1k's synsets in order, with a space between them.
_SYNSETS = "791ce0333040dd249d13133f90d28ef0263ffc01e5de0afd85b3e32048d7d456"


def top(logits: Tensor, labels: List[str], count: int = 5) -> List[List[Dict[str, Any]]]:
    """The likeliest classes of each row of logits (B, C), best first: index, label, name, probability."""
    values, indices = logits.float().softmax(dim=-1).topk(min(count, logits.shape[-1]), dim=-1)
    names = readable(labels)
    return [
        [{"index": i, "label": labels[i], "name": names[i], "probability": p} for i, p in zip(row, probabilities)]
        for row, probabilities in zip(indices.tolist(), values.tolist())
    ]


def readable(labels: List[str]) -> List[str]:
    """ImageNet-1k's words for its 1000 synsets in order, or for 1000 classes without names; else the labels."""
    unnamed = [f"LABEL_{index}" for index in range(1000)]
    if labels != unnamed and hashlib.sha256(" ".join(labels).encode()).hexdigest() != _SYNSETS:
        return labels
    from torchvision.models import ViT_B_16_Weights  # its list is in the order of the synsets

    return list(ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"])


def table(record: Dict[str, Any]) -> str:
    """The image's path, then a line per class and one per picture that was made of it."""
    lines = [record["image"]]
    for best in record["top5"]:
        label = "" if best["label"] == best["name"] else f"  ({best['label']})"
        lines.append("  %6.2f %%  %s%s" % (100 * best["probability"], best["name"], label))
    lines += [f"  {kind}: {path}" for kind, path in record.items() if kind not in ("image", "top5")]
    return "\n".join(lines)
