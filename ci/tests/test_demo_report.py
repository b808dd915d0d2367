import base64
import io
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ci.demo import __main__ as demo
from ci.demo import machine
from ci.demo.apps import APPS, ROOT, Step
from ci.demo.charts import curves, panels, smoothed
from ci.demo.page import build
from ci.demo.results import COLUMNS, confusion, read_result, row, table
from ci.tests import made_up_runs

ENVIRONMENT = {"Processor": "<fast> & good", "Commit": "abc1234"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of all five apps, made up."""
    folder = tmp_path_factory.mktemp("demo")
    runs = {key: made_up_runs.finished(key, folder / key, folder / "data" / key) for key in APPS}
    return {key: read_result(run, folder / "data" / key) for key, run in runs.items()}


@pytest.fixture(scope="module")
def page(results):
    return build(list(results.values()), ENVIRONMENT, 80.0, "today")


@pytest.mark.parametrize("key", APPS)
def test_what_the_apps_wrote_is_read(results, key):
    result = results[key]
    assert result.problems == []
    assert result.score.top1 == pytest.approx(0.975)
    assert result.score.samples == 120
    assert result.recipe.parameters == 1234
    assert (result.recipe.updates, result.recipe.batch) == (55, 32)
    assert result.throughput == 155.0
    assert result.images == 12
    assert confusion(result.predictions) == {
        "digit_0": {"digit_0": 40, "digit_1": 0, "digit_2": 0},
        "digit_1": {"digit_0": 0, "digit_1": 39, "digit_2": 1},
        "digit_2": {"digit_0": 2, "digit_1": 0, "digit_2": 38},
    }


def test_mae_is_compared_with_random_weights(results):
    assert results["mae"].baseline.top1 == pytest.approx(0.6)
    assert {result.baseline for key, result in results.items() if key != "mae"} == {None}


def test_the_table_has_a_row_for_each_app(results):
    text = table(list(results.values()))
    lines = text.splitlines()
    assert lines[0].split()[:3] == COLUMNS[:3]
    assert [line.split()[0] for line in lines[2:7]] == [app.folder for app in APPS.values()]
    assert row(results["gaudi"])[2:6] == ["1,234", "12 + 120 digits", "55 × 32", "97.50 %"]
    assert row(results["gaudi"])[6:] == ["40", "33", "155", "passed"]
    assert "the classifier 97.5 % with pretraining, 60.0 % without" in text
    assert "MAE: Pretraining reaches a loss of 0.500" in text


def again(key, folder, **changes):
    run = made_up_runs.finished(key, folder / key, folder / "data", **changes)
    return read_result(run, folder / "data")


@pytest.mark.parametrize("key", APPS)
def test_too_little_accuracy_is_a_failure(tmp_path, key):
    result = again(key, tmp_path, top1=APPS[key].least - 0.001)
    assert ["is below" in problem for problem in result.problems] == [True]
    assert row(result)[-1] == "failed"


def test_a_failed_step_is_a_failure_with_its_log(tmp_path):
    result = again("vit", tmp_path, statuses=[0, 3])
    (problem,) = result.problems
    assert "fine-tune ended with 3" in problem
    text = build([result], {}, 20.0, "today")
    assert "fine-tune was run" in text
    assert "1 of 1 failed" in text


def test_predictions_that_differ_from_the_validation_are_a_failure(tmp_path):
    (problem,) = again("vit", tmp_path, top1=0.99).problems
    assert problem == "predict.py comes to 97.50 %, the validation to 99.00 %"


@pytest.mark.parametrize("missing", ["predictions.json", "digits_valid/validation.json"])
def test_missing_results_are_a_failure(tmp_path, missing):
    run = made_up_runs.finished("vit", tmp_path / "vit", tmp_path / "data")
    (tmp_path / "vit" / missing).unlink()
    (problem,) = read_result(run, tmp_path / "data").problems
    assert "cannot be found" in problem


def test_the_status_is_1_if_one_app_fails(tmp_path, capsys):
    (tmp_path / "demo").mkdir()
    good = again("swin", tmp_path)
    assert demo.finish([good], 9.0, tmp_path / "demo") == 0
    bad = again("vit", tmp_path / "bad", top1=0.9)
    assert demo.finish([good, bad], 9.0, tmp_path / "demo") == 1
    assert "error: ViT: top-1 of 90.00 % is below 95 %" in capsys.readouterr().err
    assert "1 of 2 failed" in (tmp_path / "demo" / "report.html").read_text()


class Elements(HTMLParser):
    """Every element with its attributes, and the text of headings."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.headings = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(" ".join(data.split()))

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


LOADS = ("src", "href", "srcset", "poster", "data", "action", "xlink:href", "background")


def test_the_page_loads_nothing(page):
    elements = Elements(page)
    addresses = [attributes[name] for _, attributes in elements.found for name in LOADS if name in attributes]
    assert len(addresses) > 40
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not {"script", "link", "iframe", "object", "embed"} & {
        tag for tag, attributes in elements.found if attributes.get("rel") != "icon"
    }
    assert "@import" not in page
    assert all(place.startswith("#") for place in re.findall(r"url\(['\"]?([^)]*)\)", page))
    assert "://" not in page


def test_every_picture_decodes_and_has_words(page):
    images = [attributes for tag, attributes in Elements(page).found if tag == "img"]
    assert len(images) >= 30
    for image in images:
        kind, _, content = image["src"].partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
            picture.load()
            assert kind == f"data:image/{picture.format.lower()}"
        assert image["alt"]


def test_every_app_has_its_sections(page):
    headings = [heading for heading in Elements(page).headings if heading]
    assert headings[0] == "Vision Transformers, trained from nothing"
    for app in APPS.values():
        assert app.title in headings
    assert headings.count("Confusion matrix") == headings.count("What was run") == headings.count("Curves") == 5
    assert headings.count("Attention") == 3
    assert headings.count("Reconstructions") == headings.count("Activation") == headings.count("Environment") == 1
    for app in APPS.values():
        for step in app.steps:
            assert step.text.replace('"', "&#34;") in page
    assert "abc1234" in page


def test_text_cannot_become_markup(tmp_path):
    run = made_up_runs.finished("vit", tmp_path / "vit", tmp_path / "data", statuses=[0, 1])
    run.done[1] = run.done[1]._replace(step=Step("fine-tune", "python <script>alert(1)</script> && a"))
    run.log(run.done[1].step).write_text("</pre><img src=x onerror=y>\n")
    result = read_result(run, tmp_path / "data")
    text = build([result], ENVIRONMENT, 20.0, "<i>today</i>")
    tags = {tag for tag, _ in Elements(text).found}
    assert not {"script", "i"} & tags
    assert "onerror" not in {name for _, attributes in Elements(text).found for name in attributes}
    assert "&lt;fast&gt; &amp; good" in text
    assert "&lt;script&gt;" in text


def test_an_app_that_wrote_nothing_still_has_a_section(tmp_path):
    run = made_up_runs.finished("mae", tmp_path / "mae", tmp_path / "data", statuses=[1])
    shutil.rmtree(tmp_path / "mae")
    text = build([read_result(run, tmp_path / "data")], {}, 20.0, "today")
    headings = Elements(text).headings
    assert "MAE" in headings
    assert "Confusion matrix" not in headings
    assert "Curves" not in headings


def test_losses_of_other_kinds_have_panels_of_their_own(results):
    histories = results["mae"].histories
    titles = [(metric, title, list(trainings)) for metric, title, trainings in panels(histories)]
    classifiers = ["digits_finetune", "digits_scratch"]
    assert titles == [
        ("loss", "digits_pretrain: loss", ["digits_pretrain"]),
        ("loss", "loss", classifiers),
        ("accuracy", "accuracy", classifiers),
    ]


def test_curves_follow_the_reader_s_theme():
    records = [{"step": step, "split": "train", "loss": 1 / step} for step in range(1, 40)]
    drawing = curves({"training": [*records, {"step": 40, "split": "train", "loss": None}]})
    assert "currentColor" in drawing
    assert "#010203" not in drawing
    assert "#3b82f6" in drawing
    assert "://" not in drawing
    assert curves({"training": []}) == ""


def test_smoothing_keeps_a_constant_and_the_ends_of_few_values():
    assert all(math.isclose(value, 2.0) for _, value in smoothed([(step, 2.0) for step in range(100)]))
    assert smoothed([(1, 1.0), (2, 0.0)]) == [(1, 1.0), (2, 0.0)]


def test_the_environment_is_told(tmp_path):
    rows = machine.environment({"ViT": "cpu", "Keras ViT": "", "MAE": "cpu", "Swin": "cuda"})
    assert (rows["Device of ViT, MAE"], rows["Device of Swin"]) == ("cpu", "cuda")
    assert not any("Keras" in label for label in rows)
    assert re.search(r"\d+ cores?$", rows["Processor"])
    assert re.search(r"torch \d+\.\d+", rows[".venv/torch"])
    assert machine.commit(tmp_path) is None
    assert machine.versions(tmp_path, ["torch"]) == ""


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    """Opens the page in headless Chromium with more arguments; returns what it printed."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium, as .ci/run does")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "report.html").write_text(page)
    (folder / "probe.html").write_text("<p>it opens")

    def open_page(*arguments, place=folder / "report.html"):
        profile = tmp_path_factory.mktemp("profile")
        switches = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        switches += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
        switches += ["--disable-dev-shm-usage"]  # which is small in containers, or not there
        command = [program, *switches, f"--user-data-dir={profile}", *arguments, place.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=240).stdout

    if "it opens" not in open_page("--dump-dom", place=folder / "probe.html"):
        pytest.skip(f"{program} can't open a file in {folder}, as a snap can't, or does not run at all")
    return open_page


def test_a_browser_lays_out_the_page(browser):
    elements = Elements(browser("--dump-dom"))
    assert {app.title for app in APPS.values()} < set(elements.headings)
    assert sum(tag == "svg" for tag, _ in elements.found) == 5


@pytest.mark.parametrize("width", [1200, 600])
def test_a_browser_shows_a_picture_with_all_that_it_should_have(browser, tmp_path, width):
    height = 6000
    browser(f"--screenshot={tmp_path / 'page.png'}", f"--window-size={width},{height}", "--force-device-scale-factor=1")
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape == (height, width, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000
    middle = pixels[:, width // 4 : -width // 4]
    blank = (middle == middle[:, :1]).all(axis=(1, 2))
    assert blank.mean() < 0.6
    longest = max(map(len, "".join(" #"[not empty] for empty in blank).split("#")))
    assert longest < 300, "a hole in the page"
    blue = (np.abs(pixels - (0x3B, 0x82, 0xF6)).sum(axis=2) < 30).sum()
    assert blue > 300, "the curves are missing"


def test_the_page_fits_a_narrow_screen(browser, page, tmp_path):
    """A probe in the page, which has no script itself, prints what sticks out."""
    probe = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    place = tmp_path / "probed.html"
    place.write_text(page.replace("</body>", probe))
    dumped = browser("--dump-dom", "--window-size=500,900", place=place)
    wide, of = map(int, re.findall(r"<title>(\d+) of (\d+)</title>", dumped)[0])
    assert wide <= of


def test_make_has_a_target_for_each_app():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^DEMOS := (.*)$", makefile, re.MULTILINE)[1].split() == list(APPS)
