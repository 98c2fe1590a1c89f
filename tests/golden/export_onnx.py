#!/usr/bin/env python3
"""Exports golden cases to ONNX as users do: with both of PyTorch's exporters, and with optimum's.

    pip install torch==2.11.0 timm==1.0.31 transformers==5.23.0 onnx==1.23.2 onnxscript==0.7.2
    python tests/golden/export_onnx.py [NAME…]

optimum asks for an older transformers, so that its exports are made in an environment of their own:

    pip install torch==2.8.0 'optimum-onnx[onnxruntime]==0.1.0' 'transformers<4.58' timm==1.0.31
    python tests/golden/export_onnx.py hf_vit_relu_no_bias.optimum hf_dinov2_swiglu.optimum

Writes onnx/NAME.onnx beside this script. The same checkpoints as in the cases' folders, at their images' size.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import onnx
import timm
import torch
import transformers
from safetensors.torch import load_file

HERE = Path(__file__).parent


class Logits(torch.nn.Module):
    def __init__(self, model, **arguments):
        super().__init__()
        self.model, self.arguments = model, arguments

    def forward(self, pixel_values):
        return self.model(pixel_values, **self.arguments).logits


def images(case):
    return load_file(HERE / case / "case.safetensors")["images"]


def load(case, fused=True, attention="sdpa"):
    """The model of a case as a module from images to logits."""
    config = json.loads((HERE / case / "config.json").read_text())
    size = tuple(images(case).shape[2:])
    if "architecture" in config:
        model = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
        model.load_state_dict(load_file(HERE / case / "model.safetensors"))
        if size != tuple(model.patch_embed.img_size):
            model.set_input_size(size)
        for block in model.blocks:
            block.attn.fused_attn = fused
        return model.eval()
    kind = getattr(transformers, config["architectures"][0])
    model = kind.from_pretrained(HERE / case, attn_implementation=attention, dtype=torch.float32).eval()
    resized = not config["model_type"].startswith("dinov2") and size != (config["image_size"],) * 2
    return Logits(model, **({"interpolate_pos_encoding": True} if resized else {}))


def export(name, case, dynamo=False, opset=17, dynamic=True, half=False, folder=HERE / "onnx", **how):
    model, inputs = load(case, **how), images(case)
    if half:
        model, inputs = model.half(), inputs.half()
    path = folder / f"{name}.onnx"
    folder.mkdir(exist_ok=True)
    names = dict(input_names=["pixel_values"], output_names=["logits"], opset_version=opset)
    if dynamo:
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        torch.onnx.export(model, (inputs,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, **names)
    else:
        axes = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}} if dynamic else None
        torch.onnx.export(model, (inputs,), path, dynamo=False, dynamic_axes=axes, **names)
    strip(path)
    print(name, path.stat().st_size, "bytes")


def strip(path):
    """Leaves out what names the lines of Python that made a node: most of a small file."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.value_info[:]
    onnx.save(model, path)


def optimum(name, case, folder=HERE / "onnx"):
    """As `optimum-cli export onnx` does it, for images of any size."""
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "model", Path(temporary) / "out"
        shutil.copytree(HERE / case, source)
        height, width = images(case).shape[2:]
        size = {"height": height, "width": width}
        processor = {"image_processor_type": "BitImageProcessor", "size": size, "crop_size": size}
        (source / "preprocessor_config.json").write_text(json.dumps(processor))
        main_export(str(source), out, task="image-classification", do_validation=False)
        path = folder / f"{name}.onnx"
        shutil.copy(out / "model.onnx", path)
    strip(path)
    print(name, path.stat().st_size, "bytes")


# Each has something that no other has.
EXPORTS = {
    # Layer norms in parts, tanh gelu.
    "hf_vit_gelu_tanh_bf16.script14": dict(case="hf_vit_gelu_tanh_bf16", opset=14),
    # Quick-gelu, norm ahead of the blocks.
    "timm_clip_quickgelu.script17": dict(case="timm_clip_quickgelu"),
    # Queries scaled, mean of the patches.
    "timm_reg4_gap.script17": dict(case="timm_reg4_gap", fused=False),
    # Two classifiers.
    "timm_deit_distilled.dynamo18": dict(case="timm_deit_distilled", dynamo=True, opset=18),
    # Packed SwiGLU.
    "timm_dinov2_reg4_swiglu.dynamo18": dict(case="timm_dinov2_reg4_swiglu", dynamo=True, opset=18),
    # Class tokens repeated for a fixed batch, Gelu as one operator.
    "timm_deit3.dynamo20": dict(case="timm_deit3", dynamo=True, opset=20, dynamic=False),
    # Attention as one operator.
    "timm_gap.dynamo23": dict(case="timm_gap", dynamo=True, opset=23),
    # A mask that hides nothing.
    "hf_deit_teacher.dynamo18": dict(case="hf_deit_teacher", dynamo=True, opset=18),
    # Registers between position embeddings.
    "hf_dinov2_registers_interpolated.dynamo18": dict(case="hf_dinov2_registers_interpolated", dynamo=True, opset=18),
}
# Images of any size; a position embedding that is resized to the size that it has; SwiGLU in two layers.
OPTIMUM = {"hf_vit_relu_no_bias.optimum": "hf_vit_relu_no_bias", "hf_dinov2_swiglu.optimum": "hf_dinov2_swiglu"}

if __name__ == "__main__":
    for name in sys.argv[1:] or EXPORTS:
        if name in OPTIMUM:
            optimum(name, OPTIMUM[name])
        else:
            export(name, **EXPORTS[name])
