import numpy as np

from unity.report.strip import frame_row, labelled_strip

CLIP = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((9, 4, 6, 3), np.uint8)


def test_frames_are_the_first_the_last_and_even_between():
    row = frame_row(CLIP, columns=5)
    assert row.shape == (4, 5 * 6 + 4 * 3, 3)
    assert [int(row[0, i * 9, 0]) for i in range(5)] == [0, 2, 4, 6, 8]
    assert (row[:, 6:9] == 255).all()


def test_fewer_frames_than_columns_are_not_repeated():
    assert frame_row(CLIP[:2], columns=5).shape == (4, 2 * 6 + 3, 3)


def test_small_frames_grow_by_whole_pixels():
    row = frame_row(CLIP, columns=2, height=13)
    assert row.shape[0] == 12
    np.testing.assert_array_equal(row[::3, ::3][:, :6], CLIP[0])


def test_every_row_is_there_under_its_label():
    sheet = np.array(labelled_strip({"first": CLIP, "second": 255 - CLIP}, columns=3, height=4))
    assert sheet.shape[0] == 2 * (24 + 4) + 6
    np.testing.assert_array_equal(sheet[24:28, 3:-3], frame_row(CLIP, 3))
    np.testing.assert_array_equal(sheet[52:56, 3:-3], frame_row(255 - CLIP, 3))
    # ink above each row
    assert (sheet[:24] < 100).any() and (sheet[28:52] < 100).any()
