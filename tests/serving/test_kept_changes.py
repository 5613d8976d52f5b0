import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.serving import IndexChange
from gr4ad.serving.kept_changes import KeptChanges
from gr4ad.serving.live_model import LiveModel
from gr4ad.tokenization import SIDIndex

IDS = ["a", "b", "c", "x", "y"]  # the first three are in the index from the start


def fresh_index() -> SIDIndex:
    codes = np.array([[0, 0], [0, 1], [1, 0]])
    return SIDIndex(["a", "b", "c"], codes, columns={"title": ["A", "B", "C"], "color": [None, None, "red"]})


def state(index: SIDIndex) -> dict:
    """What is served: SID, priority and attributes of each active ad, and which others are known."""
    return {
        item: (*index.codes[row], index.priority[row], *(values[row] for values in index.columns.values()))
        if index.active[row]
        else None
        for item, row in index.rows.items()
    }


@st.composite
def any_change(draw) -> IndexChange:
    op = draw(st.sampled_from(["add", "replace", "remove"]))
    ids = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True))
    if op == "remove":
        return IndexChange(op, ids)
    each = {"min_size": len(ids), "max_size": len(ids)}
    codes = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), **each)
    rest = {
        "priority": draw(st.none() | st.lists(st.floats(0, 9), **each)),
        "attributes": draw(
            st.dictionaries(st.sampled_from(["title", "color"]), st.lists(st.text(max_size=2), **each), max_size=2)
        ),
    }
    if op == "add":
        return IndexChange(op, ids, codes=draw(codes), **rest)
    return (
        IndexChange(op, ids, codes=draw(codes), **rest)
        if draw(st.booleans())
        else IndexChange(op, ids, priority=draw(st.lists(st.floats(0, 9), **each)))
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(any_change(), max_size=12))
def test_what_is_kept_says_the_same_as_all_changes(changes):
    index, kept = fresh_index(), KeptChanges()
    for change in changes:
        trial = index.snapshot()
        try:
            change.apply_to(trial)
        except ValueError:  # replaces or removes an ad that was never known
            continue
        index = trial
        kept.keep(change)
    again = fresh_index()
    for change in kept.changes():
        change.apply_to(again)
    assert state(again) == state(index)
    assert len(kept.changes()) <= 3 * len(IDS)


def test_a_server_keeps_no_more_than_its_ads(tiny_artifact):
    live = LiveModel(tiny_artifact)
    codes = [list(live.recommender.tokenizer.index.sid_of("ad_3"))]
    for number in range(20):
        live.change(IndexChange("add", ["fresh"], codes=codes, attributes={"title": [f"Title {number}"]}))
        live.change(IndexChange("replace", ["ad_5"], priority=[float(number)]))
        live.change(IndexChange("remove", ["fresh"]))
    assert len(live._made_here) == 2 and live.served.changes == 60
    before = state(live.recommender.tokenizer.index)
    live.reload()
    assert state(live.recommender.tokenizer.index) == before
