"""What every figure is held to: its text can be read."""

from collections.abc import Iterator
from itertools import combinations

from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import style


def texts(figure: Figure) -> Iterator[Text]:
    """Every text that reaches the paper; labels of ticks outside the axis do not."""
    figure.draw_without_rendering()
    yield from (each for each in figure.texts if each.get_text())
    for legend in figure.legends:
        yield from legend.get_texts()
    for axes in figure.axes:
        titles = (axes.title, axes._left_title, axes._right_title)
        labels = (axes.xaxis.label, axes.yaxis.label)
        yield from (each for each in (*titles, *labels, *axes.texts) if each.get_text())
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                shown = [tick.label1] * tick.label1.get_visible()
                shown += [tick.label2] * tick.label2.get_visible()
                inside = low - 1e-9 <= tick.get_loc() <= high + 1e-9
                yield from (each for each in shown if inside and each.get_text())


def check_texts(figures: dict[str, Figure]) -> None:
    """One size of type; no text on another or off the page."""
    for name, figure in figures.items():
        shown = list(texts(figure))
        assert {each.get_fontsize() for each in shown} == {style.SIZE}
        boxes = [(each.get_text(), each.get_window_extent()) for each in shown if
                 each.get_text().strip()]  # fmt: skip
        page = figure.bbox
        for text, box in boxes:
            assert page.x0 <= box.x0 + 1, (name, text)
            assert box.x1 - 1 <= page.x1, (name, text)
            assert page.y0 <= box.y0 + 1, (name, text)
            assert box.y1 - 1 <= page.y1, (name, text)
        for (a, box_a), (b, box_b) in combinations(boxes, 2):
            across = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
            upright = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
            # The boxes hold empty room for descenders: one and a half points may be shared.
            assert across <= 1 or upright <= 2, (name, a, b)
