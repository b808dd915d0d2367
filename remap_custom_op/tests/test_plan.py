"""The plan of the C++ header, as the host library gives it, against rows dealt out one by one in Python."""

import itertools
import random
from collections import Counter

import pytest

random_sizes = random.Random(0)
# elements, grain, tiles, tiles per IPU
SMALL = list(itertools.product((0, 1, 7, 8, 9, 40, 65), (1, 3, 8, 64), (1, 2, 5, 8, 11), (1, 3, 8)))
LARGE = [tuple(random_sizes.randint(1, most) for most in (30_000, 64, 3_000, 1_472)) for _ in range(60)]
UNEVEN = {
    "4 IPUs": (28_800, 1, 4 * 1472, 1472),
    "10 rows on 8 tiles": (10, 1, 8, 4),
    "one row more than divides": (28_801, 1, 2944, 1472),
    "fewer tiles than an IPU has": (28_800 * 8, 8, 1440, 1472),
    "one row more than tiles": (1_473, 1, 1472, 1472),
    "MAE's encoder": (6 * 50 * 768, 8, 1472, 1472),
    "MAE's decoder": (6 * 197 * 512, 8, 1472, 1472),
}


def owner_of_each_element(elements, grain, tiles):
    """Row r of R goes to the first tile t of T with (t + 1) R / T > r, that is, by its share of the tiles."""
    rows = -(-elements // grain)
    return [((row // grain + 1) * tiles - 1) // rows for row in range(elements)]


@pytest.mark.parametrize(
    "sizes", [SMALL, LARGE, *([size] for size in UNEVEN.values())], ids=["small", "large", *UNEVEN]
)
def test_every_element_is_where_its_share_says(remap, sizes):
    for elements, grain, tiles, tiles_per_ipu in sizes:
        intervals = remap.tile_intervals(elements, grain, tiles).tolist()
        owners = [tile for tile, (begin, end) in enumerate(intervals) for _ in range(begin, end)]
        assert owners == owner_of_each_element(elements, grain, tiles)
        assert [begin for begin, _ in intervals[1:]] == [end for _, end in intervals[:-1]]
        rows = Counter(owners[::grain])
        held = [rows[tile] for tile in range(tiles)]
        assert max(held) - min(held) <= 1
        for first in range(0, tiles, tiles_per_ipu):
            own = held[first : first + tiles_per_ipu]
            assert abs(sum(own) - sum(held) * len(own) / tiles) < 1


def test_most_loaded_tiles_of_mae(remap):
    """As many rows as blocks of ceil(rows / tiles) give, but no tile idles."""
    for size, most in (("MAE's encoder", 20), ("MAE's decoder", 52), ("one row more than tiles", 2)):
        elements, grain, tiles, _ = UNEVEN[size]
        intervals = remap.tile_intervals(elements, grain, tiles)
        held = (intervals[:, 1] - intervals[:, 0]) // grain
        assert (held.min().item(), held.max().item()) == (most - 1, most)


@pytest.mark.parametrize("sizes", [(-1, 8, 4), (8, 0, 4), (8, -1, 4), (8, 8, 0), (8, 8, -1)])
def test_sizes_without_a_plan(remap, sizes):
    with pytest.raises(ValueError, match=r"remap: .* is -?[01]"):
        remap.tile_intervals(*sizes)
