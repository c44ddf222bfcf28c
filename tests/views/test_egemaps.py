"""eGeMAPS: what openSMILE gives for the bare utterance."""

import pickle
import warnings

import numpy as np
import opensmile
import pytest

from pcl_jax.config import Encoders
from pcl_jax.models.encoders import ENCODERS
from pcl_jax.views.egemaps import Egemaps, EgemapsView, functionals, names


def voiced(samples: int, f0_hz: float = 150.0) -> np.ndarray:
    t = np.arange(samples) / 16_000
    f0 = f0_hz * (1 + 0.1 * np.sin(2 * np.pi * 2 * t))
    phase = 2 * np.pi * np.cumsum(f0) / 16_000
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, 20))).astype(np.float32)


def test_equals_opensmile_itself():
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    frame = smile.process_signal(voiced(16_000), 16_000)
    np.testing.assert_array_equal(functionals(voiced(16_000), Egemaps()), frame.to_numpy()[0])
    assert names() == tuple(frame.columns)


def test_pitch_is_where_it_should_be():
    values = dict(zip(names(), functionals(voiced(16_000, 220.0), Egemaps()).tolist(), strict=True))
    semitones = 12 * np.log2(220 / 27.5)
    assert values["F0semitoneFrom27.5Hz_sma3nz_amean"] == pytest.approx(semitones, abs=0.5)


def test_padding_would_change_it():
    bare = functionals(voiced(16_000), Egemaps())
    padded = functionals(np.pad(voiced(16_000), (0, 48_000)), Egemaps())
    assert (np.abs(padded - bare) > 0.1 * np.abs(bare)).sum() > 10
    (features,) = EgemapsView().features([voiced(16_000)])
    np.testing.assert_array_equal(features, bare)


def test_full_scale_is_clipped_for_the_int16_cast():
    square = np.sign(voiced(16_000)).astype(np.float32)
    wrapped = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)(
        square, 16_000
    )
    clipped = functionals(square, Egemaps())
    nearly = functionals(0.999 * square, Egemaps())
    np.testing.assert_allclose(clipped[:10], nearly[:10], rtol=0.01)
    assert not np.allclose(wrapped.reshape(-1)[:10], nearly[:10], rtol=0.01)


def test_too_short_gives_nan_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = functionals(voiced(400), Egemaps())
    assert values.shape == (88,)
    assert np.isnan(values).all()


def test_describe_changes_with_every_field():
    assert EgemapsView(Egemaps(peak=0.5)).describe() != EgemapsView().describe()
    assert "eGeMAPSv02" in EgemapsView().describe().values()
    with pytest.raises(ValueError, match="sampling_rate is 8000 Hz"):
        EgemapsView(Egemaps(sampling_rate=8000))


def test_the_view_can_be_pickled_and_its_encoder_follows_the_configuration():
    assert pickle.loads(pickle.dumps(EgemapsView())) == EgemapsView()
    assert ENCODERS["vector"](EgemapsView(), Encoders(init="torch")).initial == "torch"
