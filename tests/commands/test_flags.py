"""Flags: what is printed to be typed again means the same; numbers that cannot be meant are one line."""

import contextlib
import io
import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcl_jax.commands.flags import Finetune, Pretrain, parse, words_to_repeat

BOX = str.maketrans(dict.fromkeys("│╭╮╰╯─", " "))
"""Characters of the box that tyro draws around an error."""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--corpus", "table", "--root", "t.csv", "--targets", "angry", "calm=neutral+calm", "--seed", "3"],
        ["--preset", "authors", "--features", "f", "--runs", "r"],
        ["--preset", "authors", "--encoders.init", "flax", "--normalise", "speaker"],
        ["--mel.no-log", "--mel.clip.no-pad", "--mel.bands", "80", "--speech.dtype", "bfloat16"],
        ["--speech-model", "a/b", "c", "--devices", "1", "--max-feature-memory", "0.1"],
    ],
)
def test_the_words_to_repeat_give_another_command_the_same_corpus_and_features(words):
    command = parse(["pretrain", *words])
    assert isinstance(command, Pretrain)
    again = parse(["finetune", *words_to_repeat(command), "--fold", "2"])
    assert isinstance(again, Finetune)
    shared = {name: getattr(command, name) for name in vars(command) if name in vars(again)}
    assert replace(again, **(shared | {"fold": 2, "finetuning": again.finetuning})) == again


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pretrain", "--epochs", "0"), "epochs is 0; give 1 or more"),
        (("pretrain", "--batch", "1"), "batch is 1; give 2 or more"),
        (("pretrain", "--temperature", "0"), "temperature is 0.0; give a number above 0"),
        (("pretrain", "--utterances", "-5"), "utterances is -5; give 1 or more"),
        (("pretrain", "--learning-rate", "-1"), "learning-rate is -1.0"),
        (("pretrain", "--finetuning.patience", "0"), "patience is 0"),
        (("pretrain", "--encoders.dropout", "1"), "dropout is 1.0"),
        (("finetune", "--supervised", "--batch", "0"), "batch is 0; give 1 or more"),
        (("pretrain", "--seed", "-1"), "seed is -1; give 0 or more"),
        (("extract", "--workers", "0"), "workers is 0; give 1 or more"),
        (("pretrain", "--max-feature-memory", "nan"), "max-feature-memory is nan; give a share"),
        (("finetune", "--supervised", "--max-feature-memory", "1.5"), "max-feature-memory is 1.5"),
        (("finetune", "--supervised", "--repeat", "-1"), "repeat is -1; give 0 or more"),
        (("pretrain", "--resident", "0.1"), "--resident is called --max-feature-memory now"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused_before_anything_is_done(capsys, words, says):
    with pytest.raises(SystemExit) as stop:
        parse(words)
    printed = capsys.readouterr()
    error = " ".join((printed.out + printed.err).translate(BOX).split())
    assert stop.value.code == 2
    assert says in error
    assert "Traceback" not in error


def test_a_refused_number_is_one_line(capsys):
    for words in (["extract", "--seed", "-1"], ["pretrain", "--epochs", "0"]):
        with pytest.raises(SystemExit):
            parse(words)
        name, value = words[1].removeprefix("--"), words[2]
        assert capsys.readouterr().err.startswith(f"pcl: {name} is {value}; give ")


NUMBERS = {
    "epochs": (1, None),
    "batch": (2, None),
    "patience": (1, None),
    "temperature": (0.0, None),
    "learning-rate": (0.0, None),
    "encoders.dropout": (0.0, 1.0),
}
"""Flags of `pcl pretrain` and their ranges, whose ends are out for decimal numbers, but for no dropout."""
VALUES = st.one_of(
    st.integers(-3, 3).map(str),
    st.integers().map(str),
    st.floats(-1.5, 1.5).map(str),
    st.floats().map(str),
    st.sampled_from(["", "nan", "inf", "-inf", "1e400", "0x10", "1_000", "ten", "1,5", "--", "-", "\u0661"]),
)


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(NUMBERS)), VALUES)
def test_any_number_is_taken_as_it_is_or_refused_by_name(flag, value):
    """A value that is taken lies in the flag's range; one that is not ends with code 2 and names the flag."""
    printed, code = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            command = parse(["pretrain", f"--{flag}={value}"])
    except SystemExit as stop:
        code = stop.code
    if code is not None:
        assert code == 2
        text = printed.getvalue()
        assert flag.rsplit(".", 1)[-1] in text
        assert "Traceback" not in text
        return
    assert isinstance(command, Pretrain)
    owner = command.encoders if "." in flag else command.pretraining
    taken = getattr(owner, flag.rsplit(".", 1)[-1].replace("-", "_"))
    low, high = NUMBERS[flag]
    assert math.isfinite(taken)
    assert taken >= low
    assert taken > low or flag in ("epochs", "batch", "patience", "encoders.dropout")
    assert high is None or taken < high
    assert taken == float(value)
