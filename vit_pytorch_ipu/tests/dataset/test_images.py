"""The whole way from files to batches, through a real DataLoader."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dataset import DataSpec, create_dataset, normalize
from run.errors import UserError

SIZE = 24


def pixels(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((50, 40), Image.BICUBIC))


def encoded(array, kind, mode=None, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed, mode=None):
    return encoded(pixels(seed), "JPEG", mode, quality=95)


GREY16 = encoded(pixels(1)[:, :, 0].astype(np.uint16) * 257, "PNG")
HUGE = encoded(np.zeros((1, 1), bool), "PNG").replace(b"\0\0\0\1\0\0\0\1\1", b"\0\0\x40\0\0\0\x40\0\1")

# Ten kinds of files that a collection of images has sooner or later, and whether there is a picture in them.
ODD = {
    "a_cmyk.jpg": (jpeg(2, "CMYK"), True),
    "b_grey.jpg": (jpeg(3, "L"), True),
    "c_grey16.png": (GREY16, True),
    "d_palette.png": (encoded(pixels(4), "PNG", "P"), True),
    "e_alpha.png": (encoded(pixels(5), "PNG", "RGBA"), True),
    "f_misnamed.jpeg": (encoded(pixels(6), "PNG"), True),
    "g_zero.jpg": (b"", False),
    "h_truncated.jpg": (jpeg(7)[:300], False),
    "i_page.jpg": (b"<!DOCTYPE html><title>Not found</title>", False),
    "j_huge.png": (HUGE, False),
}
BROKEN = [name for name, (_, readable) in ODD.items() if not readable]


@pytest.fixture
def root(tmp_path):
    """Two classes of six images each, and ten odd files in the second one."""
    for split in ("train", "validation"):
        for label, name in enumerate(("one", "two")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(6):
                (folder / f"{number}.jpg").write_bytes(jpeg(100 * label + number))
    for name, (content, _) in ODD.items():
        (tmp_path / "train" / "two" / name).write_bytes(content)
    return tmp_path


def make_spec(root, **changes):
    listing = str(root / "out" / "bad_images.txt")
    fields = {"name": "folder", "path": str(root), "image_size": SIZE, "seed": 5, "bad_image_ratio": 0.5}
    return DataSpec(**{**fields, "bad_images": listing, **changes})


class Epoch(Dataset):
    """One pass over a data set, as the training stream asks for it."""

    def __init__(self, data, number):
        self.data = data
        self.number = number

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data.sample(self.number, index)


def load(spec, epoch=0, split="train", **loading):
    data = create_dataset(spec, split)
    batches = list(DataLoader(Epoch(data, epoch), batch_size=5, **loading))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches]), data


def test_no_odd_file_stops_a_pass_or_goes_missing(root):
    images, labels, data = load(make_spec(root), num_workers=2)
    assert images.shape == (22, 3, SIZE, SIZE)
    assert len(data) == 22
    listed = (root / "out" / "bad_images.txt").read_text().splitlines()
    names = sorted(line.split("\t")[0] for line in listed)
    assert names == [str(root / "train" / "two" / name) for name in BROKEN]
    assert data.check_bad_images() == len(BROKEN)
    # The broken ones are the last files: the ones after them are the first of the other class, label and all.
    assert labels.tolist() == [0] * 6 + [1] * 12 + [0] * 4


def test_a_second_pass_lists_nothing_twice(root):
    for epoch in range(2):
        _, _, data = load(make_spec(root), epoch, num_workers=2)
    assert len((root / "out" / "bad_images.txt").read_text().splitlines()) == len(BROKEN)
    assert create_dataset(make_spec(root), "validation").check_bad_images() == 0
    assert data.check_bad_images() == len(BROKEN)


def test_decoding_only_what_a_crop_needs_changes_little_and_no_verdict(root, monkeypatch):
    fast, labels, _ = load(make_spec(root), epoch=3)
    listed = sorted((root / "out" / "bad_images.txt").read_text().splitlines())
    monkeypatch.setattr("run.images.HAS_PARTS", False)
    listing = str(root / "out" / "again.txt")
    plain, same_labels, _ = load(make_spec(root, bad_images=listing), epoch=3)
    assert torch.equal(labels, same_labels)
    assert listed == sorted((root / "out" / "again.txt").read_text().splitlines())
    apart = (fast.int() - plain.int()).abs()
    assert apart.float().mean() <= 2
    assert apart.max() <= 40
    assert 0 < len({image for image, _, _, _ in apart.nonzero().tolist()}) < len(plain)  # the odd files are the same


def test_above_the_ratio_the_run_stops(root):
    _, _, data = load(make_spec(root, bad_image_ratio=0.1))
    with pytest.raises(UserError, match=rf"{len(BROKEN)} of 22 images cannot be decoded.*bad_images\.txt"):
        data.check_bad_images()


@pytest.mark.parametrize("extra_aug", [None, "imagenet_policy"])
def test_bytes_do_not_depend_on_workers(root, extra_aug):
    spec = make_spec(root, extra_aug=extra_aug)
    torch.manual_seed(1)
    alone = load(spec, epoch=3)
    torch.manual_seed(2)
    for loading in ({"num_workers": 2}, {"num_workers": 1, "multiprocessing_context": "spawn"}):
        images, labels, _ = load(spec, epoch=3, **loading)
        assert torch.equal(images, alone[0])
        assert torch.equal(labels, alone[1])


def test_augmentation_changes_with_epoch_seed_and_sample(root):
    data = create_dataset(make_spec(root), "train")
    reseeded = create_dataset(make_spec(root, seed=6), "train")
    image = data.sample(2, 3)[0]
    assert torch.equal(image, data.sample(2, 3)[0])
    assert torch.equal(data[3][0], data.sample(0, 3)[0])
    for other in (data.sample(3, 3), reseeded.sample(2, 3), data.sample(2, 4)):
        assert not torch.equal(image, other[0])


def test_a_replacement_is_not_a_copy_of_its_neighbour(root):
    data = create_dataset(make_spec(root), "train")
    broken, neighbour = data[len(data) - 1], data[0]  # j_huge.png, replaced by the first image
    assert broken[1] == neighbour[1]
    assert not torch.equal(broken[0], neighbour[0])


def test_validation_is_the_same_in_every_epoch_and_not_augmented(root):
    first, labels, _ = load(make_spec(root), 0, "validation")
    assert torch.equal(first, load(make_spec(root), 7, "validation", num_workers=2)[0])
    assert labels.tolist() == [0] * 6 + [1] * 6
    direct = create_dataset(make_spec(root, eval_resize="direct"), "validation")[0][0]
    whole = Image.open(root / "validation" / "one" / "0.jpg").resize((SIZE, SIZE), Image.BILINEAR)
    assert (direct.permute(1, 2, 0).int() - torch.from_numpy(np.array(whole)).int()).abs().max() <= 1


@pytest.mark.parametrize(("dtype", "half_step"), [("float16", 2**-12), ("float32", 2**-24)])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_host_and_device_normalise_alike(root, dtype, half_step, split):
    raw, _, _ = load(make_spec(root), split=split)
    ready, _, _ = load(make_spec(root, dtype=dtype), split=split)
    assert raw.dtype == torch.uint8
    assert ready.dtype == getattr(torch, dtype)
    assert torch.equal(normalize(raw, ready.dtype), ready)
    assert (ready.double() - (raw.double() / 127.5 - 1)).abs().max() <= 2 * half_step


def test_flip_and_crop_can_be_switched_off(root):
    spec = make_spec(root, random_flip=False, crop_scale_min=1.0)
    (root / "train" / "one" / "0.jpg").write_bytes(encoded(pixels(1)[:40, :40], "PNG"))
    data = create_dataset(spec, "train")
    whole = Image.fromarray(pixels(1)[:40, :40]).resize((SIZE, SIZE), Image.BILINEAR)
    for epoch in range(5):  # of a square image nothing is left to chance
        image = data.sample(epoch, 0)[0]
        assert (image.permute(1, 2, 0).int() - torch.from_numpy(np.array(whole)).int()).abs().max() <= 1


@pytest.mark.parametrize("index", [-1, 22])
def test_only_existing_samples_can_be_had(root, index):
    with pytest.raises(IndexError, match=rf"sample {index} of a data set of 22"):
        create_dataset(make_spec(root), "train").sample(0, index)
