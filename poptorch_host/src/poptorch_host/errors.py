"""What a PopTorch program may catch."""

from __future__ import annotations


class Error(Exception):
    """A program that PopTorch refuses to compile or to run.

    Attributes: `type` (which layer complained), `message`, `location` (where in that layer; may be empty).
    """

    def __init__(self, message: str = "", type: str = "poptorch_host", location: str = "") -> None:
        super().__init__(message, type, location)
        self.message = message
        self.type = type
        self.location = location

    def __str__(self) -> str:
        return self.message


class SettingError(Error, ValueError):
    """An environment variable of this package that has no meaning here; the message is one sentence with its remedy."""


class RecoverableError(Error):
    """A run that can be repeated after `recovery_action`, e.g. "IPU_RESET". A host raises none by itself."""

    def __init__(
        self,
        message: str = "",
        type: str = "poptorch_host",
        location: str = "",
        recovery_action: str = "",
    ) -> None:
        super().__init__(message, type, location)
        self.args = (message, type, location, recovery_action)
        self.recovery_action = recovery_action


class UnrecoverableError(Error):
    """A failure after which the device can't be used again."""
