"""preprocess_imagenet.py --verify."""

import pytest

from errors import UserError
from tests.shard_data import check_shards, read_shards


def test_verify_accepts(shards, capsys):
    check_shards(shards)
    assert capsys.readouterr().out == "ok: 1,437 train images, 360 validation images\n"


@pytest.mark.parametrize("where", ["length", "its checksum", "first image", "last checksum"])
def test_verify_finds_a_flipped_bit(copy, where, capsys):
    path = copy / "train/train-00002-of-00004"
    data = bytearray(path.read_bytes())
    data[{"length": 1, "its checksum": 9, "first image": 300, "last checksum": len(data) - 1}[where]] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match="problems: remove the shards that are named above"):
        check_shards(copy)
    found = capsys.readouterr().out
    assert "train-00002-of-00004" in found
    assert "train-00001" not in found


def test_verify_finds_what_is_cut_missing_or_mislabelled(copy, capsys):
    first, second, third = (copy / f"train/train-{k:05d}-of-00004" for k in range(3))
    first.write_bytes(first.read_bytes()[:-10])
    second.unlink()
    third.write_bytes(b"")
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace(' "digit_9"\n', ' "digit_9"\n').replace('"images": 360', '"images": 361'))
    with pytest.raises(UserError):
        check_shards(copy)
    found = capsys.readouterr().out
    assert "train-00000-of-00004 is cut short" in found
    assert "train-00001-of-00004" in found
    assert "train-00002-of-00004 is empty" in found
    assert "validation has 360 whole records, not the 361 that were written" in found


def test_verify_reads_labels_features_and_sizes(copy, capsys):
    content = (copy / "dataset_info.json").read_text()
    (copy / "dataset_info.json").write_text(content.replace(',\n  "digit_9"', ""))
    with pytest.raises(UserError):
        check_shards(copy, "--splits", "validation")
    found = capsys.readouterr().out
    nines = sum(record["image/class/label"] == 10 for record in read_shards(copy, "validation"))
    assert found.count("label 10 outside 1 to 9") == nines > 0
