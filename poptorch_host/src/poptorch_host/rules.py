"""Which rule updates which family of optimizers."""

from __future__ import annotations

from typing import Callable, Dict

from poptorch_host.adam_rules import AdamRule, LambRule, RMSpropRule
from poptorch_host.hyperparameters import Hyperparameters
from poptorch_host.sgd_rules import SGDRule
from poptorch_host.update_rules import Rounding, Rule


def make_rule(hyper: Hyperparameters, rounding: Rounding) -> Rule:
    """Return the rule of the optimizer's family."""
    rules: Dict[str, Callable[[Hyperparameters, Rounding], Rule]] = {
        "sgd": SGDRule,
        "adam": AdamRule,
        "adamw": AdamRule,
        "lamb": LambRule,
        "rmsprop": RMSpropRule,
    }
    return rules[hyper.family](hyper, rounding)
