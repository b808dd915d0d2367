"""Shifted windows, masks, indices and biases against their definition, one token after the other."""

import itertools
import math

import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock

from models import SwinConfig
from models.swin import WindowAttention
from models.windows import (
    APART,
    Windows,
    attention_mask,
    join_heads,
    relative_position_index,
    shift,
    split_heads,
    unshift,
    windows_of,
)
from tests.models.tiny import randomised

# (resolution, window, shifted): tiled, padded, one window, one window along one side only, odd and even sides.
CASES = [
    ((8, 8), (4, 4), True),
    ((8, 12), (4, 3), True),
    ((7, 10), (4, 4), True),
    ((7, 10), (4, 4), False),
    ((9, 5), (5, 2), True),
    ((4, 4), (7, 7), True),
    ((3, 11), (7, 5), True),
    ((14, 7), (7, 7), True),
    ((1, 1), (7, 7), True),
    ((5, 5), (1, 1), True),
]


def group(place, windows, axis):
    """The shifted window that a row or column lies in, had there never been a roll."""
    return (place - windows.shift[axis]) // windows.window[axis]


def by_tokens(attention, x):
    """The module's output for one map (H, W, D), from its weights and the definition."""
    windows, heads, (rows, columns, width) = attention.windows, attention.heads, x.shape
    q, k, v = (attention.qkv(x).reshape(rows, columns, 3, heads, width // heads)[:, :, part] for part in range(3))
    table = attention.relative_position_bias_table.reshape(2 * windows.window[0] - 1, 2 * windows.window[1] - 1, heads)
    places = list(itertools.product(range(rows), range(columns)))
    out = torch.zeros(rows, columns, heads, width // heads)
    for r, c in places:
        mine = group(r, windows, 0), group(c, windows, 1)
        near = [(y, z) for y, z in places if (group(y, windows, 0), group(z, windows, 1)) == mine]
        for head in range(heads):
            scores = [
                q[r, c, head] @ k[y, z, head] / math.sqrt(width // heads)
                + table[r - y + windows.window[0] - 1, c - z + windows.window[1] - 1, head]
                for y, z in near
            ]
            weights = torch.stack(scores).softmax(0)
            out[r, c, head] = sum(weight * v[y, z, head] for weight, (y, z) in zip(weights, near))
    return attention.proj(out.flatten(2))


def attention_of(resolution, window, shifted):
    config = SwinConfig(embed_dim=6, depths=(1,), num_heads=(2,))
    return randomised(WindowAttention(config, 0, windows_of(resolution, window, shifted)), std=0.5).eval()


@pytest.mark.parametrize(("resolution", "window", "shifted"), CASES)
def test_attention_is_that_of_the_definition(resolution, window, shifted):
    attention = attention_of(resolution, window, shifted)
    x = torch.randn(2, *resolution, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = torch.stack([by_tokens(attention, one) for one in x])
        torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(attention(x).detach(), expected, rtol=1e-5, atol=1e-5)  # the path of training


@pytest.mark.parametrize(("resolution", "window", "shifted"), CASES)
def test_the_mask_separates_what_no_window_holds(resolution, window, shifted):
    windows = windows_of(resolution, window, shifted)
    (down, right), (h, w) = windows.counts, windows.window
    mask = attention_mask(windows).reshape(down, right, h, w, h, w)
    assert set(mask.unique().tolist()) <= {0.0, APART}
    rows, columns = down * h, right * w
    for i, j in itertools.product(range(down), range(right)):
        places = [
            ((i * h + a + windows.shift[0]) % rows, (j * w + b + windows.shift[1]) % columns)
            for a, b in itertools.product(range(h), range(w))
        ]
        for (m, (r, c)), (n, (y, z)) in itertools.product(enumerate(places), repeat=2):
            is_real = r < resolution[0] and c < resolution[1], y < resolution[0] and z < resolution[1]
            if all(is_real):
                same = all(
                    group(p, windows, axis) == group(q, windows, axis) for axis, (p, q) in enumerate(((r, y), (c, z)))
                )
                assert (mask[i, j, m // w, m % w, n // w, n % w] == 0) == same
            elif any(is_real):
                assert mask[i, j, m // w, m % w, n // w, n % w] == APART


def test_indices_are_offsets_query_minus_key():
    h, w = 3, 5
    index = relative_position_index((h, w)).reshape(h, w, h, w)
    for r, c, y, z in itertools.product(range(h), range(w), range(h), range(w)):
        assert index[r, c, y, z] == (r - y + h - 1) * (2 * w - 1) + c - z + w - 1
    seven = relative_position_index((7, 7))
    assert (seven.diagonal() == 84).all()
    assert (seven[-1, 0], seven[0, -1]) == (168, 0)
    assert seven.unique().numel() == 169


@pytest.mark.parametrize(("side", "window"), [(56, 7), (96, 12), (32, 8)])
def test_masks_and_indices_are_timms(side, window):
    block = SwinTransformerBlock(12, (side, side), 2, window_size=window, shift_size=window // 2)
    windows = windows_of((side, side), (window, window), shifted=True)
    assert torch.equal(attention_mask(windows), block.attn_mask)
    assert torch.equal(relative_position_index((window, window)), block.attn.relative_position_index)
    masked = attention_mask(windows).flatten(1).any(dim=1).sum()
    assert masked == 2 * (side // window) - 1  # the last row and the last column of windows: 15 of 64


def test_a_side_that_one_window_covers_is_not_shifted():
    assert windows_of((7, 7), (7, 7), shifted=True) == Windows((7, 7), (7, 7), (0, 0))
    assert windows_of((4, 5), (7, 7), shifted=True) == Windows((4, 5), (4, 5), (0, 0))
    assert windows_of((7, 14), (7, 7), shifted=True) == Windows((7, 14), (7, 7), (0, 3))
    assert windows_of((8, 8), (7, 7), shifted=True) == Windows((8, 8), (7, 7), (3, 3))
    assert windows_of((8, 8), (7, 7), shifted=False).padding == (6, 6)


@pytest.mark.parametrize(("resolution", "window", "shifted"), CASES)
def test_shift_and_cut_are_undone(resolution, window, shifted):
    windows = windows_of(resolution, window, shifted)
    x = torch.arange(2 * resolution[0] * resolution[1] * 6.0).reshape(2, *resolution, 6)
    moved = shift(x, windows)
    assert torch.equal(unshift(moved, windows), x)
    cut = split_heads(moved, windows, 3)
    assert cut.shape == (2, windows.counts[0] * windows.counts[1] * 3, windows.window[0] * windows.window[1], 2)
    assert torch.equal(join_heads(cut, windows, 3), moved)


def test_far_tokens_do_not_reach_each_other_and_near_ones_do():
    """The last column of an unshifted window sees the next column only in shifted windows."""
    for shifted in (False, True):
        attention = attention_of((8, 8), (4, 4), shifted)
        x = torch.randn(1, 8, 8, 6, generator=torch.Generator().manual_seed(0))
        changed = x.clone()
        changed[:, 0, 4] += 3
        moved = (attention(x) - attention(changed)).abs().amax(dim=(0, 3)) > 1e-6
        assert bool(moved[0, 3]) == shifted
        assert not moved[7].any()  # around the edge
        assert not moved[:, :2].any()
