"""Labels hide neither each other nor the points, and stay beside their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelap.pages.label_places import beyond, distances, overlaps, place_labels


def test_overlaps_distances_and_what_juts_out():
    boxes = [(0, 0, 4, 3), (2, 1, 5, 5)]
    assert overlaps(boxes, [(1, 1, 3, 9), (4, 0, 6, 3)]).tolist() == [[4, 0], [4, 2]]
    assert distances(boxes, [(7, 7), (3, 2)]).tolist() == [[5, 0], [8**0.5, 0]]
    assert beyond(boxes, (1, 1, 4, 4)).tolist() == [2, 2]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), min_size=1, max_size=9))
def test_labels_hide_neither_each_other_nor_points(places: list[tuple[int, int]]):
    points = [(50.0 + 30 * x, 50.0 + 20 * y) for x, y in dict.fromkeys(places)]
    marks = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    bounds = (0, 0, 1400, 600)
    boxes = np.stack(place_labels(points, [(24, 9)] * len(points), marks, bounds))
    assert not beyond(boxes, bounds).any()
    assert not overlaps(boxes, marks).any()
    assert np.count_nonzero(overlaps(boxes, boxes)) == len(boxes)  # each with itself alone
    reached = distances(boxes, points)
    assert (np.diag(reached) <= reached.min(axis=1)).all()
    assert boxes[:, 2:] - boxes[:, :2] == pytest.approx(np.array([[24, 9]] * len(boxes)))


def test_crowded_labels_move_away_from_each_other():
    points = [(50.0, 50.0 + y) for y in range(4)]
    boxes = np.stack(place_labels(points, [(40, 10)] * 4, [], (0, 0, 200, 200)))
    assert np.count_nonzero(overlaps(boxes, boxes)) == len(boxes)
