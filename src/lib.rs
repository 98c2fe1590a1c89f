//! Forward-only prompt tuning of pretrained Vision Transformers, on the device where they run.
//!
//! The backbone is frozen; only prompt tokens are tuned, and perhaps a linear head. The prompts' gradient is never
//! backpropagated: it is *guessed* in directions y that the network's weights make likely, and every guess is scaled by its
//! exact directional derivative L̇ = ⟨∇L, y⟩, which the [dual pass](encoder) carries along with inference. Over B examples
//! and K guesses each, ĝ = 1/(B·K) Σ L̇·y. Nothing is stored for a backward pass.
//!
//! # Tuning
//!
//! A [`tune::Job`] goes from a [`Model`] and a [`Dataset`](data::Dataset) to an [`Adapter`](adapter::Adapter): one small
//! safetensors file.
//!
//! ```
//! use foretune::cpu::CpuOptions;
//! use foretune::data::{Dataset, Format, OpenOptions};
//! use foretune::tune::{Event, Job, Resources, TuneOptions};
//! use foretune::{LoadOptions, Model, engine};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (model_path, photos, out) = ("tests/golden/timm_gap", folder.path(), folder.path().join("tuned.safetensors"));
//! # for class in 0..7u8 {
//! #     let path = photos.join("train").join(format!("class {class}"));
//! #     std::fs::create_dir_all(&path)?;
//! #     for i in 0..2 {
//! #         image::RgbImage::from_fn(40, 40, |x, y| image::Rgb([(x * 6) as u8, 30 * class, (y * 3 + i) as u8]))
//! #             .save(path.join(format!("{i}.png")))?;
//! #     }
//! # }
//! // A checkpoint folder, and one folder of photos per class.
//! let model = Model::open(model_path.as_ref(), &LoadOptions::default())?;
//! let mut dataset = Dataset::open(photos, Format::Folder, &OpenOptions::default())?;
//! let options = TuneOptions { steps: 3, warmup: 1, batch: 4, insert_at: 1, ..TuneOptions::default() };
//! dataset.split_validation(options.val_fraction, options.seed);
//!
//! let native = engine::cpu(&model, CpuOptions::default())?;
//! let resources = Resources::default();
//! let job = Job {
//!     model: &model,
//!     loaded: &native,
//!     dataset: &dataset,
//!     options: &options,
//!     resources: &resources,
//!     head_from: None,
//! };
//! let trained = job.train(&mut |event: &Event| println!("{event:?}"))?;
//! trained.adapter.save(&out)?;
//! # assert_eq!(trained.adapter.prompts.dim(), (1, options.prompts, model.spec.width));
//! # assert!(trained.validation.is_some());
//! # let classifier = foretune::Classifier::open(model_path.as_ref(), Some(&out), &LoadOptions::default())?;
//! # assert_eq!(classifier.prompts, trained.adapter.prompts.iter().copied().collect::<Vec<_>>());
//! # Ok(())
//! # }
//! ```
//!
//! # Predicting
//!
//! A [`Classifier`] is a model with its own head, or with an adapter's prompts, head and preprocessing.
//!
//! ```
//! use foretune::cpu::CpuOptions;
//! use foretune::data::load_image;
//! use foretune::{Classifier, LoadOptions, engine, tune};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (model, adapter, photo) = ("tests/golden/timm_gap", None, "tests/data/images/baseline.jpg");
//! let classifier = Classifier::open(model.as_ref(), adapter, &LoadOptions::default())?;
//! let mut engine = engine::cpu(&classifier.model, CpuOptions::default())?.engine(classifier.layout, 1, 0)?;
//!
//! let preprocess = &classifier.model.preprocess;
//! let mut image = vec![0.0; preprocess.image_len()];
//! load_image(photo.as_ref(), None, preprocess, &mut image)?;
//! let logits = classifier.logits(&mut engine, &image)?;
//! let class = tune::top(logits.as_slice().expect("row-major"));
//! # assert_eq!(logits.dim(), (1, classifier.model.spec.classes));
//! # assert!(class < classifier.model.spec.classes && logits.iter().all(|z| z.is_finite()));
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! | module | content |
//! |---|---|
//! | [`model`], [`weights`] | a checkpoint's family-free description; its tensors in mapped memory |
//! | [`data`] | data sets, decoding, preprocessing, the loader |
//! | [`tune`] | options, job, tuner, optimizers, training checkpoints, events |
//! | [`adapter`], [`classifier`] | what a run leaves behind, and what it is used with |
//! | [`engine`] | what the tuner sees: images, prompts, tangents → head inputs and derivatives; natively, or on ONNX Runtime |
//! | [`onnx`] | a classifier as an ONNX file; a model from one |
//! | [`encoder`], [`backend`] | the dual pass over blocks, written once; the seam to the hardware |
//! | [`ops`], [`cpu`], `cuda` | every operation's formula and reference; its fast CPU version; the same on a GPU |
//! | [`guess`], [`rng`] | directions y; the counter-based noise they are made of |
//! | [`selftest`] | golden cases, and checks of derivatives on the machine at hand |
//!
//! Symbols are the same everywhere: B examples, T tokens, d width, L depth, C classes, D head input width, ℓ insertion block,
//! S prompt sets, p prompts per set, K tangents; a dot marks a tangent. Host tensors are f32 and row-major.
//!
//! # Features
//!
//! - `cuda` (default): the GPU backend; the driver is loaded at run time, and without one everything else works.
//! - `ort` (default): the engine on ONNX Runtime, which is loaded at run time likewise.
//! - `cli` (default): the `foretune` command and what only it depends on. Libraries do without:
//!   `foretune = { version = "0.1", default-features = false }`.
//!
//! # Errors, threads, determinism
//!
//! Every fallible call returns [`Error`]; bad files do not panic. Compute runs on a private thread pool, decoding on threads of
//! its own. One seed gives the same bits for any number of threads and any split into micro-batches. The library reports
//! through [`log`] and installs no logger.
#![warn(missing_docs)]

pub mod adapter;
pub mod backend;
pub mod classifier;
mod container;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod demo;
pub mod encoder;
pub mod engine;
pub mod error;
mod files;
pub mod guess;
pub mod memory;
pub mod model;
pub mod onnx;
pub mod ops;
mod predictor;
pub mod rng;
pub mod selftest;
mod session;
mod threads;
pub mod tune;
pub mod weights;

pub use classifier::Classifier;
pub use error::{Error, Result};
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use files::write_atomic;
pub use model::{LoadOptions, Model, ModelSpec};
pub use predictor::Predictor;
pub use session::{Metrics, Progress, Session, SessionOptions};

/// The README's examples, compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
