"""History: lines, crashes, rewinding, TensorBoard, W&B and curves."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import types

import numpy as np
import pytest
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from run.curves import _smooth
from run.errors import UserError
from run.history import History


def fill(history, steps):
    for step in steps:
        history.log(step, "train", loss=1 / step, learning_rate=0.1 * step, throughput=100.0 + step)
        if step % 2 == 0:
            history.log(step, "validation", accuracy=step / 10, loss=2 / step)


def points(folder, tag):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: round(event.value, 4) for event in events.Scalars(tag)}


def test_records_come_back_in_order(tmp_path):
    with History(tmp_path, tensorboard=False) as history:
        fill(history, [1, 2])
        history.log(3, "train", loss=math.nan, accuracy=None, grad=math.inf)
        records = history.records()
    assert [(record["step"], record["split"]) for record in records] == [
        *((1, "train"), (2, "train"), (2, "validation"), (3, "train")),
    ]
    assert records[1]["loss"] == 0.5
    assert math.isnan(records[3]["loss"])
    assert "accuracy" not in records[3]
    line = (tmp_path / "history.jsonl").read_text().splitlines()[3]
    assert json.loads(line, parse_constant=pytest.fail)["grad"] is None


def test_a_kill_loses_no_line_and_half_a_line_does_no_harm(tmp_path):
    child = os.fork()
    if child == 0:
        history = History(tmp_path, tensorboard=False)
        fill(history, range(1, 6))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with open(tmp_path / "history.jsonl", "a") as file:
        file.write('{"step": 6, "spl')
    with History(tmp_path, tensorboard=False) as history:
        assert [record["step"] for record in history.records()] == [1, 2, 2, 3, 4, 4, 5]
        history.log(6, "train", loss=0.0)
        assert [record["step"] for record in history.records()][-2:] == [5, 6]


def test_a_damaged_line_is_an_error(tmp_path):
    (tmp_path / "history.jsonl").write_text('{"step": 1, "split": "train"}\nnonsense\n')
    with pytest.raises(UserError, match="no JSON"):
        History(tmp_path, tensorboard=False).records()


def test_rewinding_drops_later_lines_and_points(tmp_path):
    with History(tmp_path, tensorboard=True) as history:
        fill(history, range(1, 9))
    untouched = (tmp_path / "history.jsonl").read_bytes().splitlines()
    with History(tmp_path, tensorboard=True) as history:
        history.rewind(4)
        assert (tmp_path / "history.jsonl").read_bytes().splitlines() == untouched[:6]
        history.log(5, "train", loss=50.0)
        history.log(6, "train", loss=60.0)
        history.rewind(5)
        history.log(6, "train", loss=66.0)
    assert points(tmp_path, "loss/train") == {1: 1.0, 2: 0.5, 3: 0.3333, 4: 0.25, 5: 50.0, 6: 66.0}
    assert points(tmp_path, "accuracy/validation") == {2: 0.2, 4: 0.4}
    assert [record["step"] for record in history.records()] == [1, 2, 2, 3, 4, 4, 5, 6]


def test_rewinding_to_the_start_forgets_all(tmp_path):
    with History(tmp_path, tensorboard=False) as history:
        history.rewind(0)
        fill(history, [1, 2])
        history.rewind(0)
        assert history.records() == []


def test_points_reach_tensorboard_before_a_kill(tmp_path):
    child = os.fork()
    if child == 0:
        fill(History(tmp_path, tensorboard=True), range(1, 4))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert points(tmp_path, "loss/train") == {1: 1.0, 2: 0.5, 3: 0.3333}


def test_best_record(tmp_path):
    with History(tmp_path, tensorboard=False) as history:
        assert history.best("accuracy") is None
        history.log(1, "train", accuracy=1.0)
        for step, accuracy in [(2, 0.5), (4, 0.75), (6, 0.75), (8, math.nan)]:
            history.log(step, "validation", accuracy=accuracy)
        assert history.best("accuracy")["step"] == 4
        assert history.best("accuracy", "train")["step"] == 1
        assert history.best("loss") is None


def test_other_processes_than_the_first_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with History(tmp_path, tensorboard=True, wandb={}) as history:
        fill(history, [1, 2])
        history.rewind(0)
        history.curves(tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_wandb_only_on_request_and_clear_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    History(tmp_path, tensorboard=False).close()
    with pytest.raises(UserError, match="pip install wandb"):
        History(tmp_path, tensorboard=False, wandb={})
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard, or give --tensorboard false"):
        History(tmp_path, tensorboard=True)


def test_wandb_gets_steps_and_goes_on_with_the_same_run(tmp_path, monkeypatch):
    begun, logged, ended = [], [], []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: ended.append(1))
    fake = types.SimpleNamespace(init=lambda **arguments: begun.append(arguments) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 2):
        with History(tmp_path, tensorboard=False, wandb={"project": "p"}) as history:
            history.log(step, "train", loss=0.5)
    assert logged == [(1, {"loss/train": 0.5}), (2, {"loss/train": 0.5})]
    assert len(ended) == 2
    assert begun[0] == begun[1]
    assert (begun[0]["project"], begun[0]["resume"], begun[0]["dir"]) == ("p", "allow", str(tmp_path))


def test_curves_show_every_metric(tmp_path):
    with History(tmp_path, tensorboard=False) as history:
        history.curves(tmp_path / "curves.png")
        assert not (tmp_path / "curves.png").exists()
        fill(history, range(1, 4))
        history.log(4, "train", loss=math.nan)
        history.curves(tmp_path / "few.png")
        fill(history, range(5, 300))
        history.curves(tmp_path / "many.png")
    for name in ("few.png", "many.png"):
        picture = imread(str(tmp_path / name))[..., :3]
        height, width = picture.shape[0] // 2, picture.shape[1] // 2
        for row in (0, 1):
            for column in (0, 1):  # loss, accuracy, learning rate, throughput: coloured lines in each panel
                panel = picture[row * height : (row + 1) * height, column * width : (column + 1) * width]
                assert (panel.max(-1) - panel.min(-1) > 0.3).sum() > 20
    assert {path.name for path in tmp_path.iterdir()} == {"few.png", "many.png", "history.jsonl"}


def test_the_number_of_samples_is_no_curve(tmp_path):
    with History(tmp_path, tensorboard=False) as history:
        history.log(1, "validation", loss=1.0)
        history.curves(tmp_path / "without.png")
        history.rewind(0)
        history.log(1, "validation", loss=1.0, samples=360)
        history.curves(tmp_path / "with.png")
    assert (imread(str(tmp_path / "with.png")) == imread(str(tmp_path / "without.png"))).all()


def test_smoothing_is_the_mean_of_finite_neighbours():
    values = np.arange(160.0)
    assert np.allclose(_smooth(values)[2:-2], values[2:-2])
    assert np.isclose(_smooth(values)[0], (0 + 1 + 2) / 3)
    values[80] = np.nan
    assert np.isclose(_smooth(values)[80], (78 + 79 + 81 + 82) / 4)
