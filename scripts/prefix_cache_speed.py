#!/usr/bin/env python3
"""What a prefix cache gains: images per second of training without one, while it is filled, and from it.

    scripts/prefix_cache_speed.py target/release/foretune --model DIR --data DIR --format cub [--insert-at 6] [--rounds 3] [tune's]

Prints medians over the rounds, which take turns, and the gain beside the one that the FLOPs of the skipped blocks predict
(`foretune plan --json`). What is kept is not decoded either: the gain is larger where decoding is what takes the time. A linear
head, so that no pass ahead of the first step fills the cache. Other options are handed on to `tune`.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path


def result(command):
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--image-size", help="pixels, the checkpoint's if left out")
    parser.add_argument("--insert-at", default="6")
    parser.add_argument("--tangents", default="1")
    parser.add_argument("--prompts", default="4")
    parser.add_argument("--epochs", default="1")
    parser.add_argument("--rounds", type=int, default=3)
    options, more = parser.parse_known_args()
    model = ["--model", options.model, *(["--image-size", options.image_size] if options.image_size else [])]
    method = ["--insert-at", options.insert_at, "--tangents", options.tangents, "--prompts", options.prompts]
    plan = [options.program, "plan", *model, *method, "--json", *[a for a in more if a == "--deep"]]
    flops = result(plan)["flops_per_image"]
    predicted = flops["pass"] / (flops["pass"] - flops["ahead_of_prompts"])
    speeds = {"off": [], "cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        tune = [options.program, "tune", *model, *method, "--data", options.data, "--format", options.format]
        tune += ["--epochs", options.epochs, "--head", "linear", "--augment", "none", "--val-fraction", "0", "--eval-every", "0"]
        tune += ["--checkpoint-every", "0", "--no-eval", "--json", "--out", f"{folder}/adapter.safetensors", *more]
        adapters = set()
        for _ in range(options.rounds):
            cache = Path(folder, "cache")
            shutil.rmtree(cache, ignore_errors=True)
            for name, where in [("off", "off"), ("cold", cache), ("warm", cache)]:
                speeds[name].append(result([*tune, "--prefix-cache", str(where)])["images_per_second"])
                if name != "off":
                    adapters.add(Path(folder, "adapter.safetensors").read_bytes())
            kept = sum(file.stat().st_size for file in cache.iterdir())
        assert len(adapters) == 1, "cold and warm runs gave different adapters"
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    for name, found in speeds.items():
        print(f"{name:5} {medians[name]:8.2f} images/s   ({', '.join(f'{speed:.2f}' for speed in found)})")
    print(f"warm is {medians['warm'] / medians['off']:.2f} times as fast as off; the skipped blocks predict {predicted:.2f}")
    print(f"the cache takes {kept} bytes; cold and warm runs gave the same adapter")


if __name__ == "__main__":
    main()
