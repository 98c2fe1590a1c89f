"""Vision Transformers of timm and transformers, cut where prompts enter."""
import torch
import torch.nn.functional as F


class Timm:
    """A timm ViT for images of `image` pixels, in evaluation."""

    def __init__(self, model, image, fused):
        self.model, self.blocks = model, list(model.blocks)
        self.start = 1 if model.cls_token is not None else 0
        for block in self.blocks:
            block.attn.fused_attn = fused
        if tuple(image) != model.patch_embed.img_size:
            model.set_input_size(image)
        self.image = image

    def embed(self, images):
        return self.model.norm_pre(self.model._pos_embed(self.model.patch_embed(images)))

    def finish(self, tokens):
        """Tokens without prompts → (features, head input, logits)."""
        tokens = self.model.norm(tokens)
        features = self.model.forward_head(tokens, pre_logits=True)
        distilled = hasattr(self.model, "head_dist")
        return features, tokens[:, :2].flatten(1) if distilled else features, self.model.forward_head(tokens)


class Transformers:
    """A transformers ViT, DeiT or DINOv2 for images of `image` pixels, in evaluation."""

    def __init__(self, model, image):
        config = model.config
        self.model, self.base = model, getattr(model, model.base_model_prefix)
        self.dino = config.model_type.startswith("dinov2")
        self.blocks = list(self.base.encoder.layer if self.dino else self.base.layers)
        self.image, self.start = image, 1
        self.registers = getattr(config, "num_register_tokens", 0)
        # DINOv2 resizes its position embedding unasked.
        resized = not self.dino and tuple(image) != (config.image_size, config.image_size)
        self.embed_args = {"interpolate_pos_encoding": True} if resized else {}

    def embed(self, images):
        return self.base.embeddings(images, **self.embed_args)

    def finish(self, tokens):
        """Tokens without prompts → (features, head input, logits)."""
        tokens = self.base.layernorm(tokens)
        cls = tokens[:, 0]
        if self.dino:
            both = torch.cat([cls, tokens[:, 1 + self.registers:].mean(1)], 1)
            return cls, both, self.model.classifier(both)
        if hasattr(self.model, "cls_classifier"):
            logits = (self.model.cls_classifier(cls) + self.model.distillation_classifier(tokens[:, 1])) / 2
            return (cls + tokens[:, 1]) / 2, tokens[:, :2].flatten(1), logits
        return cls, cls, self.model.classifier(cls)


def run_block(layer, x):
    x = layer(x)
    return x[0] if isinstance(x, tuple) else x


def enter(net, x, prompts, replace):
    """Tokens [B, T, d], prompts [B, p, d] → tokens with the prompts after the class token."""
    a = net.start
    return torch.cat([x[:, :a], prompts, x[:, a + (prompts.shape[1] if replace else 0):]], 1)


def forward(net, images, prompts, insert_at, deep, run=run_block):
    """Prompts [B, S, p, d] → (features, head input, logits)."""
    x = net.embed(images)
    for i, layer in enumerate(net.blocks):
        s = i - insert_at
        if s == 0 or (s > 0 and deep):
            x = enter(net, x, prompts[:, s], s > 0)
        x = run(layer, x)
    return net.finish(torch.cat([x[:, :net.start], x[:, net.start + prompts.shape[2]:]], 1))


def interpolate_in_f64(original=F.interpolate):
    """Both libraries resize position embeddings in f32 even for f64 models, with a rounding that depends on the
    machine's instruction set. After this call they do not."""

    def interpolate(x, *args, **kwargs):
        return original(x.double(), *args, **kwargs)

    F.interpolate = interpolate
