"""The log must be learnable: from texts, from features, from history, and in value."""

import re

import numpy as np
import scipy.sparse as sp
from scipy.stats import chi2_contingency


def test_texts_recover_category_and_product(medium):
    catalog = medium.catalog()
    texts = (catalog["title"] + " " + catalog["description"]).str.lower()
    words = [re.findall(r"[a-z0-9']+", text) for text in texts]
    vocabulary = {word: number for number, word in enumerate(sorted({word for text in words for word in text}))}
    assert len(vocabulary) > 800
    rows = np.repeat(np.arange(len(words)), [len(text) for text in words])
    counts = sp.csr_matrix((np.ones(len(rows)), (rows, [vocabulary[word] for text in words for word in text])))
    weights = np.log(len(words) / (counts > 0).sum(axis=0).A1)
    tfidf = counts.multiply(weights).tocsr()
    lengths = np.sqrt(tfidf.multiply(tfidf).sum(axis=1)).A1
    similarity = ((tfidf @ tfidf.T).toarray() / lengths[:, None]) / lengths[None]
    np.fill_diagonal(similarity, -1)
    nearest = similarity.argmax(axis=1)
    ads = medium.rules.ads
    assert (ads.category[nearest] == ads.category).mean() > 0.85
    # Within a category, texts of the same product lie closer, as the vectors do.
    same_category = ads.category[:, None] == ads.category[None]
    same_product = same_category & (ads.product[:, None] == ads.product[None])
    np.fill_diagonal(same_product, False)
    other = same_category & ~same_product
    np.fill_diagonal(other, False)
    assert similarity[same_product].mean() > 1.2 * similarity[other].mean()
    inner = ads.vectors @ ads.vectors.T
    assert inner[same_product].mean() > inner[other].mean() > inner[~same_category].mean() + 0.5


def _clicks(market):
    log = market.auctions
    row, position = np.nonzero(log.clicked)
    user, ad = log.user[row], log.ad[row, position]
    order = np.argsort(user, kind="stable")
    return user[order], ad[order]


def test_item_knn_beats_popularity_on_the_last_click(medium):
    user, ad = _clicks(medium)
    last = np.append(user[1:] != user[:-1], True)
    shape = (medium.config.users, medium.config.ads)
    seen = sp.csr_matrix((np.ones((~last).sum()), (user[~last], ad[~last])), shape=shape)
    seen.data[:] = 1
    popularity = np.asarray(seen.sum(axis=0)).ravel()
    related = (seen.T @ seen).toarray() / np.sqrt((popularity[:, None] + 5) * (popularity[None] + 5))
    np.fill_diagonal(related, 0)
    tested, target = user[last], ad[last]

    def recall(scores: np.ndarray) -> float:
        return float((np.argpartition(-scores, 10, axis=1)[:, :10] == target[:, None]).any(axis=1).mean())

    assert recall(seen[tested] @ related) > 1.5 * recall(np.tile(popularity, (len(tested), 1))) > 0


def test_features_tell_of_interests(medium):
    user, ad = _clicks(medium)
    vertical = medium.rules.ads.category[ad] // 6
    once = np.unique(np.stack([user, vertical], axis=1), axis=0)
    for feature in (medium.rules.users.age, medium.rules.users.device):
        table = np.zeros((6, 8))
        np.add.at(table, (feature[once[:, 0]], once[:, 1]), 1)
        assert chi2_contingency(table).pvalue < 1e-6


def test_value_depends_on_ad_and_user_and_is_heavy_tailed(medium):
    log = medium.auctions
    row, position = np.nonzero(log.clicked)
    value = np.log(log.cpm[row, position])
    total = value.var()
    for group in (medium.rules.ads.account[log.ad[row, position]], log.user[row]):
        sums, counts = np.bincount(group, value), np.bincount(group)
        means = sums[counts > 0] / counts[counts > 0]
        within = ((value - (sums / np.maximum(counts, 1))[group]) ** 2).sum() / (len(value) - len(means))
        assert 1 - within / total > 0.08
    bids = np.exp(medium.rules.ads.log_bid)
    assert np.quantile(bids, 0.99) / np.median(bids) > 4
