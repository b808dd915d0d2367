import numpy as np
import pytest

from speed import Speed


def test_warm_up_is_left_out_and_percentiles_are_numpys():
    speed = Speed(images=10, start=5, warmup=2)
    times = [9.0, 9.0, 0.1, 0.2, 0.3, 0.4, 2.0]
    for step, seconds in enumerate(times, 6):
        speed.add(step, 10 / seconds)
    measured = speed.summary()
    assert measured["images_per_second"] == pytest.approx(10 * 5 / 3.0)
    for percentile in (50, 90, 99):
        assert measured[f"step_time_p{percentile}"] == pytest.approx(np.percentile(times[2:], percentile))
    assert "16.7 images/s" in str(speed)


def test_a_report_over_several_steps_weighs_as_many():
    speed = Speed(images=8, start=0, warmup=0)
    speed.add(3, 8 / 1.0)
    speed.add(4, 8 / 5.0)
    assert speed.summary()["images_per_second"] == pytest.approx(8 * 4 / 8)
    assert speed.summary()["step_time_p50"] == pytest.approx(1.0)


def test_a_report_that_began_in_the_warm_up_does_not_count():
    speed = Speed(images=8, start=0, warmup=3)
    speed.add(4, 1.0)
    assert speed.summary() == {}
    assert "too few" in str(speed)
