#!/usr/bin/env python3
"""Speed and memory of visual prompt tuning in PyTorch on the CPU, in the columns of `foretune bench` (Linux).

    python benches/peers/torch_vpt.py --arch vit_base_patch16_224 --batch 8 --threads 2

Every row runs in a process of its own. README.md beside this script says what the columns mean.
"""
import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden"))
import prompted  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
CLASSES = 1000
LIBC = ctypes.CDLL(None)
M_MMAP_THRESHOLD = -3  # malloc.h


class Row:
    """One model, one kind of pass: `forward`, `backprop`, `checkpointed backprop` or `jvp K`."""

    def __init__(self, name, args):
        torch.manual_seed(0)
        self.name, self.args = name, args
        self.tangents = int(name.removeprefix("jvp ")) if name.startswith("jvp") else 0
        model = timm.create_model(args.arch, num_classes=CLASSES).to(DTYPES[args.dtype]).eval().requires_grad_(False)
        # The fused attention has no forward-mode derivative.
        self.net = prompted.Timm(model, model.patch_embed.img_size, fused=self.tangents == 0)
        self.prompts = 0.1 * torch.randn(args.prompts, model.embed_dim, dtype=DTYPES[args.dtype])

    def losses(self, images, labels, prompts, run=prompted.run_block):
        """Each example's own loss, with prompts [B, 1, p, d]."""
        logits = prompted.forward(self.net, images, prompts, self.args.insert_at, False, run)[2]
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def step(self, images, labels, tangents):
        each = (len(images), 1, *self.prompts.shape)
        if self.name == "forward":
            with torch.inference_mode():
                return self.losses(images, labels, self.prompts.expand(each))
        if self.tangents == 0:
            again = partial(checkpoint, prompted.run_block, use_reentrant=False, preserve_rng_state=False)
            run = again if self.name.startswith("checkpointed") else prompted.run_block
            prompts = self.prompts.clone().requires_grad_()
            self.losses(images, labels, prompts.expand(each), run).mean().backward()
            return prompts.grad
        own = self.prompts.expand(each).clone()

        def derivatives(tangent):
            return torch.func.jvp(lambda p: self.losses(images, labels, p), (own,), (tangent,))[1]

        with torch.no_grad():
            if self.args.jvp == "vmap":
                return torch.func.vmap(derivatives)(tangents)
            return torch.stack([derivatives(tangent) for tangent in tangents])

    def inputs(self, batch):
        images = torch.randn(batch, 3, *self.net.image).to(self.prompts.dtype)
        tangents = torch.randn(self.tangents, batch, 1, *self.prompts.shape).to(self.prompts.dtype)
        return images, torch.randint(CLASSES, (batch,)), tangents

    def gflop(self):
        """Of one image: 2 per multiplication and addition in patch embedding, linear layers of blocks and attention.

        Norms, activations and the head are left out, as in src/encoder/flops.rs, and so is what is computed to no
        use: scores again in the fused backward pass, products with the zero tangents of frozen weights in a JVP.
        Frozen weights need no gradient, so backward through a linear layer costs one forward, through attention two;
        a tangent costs the same. A checkpointed block runs again up to its last linear layer. One pass per tangent
        repeats the primal.
        """
        model, ahead = self.net.model, self.args.insert_at
        patches = model.patch_embed.num_patches
        own = patches + model.num_prefix_tokens
        tokens = [own + (self.args.prompts if i >= ahead else 0) for i in range(len(self.net.blocks))]
        linear = [2 * t * sum(m.weight.numel() for m in block.modules() if isinstance(m, torch.nn.Linear))
                  for block, t in zip(self.net.blocks, tokens)]
        attention = [4 * t * t * block.attn.num_heads * block.attn.head_dim
                     for block, t in zip(self.net.blocks, tokens)]
        forward = 2 * patches * model.patch_embed.proj.weight.numel() + sum(linear) + sum(attention)
        derivative = sum(linear[ahead:]) + 2 * sum(attention[ahead:])
        again = sum(linear[ahead:]) + sum(attention[ahead:]) - sum(
            2 * t * block.mlp.fc2.weight.numel() for block, t in zip(self.net.blocks[ahead:], tokens[ahead:]))
        passes = self.tangents if self.args.jvp == "loop" and self.tangents else 1
        derivatives = self.tangents or self.name.endswith("backprop")
        return (passes * forward + derivatives * derivative + self.name.startswith("checkpointed") * again) / 1e9


def resident(key):
    """Bytes of `key` in this process's status."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key + ":"))


def measure(name, args, rounds, trim):
    """In a process of its own → (seconds of every round, peak bytes beyond weights, GFLOP an image)."""
    if trim:
        LIBC.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    torch.set_num_threads(args.threads)
    row = Row(name, args)
    # After one image, code, thread pools and caches of the libraries are in place; what it left free goes back.
    row.step(*row.inputs(1))
    gc.collect()
    LIBC.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS.
    before = resident("VmRSS")
    inputs = row.inputs(args.batch)
    row.step(*inputs)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        row.step(*inputs)
        seconds.append(time.perf_counter() - start)
    return seconds, resident("VmHWM") - before, row.gflop()


def main():
    def numbers(text):
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_base_patch16_224", help="timm's name; the weights are random")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--insert-at", type=int, default=0, help="block that the prompts enter")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--tangents", type=numbers, default=[1, 2, 4, 8], metavar="K,K…")
    parser.add_argument("--jvp", choices=["vmap", "loop"], default="vmap", help="all tangents in a pass, or one")
    parser.add_argument("--rows", default="forward,backprop,checkpointed backprop,jvp", metavar="ROW,ROW…")
    parser.add_argument("--rounds", type=int, default=5, help="times are medians over rounds, after one to warm up")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    known = ["forward", "backprop", "checkpointed backprop", "jvp"]
    kinds = args.rows.split(",")
    if unknown := [kind for kind in kinds if kind not in known]:
        parser.error(f"--rows: {unknown[0]!r} is none of {', '.join(known)}")
    names = [name for kind in kinds for name in ([f"jvp {k}" for k in args.tangents] if kind == "jvp" else [kind])]
    about = f"PyTorch {torch.__version__}, timm {timm.__version__}"
    if not args.json:
        print(f"{about} · {args.arch} · {args.dtype} · batch {args.batch} · {args.prompts} prompts at block "
              f"{args.insert_at} · {args.threads} threads · jvp by {args.jvp}, unfused attention")
        print(f"{'':24}{'images/s':>10}{'ms/image':>10}{'GFLOP/s':>10}{'peak MiB':>10}{'trimmed':>10}{'ratio':>8}")
    forward = None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for name in names:
            rounds, peak, gflop = processes.submit(measure, name, args, args.rounds, False).result()
            trimmed = processes.submit(measure, name, args, 0, True).result()[1]
            seconds = statistics.median(rounds)
            forward = seconds if name == "forward" else forward
            ratio = seconds / forward if forward else None
            rate = args.batch / seconds
            if args.json:
                row = {"name": name, "images_per_s": rate, "ms_per_image": 1e3 / rate, "gflop_per_s": gflop * rate,
                       "peak_bytes": peak, "peak_bytes_trimmed": trimmed, "ratio_to_forward": ratio, "backend": about}
                options = {key: value for key, value in vars(args).items() if key not in ("json", "rows", "tangents")}
                print(json.dumps({**row, **options}), flush=True)
            else:
                cells = [rate, 1e3 / rate, gflop * rate, peak / 2**20, trimmed / 2**20]
                print(f"{name:24}" + "".join(f"{cell:10.1f}" for cell in cells)
                      + (f"{ratio:8.2f}" if ratio else f"{'–':>8}"), flush=True)


if __name__ == "__main__":
    main()
