"""Flags from a frozen dataclass: argparse, but strict, with the nearest name for a wrong one."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, NoReturn, Optional, Sequence, Type, TypeVar, get_args, get_type_hints

from errors import UsageError

Options = TypeVar("Options")
TRUE_WORDS, FALSE_WORDS = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


@dataclass(frozen=True)
class Only:
    """Where alone a flag has an effect: in words, and as a test of the options."""

    where: str
    holds: Callable[[Any], bool]


def option(
    default: Any,
    help: str,
    *,
    aliases: Sequence[str] = (),
    choices: Optional[Sequence[Any]] = None,
    minimum: Optional[float] = None,
    only: Optional[Only] = None,
    shown: Optional[str] = None,
) -> Any:
    """Declare a field of an options dataclass, which is a flag and a line of --help.

    The annotation gives the type: bool, int, float, str or Optional of one.

    Args:
        default: value if none is given.
        help: what it means, with its unit.
        aliases: further flags, with their dashes.
        choices: the only values allowed.
        minimum: smallest value allowed.
        only: where alone it has an effect; given elsewhere it is an error.
        shown: the default as --help names it, where None says too little.
    """
    about = {"help": help, "aliases": aliases, "choices": choices, "minimum": minimum, "only": only, "shown": shown}
    return dataclasses.field(default=default, metadata=about)


class Parser(argparse.ArgumentParser):
    """argparse's, but what is wrong with the command line is a UsageError of one sentence."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise UsageError(f"{message}: see --help")

    def read(self, argv: Optional[Sequence[str]]) -> argparse.Namespace:
        """Read the command line, None for the process' own; a word that belongs to no flag is told the nearest one."""
        space, unknown = self.parse_known_args(argv)
        if not unknown:
            return space
        word = unknown[0].split("=")[0]
        names = [name for name in self._option_string_actions if name.startswith("--")]
        near = difflib.get_close_matches(word, names, 1, 0.6)
        hint = f": did you mean {near[0]}?" if near else ": see --help"
        raise UsageError(
            f"there is no flag {word}{hint}" if word.startswith("-") else f"{word} belongs to no flag{hint}"
        )


def parse(
    cls: Type[Options],
    argv: Optional[Sequence[str]],
    *,
    script: str,
    description: str,
    rest: Optional[str] = None,
) -> Options:
    """Fill the dataclass from the command line; `--help` prints and exits with 0.

    Args:
        cls: frozen dataclass of `option` fields.
        argv: words after the script's name, None for the command line's.
        script: name for the usage line.
        description: what the script does.
        rest: name of the field that takes the words which belong to no flag.

    Raises:
        UsageError: anything unknown, of the wrong type, out of range or without an effect.
    """
    parser = Parser(script, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name != rest}  # type: ignore[arg-type]
    for name, field in fields.items():
        parser.add_argument("--" + name, *field.metadata["aliases"], **_argument(field, hints[name]))
    if rest:
        parser.add_argument(rest, nargs="*")
    given: Dict[str, Any] = vars(parser.read(argv))
    options = cls(**given)
    for name in given:
        only = fields[name].metadata["only"] if name in fields else None
        if only and not only.holds(options):
            raise no_effect(name, only.where)
    return options


def no_effect(name: str, where: str) -> UsageError:
    """What to raise where the flag `name` is given and does nothing."""
    return UsageError(f"--{name} has no effect here, only {where}: leave it out")


def _argument(field: Any, hint: Any) -> Dict[str, Any]:
    about = field.metadata
    kind = next((arg for arg in get_args(hint) if arg is not type(None)), hint)
    default = about["shown"] or ('""' if field.default == "" else str(field.default))
    only = f"; only {about['only'].where}" if about["only"] else ""
    argument: Dict[str, Any] = {
        "dest": field.name,
        "help": f"{about['help']}{only} (default: {default})".replace("%", "%%"),
    }
    if kind is bool:
        return {**argument, "nargs": "?", "const": True, "type": _boolean, "metavar": "true|false"}
    argument["type"] = number(kind, about["minimum"]) if kind in (int, float) else kind
    if about["choices"]:
        return {**argument, "choices": about["choices"]}
    return {**argument, "metavar": {int: "N", float: "X", str: "TEXT"}[kind]}


def _boolean(word: str) -> bool:
    if word.lower() not in (*TRUE_WORDS, *FALSE_WORDS):
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() in TRUE_WORDS


def number(kind: Type[Any], minimum: Optional[float] = None) -> Callable[[str], Any]:
    """Reads a finite number of a `kind` that is not below `minimum`; for argparse."""

    def convert(word: str) -> Any:
        try:
            value = kind(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{word!r} is no {'whole ' * (kind is int)}number") from error
        if kind is float and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{word} is no finite number")
        if minimum is not None and value < minimum:
            raise argparse.ArgumentTypeError(f"{word} is below {minimum:g}")
        return value

    return convert
