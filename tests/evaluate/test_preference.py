"""Ranks from votes against closed forms, an independent optimiser, published values and known preferences."""

import numpy as np
import pytest
from scipy.optimize import minimize

from unity.evaluate.preference import (
    Vote,
    agreement,
    duels,
    krippendorff,
    ranks,
    standings,
    strengths,
    tally,
    win_rates,
)


def ballots(strength, raters: int, shown: int, each: int, ties: float = 0.0, seed: int = 0) -> list[Vote]:
    """Votes of raters who choose as Luce's model says, but for a share of ties."""
    random, votes = np.random.default_rng(seed), []
    for rater in range(raters):
        for place in range(each):
            some = tuple(random.permutation(len(strength))[:shown].tolist())
            # the largest of Gumbel's numbers, shifted, is chosen as Luce has it
            winner = max(some, key=lambda model: strength[model] + random.gumbel())
            tie = random.uniform() < ties
            votes.append(Vote(rater=rater, clip=place % 12, shown=some, winner=None if tie else winner))
    return votes


def test_two_models_have_a_closed_form():
    votes = [Vote(rater=r, clip=0, shown=(1, 0), winner=w) for r, w in enumerate([0] * 6 + [1] * 2 + [None] * 2)]
    first, second = standings(votes, 2)
    # 6 wins, half of two ties, and half of the tie that is added
    odds = np.log((6 + 1 + 0.5) / (2 + 1 + 0.5))
    assert (first.model, first.rank.value, first.comparisons) == (0, 1, 10)
    assert first.strength.value == pytest.approx(odds / 2, abs=1e-9) == -second.strength.value
    assert (first.win_rate.value, second.win_rate.value) == (0.7, 0.3)
    assert first.strength.low < first.strength.value < first.strength.high


@pytest.mark.parametrize("shown", [2, 3])
def test_strengths_are_the_most_likely_ones(shown):
    votes = ballots([1.0, 0.2, 0.0, -1.5], 7, shown, 11, ties=0.2)
    sets, wins = tally(votes, 4)
    added = [Vote(rater=-1, clip=0, shown=(i, j), winner=None) for i in range(4) for j in range(i)]

    def unlikely(free):
        s = np.append(free, -free.sum())
        logs = [(np.log(np.exp(s[list(v.shown)]).sum()), v) for v in votes + added]
        return sum(whole - (s[list(v.shown)].mean() if v.winner is None else s[v.winner]) for whole, v in logs)

    best = minimize(unlikely, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(strengths(sets, wins.sum(0)), np.append(best, -best.sum()), atol=1e-6)


def test_a_known_preference_comes_back():
    true = np.array([0.9, 0.3, -0.2, -1.0])
    rows = standings(ballots(true, 60, 2, 24), 4)
    assert [row.model for row in rows] == [0, 1, 2, 3]
    assert [row.rank.value for row in rows] == [1, 2, 3, 4]
    assert all(abs(row.strength.value - true[row.model]) < 0.25 for row in rows)
    assert all(row.strength.low < row.strength.value < row.strength.high for row in rows)
    # of 1,440 comparisons each of four is in half: a standard error of 0.06 or so
    assert all(0.15 < row.strength.high - row.strength.low < 0.5 for row in rows)
    assert sum(row.comparisons for row in rows) == 2 * 60 * 24


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    true = np.array([0.6, 0.0, -0.6])
    held = [
        row.strength.low < true[row.model] < row.strength.high
        for seed in range(60)
        for row in standings(ballots(true, 30, 2, 9, seed=seed), 3)
    ]
    # 180 intervals of 95%, three of a study together
    assert 0.88 < np.mean(held) < 0.995


def test_one_rater_has_no_interval_and_an_unbeaten_model_a_strength():
    votes = [Vote(rater=3, clip=0, shown=(0, 1), winner=1)] * 4
    first, unseen, _ = standings(votes, 3)
    assert (first.model, unseen.model, unseen.comparisons) == (1, 2, 0)
    assert np.isfinite(first.strength.value) and np.isnan(first.strength.low)
    assert np.isnan(win_rates(*_total(votes, 3))[2])
    with pytest.raises(ValueError, match="nobody has voted"):
        standings([], 3)


def test_duels_count_who_was_chosen_where_both_were_seen():
    votes = [Vote(rater=0, clip=c, shown=(0, 1, 2), winner=w) for c, w in enumerate([0, 0, 1, 2, None])]
    shares = duels(*_total(votes, 3))
    assert shares[0, 1] == pytest.approx((2 + 1 / 3) / (3 + 2 / 3)) and shares[1, 0] == pytest.approx(
        1 - shares[0, 1]
    )
    assert shares[1, 2] == 0.5 and np.isnan(np.diag(shares)).all()


def test_equal_strengths_share_a_rank():
    np.testing.assert_array_equal(ranks(np.array([0.0, 1.0, 0.0, -1.0])), [2.5, 1, 2.5, 4])


def test_agreement_is_krippendorffs():
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: four observers, some silent
    rows = ["123321412   ", "1233224125 3", " 3332342251 ", "12332441251 "]
    units = [[value for value in unit if value != " "] for unit in zip(*rows, strict=True)]
    assert krippendorff(units) == pytest.approx(0.743, abs=5e-4)
    assert np.isnan(krippendorff([[1], [2]])) and np.isnan(krippendorff([[1, 1]]))


def test_raters_who_agree_and_who_guess():
    pairs = [(i, j) for i in range(4) for j in range(i)]
    same = [Vote(rater=r, clip=c, shown=p, winner=p[0]) for r in range(3) for c in range(12) for p in pairs]
    assert agreement(same) == 1
    guess = ballots([0.0] * 4, 30, 2, 48)
    # with names of models as values it would be 0.33: a rater can name but two of the four
    assert abs(agreement(guess)) < 0.05
    assert agreement(ballots([3.0, 1.0, -1.0, -3.0], 30, 2, 48)) > 0.4


def _total(votes, models):
    sets, wins = tally(votes, models)
    return sets, wins.sum(0)
