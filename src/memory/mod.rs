//! Memory as a promise: what a run takes is computed before anything is allocated, and a budget is a ceiling.

mod budget;
mod plan;

pub use budget::Budget;
pub(crate) use plan::guess_rows;
pub use plan::{Line, Plan, Planned, Wishes, listing_bytes};
