//! Memory as a promise: what a run takes is computed before anything is allocated, and a budget is a ceiling.

mod allocator;
mod arena;
mod budget;
#[cfg(feature = "cuda")]
mod device;
pub(crate) mod free;
mod plan;

pub use allocator::{Allocate, Counted, System};
pub use arena::{Arena, Part};
pub use budget::Budget;
pub use plan::{Line, Plan, Planned, Wishes, listing_bytes};
