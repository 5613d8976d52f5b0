from gr4ad.pipeline.beam_frontier import FrontierPoint, recommended, width_choices


def point(name: str, widths: list[int], ms: float, loss: float) -> FrontierPoint:
    return FrontierPoint(name, widths, ms, (ms, ms), {}, loss, (loss, loss))


def test_choices_cut_each_level_and_all_together():
    choices = width_choices(32, 3)
    assert choices == {
        "equal 32": [32, 32, 32],
        "level 1 cut": [8, 32, 32],
        "level 2 cut": [32, 8, 32],
        "level 3 cut": [32, 32, 8],
        "progressive 32": [8, 16, 32],
        "progressive 16": [4, 8, 16],
        "equal 16": [16, 16, 16],
        "progressive 8": [2, 4, 8],
        "equal 8": [8, 8, 8],
    }
    assert width_choices(4, 2) == {"equal 4": [4, 4], "level 1 cut": [1, 4], "level 2 cut": [4, 1]}


def test_the_fastest_choice_within_the_loss_that_fills_a_list_is_recommended():
    points = [
        point("wide", [32, 32, 32], 9.0, 0.0),
        point("good", [8, 16, 32], 5.0, 0.004),
        point("lossy", [4, 8, 16], 3.0, 0.02),
        point("short", [2, 4, 8], 1.0, 0.0),
    ]
    assert recommended(points).name == "good"
    assert recommended(points, max_loss=0.05).name == "lossy"
    assert recommended(points, max_loss=0.0).name == "wide"
