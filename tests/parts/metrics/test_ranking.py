import numpy as np
import pytest
from scipy import stats

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import ranking
from isocenter.parts.metrics.ranking import Contest

# Isensee et al., nnU-Net for Brain Tumor Segmentation, as printed: training and validation set, each with the
# mean Dice and its rank, and the BraTS ranking value and its rank.
BRATS_TABLE = """
BL                86.55 8 0.3763 8  84.18 6 0.4079 8
BL*               86.09 9 0.3767 9  83.76 9 0.4236 9
BL*+R             86.73 5 0.3393 5  84.13 7 0.4005 7
BL*+R+DA          87.07 1 0.3243 3  84.73 5 0.3647 5
BL*+R+DA+BN       86.82 3 0.3377 4  85.20 3 0.3577 4
BL*+R+DA+BD       86.79 4 0.3231 2  84.12 8 0.3726 6
BL*+R+DA+BN+BD    86.87 2 0.3226 1  85.11 4 0.3487 3
BL*+R+DA*+BN      86.68 6 0.3521 6  85.58 1 0.3125 1
BL*+R+DA*+BN+BD   86.64 7 0.3595 7  85.29 2 0.3437 2
"""


def _contest(values, higher=None, patients=None):
    values = np.asarray(values, dtype=float)
    methods, cases, measures = values.shape
    return Contest(
        tuple("abcdefgh"[:methods]),
        tuple(f"m{k}" for k in range(measures)),
        values,
        tuple(higher or [True] * measures),
        tuple(range(cases) if patients is None else patients),
    )


@pytest.mark.parametrize("column", [0, 4])
def test_the_printed_brats_ranks_follow_from_the_printed_values(column):
    table = np.array([row.split()[1:] for row in BRATS_TABLE.strip().splitlines()], dtype=float)
    dice, dice_rank, brats, brats_rank = table[:, column : column + 4].T
    assert ranking.ranks(dice).tolist() == dice_rank.tolist()
    assert ranking.ranks(brats, higher_is_better=False).tolist() == brats_rank.tolist()
    assert dice_rank.tolist() != brats_rank.tolist()
    assert ranking.kendall(dice_rank, brats_rank) == pytest.approx(stats.kendalltau(dice_rank, brats_rank)[0])


def test_the_two_rules_disagree_where_one_case_is_lost():
    # Method a is a little better on two cases and loses the third; b has the better mean.
    contest = _contest([[[0.91], [0.92], [0.10]], [[0.90], [0.91], [0.80]]])
    by_rank = ranking.stand(contest, "rank_then_aggregate")
    by_mean = ranking.stand(contest, "mean")
    assert by_rank.values == pytest.approx([4 / 3, 5 / 3])
    assert by_rank.ranks.tolist() == [1, 2]
    assert by_mean.values == pytest.approx([1.93 / 3, 2.61 / 3])
    assert by_mean.ranks.tolist() == [2, 1]


def test_the_brats_value_is_the_mean_rank_over_cases_and_measures_as_a_share():
    dice = [[0.9, 0.8], [0.8, 0.9], [0.7, 0.7]]
    hd95 = [[5.0, 4.0], [3.0, 3.0], [9.0, 8.0]]
    contest = _contest(np.stack([dice, hd95], axis=2), higher=[True, False])
    # a: 1, 2, 2, 2; b: 2, 1, 1, 1; c: always 3.
    assert ranking.brats(contest).values == pytest.approx(np.array([7 / 4, 5 / 4, 3]) / 3)
    assert ranking.brats(contest).ranks.tolist() == [2, 1, 3]


def test_aggregating_first_ranks_the_means():
    contest = _contest([[[0.9, 1.0], [0.5, 3.0]], [[0.6, 1.0], [0.7, 2.0]]], higher=[True, False])
    assert ranking.stand(contest, "aggregate_then_rank").values.tolist() == [1.5, 1.5]
    assert ranking.stand(contest, "aggregate_then_rank").ranks.tolist() == [1.5, 1.5]


def test_equals_share_their_places_and_failures_the_last():
    assert ranking.ranks([0.5, 0.9, 0.5, np.nan]).tolist() == [2.5, 1, 2.5, 4]
    assert ranking.ranks([np.nan, 1.0, np.nan], higher_is_better=False).tolist() == [2.5, 1, 2.5]
    assert np.isnan(ranking.ranks([np.nan, np.nan])).all()


def test_a_failure_is_not_better_than_a_bad_distance():
    values = [[[2.0], [np.nan]], [[3.0], [40.0]]]
    contest = _contest(values, higher=[False])
    assert ranking.stand(contest, "rank_then_aggregate").values.tolist() == [1.5, 1.5]
    assert ranking.stand(contest, "mean").values.tolist() == [21.0, 21.5]
    absent = _contest([[[0.5], [np.nan]], [[0.4], [np.nan]]])
    assert ranking.stand(absent, "mean").values.tolist() == [0.5, 0.4]
    assert ranking.stand(absent).values.tolist() == [1.0, 2.0]


def test_a_clear_winner_stays_first_on_other_patients_and_a_draw_does_not():
    rng = np.random.default_rng(0)
    clear = _contest(np.stack([rng.normal(m, 0.1, size=(30, 1)) for m in (3, 2, 1)]))
    for rule in ranking.RULES:
        found = ranking.stability(clear, rule, resamples=200)
        assert found.frequency.tolist() == np.eye(3).tolist()
        assert found.low.tolist() == found.high.tolist() == [1, 2, 3]
        assert found.agreement == 1.0
    drawn = ranking.stability(_contest(rng.normal(size=(3, 30, 2))), resamples=200)
    assert drawn.frequency.max() < 1
    assert drawn.frequency.sum(axis=1) == pytest.approx(np.ones(3))
    assert drawn.agreement < 1


def test_cases_of_one_patient_are_drawn_together():
    values = np.array([[[1.0], [1.0], [0.0]], [[0.0], [0.0], [3.0]]])
    apart = ranking.stability(_contest(values), "mean", resamples=2000)
    together = ranking.stability(_contest(values, patients="xxy"), "mean", resamples=2000)
    # Method a leads only when patient y is not drawn: one draw in four of two patients, 8 in 27 of three.
    assert together.frequency[0, 0] == pytest.approx(1 / 4, abs=0.04)
    assert apart.frequency[0, 0] == pytest.approx(8 / 27, abs=0.04)


def test_methods_that_all_tie_have_no_agreement():
    assert ranking.stability(_contest(np.ones((2, 4, 1))), resamples=20).agreement is None


def test_the_significance_map_shows_who_beats_whom():
    rng = np.random.default_rng(1)
    base = rng.normal(size=(25, 1))
    contest = _contest(
        [base + 1 + 0.1 * rng.normal(size=(25, 1)), base, base + 0.1 * rng.normal(size=(25, 1))]
    )
    found = ranking.significance_map(contest, "m0")
    assert found.better.tolist() == [[False, True, True], [False] * 3, [False] * 3]
    assert found.p[0, 1] == found.p[1, 0] < 0.001
    assert np.isnan(np.diag(found.p)).all()
    alone = ranking.significance_map(_contest(np.ones((2, 1, 1))), "m0")
    assert np.isnan(alone.p).all()


def test_contests_that_make_no_sense_are_refused():
    with pytest.raises(IsocenterError, match="do not fit"):
        _contest(np.ones((2, 3, 1)), patients=[1])
    with pytest.raises(IsocenterError, match="at least one"):
        _contest(np.ones((2, 0, 1)))
    with pytest.raises(IsocenterError, match="infinite"):
        _contest(np.full((1, 1, 1), np.inf))
    with pytest.raises(IsocenterError, match="no rule"):
        ranking.stand(_contest(np.ones((1, 1, 1))), "best")
    with pytest.raises(IsocenterError, match="cannot be averaged"):
        ranking.stand(_contest(np.ones((1, 1, 2)), higher=[True, False]), "mean")
    with pytest.raises(IsocenterError, match="no measure"):
        ranking.significance_map(_contest(np.ones((1, 1, 1))), "dice")
