"""Augmentation: whose random numbers it uses, and that each part does what it says."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.augmentation import TrainAugmentation, seeded
from dataset.transforms import random_crop_box, sample_generator

RECIPE = {"auto_augment": "rand-m9-mstd0.5-inc1", "erase_probability": 0.25}


def smooth(height=40, width=56, seed=0):
    """A coloured picture without edges, uint8 (3, H, W)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def global_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def augmented(augmentation, image, count=1, seed=3):
    return torch.stack([augmentation(image, sample_generator(seed, 0, index)) for index in range(count)])


def test_global_generators_are_seeded_by_the_sample_and_come_back():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = global_states()
    drawn = []
    for index in (0, 0, 1):
        with seeded(sample_generator(5, 0, index)):
            drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert global_states() == before
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])
    with pytest.raises(ZeroDivisionError), seeded(sample_generator(5, 0, 0)):
        random.random(), 1 // 0
    assert global_states() == before


def test_a_sample_depends_on_its_generator_alone():
    augmentation, image = TrainAugmentation((32, 32), **RECIPE), smooth()
    first = augmented(augmentation, image, 12)
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    before = global_states()
    again = augmented(augmentation, image, 12)
    assert global_states() == before
    assert first.dtype == torch.uint8
    assert first.shape == (12, 3, 32, 32)
    assert torch.equal(first, again)
    assert len(first.flatten(1).unique(dim=0)) == 12


@pytest.mark.parametrize("recipe", ["rand-m9-mstd0.5-inc1", "rand-m10-n4-p1.0-inc1"])
def test_no_magnitude_fails(recipe):
    """At the largest one timm would posterise to no bit at all."""
    results = augmented(TrainAugmentation((16, 16), auto_augment=recipe), smooth(16, 16), 120)
    assert len(results.flatten(1).unique(dim=0)) > 110


def test_what_rotations_uncover_gets_the_mean_colour():
    augmentation = TrainAugmentation((16, 16), scale_min=1.0, flip=False, auto_augment="rand-m9", mean=(0.2, 0.4, 0.6))
    assert {op.kwargs["fillcolor"] for op in augmentation.by_pillow.ops} == {(51, 102, 153)}
    names = {op.name for op in augmentation.by_pillow.ops}
    assert {"Rotate", "ShearX", "TranslateYRel", "SolarizeAdd", "AutoContrast"} <= names
    assert len(names) == 15


def test_crop_resize_and_mirror_are_those_of_the_drawn_box():
    image = smooth()
    for index in range(8):
        found = TrainAugmentation((24, 20), scale_min=0.3)(image, sample_generator(1, 0, index))
        generator = sample_generator(1, 0, index)
        top, left, rows, columns = random_crop_box(40, 56, 0.3, generator)
        box = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + columns, top + rows))
        expected = torch.from_numpy(np.array(box.resize((20, 24), Image.Resampling.BICUBIC))).permute(2, 0, 1)
        if torch.rand((), generator=generator) < 0.5:
            expected = expected.flip(-1)
        assert (found.int() - expected.int()).abs().max() <= 2


def test_colour_jitter_stands_back_behind_auto_augment():
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    plain = {"scale_min": 1.0, "flip": False}
    jittered = augmented(TrainAugmentation((8, 8), color_jitter=0.4, **plain), image, 20).float().mean((1, 2, 3))
    assert jittered.min() >= 100 * 0.6**2 - 2
    assert jittered.max() <= 100 * 1.4**2 + 2
    assert jittered.std() > 10
    both = TrainAugmentation((8, 8), color_jitter=0.4, auto_augment="rand-m9", **plain)
    assert hasattr(both.by_pillow, "ops")


def test_erasing_has_the_probability_and_the_areas_of_the_recipe():
    image = torch.full((3, 32, 32), 7, dtype=torch.uint8)
    augmentation = TrainAugmentation((32, 32), scale_min=1.0, flip=False, erase_probability=0.25)
    erased = (augmented(augmentation, image, 1200) != 7).any(1)  # noise of three channels hardly ever is 7, 7, 7
    areas = erased.float().mean((1, 2))
    areas = areas[areas > 0]
    assert len(areas) / 1200 == pytest.approx(0.25, abs=0.05)
    assert areas.min() >= 0.01  # from 2 % to a third of the image, rounded to pixels
    assert areas.max() <= 0.36
    assert float(areas.mean()) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)


def test_what_fills_an_erased_box():
    image = torch.full((3, 64, 64), 7, dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.6), (0.05, 0.1, 0.15)

    def boxes(mode):
        settings = {"scale_min": 1.0, "flip": False, "erase_probability": 1.0, "mean": mean, "std": std}
        results = augmented(TrainAugmentation((64, 64), erase_mode=mode, **settings), image, 30)
        return [result[:, (result != 7).any(0)].float() / 255 for result in results]

    for box in boxes("const"):  # zero, once normalised
        assert torch.allclose(box, torch.tensor(mean)[:, None], atol=1 / 255)
    noise = torch.cat(boxes("pixel"), dim=1)
    assert torch.allclose(noise.mean(1), torch.tensor(mean), atol=0.01)
    assert torch.allclose(noise.std(1), torch.tensor(std), atol=0.01)
    colours = boxes("rand")
    assert all((box == box[:, :1]).all() for box in colours)
    assert len({tuple(box[:, 0].tolist()) for box in colours}) == 30


def test_several_boxes():
    image = torch.full((3, 64, 64), 7, dtype=torch.uint8)
    settings = {"scale_min": 1.0, "flip": False, "erase_probability": 1.0, "erase_mode": "const"}
    one = augmented(TrainAugmentation((64, 64), **settings), image, 60) != 7
    many = augmented(TrainAugmentation((64, 64), erase_count=6, **settings), image, 60) != 7
    assert many.float().mean() < one.float().mean()  # they share the area
    full = one.any(1)
    assert all(bool(mask[rows][:, columns].all()) for mask in full for rows, columns in [box_of(mask)])
    assert not all(bool(mask[rows][:, columns].all()) for mask in many.any(1) for rows, columns in [box_of(mask)])


def box_of(mask):
    """Slices from the first to the last row and column of what is set."""
    sides = [torch.nonzero(mask.any(1 - axis)).flatten() for axis in (0, 1)]
    return [slice(int(side[0]), int(side[-1]) + 1) for side in sides]
