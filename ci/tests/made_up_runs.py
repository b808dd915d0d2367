"""Run folders as the apps leave them, made up: small, and with known results."""

import json

import numpy as np
from PIL import Image

from ci.demo.apps import APPS
from ci.demo.running import AppRun, Done

CLASSES = ("digit_0", "digit_1", "digit_2")
PER_CLASS = 40
RIGHT = {"digit_0": 40, "digit_1": 39, "digit_2": 38}  # 117 of 120, 97.5 %


def picture(path, size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def sample(folder):
    """Class folders with images for training and validation; returns the paths of the latter."""
    for index in range(12):
        picture(folder / "train" / CLASSES[index % 3] / f"{index}.JPEG")
    held_out = [folder / "validation" / name / f"{index}.JPEG" for name in CLASSES for index in range(PER_CLASS)]
    for path in held_out:
        picture(path)
    return held_out


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def history(folder, accuracy=0.975, classifies=True):
    """Ten reports of falling loss, and an evaluation half-way and one at the end."""
    records = []
    for step in range(10, 110, 10):
        share = {"accuracy": step / 100} if classifies else {}
        records.append({"step": step, "split": "train", "loss": 3 - step / 50, "throughput": 100.0 + step, **share})
        if step % 50 == 0:
            share = {"accuracy": accuracy - (100 - step) / 500, "top5": 1.0} if classifies else {}
            records.append({"step": step, "split": "validation", "loss": 0.5, "samples": 120.0, **share})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.jsonl").write_text(lines(records) + '{"step": 110, "spl')


def recipe(folder, key):
    if key == "keras":
        options = {"epochs": 5, "steps_per_epoch": 21, "batch_size": 16, "grad_accum_steps": 2}
        (folder / "config.json").write_text(json.dumps({"options": options}))
        np.savez(folder / "weights.npz", kernel=np.zeros((30, 40)), bias=np.zeros(34))
    elif key == "gaudi":
        batch = {"micro": 16, "accumulation": 1, "cards": 2}
        content = {"batch": batch, "steps": 55, "parameters": 1234, "device": "cpu (1 threads)"}
        (folder / "recipe.json").write_text(json.dumps(content))
    else:
        content = {"global_batch": 32, "steps": 28, "updates": 55, "parameters": 1234, "device": "cpu (1 threads)"}
        (folder / "recipe.json").write_text(json.dumps(content))


def predictions(path, held_out, best="top5"):
    """As predict.py prints them: the first of each class are right, the others taken for the next class."""
    records = []
    for image in held_out:
        truth, number = image.parent.name, int(image.stem)
        wrong = CLASSES[(CLASSES.index(truth) + 1) % len(CLASSES)]
        answer = truth if number < RIGHT[truth] else wrong
        name = f"data/digits/validation/{truth}/{image.name}"
        records.append({"image": name, best: [{"name": answer, "probability": 0.5 + number / 100}]})
    path.write_text(json.dumps({"predictions": records, "bad_images": []}))


def finished(key, folder, data, statuses=None, top1=0.975):
    """An AppRun whose steps have all been done, with everything on disk that they would have left.

    `statuses`: those of the steps; the last one is where it ended.
    """
    app, held_out = APPS[key], sample(data)
    for training in app.runs:
        history(
            folder / training.folder, 0.6 if training.folder == app.baseline else top1, "pre" not in training.folder
        )
        recipe(folder / training.folder, key)
    if app.score:
        (folder / app.score).mkdir()
        score = {"top1": top1, "loss": 0.25, "samples": 120}
        (folder / app.score / "validation.json").write_text(json.dumps(score))
    predictions(folder / "predictions.json", held_out, "top" if key == "keras" else "top5")
    for kind in app.pictures:
        for index in range(8):
            picture(folder / kind.folder / f"digit_{index % 3}" / f"{index}.png", (64, 32))
    run = AppRun(app, folder, since=0.0)
    for index, (step, status) in enumerate(zip(app.steps, statuses or [0] * len(app.steps))):
        run.log(step).write_text(f"{step.name} was run\n")
        run.done.append(Done(step, 10.0 * index, 9.75, 8.25, status))
    return run
