"""Which values of an optimizer may change after compilation."""

from __future__ import annotations

from typing import FrozenSet, Iterable


class VariableAttributes:
    """Which of an optimizer's values may change after compilation. Unknown names are AssertionErrors."""

    def __init__(self, variable: Iterable[str], allowed: Iterable[str]) -> None:
        self._allowed: FrozenSet[str] = frozenset(allowed)
        self._variable = set(variable) & self._allowed

    def isConstant(self, attr: str) -> bool:
        """Say whether the value is fixed when the model is compiled."""
        return self._known(attr) not in self._variable

    def markAsConstant(self, attr: str) -> None:
        """Fix the value when the model is compiled."""
        self._variable.discard(self._known(attr))

    def markAsVariable(self, attr: str) -> None:
        """Let the value change after compilation."""
        self._variable.add(self._known(attr))

    def _known(self, attr: str) -> str:
        assert attr in self._allowed, f"Unknown attribute {attr}, expected one of {sorted(self._allowed)}"
        return attr
