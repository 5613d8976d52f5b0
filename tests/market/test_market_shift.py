from dataclasses import replace

import numpy as np
import pytest

from gr4ad.market import AdMarket, MarketConfig


@pytest.fixture(scope="module")
def shifted(small) -> AdMarket:
    return AdMarket(replace(small.config, shift_day=4, shift_share=0.5))


def test_a_shift_moves_the_interests_of_its_share_of_users_from_its_day_on(small, shifted):
    before, after = small.rules.users.slot_category, shifted.rules.users.slot_category
    np.testing.assert_array_equal(before[:4], after[:4])
    np.testing.assert_array_equal(small.rules.users.slot_weight, shifted.rules.users.slot_weight)
    moved = (before[4:] != after[4:]).all(axis=(0, 2))
    stayed = (before[4:] == after[4:]).all(axis=(0, 2))
    assert moved.sum() == 150 and stayed.sum() == 150
    pairs = set(zip(before[4:, moved].ravel().tolist(), after[4:, moved].ravel().tolist(), strict=True))
    assert len(pairs) == len({new for _, new in pairs}) == len({old for old, _ in pairs})


def test_a_shift_changes_what_lists_earn_only_afterwards(small, shifted):
    users, start = small.rules.users.user_ids, small.config.start_time
    best = small.oracle_list(users, start + 3 * 86_400, 6)
    for day, alike in ((3, True), (6, False)):
        time = start + day * 86_400
        # One market's calibration looks at other days than the other's, so levels differ a little.
        one, other = (market.expected_revenue(users, best, time) for market in (small, shifted))
        assert (np.corrcoef(one, other)[0, 1] > 0.99) == alike


def test_a_market_without_a_share_has_no_shift(small):
    other = AdMarket(replace(small.config, shift_day=4))
    np.testing.assert_array_equal(small.rules.users.slot_category, other.rules.users.slot_category)
    assert small.statistics() == other.statistics()


def test_entry_times_are_those_after_which_ads_earn(small):
    entry = small.entry_times()
    assert entry.index.tolist() == small.catalog()["item_id"].tolist()
    late = entry[entry > small.config.start_time]
    assert 0 < len(late) < len(entry)
    user, item, time = small.rules.users.user_ids[:1], [[late.index[0]]], int(late.iloc[0])
    assert small.expected_revenue(user, item, time - 1)[0] == 0
    assert small.expected_revenue(small.rules.users.user_ids, [item[0]] * 300, time).sum() > 0


def test_shift_settings_have_ranges():
    with pytest.raises(ValueError, match="`shift_share` should be in"):
        MarketConfig(shift_share=1.5)
