"""Two processes under torchrun against one."""

import pytest

import main_finetune
import main_linprobe
import main_pretrain
from tests.runs import losses, run_on_two, tiny_finetuning, tiny_pretraining, tiny_probing

RECIPE = ["--epochs", 1, "--batch-size", 24, "--replica", 2, "--gradient-accumulation-count", 3, "--warmup-epochs", 0.3]
MIXED = ["--mixup", 0.8, "--cutmix", 1, "--mixup-mode", "pair", "--aa", "rand-m9-mstd0.5-inc1", "--reprob", 0.25]


@pytest.mark.parametrize(
    ("script", "main", "words", "more"),
    [
        ("main_pretrain.py", main_pretrain.main, tiny_pretraining, ["--lr", 0.003, "--rts", "true"]),
        ("main_finetune.py", main_finetune.main, tiny_finetuning, ["--lr", 0.003, *MIXED, "--batch-size", 25]),
        ("main_linprobe.py", main_linprobe.main, tiny_probing, ["--lr", 6]),
    ],
    ids=["pretraining", "fine-tuning", "probing"],
)
def test_two_processes_give_the_losses_of_one(digits, tmp_path, script, main, words, more):
    if script == "main_finetune.py":
        more = [*more, "--gradient-accumulation-count", 2]  # shares of fifty: partners stay on their process
    main(words(digits, tmp_path / "one", *RECIPE, *more))
    two = run_on_two(script, *words(digits, tmp_path / "two", *RECIPE, *more))
    assert two.status == 0, two.error
    one = losses(tmp_path / "one")
    assert len(one) >= 9
    assert losses(tmp_path / "two") == pytest.approx(one, abs=1e-5)
    held_out = losses(tmp_path / "one", "validation")
    assert losses(tmp_path / "two", "validation") == pytest.approx(held_out, abs=1e-5)
    assert two.output.count("global batch") == 1
