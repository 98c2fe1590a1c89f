"""Teaches a model four classes of small frames, and classifies frames it has not seen: tune.py MODEL_FOLDER [ADAPTER].

../cpp/main.cpp does the same, and their adapters are equal byte for byte.
"""

import math
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import foretune

CLASSES, WIDTH, HEIGHT, BATCH, STEPS = 4, 40, 32, 8, 20
# Frames of each class to learn from, and in all.
KNOWN, ALL = 8, 12


def frame(c, i):
    """Channel `channel` at x, y in frame i of class c is
    (x * (3 + c * 5) + y * (7 + c * 2) + channel * 61 + i * 29 + c * 83) modulo 256."""
    pixels = bytes(
        (x * (3 + c * 5) + y * (7 + c * 2) + channel * 61 + i * 29 + c * 83) & 255
        for y in range(HEIGHT)
        for x in range(WIDTH)
        for channel in range(3)
    )
    return foretune.Image(pixels, WIDTH, HEIGHT)


def frames(first, last):
    """Frames `first` to `last` - 1 of every class, and their labels."""
    images = [frame(c, i) for i in range(first, last) for c in range(CLASSES)]
    return images, list(range(CLASSES)) * (last - first)


def score(logits, labels):
    """Mean cross entropy in nats, and the share whose top class is the label."""
    loss, right = 0.0, 0
    for row, label in zip(logits, labels):
        top = max(row)
        loss += math.log(sum(math.exp(value - top) for value in row)) + top - row[label]
        right += row.index(top) == label
    return loss / len(labels), right / len(labels)


def learn(session, adapter_file):
    """Teaches the session; the adapter's bytes."""
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    passes = 0

    def progress(done, total):
        nonlocal passes
        passes += 1
        return not interrupted.is_set()

    session.set_progress(progress)
    images, labels = frames(0, KNOWN)
    for c in range(CLASSES):
        session.add_class(f"class {c}")
    for c in range(CLASSES):
        session.add_examples(images[c : c + 1], labels[c : c + 1])
    session.fit_head(images, labels)
    loss, accuracy = score(session.predict(images), labels)
    print(f"before: loss {loss:.4f}, accuracy {accuracy:.3f}")

    for step in range(STEPS):
        first = step * BATCH % len(images)
        metrics = session.step(images[first : first + BATCH], labels[first : first + BATCH])
        print(f"step {step + 1:2}: loss {metrics.loss:.4f}")
    loss, accuracy = score(session.predict(images), labels)
    print(f"after: loss {loss:.4f}, accuracy {accuracy:.3f}, in {passes} passes")
    signal.signal(signal.SIGINT, signal.default_int_handler)

    adapter = session.adapter_bytes()
    print(f"the adapter has {len(adapter)} bytes")
    if adapter_file is not None:
        session.save_adapter(adapter_file)
    return adapter


def run(model_folder, adapter_file):
    print(foretune.build_info())
    with foretune.Model(model_folder) as model:
        options = foretune.session_options(
            device=foretune.DEVICE_CPU,
            threads=1,
            insert_at=1,
            prompts=2,
            tangents=2,
            batch=BATCH,
            steps=STEPS,
            lr=0.05,
            seed=7,
        )
        print(f"the session needs {foretune.plan_bytes(model, options, CLASSES)} bytes")
        with foretune.Session(model, options) as session:
            adapter = learn(session, adapter_file)

        with foretune.Predictor(model, adapter, slots=2) as predictor, ThreadPoolExecutor(2) as pool:

            def classify(first, last):
                images, labels = frames(first, last)
                return score(predictor.predict(images), labels)[1]

            half = (KNOWN + ALL) // 2
            one, other = pool.submit(classify, KNOWN, half), pool.submit(classify, half, ALL)
            print(f"unseen frames: accuracy {one.result():.3f} and {other.result():.3f}")


def main():
    if len(sys.argv) not in (2, 3):
        print("usage: tune.py MODEL_FOLDER [ADAPTER]", file=sys.stderr)
        return 2
    try:
        run(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None)
    except foretune.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
