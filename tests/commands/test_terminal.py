"""What people read while they wait."""

import pytest
from rich.table import Table

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
    monkeypatch.setattr(terminal, "_printed", 0.0)
    bar = terminal.Bar(None, "runs")
    for clock[0], done in calls:
        bar(done, 10, "x")
    assert capsys.readouterr().out.splitlines()[-1] == f"runs {calls[-1][1]}/10 x, {left} left"


def test_there_is_no_estimate_before_it_means_something_and_compiling_is_no_pace(monkeypatch, capsys):
    """The first of a hundred epochs compiles for 60 s, the others take 1 s each."""
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(terminal, "PLAIN_EVERY_S", 0.0)
    monkeypatch.setattr(terminal, "_printed", 0.0)
    bar = terminal.Bar(None, "epochs")
    for done in range(1, 101):
        clock[0] = 59.0 + done
        bar(done, 100)
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "epochs 4/100"
    assert lines[4] == "epochs 5/100, 95 s left"
    assert lines[-1] == "epochs 100/100"


def test_plain_progress_is_one_line_in_ten_seconds_whatever_the_number_of_bars(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(terminal, "_printed", float("-inf"))
    for number in range(20):  # short pieces of work, one after the other
        bar = terminal.Bar(None, f"work {number}")
        for done in range(1, 6):
            clock[0] += 0.3
            bar(done, 5)
    assert clock[0] == pytest.approx(30)
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("columns", ["0", "10", "80"])
def test_a_terminal_that_is_too_narrow_loses_no_text_and_no_cell(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    names = [f"class number {i}" for i in range(20)]
    table = Table(*names)
    table.add_row(*map(str, range(100, 120)))
    console = terminal._Console(soft_wrap=True)
    console.print("a line of text that is longer than the terminal is wide")
    console.print(table)
    printed = capsys.readouterr().out
    assert "a line of text that is longer than the terminal is wide" in printed
    assert all(f" {text} " in printed for text in (*names, *map(str, range(100, 120))))
