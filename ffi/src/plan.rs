//! Bytes, before anything is made.

use crate::argument::{self, versioned};
use crate::guard::call;
use crate::model::foretune_model;
use crate::options::{ENDLESS, Given, foretune_session_options};
use crate::status::foretune_status;
use foretune::Error;

/// What a session takes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_plan {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// Bytes in all: never more are in use, of the memory that the budget is a ceiling for. 0 with ONNX Runtime, which does not say.
    pub bytes: u64,
    /// The smallest budget that works; 0 with ONNX Runtime, which has none.
    pub smallest_budget: u64,
    /// Examples a pass.
    pub micro_batch: u32,
    /// Tangents a pass.
    pub tangents_per_pass: u32,
    /// 1: weights of two blocks at a time are on the GPU.
    pub streamed: u32,
    /// Zero.
    pub reserved: u32,
}

versioned!(foretune_plan);

/// What a session with `options` (null: the defaults) on `model` would take, with `classes` classes: to `*plan`, whose `struct_size` is
/// set. Nothing is made. Where the budget is too small, `*plan` names the smallest that works all the same. Any thread.
///
/// Errors: `FORETUNE_BUDGET`, `FORETUNE_BAD_OPTIONS`, `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_plan_session(
    model: *const foretune_model,
    options: *const foretune_session_options,
    classes: usize,
    plan: *mut foretune_plan,
) -> foretune_status {
    call(|| {
        // SAFETY: the caller's promise.
        let (model, mut given) = unsafe {
            let model = &argument::reference("model", model)?.model;
            (model, Given::new(options, model.spec.depth, ENDLESS)?)
        };
        let classes = classes.max(given.classes.len());
        let empty = foretune_plan {
            struct_size: 0,
            bytes: 0,
            smallest_budget: 0,
            micro_batch: 0,
            tangents_per_pass: 0,
            streamed: 0,
            reserved: 0,
        };
        let wanted = given.plan(model, classes, [0, 0], 0);
        given.raw.budget = 1;
        let smallest = match given.plan(model, classes, [0, 0], 0) {
            Err(Error::Budget { smallest, .. }) => smallest,
            _ => 0,
        };
        let found = match &wanted {
            Ok(plan) => foretune_plan {
                bytes: if given.target.is_bounded() { plan.total() } else { 0 },
                smallest_budget: smallest,
                micro_batch: plan.micro_batch as u32,
                tangents_per_pass: plan.tangents_per_pass as u32,
                streamed: u32::from(plan.streamed),
                ..empty
            },
            Err(_) => foretune_plan { smallest_budget: smallest, ..empty },
        };
        // SAFETY: as above.
        unsafe { argument::write(plan, found)? };
        Ok(wanted.map(|_| ())?)
    })
}
