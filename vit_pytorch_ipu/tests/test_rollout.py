"""Attention rollout equals the paper's, for both ways of deciding, and its picture shows it."""

import numpy as np
import pytest
import torch
from PIL import Image

from rollout import attention_rollout, draw_rollout


def test_rollout_of_uniform_attention_is_even_and_the_layers_go_in_their_order():
    for pooled in (False, True):
        even = attention_rollout(torch.full((2, 3, 4, 5, 5), 1 / 5), pooled)
        torch.testing.assert_close(even, torch.full((2, 4), 1 / 4))
    # The first layer moves patch 2 into patch 1, the second patch 1 into the class token: half of it is patch 2's.
    first, second = torch.eye(3), torch.eye(3)
    first[1] = torch.tensor([0.0, 0.0, 1.0])
    second[0] = torch.tensor([0.0, 1.0, 0.0])
    assert attention_rollout(torch.stack([first, second])[None, :, None])[0].tolist() == [0.5, 0.5]
    assert attention_rollout(torch.stack([second, first])[None, :, None])[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("pooled", [False, True])
def test_rollout_is_the_papers_recursion(pooled):
    maps = torch.rand(1, 3, 2, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    gathered = np.eye(5)
    for layer in maps[0].double().numpy():
        gathered = (0.5 * layer.mean(0) + 0.5 * np.eye(5)) @ gathered
    row = gathered[1:].mean(0)[1:] if pooled else gathered[0, 1:]
    np.testing.assert_allclose(attention_rollout(maps, pooled)[0].numpy(), row / row.sum(), rtol=1e-5)


def test_the_picture_is_warm_where_attention_is(tmp_path):
    shares = torch.tensor([0.0, 0.0, 0.0, 1.0])  # of two rows of two patches: below on the right
    draw_rollout(torch.full((3, 32, 32), 128, dtype=torch.uint8), shares, (2, 2), "a $ b", tmp_path / "deep" / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "deep" / "a.png").convert("RGB")).astype(int)
    warmth = pixels[..., 0] - pixels[..., 2]
    rows, columns = np.nonzero(warmth[:, : int(0.85 * warmth.shape[1])] > 40)  # without the colour bar
    assert len(rows) > 500
    assert rows.mean() > 0.6 * warmth.shape[0]
    assert columns.mean() > 0.6 * warmth.shape[1]
