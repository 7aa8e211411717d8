"""Split-conformal intervals: by hand, and by the share of simulated new songs that they cover."""

import numpy as np
import pytest

from modeling_apex.statistics.conformal import compute_conformal_width


def test_width_by_hand() -> None:
    errors = [-1.0, 2.0, -3.0, 4.0, 5.0, -6.0, 7.0, 8.0, 9.0]
    assert compute_conformal_width(errors, 0.9) == 9.0  # nine of ten: nine songs, and the one to come
    assert compute_conformal_width(errors, 0.5) == 5.0
    assert compute_conformal_width(errors[:8], 0.9) is None
    assert compute_conformal_width([*errors, np.nan], 0.9) == 9.0
    assert compute_conformal_width([np.nan, np.nan], 0.5) is None
    assert compute_conformal_width([], 0.5) is None


def test_a_group_counts_as_much_as_a_song_of_its_own() -> None:
    errors, groups = [1.0, 1.0, 1.0, 1.0, 5.0, 6.0, 7.0], ["a", "a", "a", "a", "b", "c", None]
    assert compute_conformal_width(errors, 0.5, groups) == 6.0  # 1/5 for a, then b, then c
    assert compute_conformal_width(errors, 0.5) == 1.0
    assert compute_conformal_width(errors, 0.8, groups) == 7.0
    assert compute_conformal_width(errors, 0.85, groups) is None
    assert compute_conformal_width(errors, 0.5, [None] * 7) == compute_conformal_width(errors, 0.5)
    assert compute_conformal_width([1.0, 2.0], 0.6, [0, "song"]) == 2.0


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, float("nan")])
def test_refuses_a_level_that_is_no_share(level: float) -> None:
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        compute_conformal_width([1.0], level)


def test_refuses_groups_of_other_songs() -> None:
    with pytest.raises(ValueError, match="1 groups for 2 songs; give one for each"):
        compute_conformal_width([1.0, 2.0], 0.5, ["a"])


@pytest.mark.parametrize(("num_groups", "per_group"), [(200, 1), (30, 10), (15, 40)])
def test_intervals_cover_new_songs_of_new_groups(num_groups: int, per_group: int) -> None:
    """Artists whose errors are alike (intraclass correlation 0.5): 90 % of the songs of new artists lie within."""
    generator, covered = np.random.default_rng(num_groups), []
    for _ in range(400):
        artists = generator.normal(size=(num_groups + 1, 1))
        errors = artists + generator.normal(size=(num_groups + 1, per_group))
        groups = np.repeat(np.arange(num_groups), per_group).tolist()
        width = compute_conformal_width(errors[:-1].ravel(), 0.9, groups)
        assert width is not None
        covered.append(np.mean(np.abs(errors[-1]) <= width))
    # At least 0.9 on average over what is drawn, and no more than a group above it.
    sampling = 3 * np.std(covered) / np.sqrt(len(covered))
    assert 0.9 - sampling <= np.mean(covered) <= 0.9 + 1 / num_groups + sampling
