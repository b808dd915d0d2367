"""Stands in for Habana's packages in tests: computes on the CPU, and is strict about the order of calls."""


def autoload():
    """What torch from 2.5 on calls at its own import."""
    import habana_frameworks.torch  # noqa: F401
