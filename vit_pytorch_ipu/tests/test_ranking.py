"""Classes are ranked by probability and named by ImageNet's words only where they are ImageNet's."""

from pathlib import Path

import pytest
import timm
import torch

from ranking import readable, table, top


def test_imagenet_words_stand_for_its_synsets_only():
    file = Path(timm.data.__file__).parent / "_info" / "imagenet_synsets.txt"
    synsets = file.read_text().split()
    words = dict(line.split("\t") for line in file.with_name("imagenet_synset_to_lemma.txt").read_text().splitlines())
    named = readable(synsets)
    assert named[207] == "golden retriever"
    assert named == readable([f"LABEL_{index}" for index in range(1000)])
    same = [name.lower() in words[synset].lower() for name, synset in zip(named, synsets)]
    assert sum(same) > 900  # both call most classes alike, so the order is that of the synsets
    shuffled = [*synsets[1:], synsets[0]]
    assert readable(shuffled) == shuffled
    others = [f"n{index:08d}" for index in range(1000)]
    assert readable(others) == others
    assert readable(["cat", "dog"]) == ["cat", "dog"]


def test_the_likeliest_come_first_and_half_precision_is_ranked_as_float():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    first, second = top(logits.half(), ["a", "b", "c"], 2)
    assert [(best["index"], best["label"], best["name"]) for best in first] == [(1, "b", "b"), (2, "c", "c")]
    assert [best["probability"] for best in first] == pytest.approx(logits[0].softmax(0)[[1, 2]].tolist())
    assert second[0]["label"] == "a"
    assert [len(row) for row in top(logits, ["a", "b", "c"])] == [3, 3]


def test_a_table_has_the_label_beside_another_name_and_the_pictures():
    best = [
        {"index": 0, "label": "n01440764", "name": "tench", "probability": 0.75},
        {"index": 1, "label": "cat", "name": "cat", "probability": 0.25},
    ]
    record = {"image": "a.png", "top5": best, "attention": "a.attention.png"}
    assert table(record).splitlines() == [
        "a.png",
        "   75.00 %  tench  (n01440764)",
        "   25.00 %  cat",
        "  attention: a.attention.png",
    ]
