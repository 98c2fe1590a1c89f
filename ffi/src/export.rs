//! Classifiers as ONNX files.

use crate::argument::{self, versioned};
use crate::guard::call;
use crate::model::foretune_model;
use crate::options::{FORETUNE_PRECISION_F16, FORETUNE_PRECISION_F32, one_of};
use crate::session::{foretune_session, with};
use crate::status::{Failure, Result, foretune_status};
use foretune::Classifier;
use foretune::adapter::Adapter;
use foretune::onnx::{Element, ExportOptions, export};
use std::ffi::c_char;
use std::path::Path;

/// How a classifier is exported. `foretune_export_options_default` fills it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_export_options {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// `FORETUNE_PRECISION_F32` (the default) or `FORETUNE_PRECISION_F16`: of weights and activations; inputs and outputs are f32 always.
    pub precision: u32,
    /// 1: the graph takes 8-bit pixels and prepares them itself; 0: normalised values, as `FORETUNE_IMAGE_F32`.
    pub with_preprocessing: u32,
}

versioned!(foretune_export_options);

fn defaults() -> foretune_export_options {
    foretune_export_options {
        struct_size: size_of::<foretune_export_options>(),
        precision: FORETUNE_PRECISION_F32,
        with_preprocessing: 0,
    }
}

/// Fills `*options`, a struct of `struct_size` bytes (give sizeof), with the defaults. Any thread.
///
/// Errors: `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// `options` is null or a struct of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_export_options_default(
    options: *mut foretune_export_options,
    struct_size: usize,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe { argument::write_sized(options, struct_size, defaults()) })
}

/// Replaces the file at `path`, UTF-8, by `model` with the adapter at `adapter` (null: with its own classifier) as one ONNX graph of
/// standard operators, whole or not at all. The model must have been opened at the adapter's image size. `options`: null for the
/// defaults. Needs no ONNX Runtime. Any thread.
///
/// The input is `pixel_values` `[batch, 3, height, width]`, or `image` `[batch, height, width, 3]` of bytes, all of one size; the outputs
/// are `logits` `[batch, C]` and `features` `[batch, D]`. The file's metadata has `class_names`, `preprocess` and `backbone` as JSON.
/// Above 2 GiB the tensors are in a second file, `path` with ".data" after its name.
///
/// Errors: `FORETUNE_IO`, `FORETUNE_BAD_ADAPTER`, `FORETUNE_BAD_OPTIONS` for preprocessing that standard operators cannot do or a model
/// without a classifier, `FORETUNE_BAD_MODEL`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_export(
    model: *const foretune_model,
    adapter: *const c_char,
    path: *const c_char,
    options: *const foretune_export_options,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let model = &argument::reference("model", model)?.model;
        let adapter = argument::optional_text("adapter", adapter)?.map(Path::new);
        let path = Path::new(argument::text("path", path)?);
        let options = given(options)?;
        let adapter = adapter.map(|path| Adapter::open(path).map(|adapter| (adapter, path))).transpose()?;
        export(&Classifier::new(model.clone(), adapter)?, options, path)?;
        Ok(())
    })
}

/// As `foretune_export`, of what the session has learnt. One thread at a time.
///
/// Errors: as `foretune_export`; `FORETUNE_BAD_OPTIONS` before there is a head, `FORETUNE_BUSY`, `FORETUNE_POISONED`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_session_export(
    session: *mut foretune_session,
    path: *const c_char,
    options: *const foretune_export_options,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let path = Path::new(argument::text("path", path)?);
        let options = given(options)?;
        with(session, |inner| {
            export(&inner.session.classifier()?, options, path)?;
            Ok(())
        })
    })
}

/// # Safety
/// `options` is null or valid for the call.
unsafe fn given(options: *const foretune_export_options) -> Result<ExportOptions> {
    // SAFETY: the caller's promise.
    let given = unsafe { argument::options(options, defaults())? };
    let element = match given.precision {
        FORETUNE_PRECISION_F32 => Element::F32,
        FORETUNE_PRECISION_F16 => Element::F16,
        other => {
            let problem = "exports are FORETUNE_PRECISION_F32 or _F16";
            return Err(Failure::argument(format!("precision is {other}; {problem}")));
        }
    };
    let preprocessing = one_of("with_preprocessing", given.with_preprocessing, &[false, true])?;
    Ok(ExportOptions { element, preprocessing })
}
