"""The base of `Options` and its groups: options known by name, checked by type, frozen after use."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Dict, Tuple, TypeVar, Union, get_args, get_origin, get_type_hints

_Self = TypeVar("_Self", bound="OptionGroup")


class OptionGroup:
    """Annotated class attributes are the options: known by name, checked by type and frozen after use.

    A wrong type or an unknown name is an AssertionError; a change after use is an AttributeError, and so is
    reading an option that has neither a value nor a default.
    """

    _types: ClassVar[Dict[str, Tuple[type, ...]]] = {}
    _frozen: bool = False

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls)
        cls._types = {name: _classes(hint) for name, hint in hints.items() if not name.startswith("_")}

    def __setattr__(self, name: str, value: Any) -> None:
        if self._frozen:
            raise AttributeError("Can't modify frozen Options")
        if not name.startswith("_"):
            assert name in self._types, f"Invalid option {name}, valid options are {sorted(self._types)}"
            assert isinstance(value, self._types[name]), (
                f"Unexpected type {type(value)} for option {name}. "
                f"Expected {' or '.join(t.__name__ for t in self._types[name])}"
            )
        object.__setattr__(self, name, value)

    def set(self: _Self, **options: Any) -> _Self:
        """Set options by the names they are read by."""
        if self._frozen:
            raise AttributeError("Can't modify frozen Options")
        for name, value in options.items():
            setattr(self, name, value)
        return self

    def exists(self, option: str) -> bool:
        """Say whether an option has a value."""
        return option in self._types and hasattr(self, option)

    def toDict(self) -> Dict[str, Any]:
        """Return the options that have a value."""
        return {name: getattr(self, name) for name in self._types if hasattr(self, name)}

    def _freeze(self) -> None:
        self.__dict__["_frozen"] = True
        for value in self.__dict__.values():
            if isinstance(value, OptionGroup):
                value._freeze()

    def __deepcopy__(self: _Self, memo: Dict[int, Any]) -> _Self:
        duplicate = object.__new__(type(self))
        memo[id(self)] = duplicate
        for name, value in self.__dict__.items():
            if name != "_frozen":
                duplicate.__dict__[name] = copy.deepcopy(value, memo)
        return duplicate

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.toDict().items())})"


def _classes(hint: Any) -> Tuple[type, ...]:
    """Return the classes that `isinstance` needs for an annotation."""
    if get_origin(hint) is Union:
        return tuple(t for arg in get_args(hint) for t in _classes(arg))
    return (get_origin(hint) or hint,)
