#!/usr/bin/env python3
"""Trains models/demo, the small ViT that `foretune demo` tunes, from scratch on the demo's own images.

    cargo run --release --example demo_images -- /tmp/demo-images 0 2000
    pip install torch numpy pillow safetensors
    python models/train.py /tmp/demo-images models/demo

The images are as drawn: the model never sees the demo's shift. Everything random comes from SEED.
"""
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

SEED = 0
IMAGE, PATCH, WIDTH, DEPTH, HEADS = 48, 8, 64, 8, 2
EPOCHS, BATCH, LR, WEIGHT_DECAY, LABEL_SMOOTHING = 4, 64, 2e-3, 0.05, 0.05
MEAN, STD = 0.5, 0.5


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, WIDTH))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH, eps=1e-6), Attention()
        self.norm2, self.mlp = nn.LayerNorm(WIDTH, eps=1e-6), Mlp()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """timm's plain ViT: the same tensors under the same names."""

    def __init__(self, classes):
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (IMAGE // PATCH) ** 2, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02 if module is self.head else WIDTH**-0.5)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            for last in (block.attn.proj, block.mlp.fc2):
                nn.init.trunc_normal_(last.weight, std=0.5 * (last.in_features * DEPTH) ** -0.5)

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def read(root):
    """Images [n, 3, H, W] as bytes, labels and whether each is for training, from the layout of CUB-200-2011."""
    def table(name):
        return [line.split(maxsplit=1)[1] for line in (root / name).read_text().splitlines()]

    pixels = np.stack([np.asarray(Image.open(root / "images" / file)) for file in table("images.txt")])
    labels = torch.tensor([int(label) - 1 for label in table("image_class_labels.txt")])
    train = torch.tensor([split == "1" for split in table("train_test_split.txt")])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, train, table("classes.txt")


def normalise(pixels):
    return (pixels.float() / 255 - MEAN) / STD


def augment(pixels, generator):
    """A permutation of the colour channels and shifts of up to 2 pixels with the edge repeated, the same for a batch."""
    dy, dx = torch.randint(0, 5, (2,), generator=generator).tolist()
    padded = F.pad(pixels[:, torch.randperm(3, generator=generator)], (2, 2, 2, 2), mode="replicate")
    return padded[:, :, dy : dy + IMAGE, dx : dx + IMAGE]


@torch.no_grad()
def accuracy(model, pixels, labels):
    model.eval()
    top = torch.cat([model(normalise(part)).argmax(1) for part in pixels.split(500)])
    model.train()
    return (top == labels).float().mean().item()


def main():
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    pixels, labels, train, classes = read(root)
    test_pixels, test_labels, pixels, labels = pixels[~train], labels[~train], pixels[train], labels[train]
    model = VisionTransformer(len(classes))
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(pixels)} images", flush=True)

    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}], lr=LR, betas=(0.9, 0.98))
    steps = EPOCHS * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.08)
    started = time.time()
    for epoch in range(EPOCHS):
        total = 0.0
        order = torch.randperm(len(pixels), generator=generator)[: steps // EPOCHS * BATCH]
        for chosen in order.split(BATCH):
            images = normalise(augment(pixels[chosen], generator))
            loss = F.cross_entropy(model(images), labels[chosen], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / (steps // EPOCHS):.4f}, test {accuracy(model, test_pixels, test_labels):.4f}, "
              f"{time.time() - started:.0f} s", flush=True)

    weights = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    print(f"as stored (f16): test {accuracy(model, test_pixels, test_labels):.4f}")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": len(classes),
        "num_features": WIDTH,
        "global_pool": "token",
        "model_args": {"img_size": IMAGE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS},
        "label_names": classes,
        "pretrained_cfg": {
            "custom_load": False, "input_size": [3, IMAGE, IMAGE], "fixed_input_size": True, "interpolation": "bicubic",
            "crop_pct": 1.0, "crop_mode": "center", "mean": [MEAN] * 3, "std": [STD] * 3, "num_classes": len(classes),
            "pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head", "license": "mit or apache-2.0"},
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
