import math

import numpy as np
import pytest
import torch

from models.layers import PatchEmbedding
from models.patches import patchify, unpatchify
from models.positions import resize_table, sine_cosine_table


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 4, 12), (3, 1, 12, 8), (2, 5, 4, 4)])
def test_cutting_and_putting_together_are_inverse(shape):
    images = torch.randn(shape)
    patches = patchify(images, 4)
    grid = shape[2] // 4, shape[3] // 4
    assert patches.shape == (shape[0], grid[0] * grid[1], 16 * shape[1])
    assert torch.equal(unpatchify(patches, grid, 4), images)


def test_patches_go_row_by_row_with_the_channels_innermost():
    images = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    patches = patchify(images, 2)
    for n, ty, tx, py, px, c in np.ndindex(2, 2, 3, 2, 2, 3):
        assert patches[n, ty * 3 + tx, (py * 2 + px) * 3 + c] == images[n, c, ty * 2 + py, tx * 2 + px]


def test_embedding_is_the_convolution_whose_weights_it_has():
    embed = PatchEmbedding(3, 24, 4)
    images = torch.randn(2, 3, 8, 12)
    expected = embed.proj(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(patchify(images, 4)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "grid"), [(768, (14, 14)), (16, (2, 5)), (4, (1, 1))])
def test_positions_follow_the_formula(width, grid):
    table = sine_cosine_table(width, grid)
    assert table.shape == (1, 1 + grid[0] * grid[1], width)
    assert not table[0, 0].any()
    quarter = width // 4
    generator = np.random.default_rng(0)
    for _ in range(200):
        y, x, k = (int(generator.integers(end)) for end in (*grid, quarter))
        omega = 10000 ** (-k / quarter)
        expected = [math.sin(x * omega), math.cos(x * omega), math.sin(y * omega), math.cos(y * omega)]
        found = table[0, 1 + y * grid[1] + x, [k, quarter + k, 2 * quarter + k, 3 * quarter + k]]
        assert found.tolist() == pytest.approx(expected, abs=1e-7)


def test_positions_need_a_width_of_four_parts():
    with pytest.raises(ValueError, match="a multiple of 4, not 6"):
        sine_cosine_table(6, (2, 2))


def cubic(distance, a=-0.75):
    """The kernel of Keys 1981, with the parameter that torch has."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def resampled(line, size):
    """One axis by cubic convolution: pixel centres at halves, the borders repeated."""
    out = np.zeros((size, *line.shape[1:]))
    for index in range(size):
        centre = (index + 0.5) * len(line) / size - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            out[index] += cubic(centre - tap) * line[min(max(tap, 0), len(line) - 1)]
    return out


@pytest.mark.parametrize(("old", "new"), [((4, 4), (6, 6)), ((6, 4), (3, 5)), ((3, 3), (3, 3))])
def test_positions_are_resized_by_cubic_convolution(old, new):
    positions = torch.randn(1, 1 + old[0] * old[1], 3)
    resized = resize_table(positions, old, new)
    table = resampled(positions[0, 1:].reshape(*old, 3).double().numpy(), new[0])
    table = resampled(table.swapaxes(0, 1), new[1]).swapaxes(0, 1).reshape(-1, 3)
    torch.testing.assert_close(resized[0, 1:].double(), torch.from_numpy(table), rtol=0, atol=1e-5)
    assert torch.equal(resized[:, 0], positions[:, 0])
