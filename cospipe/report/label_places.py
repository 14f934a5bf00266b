"""Where labels of points go, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
Point = tuple[float, float]

CHARACTER_PX = 6.3
LINE_PX = 13
MARKER_PX = 9
_SIDES = {
    "top center": (-0.5, -1.0),
    "bottom center": (-0.5, 1.0),
    "middle right": (0.0, 0.0),
    "middle left": (-1.0, 0.0),
    "top right": (0.0, -1.0),
    "bottom right": (0.0, 1.0),
    "top left": (-1.0, -1.0),
    "bottom left": (-1.0, 1.0),
}


def label_places(points: Sequence[Point], texts: Sequence[str], obstacles: Sequence[Point], size: Point) -> list[str]:
    """Choose a side for each label, one after the other; an empty text where there is no room on any.

    Parameters
    ----------
    points : sequence of (float, float)
        Pixels from the upper left corner.
    texts : sequence of str
        A label for each point.
    obstacles : sequence of (float, float)
        Points, those of the labels among them, that no label may cover.
    size : (float, float)
        Width and height of the area that labels may use.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in obstacles]
    sides = []
    for point, text in zip(points, texts, strict=True):
        boxes = {side: _box(point, text, side) for side in _SIDES}
        side = next((side for side, box in boxes.items() if _is_inside(box, size) and not _hits(box, taken)), "")
        sides.append(side)
        taken += [boxes[side]] if side else []
    return sides


def _box(point: Point, text: str, side: str) -> Box:
    across, down = _SIDES[side]
    width = len(text) * CHARACTER_PX
    gap = 0.0 if across == -0.5 else MARKER_PX * (1 if across == 0 else -1)
    left = point[0] + gap + across * width
    top = point[1] - LINE_PX / 2 + down * (MARKER_PX + LINE_PX / 2)
    return left, top, left + width, top + LINE_PX


def _is_inside(box: Box, size: Point) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]


def _hits(box: Box, others: Sequence[Box]) -> bool:
    return any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others)
