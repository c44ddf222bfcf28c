"""What people read while they wait."""

import pytest

from pcl_jax.commands import terminal


@pytest.mark.parametrize(
    ("calls", "left"),
    [
        ([(5.0, 1), (20.0, 4)], "30 s"),  # four in 20 s, six to go
        ([(0.1, 1), (0.2, 6), (21.0, 8)], "14 s"),  # the sixth to the eighth in 21 s, two to go
        ([(5.0, 8), (10.0, 9)], "5 s"),  # the eighth and the ninth in 10 s, one to go
    ],
    ids=["from nothing", "six were done before", "eight were done before"],
)
def test_what_was_done_before_says_nothing_of_the_time_that_is_left(monkeypatch, capsys, calls, left):
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(terminal, "PLAIN_EVERY_S", 0.0)
    bar = terminal.Bar(None, "runs")
    for clock[0], done in calls:
        bar(done, 10, "x")
    assert capsys.readouterr().out.splitlines()[-1] == f"runs {calls[-1][1]}/10 x, {left} left"
