"""The check that nothing held out was trained on."""

import numpy as np
import pandas as pd

from .sequences import SequenceTable


def check_no_leakage(train: SequenceTable, evaluation: SequenceTable) -> None:
    """Check that each user's training sequence ends before the cut of the evaluation split.

    For every user in both splits, the training items must be a prefix of (or equal to) the evaluation history: any
    event after the cut that slipped into training makes the sequence longer or different. Users of one split only
    have nothing to compare. It compares sequences, not sets, so an item bought again after the cut is no false alarm.

    Args:
        train: What the models (and baselines) are fitted on.
        evaluation: The validation or test split, from the same catalog.

    Raises:
        ValueError: A user's training items are not a prefix of the history (the message names the user and place),
            or the two splits were read with different catalogs.
    """
    train.require_same_catalog(evaluation)
    matched = pd.Index(train.user_ids).get_indexer(pd.Index(evaluation.user_ids))
    evaluated = np.flatnonzero(matched >= 0)
    trained = matched[evaluated]

    lengths = train.history.lengths[trained]
    kept = evaluation.history.lengths[evaluated]
    longer = np.flatnonzero(lengths > kept)
    if len(longer):
        first = longer[0]
        raise ValueError(
            f"`train` should end before the cut of every user. Received: {lengths[first]} training events of user "
            f"{evaluation.user_ids[evaluated[first]]!r}, whose history has {kept[first]} "
            f"({len(longer)} such users). Split the log again, or train on the matching split."
        )
    log = train.history.take(trained)
    pair, seen = log.users, log.items
    place = np.arange(len(seen)) - log.offsets[pair]
    allowed = evaluation.history.items[evaluation.history.offsets[evaluated][pair] + place]
    different = np.flatnonzero(seen != allowed)
    if len(different):
        first = different[0]
        raise ValueError(
            f"`train` should be a prefix of every user's history. Received: item {train.item_ids[seen[first]]!r} at "
            f"place {place[first]} of user {evaluation.user_ids[evaluated[pair[first]]]!r}, where the history has "
            f"{train.item_ids[allowed[first]]!r} ({len(np.unique(pair[different]))} such users). Sort both splits by "
            "the same keys and split again."
        )
