"""Checkpoints for models of another grid of patches."""

import pytest
import torch

from models.positions import resize_table, sine_cosine_table
from tests.references import autoencoder, classifier, equal, randomised
from weights import load_weights, save_weights


@pytest.mark.parametrize(("image_size", "grid"), [(24, (6, 6)), ((8, 32), (2, 8))])
def test_another_image_size(tmp_path, image_size, grid):
    source = randomised(autoencoder())
    save_weights(source, tmp_path)
    change = f"4×4 → {grid[0]}×{grid[1]}"
    model = autoencoder(seed=1, image_size=image_size)
    report = load_weights(model, tmp_path)
    assert report.resized == tuple(f"{name} {change}, computed anew" for name in ("pos_embed", "decoder_pos_embed"))
    assert not report.missing
    assert torch.equal(model.decoder_pos_embed, sine_cosine_table(16, grid))
    assert equal(model, source, but=("pos_embed", "decoder_pos_embed"))
    tuned = classifier(image_size=image_size)
    report = load_weights(tuned, tmp_path, new_head=True)
    assert report.resized == (f"pos_embed {change}",)
    assert torch.equal(tuned.pos_embed, resize_table(source.pos_embed, (4, 4), grid))


def test_rectangular_positions_are_taken_by_their_config(tmp_path):
    source = randomised(classifier(image_size=(8, 24)))  # 12 patches
    save_weights(source, tmp_path)
    model = classifier(seed=1, image_size=(24, 8))
    load_weights(model, tmp_path)
    assert torch.equal(model.pos_embed, resize_table(source.pos_embed, (2, 6), (6, 2)))
