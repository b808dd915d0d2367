import math
import random
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as reference

from dataset.transforms import (
    EvalTransform,
    TrainTransform,
    _limit_aspect_ratio,
    _resize_through_float,
    normalize,
    random_crop_box,
    resize,
    sample_generator,
    sample_seed,
)

LEVELS = torch.arange(256, dtype=torch.uint8)


def photo(height, width, seed=0):
    """Smooth random colours with some noise, (3, H, W) uint8, channels innermost as decoders leave them."""
    noise = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 16 + 2, width // 16 + 2, generator=noise)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0] * 200 + 28
    image = image + torch.randn(3, height, width, generator=noise) * 5
    return image.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().permute(2, 0, 1)


def as_pil(image):
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0)))


def levels_apart(image, pil):
    return (image.int() - torch.from_numpy(np.array(pil)).permute(2, 0, 1).int()).abs()


def test_normalize_maps_every_level_to_its_place():
    assert torch.allclose(normalize(LEVELS), torch.linspace(-1, 1, 256), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_every_level_survives_the_round_trip(dtype):
    normalised = normalize(LEVELS, dtype)
    assert normalised.dtype == dtype
    assert torch.equal(((normalised.double() + 1) * 127.5).round().to(torch.uint8), LEVELS)


def test_seeds_depend_on_every_part_and_never_change():
    keys = [(seed, epoch, index) for seed in range(9) for epoch in range(9) for index in range(9)]
    assert len({sample_seed(*key) for key in keys}) == len(keys)
    assert sample_seed(42, 3, 7) == 2783626541817775767  # a resumed run must draw as the first one did


@pytest.mark.parametrize("shape", [(300, 200), (20, 31), (224, 224)])
def test_8_bit_resize_equals_its_float_twin_and_pillow(shape):
    image = photo(*shape)
    resized = resize(image, (64, 48))
    twin = _resize_through_float(image[None], (64, 48))[0]
    assert resized.dtype == twin.dtype == torch.uint8
    assert (resized.int() - twin.int()).abs().max() <= 1
    assert levels_apart(resized, as_pil(image).resize((48, 64), Image.BILINEAR)).max() <= 1


def boxes(height, width, scale_min, count=4000):
    generator = sample_generator(0, 0, 0)
    drawn = [random_crop_box(height, width, scale_min, generator) for _ in range(count)]
    return torch.tensor(drawn, dtype=torch.float64)


@pytest.mark.parametrize("scale_min", [0.05, 0.6])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (400, 400), (600, 300)])
def test_crop_boxes_are_distributed_as_torchvisions(height, width, scale_min):
    ours = boxes(height, width, scale_min)
    torch.manual_seed(1)
    image = torch.empty(3, height, width)
    draw = reference.RandomResizedCrop.get_params
    theirs = [draw(image, [scale_min, 1.0], [3 / 4, 4 / 3]) for _ in range(len(ours))]
    theirs = torch.tensor(theirs, dtype=torch.float64)
    for mine, others in ((ours, theirs), (ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])):
        error = (mine.var(0) + others.var(0)).sqrt() / math.sqrt(len(ours))
        assert ((mine.mean(0) - others.mean(0)).abs() <= 4 * error).all()
        assert ((mine.std(0) / others.std(0)).log().abs() < 0.1).all()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (32, 32), (7, 5)])
def test_crop_boxes_stay_inside_and_within_their_limits(height, width):
    top, left, rows, columns = boxes(height, width, 0.25).T
    assert ((top >= 0) & (left >= 0) & (top + rows <= height) & (left + columns <= width)).all()
    # Sides are rounded to whole pixels.
    assert ((columns + 0.5) / (rows - 0.5) >= 3 / 4).all()
    assert ((columns - 0.5) / (rows + 0.5) <= 4 / 3).all()
    assert ((rows + 0.5) * (columns + 0.5) >= 0.25 * height * width).all()


def test_every_place_of_a_crop_is_as_likely():
    for start, length in boxes(8, 8, 0.25).T.unflatten(0, (2, 2)).unbind(1):
        for free in range(1, 4):
            counts = torch.bincount(start[length == 8 - free].long(), minlength=free + 1)
            assert len(counts) == free + 1
            assert counts.min() > 0.8 * counts.max()


def test_image_that_admits_no_crop_gives_its_centre():
    generator = sample_generator(0, 0, 0)
    assert random_crop_box(1000, 30, 0.9, generator) == (480, 0, 40, 30)
    assert random_crop_box(30, 1000, 0.9, generator) == (0, 480, 30, 40)
    assert random_crop_box(1, 1000, 0.05, generator)[2:] == (1, 1)


def halves(size=32):
    """Left half black, right half white."""
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    image[:, :, size // 2 :] = 255
    return image


def share_mirrored(transform, count=600):
    results = [transform(halves(), sample_generator(0, 0, index)) for index in range(count)]
    return sum(int(image[:, :, 0].sum() > image[:, :, -1].sum()) for image in results) / count


def test_half_of_the_images_are_mirrored_or_none():
    assert abs(share_mirrored(TrainTransform(16, 0.9, True, False)) - 0.5) < 4 * 0.5 / math.sqrt(600)
    assert share_mirrored(TrainTransform(16, 0.9, False, False)) == 0


def test_mirroring_reverses_the_columns_of_the_same_crop():
    image = photo(40, 50)
    pairs = [
        [TrainTransform(16, 0.3, flip, False)(image, sample_generator(0, 0, index)) for flip in (False, True)]
        for index in range(20)
    ]
    kinds = {(torch.equal(plain, other), torch.equal(plain.flip(-1), other)) for plain, other in pairs}
    assert kinds == {(True, False), (False, True)}


def test_crop_shows_the_part_that_was_drawn():
    # The pixel values are coordinates, so a resized crop says where it was taken from.
    rows, columns = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    image = torch.stack([rows, columns, rows]).to(torch.uint8)
    generator = sample_generator(3, 1, 4)
    cropped = TrainTransform(32, 0.1, False, False)(image, generator).double()
    top, left, height, width = random_crop_box(200, 200, 0.1, sample_generator(3, 1, 4))
    assert abs(cropped[0].mean() - (top + (height - 1) / 2)) < 1
    assert abs(cropped[1].mean() - (left + (width - 1) / 2)) < 1


@pytest.mark.parametrize("seed", range(40))
def test_imagenet_policy_is_torchvisions_for_the_same_draws(seed):
    image = photo(32, 32, seed)
    ours = TrainTransform(32, 1.0, False, True)(image, sample_generator(seed, 0, 0))
    generator = sample_generator(seed, 0, 0)
    cropped = resize_as_drawn(image, generator)
    torch.random.set_rng_state(generator.get_state())
    policy = reference.AutoAugment(reference.AutoAugmentPolicy.IMAGENET, fill=[128] * 3)
    assert levels_apart(ours, policy(as_pil(cropped))).max() == 0


def resize_as_drawn(image, generator):
    top, left, rows, columns = random_crop_box(*image.shape[-2:], 1.0, generator)
    return resize(image[:, top : top + rows, left : left + columns], tuple(image.shape[-2:])).contiguous()


def test_imagenet_policy_changes_most_images():
    image = photo(32, 32)
    plain, augmented = TrainTransform(32, 1.0, False, False), TrainTransform(32, 1.0, False, True)
    generators = [sample_generator(0, 0, index) for index in range(60)]
    changed = [
        not torch.equal(plain(image, sample_generator(0, 0, index)), augmented(image, generator))
        for index, generator in enumerate(generators)
    ]
    assert 30 < sum(changed) <= 60


def test_global_generators_are_left_alone():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    TrainTransform(16, 0.05, True, True)(photo(40, 40), sample_generator(0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (256, 256), (50, 140), (32, 32), (97, 101)])
@pytest.mark.parametrize("size", [224, 48])
def test_evaluation_crop_is_the_usual_one(shape, size):
    image = photo(*shape)
    usual = reference.Compose([reference.Resize(round(size * 256 / 224)), reference.CenterCrop(size)])
    apart = levels_apart(EvalTransform(size, "crop")(image), usual(as_pil(image)))
    assert apart.max() <= 1


def test_direct_resize_keeps_the_borders():
    image = photo(32, 32)
    direct = EvalTransform(64, "direct")(image)
    assert levels_apart(direct, as_pil(image).resize((64, 64), Image.BILINEAR)).max() <= 1
    assert torch.equal(EvalTransform(32, "direct")(image), image)
    assert not torch.equal(EvalTransform(32, "crop")(image), image)


def test_only_the_middle_of_a_strip_is_resized():
    strip = torch.arange(20).repeat(3, 2, 1)
    assert _limit_aspect_ratio(strip)[0].tolist() == [list(range(6, 14))] * 2
    assert torch.equal(_limit_aspect_ratio(strip.mT), _limit_aspect_ratio(strip).mT)
    assert _limit_aspect_ratio(strip[:, :, :8]).shape == (3, 2, 8)
    with mock.patch("dataset.transforms.resize", side_effect=resize) as resizing:
        EvalTransform(28, "crop")(torch.zeros(3, 2, 2000, dtype=torch.uint8))
    assert resizing.call_args.args[1] == (32, 128)


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (1, 1), (3, 40)])
@pytest.mark.parametrize("mode", ["crop", "direct"])
def test_any_shape_gives_the_size_asked_for(shape, mode):
    image = torch.full((3, *shape), 77, dtype=torch.uint8)
    for result in (
        EvalTransform(32, mode)(image),
        TrainTransform(32, 0.05, True, False)(image, sample_generator(0, 0, 0)),
    ):
        assert result.shape == (3, 32, 32)
        assert result.is_contiguous()
        assert (result == 77).all()
