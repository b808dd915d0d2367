import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dataset.cifar100 as cifar100
import train
from common.cifar10 import python2_pickle
from dataset import create_dataset
from dataset.loaders import loader, workers
from device import Device
from evaluation import Evaluator
from options import parse_options
from run.errors import UserError
from run.sampling import TrainingStream
from supervised import Supervised
from tests.scripts import records, tiny

CPU = torch.device("cpu")


def data(folder, *flags, split="train"):
    options = parse_options(["--name", "x", "--data_path", str(folder), "--img_size", "16", *flags])
    return create_dataset(options, split, str(folder) + ".bad")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """20 training and 6 test images in CIFAR-100's layout, of 4 classes."""
    root = tmp_path_factory.mktemp("cifar100")
    folder = root / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 20), ("test", 6)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 3072), np.uint8)
        labels = [number % 4 for number in range(count)]
        (folder / name).write_bytes(python2_pickle({"fine_labels": labels, "data": pixels}))
    (folder / "meta").write_bytes(python2_pickle({"fine_label_names": ["a", "b", "c", "d"]}))
    return root


def test_cifar100(cifar):
    validation = data(cifar, "--dataset", "cifar100", "--img_size", "32", split="validation")
    assert (len(validation), validation.classes) == (6, ["a", "b", "c", "d"])
    image, label = validation[5]
    pixels = np.random.default_rng(6).integers(0, 256, (6, 3072), np.uint8)[5].reshape(3, 32, 32)
    assert torch.equal(image, torch.from_numpy(pixels))  # already of the model's size
    assert label == 1
    assert len(data(cifar, "--dataset", "cifar100")) == 20


def test_cifar100_trains(cifar, tmp_path):
    few = ["--dataset", "cifar100", "--num_steps", 2, "--train_batch_size", 8]
    train.main([*tiny(cifar, tmp_path / "run"), *map(str, few)])
    assert records(tmp_path / "run", "validation")[0]["samples"] == 6


def test_cifar100_that_is_not_there_is_fetched_or_asked_for(tmp_path, monkeypatch, cifar):
    with pytest.raises(UserError, match="has no cifar-100-python folder: --download fetches"):
        data(tmp_path, "--dataset", "cifar100", "--download", "false")

    def fetch(url, scratch, name, md5):
        assert url.endswith("cifar-100-python.tar.gz")
        assert len(md5) == 32
        with tarfile.open(f"{scratch}/{name}", "w:gz") as archive:
            archive.add(cifar / "cifar-100-python", "cifar-100-python")

    monkeypatch.setattr(cifar100, "download_url", fetch)
    assert len(data(tmp_path / "new", "--dataset", "cifar100")) == 20
    assert [path.name for path in (tmp_path / "new").glob("[!.]*")] == ["cifar-100-python"]

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(cifar100, "download_url", fail)
    with pytest.raises(UserError, match=r"could not be downloaded .*no network"):
        data(tmp_path / "other", "--dataset", "cifar100")


def test_the_flip_can_be_switched_off_and_takes_half_of_the_images(digits):
    whole = ["--dataset", "folder", "--crop_scale_min", "1", "--img_size", "32"]
    flipped, plain = data(digits, *whole), data(digits, *whole, "--random_flip", "false")
    pairs = [(flipped.sample(0, index)[0], plain.sample(0, index)[0]) for index in range(200)]
    turned = sum(torch.equal(a, b.flip(-1)) and not torch.equal(a, b) for a, b in pairs)
    same = sum(torch.equal(a, b) for a, b in pairs)
    assert turned + same == 200
    assert 70 < turned < 130


def test_validation_is_resized_to_the_square_and_the_same_in_every_epoch(digits):
    validation = data(digits, "--dataset", "imagenet1K", "--img_size", "48", split="validation")
    image, _ = validation.sample(0, 3)
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 48, 48))
    assert torch.equal(image, validation.sample(5, 3)[0])


def test_generated_data_have_the_asked_classes_and_size(tmp_path):
    options = ["--name", "x", "--dataset", "generated", "--num_classes", "7", "--num_samples", "30", "--img_size", "16"]
    generated = create_dataset(parse_options(options), "train", str(tmp_path / "bad"))
    assert (len(generated), len(generated.classes), generated[0][0].shape) == (30, 7, (3, 16, 16))


def test_the_asked_number_of_classes_must_be_the_datas(digits):
    with pytest.raises(UserError, match="10 classes and the model is set up for 1000"):
        data(digits, "--dataset", "imagenet1K", "--num_classes", "1000")


def test_pixels_become_minus_one_to_one_where_the_model_runs():
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.mean(dim=(2, 3))

    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    loss, correct = Supervised(Spy())(images, torch.tensor([2]))
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    torch.testing.assert_close(loss, F.cross_entropy(torch.tensor([[-1.0, -0.6, 1.0]]), torch.tensor([2])))
    assert correct == 1


def test_shards_of_a_training_step_make_up_the_whole(digits):
    whole = data(digits, "--dataset", "folder")
    options = parse_options(["--name", "x", "--dataset", "folder", "--dataloader_workers", "0"])

    def labels(shard, batch):
        stream = TrainingStream(whole, seed=1, updates=3, global_batch=12, shard=shard)
        return [part[1].tolist() for part in loader(options, stream, batch, pinned=False, processes=shard[1])]

    one, halves = labels((0, 1), 12), [labels((rank, 2), 2) for rank in (0, 1)]
    for update in range(3):
        joined = [label for half in halves for part in half[3 * update : 3 * update + 3] for label in part]
        assert joined == one[update]
    assert one[0] != one[1]


def test_cores_are_shared_among_loaders(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(9)))
    monkeypatch.setattr("os.cpu_count", lambda: 9)
    options = parse_options(["--name", "x", "--dataset", "folder"])
    assert [workers(options, processes) for processes in (1, 2, 4, 16)] == [4, 4, 2, 1]
    assert workers(parse_options(["--name", "x", "--dataset", "folder", "--dataloader_workers", "0"]), 1) == 0


def test_cores_that_are_bound_to_a_process_are_all_its_loaders(monkeypatch):
    """run_vit.sh on a node of 96 threads: 8 processes, each bound to 6 cores of 2 threads."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    assert workers(parse_options(["--name", "x", "--dataset", "folder"]), 8) == 4


def test_only_processes_of_this_host_share_its_cores(digits, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("dataset.loaders.workers", lambda _, processes: asked.append(processes) or 0)
    monkeypatch.setattr("run.distributed.world_size", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    options = parse_options(tiny(digits, tmp_path / "run"))
    Evaluator(options, torch.nn.Identity(), None, create_dataset(options, "validation", ""), Device(CPU, "eager", ""))
    assert asked == [8]
