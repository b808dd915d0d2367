"""What the documentation says is so: its links lead somewhere, and flags and defaults are those of the programs."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MADE = {"build", "data", "output", "demo", "node_modules", "__pycache__"}  # what builds and runs leave in the tree
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part in MADE or part[0] == "." for part in path.parts[len(ROOT.parts) :])
)


def prose(page):
    """Text of a page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@lru_cache(maxsize=None)
def anchors(page):
    """What `#…` may follow the page's name: its headings as GitHub writes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        found.add(re.sub(r"[^\w\- ]", "", shown.lower()).strip().replace(" ", "-"))
    return found


def wrong_links(page):
    """Links of a page to files or headings that are not there."""
    found = []
    for target in [*LINK.findall(prose(page)), *re.findall(r'src="([^"]+)"', prose(page))]:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    assert wrong_links(page) == []


def test_a_wrong_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`, here\n[a](page.md#a-title-here) [b](gone.md) [c](#gone) [d](https://a.b/c) `[e](no)`\n"
    )
    assert wrong_links(page) == ["gone.md", "#gone"]


def test_every_page_is_linked_from_the_first():
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(prose(ROOT / "README.md"))}
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page not in linked] == []


# App → letter in the page's tables → script, and the class of its options; "" where it has no letter.
SCRIPTS = {
    "vit_pytorch_ipu": {
        "F": "finetune.py:options:FinetuneOptions",
        "P": "pretrain.py:options:PretrainOptions",
        "V": "validation.py:options:ValidationOptions",
        "": "predict.py:prediction_options:PredictionOptions",
    },
    "mae_pytorch_ipu": {
        "P": "main_pretrain.py:options:PretrainOptions",
        "F": "main_finetune.py:options:FinetuneOptions",
        "L": "main_linprobe.py:options:LinprobeOptions",
        "V": "finetune_validate.py:options:ValidationOptions",
        "": "predict.py:prediction_options:PredictionOptions",
        "1": "visualize.py:prediction_options:VisualisationOptions",
        "2": "convert.py:prediction_options:ConversionOptions",
    },
    "swin_pytorch_ipu": {
        "T": "train_swin.py:options:TrainOptions",
        "V": "validate.py:options:ValidationOptions",
        "": "predict.py:prediction_options:PredictionOptions",
        "1": "dataset/pack.py:dataset.pack:PackOptions",
    },
    "vit_pytorch_gaudi": {
        "T": "train.py:options:TrainOptions",
        "": "predict.py:prediction_options:PredictionOptions",
        "1": "mpijob.py:mpijob:JobOptions",
    },
    "vit_tensorflow_gaudi": {"T": "train.py:options:TrainOptions", "": "predict.py:predict:PredictOptions"},
}
COMMANDS = ROOT / "docs" / "commands.md"
SOURCES = (
    "dataset",
    "models",
    "run",
    "ipu",
    "preprocessing",
    "src",
)  # folders with modules, in parts of the repository


@lru_cache(maxsize=None)
def program(app):
    """Options and refused flags as the app's own modules have them."""
    environment = "tensorflow" if "tensorflow" in app else "torch"
    python = ROOT / ".venv" / environment / "bin" / "python"
    script = Path(__file__).with_name("option_trees.py")
    variables = dict(os.environ, OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="2")
    command = [str(python), str(script), *SCRIPTS[app].values()]
    done = subprocess.run(command, cwd=ROOT / app, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def section(app):
    """The part of docs/commands.md about an app, from its heading to the next."""
    parts = [part for part in re.split(r"^## ", COMMANDS.read_text(), flags=re.MULTILINE) if f"[{app}](" in part]
    assert len(parts) == 1
    return parts[0]


def documented_flags(app):
    """Rows of the app's table: flag, letters of the scripts that have it, default, note."""
    for row in re.findall(r"^\| `--.*$", section(app), re.MULTILINE):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        flag, letters, default, note = cells if len(cells) == 4 else (cells[0], "T", cells[1], cells[2])
        yield flag.strip("`-").replace("-", "_"), letters.split() if default != "–" else [], default, note.strip(" |")


def of_flag(options, flag):
    """[name, default] in a script's options, by name or alias; None if it has none."""
    return next(
        ((name, default) for name, (aliases, default) in options.items() if flag == name or flag in aliases), None
    )


def further_options(app):
    """Script → names in the page's list of options that the document has not."""
    found = {}
    for line in re.findall(r"^\* (`.*)$", section(app), re.MULTILINE):
        scripts, _, names = line.partition(": ")
        for script in re.findall(r"`(.+?)`", scripts):
            found.setdefault(script, set()).update(name.replace("-", "_") for name in re.findall(r"`--(.+?)`", names))
    return found


@pytest.mark.parametrize("app", SCRIPTS)
def test_flags_and_defaults_are_the_programs(app):
    options, refused = program(app)["options"], program(app)["refused"]
    scripts = {letter: name.split(":")[0] for letter, name in SCRIPTS[app].items() if letter.isupper()}
    wrong, rows = [], list(documented_flags(app))
    for flag, letters, default, note in rows:
        real = {letter: of_flag(options[script], flag) for letter, script in scripts.items()}
        real = {letter: found[1] for letter, found in real.items() if found}
        same = len(set(real.values())) == 1
        text = f"`{next(iter(real.values()))}`" if same else ", ".join(f"{key} `{real[key]}`" for key in real)
        if letters != list(real) or default != (text or "–"):
            wrong.append(f"{flag}: {' '.join(real)} {text}")
        renamed = re.match(r"→ `--(.+?)`", note)
        if renamed and not any(renamed[1].replace("-", "_") in tree for tree in options.values()):
            wrong.append(f"{flag}: there is no {renamed[1]}")
        if not real and not renamed and (flag not in refused or not note.startswith("refused")):
            wrong.append(f"{flag}: neither an option nor refused")
    assert wrong == []
    assert len(rows) > 20


@pytest.mark.parametrize("app", SCRIPTS)
def test_every_option_of_the_programs_is_on_the_page(app):
    tables = {flag for flag, *_ in documented_flags(app)}
    letters = {name.split(":")[0] for letter, name in SCRIPTS[app].items() if letter.isupper()}
    listed = further_options(app)
    for script, options in program(app)["options"].items():
        names = {
            name for name, (aliases, _) in options.items() if script not in letters or not tables & {name, *aliases}
        }
        assert listed.get(script, set()) == names, script


@pytest.mark.parametrize("app", SCRIPTS)
def test_the_aliases_are_the_programs(app):
    trees = program(app)["options"].values()
    real = {alias for tree in trees for aliases, _ in tree.values() for alias in aliases}
    line = re.search(r"^Aliases: (.*?)\n\n", section(app), re.MULTILINE | re.DOTALL)[1]
    shown = {flag.replace("-", "_") for flag in re.findall(r"`--?([a-z_-]+)`", line)}
    names = {name for tree in trees for name in tree}
    assert real <= shown
    assert shown <= real | names


@pytest.mark.parametrize("app", SCRIPTS)
def test_options_of_the_launch_scripts_are_those_of_their_help(app):
    rows = re.findall(r"^\| \[\S+\]\(\.\./(\S+\.sh)\)[^|]* \| (.*) \|$", section(app), re.MULTILINE)
    rows = [(script, re.findall(r"`(--?[a-z-]+)`", options)) for script, options in rows]
    for script, options in rows:
        shown = subprocess.run(["bash", str(ROOT / script), "--help"], capture_output=True, text=True).stdout
        real = set(
            re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "\n".join(re.findall(r"^ +-.*?(?=  |$)", shown, re.MULTILINE)))
        )
        assert set(options) - real == set(), script
        long = {option for option in real if option.startswith("--")} - {"--help"}
        shorts = dict(re.findall(r"^ +(-\w), (--[a-z-]+)", shown, re.MULTILINE))
        assert long - set(options) - {shorts[option] for option in options if option in shorts} == set(), script


def test_options_of_preprocessing_are_those_of_its_help():
    listed = set(
        re.findall(r"`(--[a-z_]+)`", section("vit_tensorflow_gaudi").split("`preprocess_imagenet.py` takes")[1])
    )
    app = ROOT / "vit_tensorflow_gaudi"
    shown = subprocess.run(
        [str(ROOT / ".venv/tensorflow/bin/python"), "preprocess_imagenet.py", "--help"],
        cwd=app,
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2"),
        capture_output=True,
        text=True,
    )
    assert listed == set(re.findall(r"--[a-z_]+", shown.stdout.split("\n\n")[0])) - {"--help"}


def sentences():
    """Every text in the programs' sources; what is filled in is a `…`."""
    found = []
    for path in sorted(ROOT.glob("*/")):
        files = [*path.glob("*.py"), *(file for name in SOURCES for file in path.glob(f"{name}/**/*.py"))]
        for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
            if isinstance(node, (ast.Constant, ast.JoinedStr)):
                found.append(" ".join(re.sub(r"%[-+.0-9]*[sdgri]|{\w*}", "…", literal(node)).split()))
    return found


def literal(node):
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


def is_said(message, texts):
    """Whether the fixed parts of a message stand in one of the texts, in their order."""
    parts = [re.escape(part) for part in re.split("…+", message) if part.strip()]
    return any(re.search(".*".join(parts), text) for text in texts)


def test_the_messages_of_the_troubleshooting_are_those_of_the_programs():
    page = (ROOT / "docs" / "troubleshooting.md").read_text().split("## Messages of others")[0]
    messages = re.findall(r"^\| `(.+?)` \| ", page, re.MULTILINE)
    texts = sentences()
    assert [message for message in messages if not is_said(message, texts)] == []
    assert len(messages) > 40
    assert not is_said("… holds an earlier walk: give --resume", texts)


def test_the_copies_of_the_structure_are_those_that_are_checked():
    spec = importlib.util.spec_from_file_location("ci_copies", ROOT / "ci" / "copies.py")
    copies = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = copies
    spec.loader.exec_module(copies)
    rows = re.findall(r"^\| (`.*`) \| (\w+) \| (.*) \|$", (ROOT / "docs" / "structure.md").read_text(), re.MULTILINE)
    shown = {(path, source, apps) for paths, source, apps in rows for path in re.findall(r"`(.+?)`", paths)}
    assert shown == {(shared.path, shared.source, ", ".join(shared.apps)) for shared in copies.SHARED}


def test_make_targets_of_the_readme_are_there():
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = sorted({first or second for first, second in named})
    assert {"demo", "test"} <= set(targets)
    variables = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
