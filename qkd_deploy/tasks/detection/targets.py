"""What the targets of detection look like.

Targets are one float32 tensor [N, M, 6] for a data set or a batch. M is the largest number of boxes of an image; each
row is one box::

    class, x1, y1, x2, y2, crowd

Corners are in pixels of the image that the network takes (after it was fitted into its frame), x to the right and y
down, the pixel in the top left corner covering 0..1: ``0 <= x1 < x2 <= width`` and ``0 <= y1 < y2 <= height``.
``crowd`` is 1 for a box in which nothing is to be found, and nothing that is found is wrong: a group in COCO, an object
marked "difficult" in Pascal VOC; otherwise 0. Rows that no box needs are padding: class -1, and zeros. They may stand
anywhere among the rows; an image without objects has only padding.
"""

from __future__ import annotations

CLASS = 0
"""Column of the class number from 0, or ``PADDING``."""
BOX = slice(1, 5)
"""Columns of the corners x1, y1, x2, y2."""
CROWD = 5
"""Column of the mark of crowds."""
COLUMNS = 6
"""Numbers of a row."""
PADDING = -1.0
"""The class of a row that holds no box."""
