import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from unity.report.page import Curves, Section, Strips, Table, number, page, smooth

RED = np.zeros((9, 8, 12, 3), np.uint8)
RED[..., 0] = np.arange(9, dtype=np.uint8)[:, None, None] * 20
SECTIONS = [
    Section(
        title="Numbers <&>",
        text="One.\n\nTwo <b>.",
        parts=[
            Table(
                head=("what", "score"),
                rows=[["flow", 0.12345], ["depth", float("nan")]],
                better=frozenset({(0, 1)}),
            )
        ],
    ),
    Section(
        title="Pictures",
        parts=[
            Strips(rows={"red": RED}, caption="a & b"),
            Curves(panels={"stage 1": {"joint": [(1, 2.0), (2, 1.0)]}}),
        ],
    ),
]
HTML = page("Title", "Lead.", SECTIONS)


class Reader(HTMLParser):
    """Text, images and whether every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.words, self.images = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def reader():
    reader = Reader()
    reader.feed(HTML)
    assert reader.open == []
    return reader


def test_words_are_words_and_not_markup(reader):
    for text in ("Title", "Lead.", "Numbers <&>", "One.", "Two <b>.", "a & b", "0.123", "–", "red"):
        assert text in reader.words, text
    assert '<td class="number better">0.123</td>' in HTML


def test_the_page_needs_nothing_else():
    assert not re.search(r"https?://|<script|<link|src=\"(?!data:)", HTML)


def test_pictures_are_the_frames(reader):
    strip = next(image for image in reader.images if image["alt"] == "red")
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(strip["src"].partition(",")[2]))))
    # six of nine frames with five gaps of three pixels
    assert pixels.shape == (8, 6 * 12 + 5 * 3, 3)
    assert pixels[0, 0].tolist() == [0, 0, 0] and pixels[0, -1].tolist() == [160, 0, 0]
    assert len(reader.images) == 2


def test_the_same_findings_are_the_same_bytes():
    assert page("Title", "Lead.", SECTIONS) == HTML


@pytest.mark.parametrize(
    "value, text", [(0.012345, "0.0123"), (12.345, "12.3"), (12345.6, "12346"), (float("inf"), "–"), (0.0, "0")]
)
def test_numbers(value, text):
    assert number(value) == text


def test_smoothing_is_the_mean_of_the_last():
    line = list(enumerate([4.0, 2.0, 6.0, 1.0]))
    assert smooth(line, 2) == [(0, 4.0), (1, 3.0), (2, 4.0), (3, 3.5)]
    assert smooth(line, 100)[-1] == (3, 3.25)
    assert smooth([], 5) == []
