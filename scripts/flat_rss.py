#!/usr/bin/env python3
"""Whether a run's anonymous resident memory stays where it is after its first steps (Linux).

    scripts/flat_rss.py target/release/foretune --photos DIR [--steps 2000] [--threads 2]

Tunes a random ViT-Tiny at 48 pixels for so many steps, one photo a pass, and reads RssAnon of /proc/PID/status at every
event. Reports it at step 10 and the largest rise and fall from there to the last step.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path


def anonymous(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--photos", required=True, help="a data set in the folder format")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model"
        synth = [options.program, "synth-model", "--arch", "vit_tiny_patch16_224", "--dtype", "f16", "--out", model]
        subprocess.run(synth, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        tune = [options.program, "tune", "--model", model, "--data", options.photos, "--format", "folder"]
        tune += ["--out", f"{folder}/adapter.safetensors", "--image-size", "48", "--batch", "2", "--micro-batch", "1"]
        tune += ["--steps", str(options.steps), "--checkpoint-every", "0", "--eval-every", "0", "--val-fraction", "0"]
        tune += ["--no-eval", "--threads", options.threads, "--json"]
        start, low, high, step = None, 0, 0, 0
        with subprocess.Popen(tune, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                event = json.loads(line)
                if event.get("event") != "step" or event["step"] < 10:
                    continue
                try:
                    step, now = event["step"], anonymous(process.pid)
                except (FileNotFoundError, ProcessLookupError):
                    break
                if now == 0:
                    break
                start = start or now
                low, high = min(low, now - start), max(high, now - start)
        if process.returncode or start is None:
            raise SystemExit(f"the run failed with {process.returncode}")
        print(f"anonymous: {start} bytes at step 10; to step {step} at most {high} more and {-low} less")


if __name__ == "__main__":
    main()
