#!/usr/bin/env python3
"""Visual prompt tuning in PyTorch on a GPU: time and peak memory, beside `foretune bench --device cuda`.

    python benches/peers/torch_gpu.py --batch 64 --dtype bf16

Rows as in torch_vpt.py: forward, backprop, backprop with a checkpoint around every block, and torch.func.jvp with K tangents. Peak
bytes are torch.cuda.max_memory_allocated less what the loaded model takes. First the ceilings: a product of 8192x8192 matrices
and a copy of 2 GiB.
"""
import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/golden"))
import prompted  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CLASSES = 1000


def median(work, rounds):
    """Seconds of `work`, after one run that is not counted."""
    seconds = []
    for i in range(rounds + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if i:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def ceilings(dtype, rounds):
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    flops = 2 * side**3 / median(lambda: a @ b, rounds)
    source = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return {"product_flops_per_second": flops, "copy_bytes_per_second": (2 << 30) / median(lambda: target.copy_(source), rounds)}


def rows(args):
    dtype = DTYPES[args.dtype]
    torch.backends.cuda.matmul.allow_tf32 = False
    images = torch.randn(args.batch, 3, 224, 224, device="cuda", dtype=dtype)
    labels = torch.randint(CLASSES, (args.batch,), device="cuda")
    for name in ["forward", "backprop", "checkpointed backprop", *(f"jvp {k}" for k in args.tangents)]:
        tangents = int(name.removeprefix("jvp ")) if name.startswith("jvp") else 0
        torch.manual_seed(0)
        model = timm.create_model(args.arch, num_classes=CLASSES).to("cuda", dtype).eval().requires_grad_(False)
        # The fused attention has no forward-mode derivative.
        net = prompted.Timm(model, model.patch_embed.img_size, fused=tangents == 0)
        values = 0.1 * torch.randn(args.prompts, model.embed_dim, device="cuda", dtype=dtype)
        each = (args.batch, 1, *values.shape)
        noise = torch.randn(tangents, *each, device="cuda", dtype=dtype)

        def losses(prompts, run=prompted.run_block):
            logits = prompted.forward(net, images, prompts, args.insert_at, False, run)[2]
            return F.cross_entropy(logits.float(), labels, reduction="none")

        def step():
            if name == "forward":
                with torch.inference_mode():
                    return losses(values.expand(each))
            if tangents == 0:
                again = partial(checkpoint, prompted.run_block, use_reentrant=False, preserve_rng_state=False)
                prompts = values.clone().requires_grad_()
                losses(prompts.expand(each), again if "checkpointed" in name else prompted.run_block).mean().backward()
                return prompts.grad
            own = values.expand(each).clone()
            with torch.no_grad():
                return torch.func.vmap(lambda t: torch.func.jvp(losses, (own,), (t,))[1])(noise)

        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        try:
            seconds = median(step, args.rounds)
        except torch.cuda.OutOfMemoryError:
            yield {"row": name, "error": "out of memory"}
            continue
        peak = torch.cuda.max_memory_allocated() - before
        yield {"row": name, "seconds": seconds, "images_per_second": args.batch / seconds, "peak_bytes": peak}
        del net, model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_base_patch16_224", help="timm's name; the weights are random")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--insert-at", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--tangents", type=lambda text: [int(k) for k in text.split(",")], default=[1, 4, 8], metavar="K,K")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "dtype": args.dtype, "batch": args.batch}
    print(json.dumps({**about, **ceilings(DTYPES[args.dtype], args.rounds)}), flush=True)
    for row in rows(args):
        print(json.dumps({**about, **row}), flush=True)


if __name__ == "__main__":
    main()
