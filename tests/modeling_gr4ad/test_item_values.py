from dataclasses import replace

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, RankingWeights, SIDTrie
from gr4ad.modeling_gr4ad.item_values_gr4ad import GR4ADItemValues

ITEMS = 40
CODES = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(3))[:ITEMS]
EVENTS = st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1e4, width=32)), max_size=30)


@settings(max_examples=50, deadline=None)
@given(first=EVENTS, second=EVENTS, rows=st.lists(st.integers(0, 9), min_size=1), guess=st.floats(0, 1e3),
       prior=st.floats(0.1, 100))  # fmt: skip
def test_an_item_is_worth_its_mean_and_the_guess_counts_as_some_events(first, second, rows, guess, prior):
    config = GR4ADConfig(codebook_sizes=[2, 2], num_items=5, num_value_buckets=2, item_values=True)
    table = GR4ADItemValues(config)
    table.prior.fill_(prior)
    for events in (first, second):
        table.count(torch.tensor([row for row, _ in events], dtype=torch.int64), torch.tensor([v for _, v in events]))
    own = {row: [value for other, value in first + second if other == row] for row in range(1, 5)}
    expected = [(prior * guess + sum(own.get(row, []))) / (prior + len(own.get(row, []))) for row in rows]
    found = table(torch.tensor(rows), torch.full((len(rows),), guess, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 100)), max_size=20))
def test_the_guess_counts_for_the_variance_within_items_over_that_between_them(events):
    config = GR4ADConfig(codebook_sizes=[2, 2], num_items=5, num_value_buckets=2, item_values=True)
    table = GR4ADItemValues(config)
    rows = torch.tensor([row for row, _ in events], dtype=torch.int64)
    values = torch.tensor([value for _, value in events], dtype=torch.float64)
    table.count(rows, values)
    groups = {row: [value for other, value in events if other == row] for row, _ in events}
    deviations = torch.zeros(5, dtype=torch.float64)
    for row, own in groups.items():
        deviations[row] = sum((value - sum(own) / len(own)) ** 2 for value in own)
    table.set_prior(deviations)
    total, items = len(events), len(groups)
    expected = 1.0
    if total > items:
        within = float(deviations.sum()) / (total - items)
        mean = sum(value for _, value in events) / total
        spread = sum(len(own) * (sum(own) / len(own) - mean) ** 2 for own in groups.values()) - (items - 1) * within
        between = spread / max(total - sum(len(own) ** 2 for own in groups.values()) / total, 1e-12)
        assume(abs(between) > 1e-4 * (within + mean**2))  # where they cancel, means in float32 decide
        expected = min(max(within / between, 0.1), 100.0) if between > 0 else 100.0
    assert float(table.prior) == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("unit", [1.0, 1e-7, 1e6])
def test_how_much_the_guess_counts_does_not_depend_on_the_unit_of_money(unit):
    table = GR4ADItemValues(GR4ADConfig(codebook_sizes=[2, 2], num_items=5, num_value_buckets=2, item_values=True))
    values = torch.tensor([1.0, 3.0, 5.0, 9.0, 2.0, 2.5], dtype=torch.float64)
    rows = torch.tensor([1, 1, 2, 2, 3, 3])
    table.count(rows, unit * values)
    table.set_prior(unit**2 * torch.tensor([0, 2.0, 8.0, 0.125, 0], dtype=torch.float64))
    assert float(table.prior) == pytest.approx(0.54, abs=1e-5)


def test_millions_of_events_are_counted_to_the_last():
    table = GR4ADItemValues(GR4ADConfig(codebook_sizes=[2, 2], num_items=5, num_value_buckets=2, item_values=True))
    for _ in range(20):
        table.count(torch.full((1_000_000,), 3), torch.full((1_000_000,), 0.1))
    table.count(torch.tensor([3]), torch.tensor([0.1]))
    assert int(table.events[3]) == 20_000_001 and float(table.means[3]) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), 1e39])
def test_values_that_are_none_are_named_and_nothing_is_counted(bad):
    table = GR4ADItemValues(GR4ADConfig(codebook_sizes=[2, 2], num_items=5, num_value_buckets=2, item_values=True))
    with pytest.raises(
        ValueError, match=r"`values` must be finite numbers from 0 to 1e\+30. .* place 1, of item row 2"
    ):
        table.count(torch.tensor([1, 2]), torch.tensor([1.0, bad], dtype=torch.float64))
    assert not table.events.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_was_counted_keeps_its_precision_in_any_model(build_model, tmp_path, dtype):
    model = build_model(item_values=True)
    model.item_values.count(torch.full((3000,), 7), torch.full((3000,), 100_000.0))
    model.save_pretrained(tmp_path)
    for served in (GR4ADForRecommendation.from_pretrained(tmp_path, dtype=dtype), model.to(dtype)):
        kept = served.item_values
        assert (kept.events.dtype, kept.means.dtype) == (torch.int64, torch.float32)
        assert int(kept.events[7]) == 3000 and float(kept.means[7]) == 100_000


def test_a_checkpoint_without_counts_starts_from_none(build_model, tmp_path):
    build_model(item_values=False).save_pretrained(tmp_path)
    counts = GR4ADForRecommendation.from_pretrained(tmp_path, item_values=True).item_values
    assert not counts.events.any() and not counts.means.any() and counts.prior == 1


@pytest.mark.parametrize("item_weight", [0.0, 0.6])
def test_rankings_weigh_the_expected_value_of_the_item_and_answer_with_it(build_model, build_history, item_weight):
    plain, counting = build_model(), build_model(item_values=True)
    trie, history = SIDTrie.from_codes(CODES // 2), build_history(plain.config, [6, 1, 3])  # some share an SID
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(1, ITEMS + 1, (200,), generator=draw)
    counting.item_values.count(rows, 20 * torch.rand(200, generator=draw))
    weights = RankingWeights(item_weight=item_weight, value_weight=0.8, beam_widths=(4, 20, 60))
    arguments = {"trie": trie, "top_k": ITEMS}
    before = plain.recommend(**history, **arguments, weights=weights)
    unweighted = plain.recommend(**history, **arguments, weights=replace(weights, value_weight=0.0))
    found = counting.recommend(**history, **arguments, weights=weights)
    for user in range(3):
        guess = dict(zip(before.items[user].tolist(), before.expected_values[user], strict=True))
        base = dict(zip(unweighted.items[user].tolist(), unweighted.scores[user], strict=True))
        values = {item: counting.item_values(torch.tensor([item + 1]), guess[item][None])[0] for item in guess}
        scores = {item: base[item] + 0.8 * values[item].log() for item in guess}
        expected = sorted(guess, key=lambda item: -scores[item])
        assert found.items[user].tolist() == expected != before.items[user].tolist()
        torch.testing.assert_close(found.scores[user], torch.stack([scores[item] for item in expected]))
        torch.testing.assert_close(found.expected_values[user], torch.stack([values[item] for item in expected]))


def test_new_items_have_no_events_and_the_table_is_saved(build_model, tmp_path):
    model = build_model(item_values=True)
    model.item_values.count(torch.tensor([40]), torch.tensor([3.0]))
    model.extend_item_tables(torch.ones(2, 16))
    model.item_values.count(torch.tensor([42, 43]), torch.tensor([2.0, 1.0]))  # one newer still: not counted
    model.save_pretrained(tmp_path)
    again = GR4ADForRecommendation.from_pretrained(tmp_path)
    assert again.item_values.events[39:].tolist() == [0, 1, 0, 1] and again.item_values.means[42] == 2
    assert float(again.item_values(torch.tensor(41), torch.tensor(7.0))) == 7


@pytest.mark.parametrize("lacking", [{"num_items": 0, "item_head": False}, {"num_value_buckets": 0}])
def test_values_need_items_and_a_value_head(lacking):
    with pytest.raises(StrictDataclassClassValidationError, match="`item_values` counts values"):
        GR4ADConfig(
            **{"codebook_sizes": [2, 2], "num_items": 5, "num_value_buckets": 2, "item_values": True, **lacking}
        )
