"""What a run's config.json says, when it is resumed with nothing left to do, or only looked at."""

import pytest

import train
from tests.runs import tiny


def arguments(digits, folder, epochs, *more):
    return tiny(digits, folder, "--epochs", epochs, "--steps_per_epoch", 2, "--validation_steps", 0, *more)


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A run of 3 updates, one an epoch."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main(arguments(digits, folder, 3))
    return folder


@pytest.mark.parametrize(
    ("epochs", "more", "said"),
    [
        (2, [], "3 updates are done and 2 are asked for: nothing is left to resume, ask for more to train on"),
        (3, ["--log_every", "5"], "all 3 updates are done: nothing is left to resume"),
        (9, ["--dry_run"], ""),
    ],
)
def test_a_record_stays_where_nothing_is_added(digits, run, epochs, more, said, capsys):
    before = (run / "config.json").read_bytes(), (run / "history.jsonl").read_bytes()
    train.main(arguments(digits, run, epochs, "--resume_from_checkpoint_path", run, *more))
    assert said in capsys.readouterr().out
    assert ((run / "config.json").read_bytes(), (run / "history.jsonl").read_bytes()) == before
