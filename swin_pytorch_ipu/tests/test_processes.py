"""Two processes, started as torchrun starts them, against one."""

import json
import socket

import pytest

from tests.forks import forks
from tests.runs import losses, records, same, tiny, weights


def launch(words, folder, count):
    """Exit statuses and outputs of `count` processes that meet on this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = {name: str(value) for name, value in place.items()} if count > 1 else {}
        started.append(forks().start(words, folder / f"log{rank}", **variables))
    statuses = [forks().wait(process) for process in started]
    return statuses, [(folder / f"log{rank}").read_text() for rank in range(count)]


RECIPE = (
    "--training-steps 4 --replicas 2 --gradient-accumulation-steps 3 --batch-size 8 --precision 32.32 --base-lr 0.3"
)
RECIPE += " --warmup-epochs 0 --mixup 0.8 --cutmix 1.0 --ema-decay 0.9 --clip-grad 0.5"


@pytest.fixture(scope="module")
def one(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    statuses, texts = launch(["train_swin.py", *tiny(digits, folder / "run", *RECIPE.split())], folder, 1)
    assert statuses == [0], texts[0]
    return folder / "run"


@pytest.mark.parametrize("sharded", ["true", "false"])
def test_two_processes_give_the_results_of_one(digits, one, tmp_path, sharded):
    words = tiny(digits, tmp_path / "run", *RECIPE.split(), "--rts", sharded)
    statuses, texts = launch(["train_swin.py", *words], tmp_path, 2)
    assert statuses == [0, 0], texts
    assert len(losses(one)) == 4
    assert losses(tmp_path / "run") == pytest.approx(losses(one), abs=1e-5)
    assert losses(tmp_path / "run", "validation") == pytest.approx(losses(one, "validation"), abs=1e-5)
    for inside in ("weights", "weights/ema"):
        first, second = weights(one, inside), weights(tmp_path / "run", inside)
        assert all((first[name] - second[name]).abs().max() < 1e-4 for name in first)
    assert not same(weights(one), weights(one, "weights/ema"))
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["processes"] == 2
    assert [text.count("global batch") for text in texts] == [1, 0]


def test_two_processes_validate_every_image_once(digits, one, tmp_path):
    score = {}
    sizes = "--embed-dim 16 --depths 1 1 --num-heads 1 2 --layers-per-ipu 2 --num-workers 0 --batch-size 7"
    for count in (1, 2):
        words = ["validate.py", "--cfg", "SWIN_DIGITS", "--checkpoint", one, "--data-path", digits, *sizes.split()]
        words += ["--output", tmp_path / str(count), "--precision", "32.32"]
        (tmp_path / str(count)).mkdir()
        statuses, texts = launch(words, tmp_path / str(count), count)
        assert set(statuses) == {0}, texts
        assert texts[0].count("Acc@1") == 1
        score[count] = json.loads((tmp_path / str(count) / "validation.json").read_text())
    assert score[1]["samples"] == score[2]["samples"] == 360
    assert score[2]["top1"] == score[1]["top1"] == records(one, "validation")[-1]["accuracy"]
    assert score[2]["loss"] == pytest.approx(score[1]["loss"], rel=1e-6)
