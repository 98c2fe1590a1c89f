"""What ImageNet-C's definitions make of tests/data/images/rgb.png, at severities 1 to 5: RGB, one byte a sample.

Needs numpy, Pillow, opencv-python-headless and scikit-image. Written after imagenet_c/corruptions.py of hendrycks/robustness; what is
fixed there at 224 pixels is here the image's own size.
"""
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv

HERE = Path(__file__).parent
picture = Image.open(HERE.parent / "images" / "rgb.png").convert("RGB")
values = np.asarray(picture) / 255.0


def contrast(c):
    mean = values.mean(axis=(0, 1), keepdims=True)
    return (values - mean) * c + mean


def brightness(c):
    hsv = rgb2hsv(values)
    hsv[..., 2] = np.clip(hsv[..., 2] + c, 0, 1)
    return hsv2rgb(hsv)


def defocus_blur(c):
    radius, blur = c
    reach, size = (8, 3) if radius <= 8 else (radius, 5)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (x**2 + y**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disc / disc.sum(), ksize=(size, size), sigmaX=blur)
    return cv2.filter2D(values, -1, kernel)


def jpeg(c):
    file = BytesIO()
    picture.save(file, "JPEG", quality=c)
    return np.asarray(Image.open(file))


def pixelate(c):
    small = [int(side * c) for side in picture.size]
    return np.asarray(picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX))


for corrupt, constants in [
    (contrast, [0.4, 0.3, 0.2, 0.1, 0.05]),
    (brightness, [0.1, 0.2, 0.3, 0.4, 0.5]),
    (defocus_blur, [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]),
    (jpeg, [25, 18, 15, 10, 7]),
    (pixelate, [0.6, 0.5, 0.4, 0.3, 0.25]),
]:
    results = [corrupt(c) for c in constants]
    # What rounding errors alone keep below an integer counts as the integer.
    results = [r if r.dtype == np.uint8 else np.uint8(np.clip(r, 0, 1) * 255 + 1e-6) for r in results]
    (HERE / f"{corrupt.__name__}.rgb").write_bytes(b"".join(r.tobytes() for r in results))


def plasma(side, decay, uniform):
    """The fractal of `fog`, with the numbers of 0..1 that cell (i, j) draws taken from `uniform[i, j]`."""
    heights = np.zeros((side, side))
    step, wibble = side, 100.0
    roll = np.roll
    while step >= 2:
        half = step // 2
        corner = (slice(0, None, step), slice(0, None, step))
        middle = (slice(half, None, step), slice(half, None, step))
        above = (slice(0, None, step), slice(half, None, step))
        left = (slice(half, None, step), slice(0, None, step))
        noise = lambda cells: wibble * (2 * uniform[cells] - 1) * wibble
        c = heights[corner]
        heights[middle] = (c + roll(c, -1, 0) + roll(c, -1, 1) + roll(c, (-1, -1), (0, 1))) / 4 + noise(middle)
        m = heights[middle]
        heights[above] = (m + roll(m, 1, 0) + c + roll(c, -1, 1)) / 4 + noise(above)
        heights[left] = (m + roll(m, 1, 1) + c + roll(c, -1, 0)) / 4 + noise(left)
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


numbers = (np.arange(64) * 7919 % 1000).reshape(8, 8) / 1000
maps = [plasma(8, decay, numbers).astype("<f4") for decay in [2, 1.7, 1.4]]
(HERE / "plasma.f32").write_bytes(b"".join(m.tobytes() for m in maps))
