import torch

from gr4ad.modeling_gr4ad import SIDTrie
from gr4ad.tokenization import SIDIndex


def state(index: SIDIndex) -> dict:
    """All that a reader can see."""
    return {
        "items": index.item_ids.tolist(),
        "codes": index.codes.tolist(),
        "priority": index.priority.tolist(),
        "active": index.active.tolist(),
        "rows": dict(index.rows),
        "columns": {name: list(values) for name, values in index.columns.items()},
        "version": index.version,
        "by_sid": index.rows_by_sid().tolist(),
        "ranked": index.ranked_rows().tolist(),
    }


def check_trie(trie: SIDTrie, expected: dict[tuple[int, ...], list[int]]) -> None:
    """`expected`: SID -> rows, best rank first."""
    assert trie.num_sids == len(expected)
    sids = sorted(expected)
    leaves = trie.find(torch.tensor(sids))
    assert leaves.tolist() == list(range(len(sids)))
    items, valid = trie.items(leaves)
    assert [row[held].tolist() for row, held in zip(items, valid, strict=True)] == [expected[sid] for sid in sids]
