"""Numbers of a picture that need no model.

| name | meaning |
|---|---|
| change | mean absolute difference to the off picture of the same seed, over pixels and channels, 0-255 |
| brightness | mean luma (ITU-R 601), 0-255 |
| saturation | mean S of HSV, 0-255 |
| clipped | share of channel values that are 0 or 255, percent |
"""

from __future__ import annotations

from typing import Any


def measured(picture: Any, off: Any | None) -> dict[str, float]:
    """The numbers of one PIL picture (RGB); `change` only beside an off picture of the same size."""
    from PIL import ImageChops, ImageStat

    histogram = picture.histogram()
    ends = sum(histogram[256 * channel] + histogram[256 * channel + 255] for channel in range(3))
    found = {
        "brightness": ImageStat.Stat(picture.convert("L")).mean[0],
        "saturation": ImageStat.Stat(picture.convert("HSV")).mean[1],
        "clipped": 100 * ends / (3 * picture.width * picture.height),
    }
    if off is not None and off.size == picture.size:
        found["change"] = sum(ImageStat.Stat(ImageChops.difference(picture, off)).mean) / 3
    return found
