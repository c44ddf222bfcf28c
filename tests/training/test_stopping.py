"""Patience and plateau, against torch's rule where they agree and by hand where they do not."""

from pcl_jax.config import authors
from pcl_jax.training.stopping import Patience, Plateau

NAN = float("nan")


def test_patience_counts_epochs_stalled_the_best_and_nan_never_is():
    states = []
    state = Patience()
    for value in (3.0, 2.0, 2.0, NAN, 2.5, 1.0):
        state = state.update(value)
        states.append((state.best, state.stalled))
    assert states == [(3.0, 0), (2.0, 0), (2.0, 1), (2.0, 2), (2.0, 3), (1.0, 0)]


def test_learning_rate_falls_on_the_fifth_stalled_epoch_and_every_five_after():
    """ "After every 5 epochs with no improvement": epochs 6, 11, 16 when epoch 1 was the best."""
    state, scales = Plateau(), []
    for value in [0.5] + [0.6] * 15:
        state = state.update(value, factor=0.9, patience=5)
        scales.append(round(state.scale, 6))
    assert scales == [1.0] * 5 + [0.9] * 5 + [0.81] * 5 + [0.729]


def test_an_improvement_starts_the_count_anew_and_keeps_the_scale():
    state = Plateau()
    for value in (0.5, 0.6, 0.6, 0.4, 0.4, 0.4):
        state = state.update(value, factor=0.5, patience=3)
    assert state == Plateau(best=0.4, stalled=2, scale=1.0)


def test_a_flat_uar_decays_the_rate():
    """The trap of optax.contrib.reduce_on_plateau fed with -UAR: it never fires."""
    state = Plateau()
    for _ in range(12):
        state = state.update(1 - 0.25, factor=0.9, patience=5)
    assert round(state.scale, 6) == 0.81


def reduce_on_plateau(values: list[float], factor: float, patience: int, threshold: float) -> list[float]:
    """ReduceLROnPlateau of torch, mode "min", threshold_mode "rel", written from its documentation."""
    best, bad, scale, scales = float("inf"), 0, 1.0, []
    for value in values:
        if value < best * (1 - threshold):
            best, bad = value, 0
        else:
            bad += 1
        if bad > patience:
            scale, bad = scale * factor, 0
        scales.append(scale)
    return scales


def test_the_authors_preset_cuts_the_rate_where_torch_does():
    """On the 11th epoch that falls by less than 1e-4 of the best loss; their patience is 10."""
    config = authors().pretraining
    falling = [3.0 - 0.05 * epoch for epoch in range(10)]
    creeping = [falling[-1] * (1 - 5e-6 * epoch) for epoch in range(15)]
    values = falling + creeping + [2.0] * 40
    state, scales = Plateau(), []
    for value in values:
        state = state.update(
            value,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            threshold=config.plateau_threshold,
        )
        scales.append(state.scale)
    assert scales == reduce_on_plateau(values, factor=0.5, patience=10, threshold=1e-4)
    assert scales.index(0.5) == len(falling) + 10  # counted from 0
    assert scales[-1] == 0.5**4
