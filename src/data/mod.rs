//! Data sets and the way from a photo on disk to the encoder's input.

mod augment;
mod cars;
#[cfg(feature = "cli")]
pub mod corrupt;
mod csv;
mod cub;
mod dataset;
mod decode;
mod dogs;
mod folder;
mod images;
mod loader;
#[doc(hidden)]
pub mod mat;
mod parallel;
mod prefix_cache;
mod preprocess;
mod resample;
mod transform;
mod verify;

pub use augment::Augment;
pub use dataset::{Dataset, Format, Item, OpenOptions, Problem, Split};
pub use decode::{MAX_BYTES, MAX_PIXELS, MAX_SIDE, decode_bytes};
pub(crate) use images::prepare_all;
pub use images::{Images, Pixels, Prepared};
pub use loader::{Loader, LoaderOptions, Request};
pub use prefix_cache::PrefixCacheOptions;
pub(crate) use prefix_cache::{PrefixCache, round_to_f16};
pub use preprocess::{Interpolation, Preprocess, Resize};
pub use transform::{Preparer, Rgb, decode_image, load_image};
