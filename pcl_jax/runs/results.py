"""Results of a run: scores, predictions and models, as files and as the values of a record."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from pcl_jax.corpora.folds import labelled
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.data.fold import FoldData
from pcl_jax.evaluation.metrics import confusion, recall, uar, wa
from pcl_jax.runs import checkpoint
from pcl_jax.runs.files import write_atomically
from pcl_jax.runs.history import History
from pcl_jax.runs.ledger import Ledger, Predictions
from pcl_jax.runs.spec import Finetune, Pretrain, SavedEncoders, Scored
from pcl_jax.training import finetune as finetuning
from pcl_jax.training import probe as probing


def save_finetuned(ledger: Ledger, spec: Finetune, data: FoldData, result: finetuning.Finetuned) -> None:
    """Write the best model with the statistics that it needs, the history, and the predictions."""
    folder = ledger.folder(spec)
    card = ledger.protocol.encoder_fingerprint(spec.fold, (spec.view,), spec.settings) | {
        "view": spec.view,
        "classes": list(data.corpus.classes),
    }
    arrays = result.params | {"scale": result.scale._asdict()}
    if normaliser := data.normalisers.get(spec.view):
        statistics = normaliser.to_arrays()
        card |= {name: statistics.pop(name).tolist() for name in ("method", "keys")}
        arrays |= {"normaliser": statistics}
    checkpoint.save_arrays(folder / checkpoint.FINETUNED, jax.device_get(arrays), card)
    history = History(folder, last_epoch=0)
    history.rows.extend(result.history)
    history.write()
    save_predictions(ledger, spec, data, result)


def save_predictions(
    ledger: Ledger, spec: Scored, data: FoldData, result: finetuning.Finetuned | probing.Probed
) -> None:
    """Write log-probabilities, and the predicted classes of the test session as a table."""
    classes, test = data.corpus.classes, data.labelled(data.test)
    ids = [tuple(data.ids[row] for row in rows) for rows in (data.labelled(data.validation), test)]
    ledger.save_predictions(spec, Predictions(tuple(classes), ids[0], result.validation, ids[1], result.test))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("id", "truth", "prediction"))
    for row, prediction in zip(test, result.test.argmax(axis=1), strict=True):
        writer.writerow((data.ids[row], classes[data.labels[row]], classes[prediction]))
    write_atomically(ledger.folder(spec) / "predictions.csv", table.getvalue().encode())


def pretrained_on(spec: Pretrain) -> str:
    """Return what a pre-training sees, as records say it: "all", "target", "all + ravdess"."""
    options = spec.settings.pretraining
    amount = "" if options.utterances is None else f", {options.utterances} utterances"
    return options.subset + "".join(f" + {name}" for name in spec.extra_corpora) + amount


def saved_encoders(folder: Path) -> SavedEncoders:
    """Return the pre-training in a folder, identified by what made its encoders.

    Raises:
        CheckpointError: no finished pre-training there, or one of a version before 0.2.
    """
    folder = folder.resolve()
    checkpoint.require_encoders(folder)
    identity = checkpoint.load_card(folder / checkpoint.ENCODERS).get("identity")
    if identity is None:
        raise checkpoint.CheckpointError(f"{folder} is of an older version of pcl_jax; pre-train again")
    return SavedEncoders(folder, identity)


def scores(data: FoldData, result: finetuning.Finetuned | probing.Probed) -> dict[str, Any]:
    """Score predictions: UAR, WA, recalls and confusions of the test session, UAR and WA of validation."""
    c, corpus = len(data.corpus.classes), data.corpus
    validation = data.labels[data.labelled(data.validation)]
    return test_scores(corpus, labelled(data.fold.test, corpus), result.test.argmax(axis=1)) | {
        "validation_uar": uar(validation, result.validation.argmax(axis=1), c),
        "validation_wa": wa(validation, result.validation.argmax(axis=1)),
    }


def test_scores(
    corpus: Corpus, tested: Sequence[Utterance], predicted: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """Score predictions for labelled utterances: UAR, WA, recalls, confusions, and hits of each speaker."""
    c = len(corpus.classes)
    truth = np.array([corpus.label(u) for u in tested], int)
    speakers = np.array([u.speaker for u in tested])

    def count(labels: Int[np.ndarray, " _"]) -> tuple[int, ...]:
        return tuple(np.bincount(labels, minlength=c).tolist())

    return {
        "uar": uar(truth, predicted, c),
        "wa": wa(truth, predicted),
        "recall": tuple(map(float, recall(truth, predicted, c))),
        "confusion": tuple(tuple(map(int, row)) for row in confusion(truth, predicted, c)),
        "by_speaker": {
            str(name): (count(truth[mine & (truth == predicted)]), count(truth[mine]))
            for name in dict.fromkeys(speakers.tolist())
            for mine in [speakers == name]
        },
    }
