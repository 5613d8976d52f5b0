import logging
from types import SimpleNamespace

from transformers.trainer_callback import PrinterCallback, ProgressCallback

from gr4ad.trainers.training_lines import TrainingLines, told_in_lines


def told(caplog, logs: dict, metric: str | None = "revenue@10") -> list[str]:
    caplog.clear()
    caplog.set_level(logging.INFO)
    state = SimpleNamespace(is_world_process_zero=True, global_step=3, max_steps=9)
    TrainingLines(bar=False).on_log(SimpleNamespace(metric_for_best_model=metric), state, None, logs)
    return [record.message for record in caplog.records]


def test_a_line_holds_what_a_reader_follows(caplog):
    assert told(caplog, {"loss": 12.34567, "grad_norm": 1.0, "acc_level_1": 0.5}) == ["step 3 of 9: loss 12.35"]
    validation = {"eval_recall@5": 0.1, "eval_ndcg@10": 0.25, "eval_revenue@10": 3.5, "eval_users": 20.0}
    assert told(caplog, validation) == ["step 3 of 9: validation revenue@10 3.5, ndcg@10 0.25 (20 users)"]
    assert told(caplog, validation, "eval_recall@5") == [
        "step 3 of 9: validation recall@5 0.1, ndcg@10 0.25, revenue@10 3.5 (20 users)"
    ]
    assert told(caplog, {"train_runtime": 7.0}) == []


def test_they_take_the_place_of_the_trainers_own():
    removed, added = [], []
    trainer = SimpleNamespace(
        args=SimpleNamespace(disable_tqdm=True), remove_callback=removed.append, add_callback=added.append
    )
    with told_in_lines(trainer):
        assert removed == [ProgressCallback, PrinterCallback]
        assert [type(callback) for callback in added] == [TrainingLines] and not added[0].bar
