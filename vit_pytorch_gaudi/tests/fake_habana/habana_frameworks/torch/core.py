from habana_frameworks.torch import LAZY, record


def mark_step():
    assert LAZY, "mark_step belongs to lazy mode"
    record("mark_step")
