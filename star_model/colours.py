"""The colours that the default model paints as backgrounds."""

from __future__ import annotations

RGB = tuple[int, int, int]
"""Levels of red, green and blue, 0 to 255."""

COLOURS: dict[str, RGB] = {
    "white": (246, 246, 244),
    "black": (18, 18, 20),
    "gray": (136, 136, 140),
    "red": (214, 48, 49),
    "orange": (243, 146, 40),
    "yellow": (250, 214, 60),
    "green": (62, 160, 76),
    "turquoise": (48, 190, 180),
    "light blue": (158, 208, 240),
    "blue": (42, 104, 214),
    "navy": (24, 34, 88),
    "purple": (130, 68, 176),
    "pink": (244, 154, 190),
    "brown": (124, 80, 50),
    "beige": (232, 216, 186),
}
"""Names, and what they look like. Each is farther from all others than training lets it vary."""
