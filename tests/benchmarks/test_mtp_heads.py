"""The opponent must be what it is said to be: its beams and its training see the same numbers."""

import pytest
import torch
from opponents.mtp_heads import MTPForRecommendation

from gr4ad.modeling_gr4ad import GR4ADConfig, SIDTrie

SIZES = [4, 5, 3]
SIDS = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))


def build(**changes) -> MTPForRecommendation:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "initializer_range": 0.3}
    shape = {"codebook_sizes": SIZES, "num_hidden_layers": 3, "num_parallel_layers": 0}
    return MTPForRecommendation(GR4ADConfig(**{**shape, **small, **changes})).double().eval()


def test_beams_score_as_the_teacher_forced_pass_that_is_trained():
    model = build()
    offsets = torch.tensor(model.config.level_offsets)
    history = (SIDS[torch.randint(len(SIDS), (2, 4), generator=torch.Generator().manual_seed(1))] + offsets).flatten(1)
    found = model.beam_search(history, beam_widths=[4, 20, 60], trie=SIDTrie.from_codes(SIDS))
    scored = model(history, candidate_ids=found.sequences).candidate_logps
    torch.testing.assert_close(found.scores, scored)
    assert scored.exp().sum(1).tolist() == pytest.approx([1.0, 1.0])  # all SIDs of the product are there


def test_every_parameter_learns():
    model = build()
    model.config.mtp_loss_weight = 0.0
    offsets = torch.tensor(model.config.level_offsets)
    sids = SIDS[torch.randint(len(SIDS), (8, 5), generator=torch.Generator().manual_seed(1))] + offsets
    model(sids[:, :-1].flatten(1), labels=sids[:, 1:]).loss.backward()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert unused == []


def test_fewer_layers_than_positions_are_refused():
    with pytest.raises(ValueError, match="num_hidden_layers.*3 positions"):
        build(num_hidden_layers=2)
