"""Pairwise-CL: learn emotion from speech when labels are few.

One folder for each stage of the data flow. Importing this package imports nothing heavy.

* ``corpora``: folder or table -> ``Corpus`` of utterances; folds; labelled subsets
* ``audio``: audio file -> mono 16 kHz waveform, or one line that says what is wrong with it
* ``views``: waveform -> features of one view: mel, eGeMAPS, states of speech models, vectors of a table
* ``features``: views over a corpus, on disk: extract, store, maintain, export
* ``data``: one fold, normalised, on the devices; batches of static shape
* ``losses``: contrastive losses over every pair of views, Eq. (1)-(3); depends on jax alone
* ``models``: encoders, projection heads, classifiers (section 3.2 of the paper)
* ``training``: pre-train, fine-tune, probe (section 3.3)
* ``evaluation``: UAR and WA; significance (section 4.2); similarity of representations (section 4.3)
* ``runs``: what is asked for (spec), its identity (protocol), what is there (ledger), the rest (runner)
* ``inference``: a finished model in use: its folder, predictions, vectors for other tools
* ``learn``: table with a few labels -> honest numbers, and a model folder
* ``demo``: a page on this machine that predicts recordings and takes labels
* ``commands``: the commands of ``pcl``: flags, terminal output, and the session that experiments share
* ``cli``: parse, import one command, set the exit code
* ``config``: every number of a run, with unit and source
* ``arrays``, ``rng``, ``devices``: names of axes; named random streams; the mesh of devices and processes
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcl_jax.inference.model_folder import load_model as load_model


def __getattr__(name: str) -> Any:
    """Return `load_model`, whose module is imported when it is first asked for."""
    if name == "load_model":
        from pcl_jax.inference.model_folder import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
