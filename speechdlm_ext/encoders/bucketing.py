"""Recordings of like length in one batch, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Sequence

PADDING = 0.1  # of a batch, at most


def group_by_length(sizes: Sequence[tuple[float, int]], most: float, padding: float = PADDING) -> list[list[int]]:
    """Batches of items that are padded to the longest of each, the longest items first.

    Args:
        sizes: length, and number of channels (rows of the batch), of each item.
        most: largest size of a batch, as its longest item's length times its channels; an item beyond it is alone.
        padding: a batch stays below this share of padding.

    Returns:
        The batches, each as the places of its items in ``sizes``; equal items keep their order.
    """
    batches: list[list[int]] = []
    longest = filled = 0.0
    channels = 0
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place][0]):
        length, count = sizes[place]
        whole = longest * (channels + count)
        fits = whole <= most and whole - filled - length * count < padding * whole
        if batches and fits:
            batches[-1].append(place)
        else:
            batches.append([place])
            longest, filled, channels = length, 0.0, 0
        filled += length * count
        channels += count
    return batches
