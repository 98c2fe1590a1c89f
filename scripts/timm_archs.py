#!/usr/bin/env python3
"""Writes src/model/timm_archs.json: what timm builds for each plain-ViT architecture name.

Run with the timm release whose defaults should be followed (1.0.31 for the committed file):

    pip install timm==1.0.31 && python scripts/timm_archs.py > src/model/timm_archs.json

Each entry holds the constructor arguments that differ from VisionTransformer's own defaults (`args`, the same names that
`model_args` in a config.json overrides), and the default pretrained configuration where it differs from timm's ViT
default (`cfg`). Architectures Foretune cannot run carry a reason in `unsupported`.
"""
import functools
import json

import timm
import timm.models.deit as deit
import timm.models.vision_transformer as vit
import torch.nn as nn
from timm.layers import GluMlp, LayerNorm, SwiGLU

CFG_DEFAULT = dict(input_size=(3, 224, 224), interpolation="bicubic", crop_pct=0.9, crop_mode="center",
                   mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Captured(Exception):
    pass


def capture(variant, pretrained=False, distilled=False, **kwargs):
    raise Captured(variant, distilled, kwargs)


vit._create_vision_transformer = capture
deit._create_deit = capture


def norm(value):
    """(eps, reason it is not supported)."""
    if value is None:
        return None, None
    if isinstance(value, str):
        return (None, None) if value == "layernorm" else (None, f"{value} norms")
    inner = value.func if isinstance(value, functools.partial) else value
    if inner is nn.LayerNorm:
        return 1e-5, None
    if inner is not LayerNorm:
        return None, f"{inner.__name__} norms"
    keywords = value.keywords if isinstance(value, functools.partial) else {}
    return keywords.get("eps"), None


def describe(kwargs, distilled):
    args, reasons = {}, []
    for key, value in kwargs.items():
        if key in ("class_token", "embed_dim", "depth", "num_heads", "patch_size", "img_size", "qkv_bias", "proj_bias",
                   "mlp_ratio", "global_pool", "fc_norm", "final_norm", "pre_norm", "no_embed_class", "reg_tokens",
                   "init_values", "pos_embed", "in_chans", "num_classes"):
            args[key] = value
        elif key == "act_layer":
            args[key] = value if isinstance(value, str) else {nn.SiLU: "silu", nn.GELU: "gelu", nn.ReLU: "relu"}[value]
        elif key == "norm_layer":
            eps, reason = norm(value)
            if eps is not None:
                args["norm_eps"] = eps
            if reason:
                reasons.append(reason)
        elif key == "mlp_layer":
            if isinstance(value, functools.partial) and value.func is GluMlp and value.keywords == dict(
                    act_layer=nn.SiLU, gate_last=False):
                args[key] = "swiglu_packed"
            elif value is SwiGLU:
                args[key] = "swiglu"
            else:
                reasons.append(f"{value} MLP")
        elif key == "block_fn":
            reasons.append(f"{value.__name__} blocks")
        elif key in ("embed_layer", "embed_norm_layer"):
            reasons.append(f"another patch embedding ({key})")
        elif key in ("qk_norm", "scale_attn_norm", "scale_mlp_norm", "pool_include_prefix") and value:
            reasons.append(key)
        elif key == "attn_layer":
            reasons.append(f"{value} attention")
    if args.get("global_pool", "token") not in ("token", "avg"):
        # SigLIP and other attention-pooled towers; their weights are in `attn_pool`.
        reasons.append(f"{args['global_pool']} pooling")
    if distilled:
        args["distilled"] = True
    return args, reasons


def config(name):
    cfg = timm.get_pretrained_cfg(name)
    found = {}
    for key, default in CFG_DEFAULT.items():
        value = getattr(cfg, key)
        if value is not None and tuple_of(value) != tuple_of(default):
            found[key] = value
    return found


def tuple_of(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value


def main():
    table = {}
    for module in (vit, deit):
        for name in sorted(timm.list_models(module=module.__name__.split(".")[-1])):
            try:
                getattr(module, name)()
            except Captured as captured:
                variant, distilled, kwargs = captured.args
            args, reasons = describe(kwargs, distilled)
            entry = {"args": args}
            cfg = config(name)
            if cfg:
                entry["cfg"] = cfg
            if reasons:
                entry["unsupported"] = ", ".join(reasons)
            table[name] = entry
    lines = [f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in sorted(table.items())]
    print("{\n" + ",\n".join(lines) + "\n}")


main()
