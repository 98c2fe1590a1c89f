//! The arguments of `foretune corrupt`.

use super::args::FORMATS;
use super::values::choice;
use clap::Args;
use foretune::data::Format;
use foretune::data::corrupt::Kind;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct CorruptArgs {
    /// The data set's folder; for csv, also the table itself
    #[arg(long, value_name = "DIR")]
    pub(super) data: PathBuf,
    /// Its layout, and the copy's
    #[arg(long, value_name = "FORMAT", value_parser = choice::<Format>(FORMATS))]
    pub(super) format: Format,
    /// What is done to every image, at the size in which it is stored (ImageNet-C's have 224 pixels)
    #[arg(long, value_name = "KIND", value_parser = choice::<Kind>(&[
        ("gaussian_noise", "normal noise"),
        ("shot_noise", "Poisson noise, as of too little light"),
        ("defocus_blur", "a disc for every point; its radius is in pixels"),
        ("contrast", "values drawn towards their mean"),
        ("fog", "a plasma fractal over everything"),
        ("jpeg", "JPEG of quality 25 to 7"),
        ("pixelate", "shrunk and enlarged again"),
        ("brightness", "the value of HSV raised"),
    ]))]
    pub(super) kind: Kind,
    /// How strong it is
    #[arg(long, value_name = "1..5", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(super) severity: u8,
    /// Folder to write: absent, empty, or left by the same command when it was interrupted
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Seed of noise and fog: equal seeds give equal files
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(super) seed: u64,
    /// Leave out images that are absent, unreadable or mislabelled
    #[arg(long)]
    pub(super) skip_bad: bool,
}
