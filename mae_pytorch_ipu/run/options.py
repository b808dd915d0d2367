"""Options of a script: one frozen dataclass, filled from its defaults, a YAML entry and the command line."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Sequence, Type, TypeVar

import yaml

from . import option_text
from .config_file import ConfigFile, checked
from .errors import FALSE_WORDS, TRUE_WORDS, UsageError
from .files import write_atomically
from .launcher import say
from .option_values import REQUIRED, Field, Only, fields_of, nearest, plain

Options = TypeVar("Options")


def option(
    default: Any = REQUIRED,
    help: str = "",
    *,
    unit: Optional[str] = None,
    choices: Optional[Sequence[Any]] = None,
    aliases: Sequence[str] = (),
    positive: bool = False,
    minimum: Optional[float] = None,
    maximum: Optional[float] = None,
    only: Optional[Only] = None,
) -> Any:
    """Declare a field of an options dataclass, which is a flag, a YAML key and a line of --help.

    The annotation gives the type: bool, int, float, str, Path, List of one of them, or Optional of any.

    Args:
        default: value if none is given; without one, the option is required.
        help: what it means.
        unit: of its value.
        choices: the only values allowed, for a list of each item.
        aliases: further names.
        positive: only above 0.
        minimum: smallest value allowed.
        maximum: largest value allowed.
        only: where alone it has an effect; given on the command line elsewhere, it is an error.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": None if choices is None else tuple(choices),
        "aliases": tuple(alias.lstrip("-").replace("-", "_") for alias in aliases),
        "above": 0 if positive else None,
        "minimum": minimum,
        "maximum": maximum,
        "only": only,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class CommonOptions:
    """Run."""

    config: str = option(help="entry of the config file")
    output: str = option("output/{config}", "run folder")
    dry_run: bool = option(False, "stop after the options are resolved, printed and saved")
    debug: bool = option(False, "show where in the program an error comes from")

    def __post_init__(self) -> None:
        missing = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is REQUIRED]
        if missing:
            raise UsageError("--%s is required" % missing[0].replace("_", "-"))
        if not self.output:
            raise UsageError("--output is empty: give the run folder")


_WANDB = Only("with --wandb", lambda options: options.wandb)


@dataclass(frozen=True)
class RunOptions(CommonOptions):
    """Run folder and logging."""

    resume: bool = option(False, "go on with the run in the run folder")
    overwrite: bool = option(False, "remove an earlier run from the run folder")
    log_every: int = option(1, "steps between reports of progress", minimum=1)
    tensorboard: bool = option(True, "write TensorBoard files to the run folder")
    wandb: bool = option(False, "log to Weights & Biases")
    wandb_project_name: Optional[str] = option(None, "W&B project; none leaves it to W&B", only=_WANDB)
    wandb_run_name: Optional[str] = option(None, "W&B run; none leaves it to W&B", only=_WANDB)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.overwrite:
            raise UsageError("--resume keeps the run folder and --overwrite empties it: give one of them")
        if self.dry_run and self.overwrite:
            raise UsageError("--dry-run changes nothing and --overwrite empties the run folder: give one of them")


class _Given(NamedTuple):
    flag: str
    value: Any


def parse(
    cls: Type[Options],
    argv: Optional[Sequence[str]] = None,
    *,
    configs: Optional[Path],
    script: str,
    description: str,
    refused: Mapping[str, str] = {},
    rest: str = "",
) -> Options:
    """Resolve the options of a script: command line over config entry over the file's defaults over the dataclass.

    Flags are written with dashes or underscores, in full; `--flag` alone means true; a list takes all values up to
    the next flag. `--help` and `--list-configs` print and exit with 0.

    Args:
        cls: subclass of `CommonOptions`; fields are `option`s, the first line of a docstring names a group. Without
            `configs` any frozen dataclass of them.
        argv: words after the script's name, by default those of the command line.
        configs: YAML file; None for a script that has no config.
        script: name that entries give as their `script`.
        description: what the script does, for --help.
        refused: flag or key that would have no effect in this script → the reason.
        rest: name of the list that takes the words which belong to no flag; without one they are errors.

    Raises:
        UsageError: anything unknown, misplaced, of the wrong type or out of range, with the nearest name.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    refused = {name.lstrip("-").replace("-", "_"): reason for name, reason in refused.items()}
    fields = fields_of(cls)
    if any(word in ("-h", "--help") for word in words):
        _help(fields, words, configs, script, description, refused, rest)
    if configs and any(word.replace("_", "-") == "--list-configs" for word in words):
        say(ConfigFile(configs).describe())
        sys.exit(0)
    given = _read_words(words, fields, refused, rest)
    values = {name: field.default for name, field in fields.items()}
    if configs:
        file = ConfigFile(configs)
        if "config" in given:
            values["config"] = checked(fields["config"], given["config"].value, given["config"].flag)
        if values["config"] is REQUIRED:
            raise UsageError("--config is required: give one of %s" % ", ".join(file.entries))
        values.update(file.values(values["config"], script=script, fields=fields, refused=refused))
    values.update({name: checked(fields[name], value, flag) for name, (flag, value) in given.items()})
    if configs:
        values["output"] = values["output"].replace("{config}", values["config"])
    options = cls(**values)
    for name, (flag, _) in given.items():
        only = fields[name].only
        if only and not only.holds(options):
            raise UsageError("%s has no effect here, only %s: leave it out" % (flag, only.where))
    return options


def as_dict(options: CommonOptions) -> Dict[str, Any]:
    """Name → value as YAML and JSON have it, grouped as in --help."""
    return {name: plain(getattr(options, name)) for name in fields_of(type(options))}


def show(options: CommonOptions) -> str:
    """Table of all options and their values, by group."""
    fields = fields_of(type(options))
    return option_text.table(fields, {name: getattr(options, name) for name in fields})


def write(options: CommonOptions, path: Path) -> None:
    """Save the options as YAML, whole or not at all."""
    write_atomically(Path(path), yaml.safe_dump(as_dict(options), sort_keys=False, allow_unicode=True))


def _read_words(
    words: Sequence[str], fields: Mapping[str, Field], refused: Mapping[str, str], rest_name: str
) -> Dict[str, _Given]:
    """Option → flag and value, not yet converted; the last one of several counts."""
    names = {alias: field for field in fields.values() for alias in (field.name, *field.aliases)}
    given: Dict[str, _Given] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_")
        if not flag.startswith("--") and rest_name:
            given.setdefault(rest_name, _Given(rest_name, [])).value.append(word)
            continue
        if not flag.startswith("--"):
            raise UsageError("%s belongs to no flag: see --help" % word)
        if name in refused:
            raise UsageError("%s has no effect in this script: %s" % (flag, refused[name]))
        if name not in names:
            flags = [alias.replace("_", "-") for alias in names]
            raise UsageError(
                "there is no flag %s%s" % (flag, nearest(name.replace("_", "-"), flags).replace("mean ", "mean --"))
            )
        field = names[name]
        given[field.name] = _Given(flag, value if equals else _take_value(flag, field, rest))
    return given


def _take_value(flag: str, field: Field, rest: List[str]) -> Any:
    """Remove the value of `flag` from the front of `rest` and return it."""
    if field.is_flag:
        takes = rest and rest[0].lower() in (*TRUE_WORDS, *FALSE_WORDS)
        return rest.pop(0) if takes else "true"
    if field.is_list:
        values = []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        return values
    if not rest or rest[0].startswith("--"):
        raise UsageError("%s needs a value" % flag)
    return rest.pop(0)


def _help(
    fields: Mapping[str, Field],
    words: Sequence[str],
    configs: Optional[Path],
    script: str,
    description: str,
    refused: Mapping[str, str],
    rest: str,
) -> NoReturn:
    """Print --help, with the values of the config if the words name one, whatever else they hold."""
    values = {name: field.default for name, field in fields.items()}
    flags = [f"--{name}" for name in ("config", *fields["config"].aliases)] if configs else []
    for position, word in enumerate(words):
        flag, _, name = word.partition("=")
        if flag not in flags:
            continue
        if flag == word and position + 1 < len(words):
            name = words[position + 1]
        if configs and name and not name.startswith("-"):
            values.update(ConfigFile(configs).values(name, script=script, fields=fields, refused=refused), config=name)
            values["output"] = values["output"].replace("{config}", name)
    shown = {name: field for name, field in fields.items() if name not in refused}
    say(option_text.usage(script, description, shown, values, config=configs is not None, rest=rest))
    sys.exit(0)
