"""Options: precedence, types, strictness and help."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import List, Optional

import pytest
import yaml

from run.errors import UsageError
from run.option_values import Only
from run.options import CommonOptions, RunOptions, as_dict, option, parse, show, write

CONFIGS = """
defaults:
  learning_rate: 1e-2
  seed: 1
  only_elsewhere: 5
small:
  script: train.py
  about: the small one
  learning_rate: "1e-6"
  momentum: 0
  sizes: [1, 2]
  note: 16.16
wide:
  script: [train.py, check.py]
  sizes: 7
bare:
checking:
  script: check.py
  batch: 8
"""


@dataclass(frozen=True)
class Model(CommonOptions):
    """Model.

    More about it.
    """

    sizes: List[int] = option([3, 3], "widths", unit="features", minimum=1)
    scales: Optional[List[float]] = option(None, "scales")
    note: Optional[str] = option(None, "a remark")
    data: Path = option(Path("data"), "folder of the data")


@dataclass(frozen=True)
class Training(CommonOptions):
    """Training."""

    learning_rate: float = option(0.1, "peak", positive=True, aliases=("lr", "--base-lr"))
    momentum: float = option(0.9, "of SGD", minimum=0, maximum=1)
    eps: float = option(1e-8, "of Adam", only=Only("with --optimizer Adam", lambda given: given.optimizer == "Adam"))
    seed: int = option(0, "seed")
    optimizer: str = option("SGD", "rule", choices=("SGD", "Adam", "LAMB"))
    flip: bool = option(True, "flip images")
    nesterov: Optional[bool] = option(None, "none decides by the rule")
    folder: str = option("x", "some folder")


@dataclass(frozen=True)
class Options(RunOptions, Model, Training):
    """Checkpoints."""

    save_every: int = option(10, "steps between checkpoints", unit="steps")


@pytest.fixture
def configs(tmp_path):
    path = tmp_path / "configs.yml"
    path.write_text(CONFIGS)
    return path


@pytest.fixture
def resolve(configs):
    def resolve(*words, cls=Options, **settings):
        settings = {"script": "train.py", "configs": configs, "description": "Trains.", **settings}
        return parse(cls, list(words), **settings)

    return resolve


@pytest.fixture
def refusal(resolve):
    def refusal(*words, **settings):
        with pytest.raises(UsageError) as caught:
            resolve(*words, **settings)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refusal


def test_command_line_over_entry_over_defaults_over_dataclass(resolve):
    options = resolve("--config", "small")
    assert (options.save_every, options.seed, options.learning_rate, options.momentum) == (10, 1, 1e-6, 0.0)
    assert type(options.momentum) is float
    assert resolve("--config", "bare").learning_rate == 1e-2
    assert resolve("--config", "small", "--learning-rate", "3", "--seed=0").learning_rate == 3.0
    assert resolve("--config", "small", "--seed=0").seed == 0
    assert resolve("--seed", "1", "--config", "small", "--seed", "2").seed == 2
    with pytest.raises(FrozenInstanceError):
        options.seed = 3


def test_defaults_of_lists_are_not_shared(resolve):
    resolve("--config", "bare").sizes.append(1)
    assert resolve("--config", "bare").sizes == [3, 3]


def test_zero_false_and_empty_values_can_be_given(resolve):
    words = ["--momentum", "0", "--flip", "false", "--sizes", "--note", "none", "--folder", "", "--scales"]
    options = resolve("--config", "small", *words)
    assert options.momentum == 0.0
    assert options.flip is False
    assert (options.sizes, options.scales, options.note, options.folder) == ([], [], None, "")
    assert resolve("--config", "small", "--folder=").folder == ""
    assert resolve("--config", "small", "--sizes", "none").sizes == []
    assert resolve("--config", "small", "--scales", "none").scales is None
    assert resolve("--config", "small", "--folder", "none").folder == "none"


@pytest.mark.parametrize("word", ["true", "t", "1", "yes", "y", "True"])
def test_words_for_true(resolve, word):
    assert resolve("--config", "bare", "--wandb", word).wandb is True
    assert resolve("--config", "bare", "--nesterov=" + word).nesterov is True


@pytest.mark.parametrize("word", ["false", "f", "0", "no", "n", "FALSE"])
def test_words_for_false(resolve, word):
    assert resolve("--config", "bare", "--flip", word, "--seed", "4").flip is False


def test_bare_flags_dashes_underscores_and_aliases(resolve):
    options = resolve("--config", "bare", "--wandb", "--save_every", "3", "--base_lr", "0.5", "--dry-run")
    assert (options.wandb, options.save_every, options.learning_rate, options.dry_run) == (True, 3, 0.5, True)
    assert resolve("--config", "bare", "--lr=2").learning_rate == 2.0


def test_lists_take_all_values_up_to_the_next_flag_and_negative_numbers(resolve):
    options = resolve("--config", "bare", "--scales", "1", "-2e-3", "-4", "--sizes", "5", "--seed", "-3")
    assert (options.scales, options.sizes, options.seed) == ([1.0, -2e-3, -4.0], [5], -3)
    assert resolve("--config", "wide").sizes == [7]
    assert resolve("--config", "small").sizes == [1, 2]


def test_text_and_paths(resolve):
    assert resolve("--config", "small").note == "16.16"
    assert resolve("--config", "small", "--data", "~/there").data == Path.home() / "there"
    assert resolve("--config", "small").output == "output/small"
    assert resolve("--config", "small", "--output", "here").output == "here"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning-rat", "1"], "did you mean --learning-rate?"),
        (["--saveevery", "1"], "did you mean --save-every?"),
        (["--learn", "1"], "no flag --learn"),
        (["--lr", "fast"], '--lr: "fast" is no number'),
        (["--lr", "nan"], '--lr: "nan" is no number'),
        (["--lr", "inf"], '--lr: "inf" is no finite number'),
        (["--lr", "1e999"], '--lr: "1e999" is no finite number'),
        (["--lr", "0"], "not above 0"),
        (["--momentum", "-1"], "below 0"),
        (["--momentum", "1.5"], "above 1"),
        (["--seed", "2.5"], '"2.5" is no whole number'),
        (["--seed"], "--seed needs a value"),
        (["--seed", "--flip"], "--seed needs a value"),
        (["--seed", "none"], '"none" is no whole number'),
        (["--sizes", "1", "0"], "0 is below 1"),
        (["--sizes", "1", "b"], '"b" is no whole number'),
        (["--optimizer", "lamb"], "did you mean LAMB?"),
        (["--flip=maybe"], '"maybe" is neither true nor false'),
        (["--wandb", "maybe"], "maybe belongs to no flag"),
        (["extra"], "extra belongs to no flag"),
        (["--data", ""], "is no path"),
        (["--output", ""], "--output is empty"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--dry-run", "--overwrite"], "give one of them"),
        (["--config", "smal"], "did you mean small? (there are: small, wide, bare, checking)"),
        (["--config", "defaults"], "no config defaults"),
        (["--config", "checking"], "config checking is for check.py, not train.py"),
    ],
)
def test_what_is_wrong_is_refused_with_the_nearest_name(refusal, words, said):
    assert said in refusal("--config", "small", *words)


def test_config_is_required_and_the_choices_are_named(refusal):
    assert refusal("--seed", "1") == "--config is required: give one of small, wide, bare, checking"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("small: {learnin_rate: 1}", "learnin_rate is no option: did you mean learning_rate?"),
        ("small: {learning_rate: {a: 1}}", "one value is expected"),
        ("small: {learning_rate: [1]}", "one value is expected"),
        ("small: {folder: no}", "put it in quotes"),
        ("small: {flip: 2}", "neither true nor false"),
        ("small: {seed: true}", "no whole number"),
        ("small: {momentum: true}", "no number"),
        ("small: {seed: null}", "it can't be none"),
        ("small: {optimizer: Lamb}", "did you mean LAMB?"),
        ("small: {seed: 1, seed: 2}", "seed is there twice"),
        ("small: {lr: 1, learning-rate: 2}", "twice, under another name"),
        ("small: {config: wide}", "config is no option"),
        ("defaults: {sede: 1}\nsmall: {seed: 1}", "sede is no option: did you mean seed?"),
        ("defaults: {seed: x}\nsmall: {seed: 1}", "no whole number"),
        ("small: 5", "each entry must be a name with keys below it"),
        ("small: {a", "is no valid YAML"),
    ],
)
def test_what_is_wrong_in_the_file_is_refused(configs, refusal, text, said):
    configs.write_text(text)
    message = refusal("--config", "small")
    assert said in message
    assert "configs.yml" in message


def test_defaults_may_hold_keys_of_another_script_but_an_entry_not(configs, resolve, refusal):
    assert resolve("--config", "small").seed == 1  # although `only_elsewhere` is in the defaults
    configs.write_text(CONFIGS.replace("  momentum: 0\n", "  momentum: 0\n  only_elsewhere: 3\n"))
    assert "small: only_elsewhere is no option" in refusal("--config", "small")


def test_missing_file(refusal, tmp_path):
    assert "can't be read" in refusal("--config", "small", configs=tmp_path / "none.yml")


def test_yaml_numbers_and_words_become_the_annotated_type(configs, resolve):
    configs.write_text("small: {seed: 8.0, momentum: 1, flip: 0, scales: [1, 2e-3], note: null, data: d}")
    options = resolve("--config", "small")
    assert (options.seed, options.momentum, options.flip) == (8, 1.0, False)
    assert type(options.seed) is int
    assert (options.scales, options.note, options.data) == ([1.0, 2e-3], None, Path("d"))


def test_flags_without_effect_are_refused_with_the_reason(configs, resolve, refusal):
    refused = {"--mixup": "training only", "momentum": "there is no SGD"}
    message = refusal("--config", "wide", "--mixup", "true", refused=refused)
    assert message == "--mixup has no effect in this script: training only"
    assert "there is no SGD" in refusal("--config", "wide", "--momentum=1", refused=refused)
    assert "small: momentum has no effect: there is no SGD" in refusal("--config", "small", refused=refused)
    configs.write_text("defaults: {momentum: 0.5, mixup: true}\nsmall:")
    assert resolve("--config", "small", refused=refused).momentum == 0.9


def test_a_flag_that_another_option_makes_idle_is_refused_on_the_command_line_only(configs, resolve, refusal):
    message = refusal("--config", "small", "--eps", "1e-8")
    assert message == "--eps has no effect here, only with --optimizer Adam: leave it out"
    assert resolve("--config", "small", "--eps", "1e-3", "--optimizer", "Adam").eps == 1e-3
    configs.write_text("small: {eps: 0.5}")
    assert resolve("--config", "small").eps == 0.5
    assert "--wandb" in refusal("--config", "small", "--wandb-run-name", "first")


def test_help_shows_every_option_with_default_unit_and_group(resolve, capsys):
    with pytest.raises(SystemExit) as caught:
        resolve("--help", refused={"momentum": "none here"})
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for field in Options.__dataclass_fields__:
        assert ("--" + field.replace("_", "-") + " " in text) == (field != "momentum")
    assert "widths [features] (default: 3 3)" in " ".join(text.split())
    assert "--optimizer {SGD,Adam,LAMB}" in text
    assert "also --lr; also --base-lr" in text
    assert "of Adam; only with --optimizer Adam (default: 1e-08)" in " ".join(text.split())
    assert "entry of the config file (required)" in text
    order = [
        text.index("\n%s\n" % group) for group in ("Run", "Run folder and logging", "Model", "Training", "Checkpoints")
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("words", [["--config", "small"], ["--config=small", "--nonsense"]])
def test_help_shows_the_values_of_the_config(resolve, capsys, words):
    with pytest.raises(SystemExit):
        resolve(*words, "-h")
    text = " ".join(capsys.readouterr().out.split())
    assert "widths [features] (default: 1 2)" in text
    assert "(default: 1e-06)" in text
    assert "run folder (default: output/small)" in text


def test_list_configs(resolve, capsys):
    with pytest.raises(SystemExit) as caught:
        resolve("--list-configs")
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "small     train.py            the small one"
    assert [line.split()[0] for line in lines] == ["small", "wide", "bare", "checking"]


def test_saved_options_read_back_as_they_were(resolve, tmp_path):
    options = resolve("--config", "small", "--data", "d", "--scales", "1e-7")
    write(options, tmp_path / "config.yaml")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved == as_dict(options)
    assert (saved["config"], saved["data"], saved["scales"], saved["learning_rate"]) == ("small", "d", [1e-7], 1e-6)
    assert list(tmp_path.glob(".*")) == []


def test_table_groups_names_values_and_units(resolve):
    lines = [line.split() for line in show(resolve("--config", "small", "--folder", "")).splitlines()]
    assert ["save_every", "10", "steps"] in lines
    assert ["sizes", "1", "2", "features"] in lines
    assert ["note", "16.16"] in lines
    assert ["folder", '""'] in lines
    assert ["wandb", "false"] in lines
    assert lines.index(["Model"]) < lines.index(["sizes", "1", "2", "features"]) < lines.index(["Training"])


def test_an_override_of_a_common_option_stays_in_its_group(resolve):
    @dataclass(frozen=True)
    class Quiet(RunOptions):
        """Quiet."""

        log_every: int = option(50, "seldom")

    options = resolve("--config", "bare", cls=Quiet)
    assert options.log_every == 50
    assert "Quiet" not in show(options)


def test_direct_construction_checks_what_is_required():
    with pytest.raises(UsageError, match="--config is required"):
        Options(seed=3)
    assert Options(config="small").config == "small"


@dataclass(frozen=True)
class WithoutConfig:
    """Asking."""

    model: str = option("m", "which")
    files: List[str] = option([], "what")
    loud: bool = option(False, "say more")


def test_a_script_without_a_config_takes_flags_and_words(resolve, refusal, capsys):
    settings = {"cls": WithoutConfig, "configs": None, "rest": "files"}
    assert resolve("a", "--model", "x", "b", "--loud", "c", **settings) == WithoutConfig("x", ["a", "b", "c"], True)
    assert resolve(**settings) == WithoutConfig("m", [], False)
    assert resolve("--files", "a", "b", **settings).files == ["a", "b"]
    assert "there is no flag --config" in refusal("--config", "small", **settings)
    assert "a belongs to no flag" in refusal("a", **{**settings, "rest": ""})
    with pytest.raises(SystemExit):
        resolve("--help", **settings)
    text = capsys.readouterr().out
    assert text.startswith("usage: train.py [--option VALUE …] [FILES …]\n")
    assert "config" not in text
