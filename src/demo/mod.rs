//! What `foretune demo` runs on: drawn images in two conditions, and the small model that `models/train.py` trained on
//! the first of them.

mod cub;
mod draw;
mod folder;
mod shape;
mod shift;

pub use cub::{Subset, write_cub};
pub use draw::{SIDE, Scene};
pub use folder::{Folder, TEST_PER_CLASS, TRAIN_PER_CLASS};
pub use shape::Shape;
pub use shift::shift;

use crate::Result;
use crate::model::{LoadOptions, Model};
use std::path::Path;

/// The built-in model's weights (f16, timm names), made by `models/train.py`.
pub const WEIGHTS: &[u8] = include_bytes!("../../models/demo/model.safetensors");
/// Its configuration in timm's form.
pub const CONFIG: &[u8] = include_bytes!("../../models/demo/config.json");

/// The built-in model: a ViT of eight blocks, trained on [`Scene`]s as they are drawn.
///
/// # Errors
/// None that a build whose tests pass could meet; those of [`Model::from_bytes`].
pub fn model() -> Result<Model> {
    let path = Path::new("built-in/model.safetensors");
    Model::from_bytes(path, WEIGHTS, Some(CONFIG), &LoadOptions::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_knows_the_classes_that_are_drawn() {
        let model = model().unwrap();
        assert_eq!(model.spec.image, [SIDE; 2]);
        assert_eq!(model.class_names, Some(Shape::ALL.map(Shape::class_name).to_vec()));
        assert_eq!(model.preprocess.crop, [SIDE; 2]);
        assert!(WEIGHTS.len() <= 4 << 20, "{} bytes", WEIGHTS.len());
    }
}
