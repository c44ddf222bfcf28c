"""Pairwise-CL: learn emotion from speech when labels are few.

The map of the house; each line is one idea, one file. Importing this package imports nothing heavy.

    arrays        names of the arrays that flow, one letter per axis
    config        every number of a run, with unit and source
    losses        nt_xent, pairwise_nt_xent                     Eq. (1)-(3)
    encoders      features -> representation -> projection      Section 3.2
    metrics       confusion, uar, wa, retrieval accuracy
    similarity    pwcca                                         Section 4.3
    significance  confidence intervals, Mann-Whitney U          Section 4.2
    corpora       a folder of audio -> a Corpus of Utterances; folds; few labels
    views         an audio file -> the features of one view; the feature store
    batches       order(seed, epoch); ragged features -> static-shape batches
    training      pre-train, fine-tune, compare                 Section 3.3
    checkpoint    latest and best; resume; refuse a foreign fold
    records       one row per finished run
    flags, cli    the command `pcl`

A module imports only from those above it in architecture order:
arrays; then config, encoders, losses, metrics, similarity, significance (strangers to each other);
then corpora; views; batches, checkpoint, records; training; flags, terminal; cli.
"""
