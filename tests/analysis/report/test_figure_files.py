"""Figures as files: SVG, PNG and PDF in the light page's colours."""

import io
from xml.etree import ElementTree

import pytest
from PIL import Image

from pipeline.analysis.effects import estimate
from pipeline.analysis.report import effect_figures
from pipeline.analysis.report.drawing import VARIABLES, own_style
from pipeline.analysis.report.figure_files import figure_files
from tests.support.planted import planted


@pytest.fixture(scope="module")
def written():
    with own_style():
        drawing = effect_figures.forest(estimate(planted(blocks=3)))
        return drawing, figure_files([drawing])


def test_one_file_of_each_kind(written):
    _, files = written
    assert set(files) == {"forest.svg", "forest.png", "forest.pdf"}
    assert ElementTree.fromstring(files["forest.svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert files["forest.pdf"].startswith(b"%PDF-")


def test_the_colours_are_the_pages_own(written):
    drawing, files = written
    assert b"var(" not in files["forest.svg"] and b"#1a7f37" in files["forest.svg"]
    picture = Image.open(io.BytesIO(files["forest.png"])).convert("RGB")
    colours = {colour: count for count, colour in picture.getcolors(1 << 24)}
    assert max(colours, key=colours.get) == (255, 255, 255) and colours.get((0x1A, 0x7F, 0x37), 0) > 100
    assert not {tuple(bytes.fromhex(each[1:])) for each in VARIABLES} & {c for c, n in colours.items() if n > 20}
    assert drawing.figure is not None
