#!/usr/bin/env python3
"""Classifies images with a model that `foretune export` wrote, and nothing of Foretune: onnxruntime, numpy and Pillow.

    foretune export --model models/demo --adapter adapter.safetensors --with-preprocessing --out tuned.onnx
    examples/onnx/predict.py tuned.onnx photo.jpg

Prints a line of JSON per image. --check has the file looked over by the onnx package first."""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS, "nearest": Image.NEAREST}


def prepared(image, preprocess):
    """What the graph does itself where it was exported with its preprocessing: [1, 3, H, W]."""
    width, height = image.size
    resize, (rows, columns) = preprocess["resize"], preprocess["crop"]
    if "exact" in resize:
        size = tuple(reversed(resize["exact"]))
    else:
        side, short = resize["short_side"], min(width, height)
        size = (side * width // short, side * height // short)
    image = image.resize(size, FILTERS[preprocess["interpolation"]])
    left, top = round((size[0] - columns) / 2), round((size[1] - rows) / 2)
    pixels = np.asarray(image.crop((left, top, left + columns, top + rows)), np.float32) / 255
    pixels = (pixels - np.float32(preprocess["mean"])) / np.float32(preprocess["std"])
    return pixels.transpose(2, 0, 1)[None]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        import onnx

        onnx.checker.check_model(arguments.model, full_check=True)
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names, preprocess = json.loads(metadata["class_names"]), json.loads(metadata["preprocess"])
    name = session.get_inputs()[0].name
    for path in arguments.images:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        # Bytes where the graph prepares images itself.
        value = np.asarray(image)[None] if name == "image" else prepared(image, preprocess)
        (logits,) = session.run(["logits"], {name: value})
        best = int(logits[0].argmax())
        label = names[best] if names else str(best)
        print(json.dumps({"path": path, "class_id": best, "name": label, "score": float(logits[0][best])}))


if __name__ == "__main__":
    main()
