"""Makes the small images of the decoding tests, and beside each what Pillow reads from it (RGB, one byte a sample)."""
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
W, H = 20, 14
y, x = np.mgrid[0:H, 0:W].astype(float)
ramp = np.stack([255 * x / (W - 1), 255 * y / (H - 1), 127 + 120 * np.sin(x / 3 + y / 4)], -1).round().astype(np.uint8)
rgb = Image.fromarray(ramp)
alpha = Image.fromarray((255 * (x + y) / (W + H - 2)).astype(np.uint8))
wide = (ramp.astype(np.uint16) << 8) + 200


def save(name, image, **options):
    image.save(HERE / name, **options)
    expect(name)


def expect(name):
    with Image.open(HERE / name) as image:
        (HERE / f"{name}.rgb").write_bytes(np.asarray(image.convert("RGB")).tobytes())


save("baseline.jpg", rgb, quality=90)
save("full-chroma.jpg", rgb, quality=90, subsampling=0)
save("progressive.jpg", rgb, quality=90, progressive=True)
save("gray.jpg", rgb.convert("L"), quality=90)
save("cmyk.jpg", rgb.convert("CMYK"), quality=90)
# The same samples declared as YCCK: the transform byte of the Adobe marker.
data = bytearray((HERE / "cmyk.jpg").read_bytes())
data[data.index(b"Adobe") + 11] = 2
(HERE / "ycck.jpg").write_bytes(data)
expect("ycck.jpg")
save("rgb.png", rgb)
save("gray.png", rgb.convert("L"))
save("gray-alpha.png", Image.merge("LA", [rgb.convert("L"), alpha]))
save("rgba.png", Image.merge("RGBA", [*rgb.split(), alpha]))
palette = rgb.quantize(16)
save("palette.png", palette, transparency=3)
save("bits.png", rgb.convert("1"))
save("lossless.webp", rgb, lossless=True)
save("rgba.webp", Image.merge("RGBA", [*rgb.split(), alpha]), lossless=True, exact=True)
save("lossy.webp", rgb, quality=90)
# Pillow turns all 16-bit grey above 255 to white; what it does with 16-bit RGB, keep the high byte, is expected of grey too.
Image.fromarray(wide[..., 2]).save(HERE / "gray16.png")
(HERE / "gray16.png.rgb").write_bytes(np.repeat(ramp[..., 2:], 3, -1).tobytes())


def large():
    """Much larger than the input it is turned into: decoded at reduced scale. Expected: full decoding, short side 56, crop 48."""
    y, x = np.mgrid[0:448, 0:640].astype(float)
    waves = [127 + 100 * np.sin(x / a + y / b) for a, b in [(30, 50), (70, 20), (25, 90)]]
    image = Image.fromarray(np.stack(waves, -1).round().astype(np.uint8))
    image.save(HERE / "large.jpg", quality=60)
    image = Image.open(HERE / "large.jpg").resize((80, 56), Image.Resampling.BICUBIC).crop((16, 4, 64, 52))
    (HERE / "large.jpg.rgb").write_bytes(np.asarray(image).tobytes())


large()


def rgb16():
    import struct
    import zlib

    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    head = struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (HERE / "rgb16.png").write_bytes(png)
    expect("rgb16.png")


rgb16()


def resampling():
    """What Pillow makes of rgb.png with every filter, to the sizes of the test in src/data/resample.rs."""
    boxes = [((7, 9), (2.5, 1.25, 17.75, 13)), ((32, 28), (0, 0, 20, 14)), ((5, 40), (3, 2, 19, 12)), ((20, 3), (0, 0, 20, 14))]
    filters = [getattr(Image.Resampling, name) for name in ("BILINEAR", "BICUBIC", "LANCZOS", "NEAREST")]
    resized = [rgb.resize(size, filter, box) for filter in filters for size, box in boxes]
    (HERE / "resampled.rgb").write_bytes(b"".join(np.asarray(image).tobytes() for image in resized))


resampling()
