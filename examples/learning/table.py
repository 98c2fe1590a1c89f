#!/usr/bin/env python3
"""table.py DIR...: the summaries that `foretune compare` left in these folders, as one Markdown table."""

import json
import os
import sys


def spread(value, digits, scale=1.0):
    if value is None:
        return "–"
    text = f"{scale * value['mean']:.{digits}f}"
    return text if value["sd"] is None else f"{text} ± {scale * value['sd']:.{digits}f}"


print("| data | method | lr | test loss | test accuracy, % | share of the exact gradient's reduction | forwards a step |")
print("|---|---|---|---|---|---|---|")
for folder in sys.argv[1:]:
    with open(os.path.join(folder, "compare.json"), encoding="utf-8") as file:
        rows = json.load(file)["methods"]
    for row in rows:
        lr, forwards = row["lr"], row["forwards_per_step"]
        cells = [
            os.path.basename(os.path.normpath(folder)),
            row["method"],
            "–" if lr is None else f"{lr:g}",
            spread(row["test_loss"], 3),
            spread(row["test_accuracy"], 1, 100.0),
            spread(row["share"], 2),
            "–" if forwards is None else f"{forwards:g}",
        ]
        print("|", " | ".join(cells), "|")
