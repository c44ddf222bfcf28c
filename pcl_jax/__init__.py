"""Pairwise-CL: learn emotion from speech when labels are few.

The map of the house; each line is one idea, one file. Importing this package imports nothing heavy.

    arrays        names of the arrays that flow, one letter per axis
    config        every number of a run, with unit and source
    losses        nt_xent, pairwise_nt_xent                     Eq. (1)-(3)
    encoders      features -> representation -> projection      Section 3.2
    metrics       confusion, uar, wa, retrieval accuracy
    similarity    pwcca                                         Section 4.3
    significance  intervals, Mann-Whitney U, Wilcoxon, Holm     Section 4.2
    tables        a table as Markdown, LaTeX, HTML
    corpora       a folder of audio -> a Corpus of Utterances; folds; few labels
    views         an audio file -> the features of one view; the feature store
    batches       order(seed, epoch); ragged features -> static-shape batches
    devices       the mesh of all devices, of one process or several
    fold_data     what the training of a fold reads, on the devices
    networks      encoder and head, or classifier, of each view, as functions of parameters
    evaluation    what a network makes of each utterance
    training      pre-train, fine-tune                          Section 3.3
    studies       runs of a corpus: named, planned, done, recorded
    checkpoint    latest and best; resume; refuse a foreign fold
    records       one row per finished run
    summary       records -> means, intervals, gains
    flags, cli    the command `pcl`

A module imports only from those above it in architecture order:
arrays; then config, encoders, losses, metrics, similarity, significance, tables (strangers to each other);
then corpora; views; batches, checkpoint, devices, records; summary; fold_data and networks;
evaluation; training; studies; flags, terminal; cli.
The experiments stand outside and above; of them only report, claims and paper know others.
"""
