import numpy as np

from gr4ad.trainers.evaluation.model_ranking import rank_users

WIDTHS = {"beam_widths": [4, 24], "top_k": 24, "item_weight": 0.5}


def test_users_are_ranked_with_all_that_their_rows_say(build_ring_model, timed_tokenizer, timed_log):
    model = build_ring_model(
        num_time_buckets=8, num_cross_domain_items=50, max_cross_domain_items=3, initializer_range=0.3
    ).eval()
    rows = timed_log.select(range(30))
    whole = rank_users(model, timed_tokenizer, rows, batch_size=7, **WIDTHS)
    assert whole.illegal == 0 and whole.checked == 30 * 24
    batch = timed_tokenizer.encode_histories(
        rows["items"],
        events=rows["events"],
        values=rows["values"],
        times=rows["times"],
        cross_domain=rows["cross_domain"],
        user_features={"city": rows["city"]},
        max_items=6,
        max_cross_domain=3,
        return_tensors="pt",
    )
    ranking = model.recommend(**batch, trie=model.build_trie(timed_tokenizer), **WIDTHS)
    np.testing.assert_allclose(whole.values, ranking.expected_values, rtol=1e-4)
    assert (whole.items == ranking.items.numpy()).mean() > 0.99  # ties may fall either way in other batches
    for column in ("events", "values", "times", "cross_domain"):
        part = rank_users(model, timed_tokenizer, rows.remove_columns(column), batch_size=7, **WIDTHS)
        assert not np.allclose(part.values, whole.values), column
