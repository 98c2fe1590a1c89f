//! What a checkpoint's configuration and tensors together say about its model.

use super::spec::{Activation, ModelSpec};
use super::{Family, LoadOptions};
use crate::weights::{Arrangement, Facts, Parts, PositionLayout, PositionResize};
use crate::{Error, Result};

/// Advice when a configuration and tensors disagree.
pub(super) const FETCH_OWN: &str = "use the config.json that belongs to this checkpoint";

/// Advice when only the image size disagrees.
pub(super) const RUN_AT: &str = "to run at another size leave config.json as it is and pass --image-size";

/// Larger images than this are refused before their position table is allocated.
const MAX_SIDE: usize = 8192;

/// A model ready to be assembled.
pub(super) struct Described {
    pub family: Family,
    /// `image` is the checkpoint's own.
    pub spec: ModelSpec,
    pub arrangement: Arrangement,
}

/// transformers' and timm's names of the supported activations.
pub(super) fn activation(name: &str) -> Option<Activation> {
    Some(match name {
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_tanh" => {
            Activation::GeluTanh
        }
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        _ => return None,
    })
}

/// Heads of a model whose configuration does not say: the user's number, or that of released ViTs of this width.
pub(super) fn heads_by_convention(parts: &Parts, width: usize, options: &LoadOptions) -> Result<usize> {
    if let Some(heads) = options.heads {
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::Options(format!("--heads {heads} does not divide this model's width {width}")));
        }
        return Ok(heads);
    }
    match width {
        192 | 384 | 768 | 1024 => Ok(width / 64),
        1280 => Ok(width / 80),
        _ => Err(Error::Options(format!(
            "{}: the number of attention heads cannot be told from a width of {width}; \
             put the model's config.json beside it or pass --heads N",
            parts.checkpoint().path().display()
        ))),
    }
}

/// Fails when the user's `--heads` contradicts the configuration's.
pub(super) fn check_heads(heads: usize, width: usize, options: &LoadOptions) -> Result<(), String> {
    if let Some(asked) = options.heads.filter(|asked| *asked != heads) {
        return Err(format!("says the model has {heads} attention heads, but --heads {asked} was given; drop --heads"));
    }
    if !width.is_multiple_of(heads) {
        return Err(format!("gives the model {heads} attention heads, which do not divide its width {width}"));
    }
    Ok(())
}

/// Patches along both axes.
pub(super) fn grid(image: [usize; 2], patch: [usize; 2]) -> [usize; 2] {
    [image[0] / patch[0], image[1] / patch[1]]
}

/// The position table of a model without configuration: which tokens it covers and its grid, from its row count.
pub(super) fn infer_positions(
    parts: &Parts,
    facts: &Facts,
    resize: PositionResize,
    options: &LoadOptions,
) -> Result<Option<PositionLayout>> {
    if facts.position.is_none() {
        return Ok(None);
    }
    let class = usize::from(facts.class_token);
    // All prefix tokens (the usual), none (deit3), or the class token alone (DINOv2 with registers).
    let candidates = [(class, facts.extra_tokens()), (0, 0), (class, 0)];
    let layout = |(class, extra): (usize, usize), grid| PositionLayout {
        grid,
        covers_class: class == 1,
        covers_extra: extra,
        resize,
    };
    for candidate in candidates {
        if let Some(rest) = facts.positions.checked_sub(candidate.0 + candidate.1) {
            let side = rest.isqrt();
            if side > 0 && side * side == rest {
                return Ok(Some(layout(candidate, [side, side])));
            }
        }
    }
    if let Some(image) = options.image {
        let grid = grid(image, facts.patch);
        for candidate in candidates {
            if grid[0].checked_mul(grid[1]).is_some_and(|n| n + candidate.0 + candidate.1 == facts.positions) {
                return Ok(Some(layout(candidate, grid)));
            }
        }
    }
    Err(Error::Options(format!(
        "{}: the image size cannot be told from {} position embeddings; \
         put the model's config.json beside it or pass the size it was trained at with --image-size HEIGHTxWIDTH",
        parts.checkpoint().path().display(),
        facts.positions
    )))
}

/// The image size to run at: the user's if given.
pub(super) fn choose_image(own: [usize; 2], patch: [usize; 2], options: &LoadOptions) -> Result<[usize; 2]> {
    let Some(image) = options.image else { return Ok(own) };
    for (side, patch) in image.into_iter().zip(patch) {
        if side == 0 || !side.is_multiple_of(patch) || side > MAX_SIDE {
            return Err(Error::Options(format!(
                "image size {}x{}: each side must be a multiple of the model's patch ({}x{}), at most {MAX_SIDE}",
                image[0], image[1], patch, patch
            )));
        }
    }
    Ok(image)
}
