import numpy as np

from unity.modality.tracks import follow, unite

NEAR, REACH = 6.0, 16.0


def person(joints, x, y=30.0):
    """Joints on a column, two pixels apart."""
    return {joint: np.array([x, y + 2.0 * joint]) for joint in joints}


def test_a_stray_part_does_not_take_the_place_of_the_body():
    body, arm = range(12), (3, 4, 5)
    frames = [[person(body, 20.0)], [person(arm, 20.0), person(body, 22.0)]]
    first, *others = follow(frames, NEAR)
    assert set(first[1]) == set(body) and [set(track[1]) for track in others] == [set(arm)]


def test_parts_of_one_person_are_united_and_two_people_are_not():
    upper = {time: person(range(9), 20.0 + time) for time in range(5)}
    lower = {time: person(range(9, 18), 20.0 + time) for time in (1, 3)}
    later = {time: person(range(18), 20.0 + time) for time in (5, 6)}
    beside = {time: person(range(18), 32.0 + time) for time in range(7)}
    found = unite([upper, beside, lower, later], NEAR, REACH)
    assert sorted(tuple(track) for track in found) == [tuple(range(7))] * 2
    one = next(track for track in found if track[0][0][0] == 20)
    assert [len(one[time]) for time in range(7)] == [9, 18, 9, 18, 9, 18, 18]


def test_someone_who_comes_far_from_where_another_went_is_another():
    gone, come = {0: person(range(18), 5.0)}, {3: person(range(18), 55.0)}
    assert len(unite([gone, come], NEAR, REACH)) == 2
