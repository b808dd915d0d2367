import pytest

from run.errors import UsageError
from run.origin import describe_classes, keep_weights


@pytest.mark.parametrize(
    "which", ["", "latest", "best", "step-1", "checkpoints", "checkpoints/latest", "checkpoints/step-1"]
)
def test_weights_in_the_run_that_would_be_emptied(tmp_path, monkeypatch, which):
    (tmp_path / "run" / "checkpoints" / "step-1" / "weights").mkdir(parents=True)
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    for weights in (tmp_path / "run" / which, tmp_path / "link" / which):
        with pytest.raises(UsageError, match=r"the weights to start from: give another --name$"):
            keep_weights(str(weights), tmp_path.joinpath("run").relative_to(tmp_path), "--name")


def test_other_weights_and_none_do_not_hinder(tmp_path, monkeypatch):
    """Weights beside the run's checkpoints stay; an empty name is not the current folder."""
    for name in ("checkpoints/step-1", "step-models", "other/checkpoints/step-1", "none"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for weights in ("", "none", "step-models", "other", "other/latest", "google/vit-base-patch16-224-in21k"):
        keep_weights(weights, tmp_path)
    keep_weights("run", tmp_path / "run")  # in which nothing is yet


def test_classes_are_told_apart():
    described = {
        describe_classes(classes)
        for classes in (["a", "b", "c"], ["a", "c", "b"], ["b", "a", "c"], ["a", "x", "c"], ["a", "c"], ["a", "b\nc"])
    }
    assert len(described) == 6
    assert describe_classes(["a", "b"]).startswith("2 from a to b, digest ")
    assert describe_classes(["\udcff"])  # as a folder's name that is no UTF-8
