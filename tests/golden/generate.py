#!/usr/bin/env python3
"""Generates golden cases in float64 for model families, each a folder that `foretune selftest --case` reads.

    pip install timm==1.0.31 transformers==5.23.0 && python tests/golden/generate.py [CASE…]

A case holds the checkpoint as its library saves it and `case.safetensors` with inputs and expected outputs: see
README.md beside this script. The same script, timm, transformers and torch give the same numbers to about 1e-15.
"""
import json
import sys
from pathlib import Path

import prompted
import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

HERE = Path(__file__).parent
CLASSES, BATCH, TANGENTS, PROMPTS = 5, 2, 2, 2
WIDTH, HEADS, DEPTH = 16, 2, 2


class Timm(prompted.Timm):
    """A random timm ViT."""

    def __init__(self, architecture, image, weights=torch.float32, own_image=None, **model_args):
        own = own_image or image
        model_args = dict(img_size=own, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=2,
                          **model_args)
        self.config = {"architecture": architecture, "num_classes": CLASSES, "model_args": model_args}
        model = timm.create_model(architecture, num_classes=CLASSES, **model_args)
        randomise(model, weights)
        self.saved = {k: v.to(weights).contiguous().clone() for k, v in model.state_dict().items()}
        super().__init__(model.double().eval(), image, fused=False)

    def save(self, folder):
        save_file(self.saved, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")


class Transformers(prompted.Transformers):
    """A random transformers ViT, DeiT or DINOv2."""

    def __init__(self, kind, image, weights=torch.float32, **config):
        config_class, model_class = kind
        config = config_class(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, patch_size=8,
                              num_labels=CLASSES, attn_implementation="sdpa", **config)
        saved = model_class(config)
        randomise(saved, weights)
        self.saved = saved.to(weights)
        model = model_class(config)
        model.load_state_dict({k: v.clone() for k, v in self.saved.state_dict().items()})
        super().__init__(model.double().eval(), image)

    def save(self, folder):
        self.saved.save_pretrained(folder)


def randomise(model, dtype):
    """Every parameter matters: no zeros, no ones; values that `dtype` represents."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "token" not in name and "pos" not in name:
                value = torch.randn_like(parameter) * (parameter[0].numel() ** -0.5)
            elif name.endswith(("gamma", "lambda1")):
                value = 0.5 + 0.2 * torch.randn_like(parameter)
            elif "norm" in name and name.endswith("weight"):
                value = 1 + 0.2 * torch.randn_like(parameter)
            else:
                value = 0.3 * torch.randn_like(parameter)
            parameter.copy_(value.to(dtype).to(parameter.dtype))


def generate(name, make, deep=False, insert_at=0, proto=False):
    torch.manual_seed(int.from_bytes(name.encode(), "big") % 2**31)
    net = make()
    sets = DEPTH - insert_at if deep else 1
    images = torch.randn(BATCH, 3, *net.image)
    labels = torch.arange(BATCH) * 2 % CLASSES
    prompts = 0.5 * torch.randn(sets, PROMPTS, WIDTH)
    tangents = torch.randn(BATCH, TANGENTS, sets, PROMPTS, WIDTH)
    out = {"images": images, "labels": labels, "prompts": prompts, "tangents": tangents}

    def forward(p):
        return prompted.forward(net, images.double(), p, insert_at, deep)

    def losses(p):
        return F.cross_entropy(forward(p)[2], labels, reduction="none")

    own = prompts.double().expand(BATCH, *prompts.shape).clone()

    def derivatives(f):
        each = [torch.func.jvp(f, (own,), (tangents[:, k].double(),))[1] for k in range(TANGENTS)]
        p = own.clone().requires_grad_()
        return torch.stack(each, 1), torch.autograd.grad(f(p).sum(), p)[0]

    with sdpa_kernel(SDPBackend.MATH):
        out["features"], head_input, out["logits"] = (t.detach() for t in forward(own))
        out["losses"] = losses(own).detach()
        out["jvps"], out["grads"] = (t.detach() for t in derivatives(losses))
        if insert_at == 0 and not deep:
            p = own[:, 0].clone().requires_grad_()
            y = prompted.run_block(net.blocks[0], prompted.enter(net, net.embed(images.double()).detach(), p, False))
            out["block0_cot"] = torch.randn(y.shape)
            out["block0_vjp"] = torch.autograd.grad((y * out["block0_cot"].double()).sum(), p)[0].detach()
        if proto:
            out["proto_center"] = torch.randn(head_input.shape[1]) * 0.1
            out["proto_means"] = F.normalize(torch.randn(CLASSES, head_input.shape[1]))
            out["proto_tau"] = torch.tensor([7.5])
            center, means, tau = (out[f"proto_{x}"].double() for x in ("center", "means", "tau"))

            def logits(p):
                return tau * F.normalize(forward(p)[1] - center) @ means.T

            def proto_losses(p):
                return F.cross_entropy(logits(p), labels, reduction="none")

            out["proto_logits"], out["proto_losses"] = logits(own).detach(), proto_losses(own).detach()
            out["proto_jvps"] = derivatives(proto_losses)[0].detach()

    folder = HERE / name
    folder.mkdir(exist_ok=True)
    net.save(folder)
    meta = {"source": "tests/golden/generate.py", "deep": deep, "p": PROMPTS, "K": TANGENTS, "insert_at": insert_at}
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "case.safetensors", {"meta": json.dumps(meta)})
    print(name, sum(f.stat().st_size for f in folder.iterdir()), "bytes")


VIT = (transformers.ViTConfig, transformers.ViTForImageClassification)
DEIT_TEACHER = (transformers.DeiTConfig, transformers.DeiTForImageClassificationWithTeacher)
DINOV2 = (transformers.Dinov2Config, transformers.Dinov2ForImageClassification)
REGISTERS = (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersForImageClassification)

CASES = {
    # Layer scale, no position embedding on the class token, non-square images.
    "timm_deit3": dict(make=lambda: Timm("deit3_small_patch16_224", (16, 24)), deep=True),
    # Norm before the blocks, quick-gelu, eps 1e-5, no patch bias.
    "timm_clip_quickgelu": dict(make=lambda: Timm("vit_base_patch32_clip_quickgelu_224", (16, 16))),
    # Two classifiers on two tokens.
    "timm_deit_distilled": dict(make=lambda: Timm("deit_tiny_distilled_patch16_224", (16, 16)), proto=True),
    # Registers, packed SwiGLU, layer scale, prompts from block 1 on.
    "timm_dinov2_reg4_swiglu": dict(make=lambda: Timm("vit_giant_patch14_reg4_dinov2", (16, 16)), deep=True,
                                    insert_at=1),
    # No class token, registers, patch mean, one norm ahead of pooling.
    "timm_reg4_gap": dict(make=lambda: Timm("vit_betwixt_patch16_reg4_gap_256", (16, 16)), proto=True),
    # No class token, no query/key/value bias.
    "timm_gap": dict(make=lambda: Timm("vit_medium_patch16_gap_256", (16, 16)), deep=True),
    # Antialiased bicubic position embedding, f16 weights.
    "timm_interpolated": dict(make=lambda: Timm("vit_tiny_patch16_224", (16, 24), torch.float16, (32, 32))),
    "hf_vit_relu_no_bias": dict(make=lambda: Transformers(
        VIT, (16, 16), image_size=16, intermediate_size=32, hidden_act="relu", qkv_bias=False)),
    "hf_vit_gelu_tanh_bf16": dict(make=lambda: Transformers(
        VIT, (16, 16), torch.bfloat16, image_size=16, intermediate_size=32, hidden_act="gelu_pytorch_tanh"), deep=True),
    "hf_deit_teacher": dict(make=lambda: Transformers(DEIT_TEACHER, (16, 16), image_size=16, intermediate_size=32)),
    "hf_dinov2_swiglu": dict(make=lambda: Transformers(
        DINOV2, (16, 16), image_size=16, mlp_ratio=2, use_swiglu_ffn=True), proto=True),
    # Bicubic position embedding, not antialiased.
    "hf_dinov2_interpolated": dict(make=lambda: Transformers(DINOV2, (16, 24), image_size=32, mlp_ratio=2), deep=True),
    # Antialiased.
    "hf_dinov2_registers_interpolated": dict(make=lambda: Transformers(
        REGISTERS, (16, 24), image_size=32, mlp_ratio=2, num_register_tokens=3)),
}

if __name__ == "__main__":
    prompted.interpolate_in_f64()
    for case in sys.argv[1:] or CASES:
        generate(case, **CASES[case])
