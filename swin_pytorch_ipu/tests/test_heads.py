"""What becomes of the head of pretrained weights for data of some classes."""

import pytest
import torch
from safetensors.torch import save_file

import imagenet22k
from building import head_of
from models import create_model
from tests.models.tiny import tiny
from weights import load_weights, save_weights

ANIMALS = ["bee", "cat", "dog"]


def saved(folder, names=None, classes=3):
    save_weights(tiny(num_classes=classes), folder, class_names=names)
    return str(folder)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A 22k checkpoint as Microsoft's: tensors without class names; row k of the head is k."""
    place = tmp_path_factory.mktemp("22k") / "swin_22k.safetensors"
    state = {name: value.clone() for name, value in tiny(num_classes=imagenet22k.CLASSES).state_dict().items()}
    state["head.weight"] = torch.arange(imagenet22k.CLASSES)[:, None].expand_as(state["head.weight"]).float().clone()
    save_file(state, str(place))
    return str(place)


def rows(path, classes):
    """The rows that a model for these classes starts from, None where its head is new."""
    head = head_of(path, classes)
    model = tiny(num_classes=len(classes))
    load_weights(model, path, **head)
    return None if head.get("new_head") else model.head.weight[:, 0].long().tolist()


def test_the_same_classes_keep_their_head(tmp_path):
    assert head_of(saved(tmp_path, ANIMALS), ANIMALS) == {}


def test_another_order_and_fewer_classes_are_found_by_name(tmp_path):
    path = saved(tmp_path, ANIMALS)
    assert head_of(path, ["dog", "bee", "cat"]) == {"head_rows": [2, 0, 1]}
    assert head_of(path, ["cat", "dog"]) == {"head_rows": [1, 2]}


def test_other_classes_get_a_new_head(tmp_path):
    path = saved(tmp_path, ANIMALS)
    for other in (["bee", "cat", "fox"], ["a", "b", "c"], ["bee", "cat", "dog", "fox"]):
        assert head_of(path, other) == {"new_head": True}


def test_unnamed_classes_are_kept_if_there_are_as_many(tmp_path):
    path = saved(tmp_path)
    assert head_of(path, ANIMALS) == {}
    assert head_of(path, ANIMALS[:2]) == {"new_head": True}


def test_weights_without_a_head(tmp_path):
    assert head_of(saved(tmp_path, classes=0), ANIMALS) == {"new_head": True}


def test_imagenet_1k_from_22k(published):
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo("imagenet1k").label_names()
    assert rows(published, synsets) == imagenet22k.rows_of_imagenet1k()


def test_any_classes_among_the_22k(published):
    order = imagenet22k.synsets()
    assert rows(published, [order[7], order[5], order[21840]]) == [7, 5, 21840]
    assert rows(published, ANIMALS) is None


def test_a_thousand_classes_in_unknown_order_are_told(tmp_path, capsys):
    state = create_model("swin_tiny_patch4_window7_224", embed_dim=8, depths=(1,), num_heads=(1,)).state_dict()
    save_file(dict(state), str(tmp_path / "swin.safetensors"))
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo("imagenet1k").label_names()
    assert head_of(str(tmp_path / "swin.safetensors"), synsets) == {}
    assert capsys.readouterr().out == ""
    assert head_of(str(tmp_path / "swin.safetensors"), [f"class {index}" for index in range(1000)]) == {}
    assert "not ImageNet-1k's synsets" in capsys.readouterr().out
