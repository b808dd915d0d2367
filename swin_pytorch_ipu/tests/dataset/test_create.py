import pytest
import torch

import imagenet22k
from dataset import create_dataset
from dataset.sources import Renumbered, _numbered_as_published
from models.supervised import normalised
from options import read_training, read_validation
from run.errors import UserError
from tests.dataset.trees import tree


def training(folder, *more):
    return read_training(["--cfg", "SWIN_TINY", "--data-path", str(folder), *map(str, more)], "")


def test_samples_depend_on_seed_epoch_and_index_alone(tmp_path):
    tree(tmp_path / "data")
    options = training(tmp_path / "data", "--img-size", 48, 40)
    data = create_dataset(options, "train", "")
    first = data.sample(2, 5)[0]
    data.sample(0, 1)
    assert first.shape == (3, 48, 40)
    assert torch.equal(data.sample(2, 5)[0], first)
    assert not torch.equal(data.sample(3, 5)[0], first)
    other = create_dataset(training(tmp_path / "data", "--img-size", 48, 40, "--seed", 1), "train", "")
    assert not torch.equal(other.sample(2, 5)[0], first)


def test_validation_prepares_as_the_options_say(tmp_path):
    tree(tmp_path / "data")
    images = []
    for crop in ("true", "false"):
        words = ["--cfg", "SWIN_TINY", "--checkpoint", "x", "--data-path", str(tmp_path / "data"), "--crop", crop]
        data = create_dataset(read_validation(words, ""), "validation", "")
        images.append(data[0][0])
        assert images[-1].shape == (3, 224, 224)
    assert not torch.equal(*images)


def test_mixed_precision_gets_normalised_halves(tmp_path):
    tree(tmp_path / "data")
    bytes_ = create_dataset(training(tmp_path / "data"), "train", "")
    halves = create_dataset(training(tmp_path / "data", "--precision", "mixed"), "train", "")
    expected = normalised(bytes_[4][0][None], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))[0].half()
    assert halves[4][0].dtype == torch.float16
    assert torch.equal(halves[4][0], expected)


def test_generated_data(tmp_path):
    words = ["--cfg", "SWIN_TINY", "--generated-data", "--generated-steps", "3", "--img-size", "32", "48"]
    data = create_dataset(read_training(words, ""), "train", "")
    assert len(data) == 3 * 1024
    assert data[0][0].shape == (3, 32, 48)
    assert len(data.classes) == 1000


def test_another_number_of_classes_is_refused(tmp_path):
    tree(tmp_path / "data")
    with pytest.raises(UserError, match="3 classes and the model is set up for 1000"):
        create_dataset(training(tmp_path / "data", "--num-classes", 1000), "train", "")


class Labelled:
    """A source that has nothing but classes; image k is of class k."""

    prefix = "image "

    def __init__(self, classes):
        self.classes = classes

    def __len__(self):
        return len(self.classes)

    def label(self, index):
        return index


def test_the_22k_classes_are_numbered_as_in_published_weights(capsys):
    published = imagenet22k.synsets()
    source = _numbered_as_published(Labelled(sorted(published)))
    assert isinstance(source, Renumbered)
    assert source.classes == published
    for index in (0, 9204, 9205, 15026, 15027, 21840):
        assert source.classes[source.label(index)] == sorted(published)[index]
    assert sum(source.label(index) != index for index in range(len(source))) > 5000  # all between the two moved ones
    assert "numbered as in published weights" in capsys.readouterr().out


def test_other_classes_keep_their_order(capsys):
    for classes in (["b", "a"], [f"n{index:08}" for index in range(imagenet22k.CLASSES)], imagenet22k.synsets()):
        source = Labelled(classes)
        assert _numbered_as_published(source) is source
    assert capsys.readouterr().out == ""
