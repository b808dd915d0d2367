"""Typed values of options from YAML and the command line, and the fields that declare them."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Optional, Tuple, Union, get_args, get_origin, get_type_hints

from .errors import FALSE_WORDS, TRUE_WORDS

NONE_WORDS = ("none", "null")


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Any = _Required()


@dataclass(frozen=True)
class Only:
    """Where alone an option has an effect: `where` completes "only …", `holds` tells of resolved options."""

    where: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Field:
    """An option of a dataclass: its name, type, default, limits and what --help says of it."""

    name: str
    hint: Any
    group: str
    default: Any
    help: str
    unit: Optional[str]
    choices: Optional[Tuple[Any, ...]]
    aliases: Tuple[str, ...]
    above: Optional[float]
    minimum: Optional[float]
    maximum: Optional[float]
    only: Optional[Only]

    @property
    def flag(self) -> str:
        """As on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_flag(self) -> bool:
        """Whether it can be given without a value."""
        return _unwrap(self.hint)[0] is bool

    @property
    def is_list(self) -> bool:
        """Whether it takes any number of values."""
        return get_origin(_unwrap(self.hint)[0]) is list

    def value(self, given: Any) -> Any:
        """Convert and check what YAML or the command line gave.

        Raises:
            ValueError: says what is wrong, without the option's name.
        """
        value = convert(given, self.hint)
        for item in value if isinstance(value, list) else [value]:
            self._check(item)
        return value

    def _check(self, value: Any) -> None:
        if value is None:
            return
        if self.choices is not None and value not in self.choices:
            names = [str(choice) for choice in self.choices]
            raise ValueError("%s is not one of %s%s" % (value, ", ".join(names), nearest(str(value), names)))
        if self.above is not None and not value > self.above:
            raise ValueError("%s is not above %g" % (value, self.above))
        if self.minimum is not None and not value >= self.minimum:
            raise ValueError("%s is below %g" % (value, self.minimum))
        if self.maximum is not None and not value <= self.maximum:
            raise ValueError("%s is above %g" % (value, self.maximum))


def fields_of(cls: type) -> Dict[str, Field]:
    """Options of a dataclass by name: those of its first bases first, grouped by the class that declares them."""
    hints = get_type_hints(cls)
    groups: Dict[str, type] = {}
    for klass in reversed(cls.__mro__):
        if dataclasses.is_dataclass(klass):
            for field in dataclasses.fields(klass):
                groups.setdefault(field.name, klass)
    order = [klass for klass in cls.__mro__ if klass in groups.values()]
    order = order[-1:] + order[1:-1] + order[:1] if order[0] is cls and len(order) > 1 else order[-1:] + order[:-1]
    found = sorted(dataclasses.fields(cls), key=lambda field: order.index(groups[field.name]))
    return {field.name: _field(field, hints[field.name], groups[field.name]) for field in found}


def convert(given: Any, hint: Any) -> Any:
    """Make a value of the annotated type: bool, int, float, str, Path, List or Optional of them.

    `given` is what YAML read or a string (for lists, a list of strings) from the command line. Numbers may be
    strings, since YAML reads 1e-6 as one; a single value makes a list of one.

    Raises:
        ValueError: the value is not of that type.
    """
    inner, optional = _unwrap(hint)
    words = given if isinstance(given, list) else [given]
    says_none = len(words) == 1 and (words[0] is None or str(words[0]).lower() in NONE_WORDS)
    if given is None or (says_none and optional):
        if optional:
            return None
        raise ValueError("it can't be none")
    if get_origin(inner) is list:
        empty = says_none or words in ([], ["[]"], [""])
        return [] if empty else [convert(word, get_args(inner)[0]) for word in words]
    assert inner in _SCALARS, "options can't be of type %s" % hint
    if isinstance(given, (list, dict)):
        raise ValueError("one value is expected, not %s" % (given,))
    return _SCALARS[inner](given)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """ ": did you mean X?" for the candidate most like a mistyped name, "" if none is."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), list(by_lower), 1)
    return ": did you mean %s?" % by_lower[found[0]] if found else ""


def plain(value: Any) -> Any:
    """A value as YAML and JSON have it."""
    if isinstance(value, Path):
        return str(value)
    return [plain(item) for item in value] if isinstance(value, list) else value


def _field(field: Any, hint: Any, klass: type) -> Field:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    undeclared = {
        "help": "",
        "unit": None,
        "choices": None,
        "aliases": (),
        "above": None,
        "minimum": None,
        "maximum": None,
        "only": None,
    }
    settings: Dict[str, Any] = {**undeclared, **field.metadata}
    return Field(name=field.name, hint=hint, group=_title(klass), default=default, **settings)


def _title(klass: type) -> str:
    text = (klass.__doc__ or "").strip()
    generated = text.startswith(klass.__name__ + "(")  # by dataclass, where there is no docstring
    return text.splitlines()[0].rstrip(".") if text and not generated else klass.__name__


def _unwrap(hint: Any) -> Tuple[Any, bool]:
    """(X, True) of Optional[X], (X, False) of X."""
    arguments = get_args(hint)
    if get_origin(hint) is Union and type(None) in arguments:
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return inner, True
    return hint, False


def _bool(given: Any) -> bool:
    word = str(given).lower()
    if word in TRUE_WORDS or word in FALSE_WORDS:
        return word in TRUE_WORDS
    raise ValueError("%s is neither true nor false" % _quote(given))


def _int(given: Any) -> int:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, float) and given.is_integer():
        return int(given)
    try:
        if isinstance(given, str):
            return int(given)
    except ValueError:
        pass
    raise ValueError("%s is no whole number" % _quote(given))


def _float(given: Any) -> float:
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    except OverflowError:
        value = math.inf
    if math.isfinite(value):
        return value
    raise ValueError("%s is no %snumber" % (_quote(given), "finite " if math.isinf(value) else ""))


def _str(given: Any) -> str:
    if isinstance(given, bool):
        raise ValueError("%s is read as true or false: put it in quotes" % _quote(given))
    return str(given)


def _path(given: Any) -> Path:
    if not isinstance(given, str) or not given:
        raise ValueError("%s is no path" % _quote(given))
    return Path(given).expanduser()


def _quote(given: Any) -> str:
    return '"%s"' % given if isinstance(given, str) else str(given)


_SCALARS: Dict[Any, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}
