import pytest
import torch

from models.masking import MatrixSelection, count_visible, draw_noise, gather, one_hot, select


def noise(batch=5, patches=20, seed=0):
    return draw_noise(batch, patches, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("patches", "ratio", "visible"),
    [
        *[(196, ratio, n) for ratio, n in [(0.5, 98), (0.6, 78), (0.7, 58), (0.75, 49), (0.8, 39), (0.85, 29)]],
        (196, 0.9, 19),
        (256, 0.75, 64),
    ],
)
def test_visible_patches_of_the_published_models(patches, ratio, visible):
    assert count_visible(patches, ratio) == visible


def test_a_mask_hides_the_patches_with_the_largest_noise():
    u = noise()
    chosen = select(u, 6)
    assert torch.equal(chosen.mask.sum(1), torch.full((5,), 14.0))
    for row, mask, visible, masked in zip(u, chosen.mask, chosen.visible.tolist(), chosen.masked.tolist()):
        assert sorted(visible + masked) == list(range(20))
        assert row[mask == 0].max() < row[mask == 1].min()
        assert visible == sorted(visible, key=lambda patch: float(row[patch]))
        assert [int(mask[patch]) for patch in visible] == [0] * 6


def test_every_patch_is_masked_as_often_as_the_others():
    masks = select(noise(20000, 8), 2).mask
    torch.testing.assert_close(masks.mean(0), torch.full((8,), 0.75), rtol=0, atol=0.015)


def test_equal_noise_still_gives_a_mask():
    chosen = select(torch.zeros(1, 7), 3)
    assert chosen.mask.tolist() == [[0, 0, 0, 1, 1, 1, 1]]


def test_noise_comes_from_the_generator():
    assert torch.equal(noise(seed=1), noise(seed=1))
    assert not torch.equal(noise(seed=1), noise(seed=2))
    assert not torch.equal(draw_noise(2, 9), draw_noise(2, 9))


def test_one_sample_without_a_batch():
    u = noise(1)
    assert torch.equal(select(u[0], 6).visible, select(u, 6).visible[0])
    assert torch.equal(one_hot(u[0], 6), one_hot(u, 6)[0])


def test_tokens_return_to_their_places():
    x, filler = torch.randn(5, 20, 3), torch.randn(1, 1, 3)
    chosen = select(noise(), 6)
    seen = chosen.take(x)
    back = chosen.put_back(seen, filler)
    for sample in range(5):
        for patch in range(20):
            expected = filler[0, 0] if chosen.mask[sample, patch] else x[sample, patch]
            assert torch.equal(back[sample, patch], expected)
        assert torch.equal(seen[sample], torch.stack([x[sample, patch] for patch in chosen.visible[sample]]))
    assert torch.equal(gather(x, chosen.masked), torch.stack([x[i, index] for i, index in enumerate(chosen.masked)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_matrices_do_what_indices_do_bit_for_bit(dtype):
    x, filler = torch.randn(5, 20, 3).to(dtype), torch.randn(1, 1, 3).to(dtype)
    by_index, by_matrix = select(noise(), 6), MatrixSelection(one_hot(noise(), 6, dtype))
    assert by_matrix.keep.dtype == dtype
    assert torch.equal(by_matrix.mask, by_index.mask)
    assert torch.equal(by_matrix.take(x), by_index.take(x))
    seen = by_index.take(x)
    assert torch.equal(by_matrix.put_back(seen, filler), by_index.put_back(seen, filler))


def test_an_infinite_masked_patch_stays_hidden_from_indices_only():
    x = torch.ones(1, 20, 3)
    chosen = select(noise(1), 6)
    x[0, chosen.masked[0, 0], 1] = torch.inf
    assert chosen.take(x).isfinite().all()
    assert not MatrixSelection(one_hot(noise(1), 6)).take(x).isfinite().all()


def test_rounded_tokens_do_not_round_the_filler():
    chosen = select(noise(), 6)
    filler = torch.full((1, 1, 3), 1 / 3)
    for one in (chosen, MatrixSelection(one_hot(noise(), 6))):
        back = one.put_back(torch.ones(5, 6, 3, dtype=torch.bfloat16), filler)
        assert back.dtype == torch.float32
        assert torch.equal(back[chosen.mask == 1], filler[0].expand(5 * 14, 3))
