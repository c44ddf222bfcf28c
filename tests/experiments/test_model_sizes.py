"""Parameters of each network against sums by hand (paper, section 3.2; the authors' widths)."""

import pytest

from experiments.model_sizes import Sizes, features_of_noise, measure, plan, size_table, sizes_of
from pcl_jax.commands.flags import Experiment
from pcl_jax.config import Encoders
from pcl_jax.training.finetune import init_params
from pcl_jax.training.optimiser import count_parameters
from pcl_jax.views.clip import Clip
from pcl_jax.views.egemaps import EgemapsView
from pcl_jax.views.mel import MelView
from pcl_jax.views.speech_models.model import random_model
from pcl_jax.views.speech_models.view import SpeechModels, SpeechModelView
from pcl_jax.views.speech_models.wav2vec2 import Wav2Vec2Architecture

HEAD = (128 * 256 + 256) + 2 * 256 + (256 * 128 + 128)
CLASSIFIER = 128 * 4 + 4
EGEMAPS = (88 * 256 + 256) + (256 * 128 + 128)
MEL = (7 * 64 * 32 + 32) + (5 * 32 * 64 + 64) + (3 * 64 * 128 + 128)


@pytest.mark.parametrize(("view", "encoder"), [(EgemapsView(), EGEMAPS), (MelView(), MEL)])
def test_parameters_of_each_network_are_those_counted_by_hand(view, encoder):
    assert sizes_of(view, Encoders(), 4, features_of_noise(view)) == Sizes(0, encoder, HEAD, CLASSIFIER)


def test_head_and_classifier_read_all_frames_when_they_are_flattened():
    """186 pooled frames of 128 channels go into head and classifier."""
    view = MelView()
    sizes = sizes_of(view, Encoders(spectral_pool="flatten"), 4, features_of_noise(view))
    wide = 186 * 128
    assert sizes == Sizes(0, MEL, HEAD + (wide - 128) * 256, wide * 4 + 4)


@pytest.mark.slow
def test_wav2vec2_base_has_the_frozen_parameters_of_the_paper():
    """94.5 million, of which the 73 of the mask embedding and the like that features never use are left out;
    on top of them 13 weights and two layers of 128."""
    view = SpeechModelView("wav2vec2", config=SpeechModels(clip=Clip(duration_s=1.0)))
    view.__dict__["model"] = random_model("wav2vec2", Wav2Vec2Architecture())
    sizes = sizes_of(view, Encoders(), 4, features_of_noise(view))
    assert sizes.encoder == 13 + (768 * 128 + 128) + (128 * 128 + 128) == 114_957
    assert sizes.features == pytest.approx(94.4e6, abs=0.1e6)


def test_columns_are_the_sums_of_the_networks_that_train_or_stay_frozen():
    *_, row, all_ = size_table(
        {"a": Sizes(1_000_000, 200_000, 30_000, 4_000), "b": Sizes(0, 100_000, 30_000, 4_000)}
    ).rows
    assert row == ("b", "0.000", "0.130", "0.104", "0.100", "0.004")
    assert all_[:3] == ("all", "1.000", "0.360")


def test_a_measurement_counts_the_networks_that_a_run_trains(make_runner):
    """From the features of a corpus: the parameters of a trained network are as many."""
    runner = make_runner()
    (spec,) = plan(runner, Experiment(folds=(1,)))
    ((_, facts),) = measure(runner, [spec])
    for name, view in runner.views.items():
        network = runner.network(name, runner.settings)
        params = init_params(network, runner.data(spec).example()[name], seed=0)
        sizes = (facts["values"][f"{part} {view.title}"] for part in ("encoder", "classifier"))
        assert sum(sizes) == count_parameters(params)
