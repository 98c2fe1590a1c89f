//! Models: opened, asked, shared.

use crate::argument::{self, versioned};
use crate::guard::{call, destroy};
use crate::output::Texts;
use crate::status::{Result, foretune_status};
use foretune::data::{Interpolation, Preprocess, Resize};
use foretune::{LoadOptions, Model};
use std::ffi::c_char;
use std::path::Path;

/// A pretrained Vision Transformer: read-only, shared by any number of sessions, predictors and threads, which keep what they need of
/// it when it is destroyed.
pub struct foretune_model {
    pub(crate) model: Model,
    names: Texts,
}

/// What to open a model with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_model_options {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// Image height to run at, pixels, a multiple of the patch's; 0 (both) for the model's own.
    pub image_height: u32,
    /// Image width.
    pub image_width: u32,
    /// Attention heads, where the checkpoint does not say; else 0.
    pub heads: u32,
    /// Zero.
    pub reserved: u32,
}

/// What a model is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_model_spec {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// Image height, pixels.
    pub image_height: u32,
    /// Image width, pixels.
    pub image_width: u32,
    /// Patch height, pixels.
    pub patch_height: u32,
    /// Patch width, pixels.
    pub patch_width: u32,
    /// Blocks L.
    pub depth: u32,
    /// Width d of a token.
    pub width: u32,
    /// Attention heads h.
    pub heads: u32,
    /// Tokens T without prompts.
    pub tokens: u32,
    /// Values D that a head reads.
    pub head_width: u32,
    /// Classes C of the checkpoint's own classifier; 0 without one.
    pub classes: u32,
}

/// How images must be prepared, which the library does with pixels, and the host where it hands over normalised values: resize, centre
/// crop to `crop_height`×`crop_width`, divide by 255, subtract `mean`, divide by `std`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_preprocess {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// Height that the encoder reads, pixels.
    pub crop_height: u32,
    /// Width that the encoder reads, pixels.
    pub crop_width: u32,
    /// Short side to resize to, aspect kept; 0: both sides, to the next two.
    pub resize_short_side: u32,
    /// Height to resize to, aspect ignored, where the short side is 0.
    pub resize_height: u32,
    /// Width to resize to, aspect ignored, where the short side is 0.
    pub resize_width: u32,
    /// 0 bilinear, 1 bicubic, 2 Lanczos, 3 nearest; antialiased when shrinking, as in Pillow.
    pub interpolation: u32,
    /// Of red, green and blue.
    pub mean: [f32; 3],
    /// Of red, green and blue.
    pub std: [f32; 3],
}

versioned!(foretune_model_options, foretune_model_spec, foretune_preprocess);

/// Bytes that the host keeps.
struct HostBytes(&'static [u8]);

impl AsRef<[u8]> for HostBytes {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

/// Opens the checkpoint at `path`: a folder, a safetensors file or a shard index, in timm's or transformers' names; or an ONNX file of such
/// a model. Weights stay mapped in the file and are read when they are used, but for those that an ONNX file has transposed, which are
/// held in memory. `options`: null for the defaults. `*model` is the caller's to destroy. Any thread.
///
/// Errors: `FORETUNE_IO`, `FORETUNE_BAD_MODEL`, `FORETUNE_BAD_OPTIONS`, `FORETUNE_INVALID_ARGUMENT`; `*model` is null then.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_model_open(
    path: *const c_char,
    options: *const foretune_model_options,
    model: *mut *mut foretune_model,
) -> foretune_status {
    call(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let out = argument::output("model", model)?.write(std::ptr::null_mut());
            let path = argument::text("path", path)?;
            *out = handle(Model::open(Path::new(path), &load_options(options)?)?);
        }
        Ok(())
    })
}

/// As `foretune_model_open`, from a safetensors file in memory: `weights` of `weights_size` bytes, and its `config.json`, or null and 0.
/// The weights are not copied: they must stay as they are until the model and every session and predictor made from it are
/// destroyed. `config` is needed during the call only. Any thread.
///
/// # Safety
/// As above; other pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_model_open_memory(
    weights: *const u8,
    weights_size: usize,
    config: *const u8,
    config_size: usize,
    options: *const foretune_model_options,
    model: *mut *mut foretune_model,
) -> foretune_status {
    call(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let out = argument::output("model", model)?.write(std::ptr::null_mut());
            let weights = argument::slice("weights", weights, weights_size)?;
            let config = argument::slice("config", config, config_size)?;
            let config = (!config.is_empty()).then_some(config);
            let path = Path::new("(weights in memory)");
            *out = handle(Model::from_bytes(path, HostBytes(weights), config, &load_options(options)?)?);
        }
        Ok(())
    })
}

unsafe fn load_options(options: *const foretune_model_options) -> Result<LoadOptions> {
    let defaults = foretune_model_options {
        struct_size: size_of::<foretune_model_options>(),
        image_height: 0,
        image_width: 0,
        heads: 0,
        reserved: 0,
    };
    // SAFETY: the caller's promise.
    let given = unsafe { argument::options(options, defaults)? };
    let image = [given.image_height as usize, given.image_width as usize];
    Ok(LoadOptions {
        image: (image != [0, 0]).then_some(image),
        heads: (given.heads > 0).then_some(given.heads as usize),
    })
}

fn handle(model: Model) -> *mut foretune_model {
    let names = Texts::new(model.class_names.as_deref().unwrap_or_default());
    Box::into_raw(Box::new(foretune_model { model, names }))
}

/// Writes what the model is to `*spec`, whose `struct_size` is set. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_model_get_spec(
    model: *const foretune_model,
    spec: *mut foretune_model_spec,
) -> foretune_status {
    call(|| {
        // SAFETY: the caller's promise.
        let own = unsafe { &argument::reference("model", model)?.model.spec };
        let found = foretune_model_spec {
            struct_size: 0,
            image_height: own.image[0] as u32,
            image_width: own.image[1] as u32,
            patch_height: own.patch[0] as u32,
            patch_width: own.patch[1] as u32,
            depth: own.depth as u32,
            width: own.width as u32,
            heads: own.heads as u32,
            tokens: own.tokens(0) as u32,
            head_width: own.head_width() as u32,
            classes: own.classes as u32,
        };
        // SAFETY: as above.
        unsafe { argument::write(spec, found) }
    })
}

/// Writes how images must be prepared to `*preprocess`, whose `struct_size` is set. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_model_get_preprocess(
    model: *const foretune_model,
    preprocess: *mut foretune_preprocess,
) -> foretune_status {
    call(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let own = &argument::reference("model", model)?.model.preprocess;
            argument::write(preprocess, describe(own))
        }
    })
}

pub(crate) fn describe(own: &Preprocess) -> foretune_preprocess {
    let (short, both) = match own.resize {
        Resize::ShortSide(side) => (side, [0, 0]),
        Resize::Exact(sides) => (0, sides),
    };
    foretune_preprocess {
        struct_size: 0,
        crop_height: own.crop[0] as u32,
        crop_width: own.crop[1] as u32,
        resize_short_side: short as u32,
        resize_height: both[0] as u32,
        resize_width: both[1] as u32,
        interpolation: match own.interpolation {
            Interpolation::Bilinear => 0,
            Interpolation::Bicubic => 1,
            Interpolation::Lanczos => 2,
            Interpolation::Nearest => 3,
        },
        mean: own.mean,
        std: own.std,
    }
}

/// Name of class `index` of the model's own classifier, UTF-8; null where it is not known. It lives as long as the model. Any thread.
///
/// # Safety
/// `model` is null or a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_model_class_name(model: *const foretune_model, index: usize) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { model.as_ref() }.map_or(std::ptr::null(), |model| model.names.get(index))
}

/// Destroys `*model` and nulls it; null is nothing to do. No other thread may be using it.
///
/// # Safety
/// `model` is null, or points to null or to a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_model_destroy(model: *mut *mut foretune_model) {
    // SAFETY: the caller's promise.
    unsafe { destroy(model) };
}
