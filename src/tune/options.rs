//! What a tuning run is asked to do.

use crate::guess::{GuessKind, Guessing};
use crate::model::PromptLayout;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which head is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKind {
    /// Cosine to class means of the frozen model, temperature fitted; then frozen.
    Prototype,
    /// Zero-initialised linear classifier trained with the prompts; its own gradient is local and exact.
    Linear,
    /// The checkpoint's classifier, frozen.
    Pretrained,
    /// Another adapter's head, frozen.
    Adapter,
}

/// Update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov and Hutter 2019).
    Adamw,
    /// AdamW with update clipping by the RMS of g/√v (Wortsman et al. 2023, algorithm 2).
    StableAdamw,
    /// SGD with momentum.
    Sgd,
}

/// Training-time geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AugmentKind {
    /// The evaluation preprocessing.
    None,
    /// Evaluation preprocessing and a random horizontal flip.
    Flip,
    /// Random resized crop and flip.
    ResizedCrop,
    /// VPT's recipe: resize to 256, random crop of 224 (in these proportions for other sizes), flip.
    Vpt,
}

/// Which of a run's prompts are its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Those that scored best on the validation split.
    #[default]
    Best,
    /// Those of the last step, as a comparison at equal steps needs them.
    Last,
}

/// Everything that decides the bits of a run. A resumed run must be given the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuneOptions {
    /// Gradient source.
    pub guess: GuessKind,
    /// Tangents K per example and step (ignored by `backprop` and `none`).
    pub tangents: usize,
    /// See [`Guessing::power`].
    pub power: f64,
    /// See [`Guessing::rank`].
    pub rank: usize,
    /// See [`Guessing::orthonormal`].
    pub orthonormal: bool,
    /// See [`Guessing::unit_rms`].
    pub unit_rms: bool,
    /// Most that an example counts in a step, as a multiple of the batch's median: of the norm of its derivatives, or of its exact
    /// gradient. 0: no limit.
    pub clip: f64,
    /// Prompts p per set.
    pub prompts: usize,
    /// One prompt set per block from `insert_at` on, instead of one set that stays.
    pub deep: bool,
    /// Block ℓ ahead of which (the first) prompts enter.
    pub insert_at: usize,
    /// Head.
    pub head: HeadKind,
    /// Update rule.
    pub optimizer: OptimizerKind,
    /// Peak learning rate of the prompts.
    pub lr: f64,
    /// Peak learning rate of a linear head.
    pub head_lr: f64,
    /// Decoupled weight decay of the prompts and the linear head's matrix.
    pub weight_decay: f64,
    /// Momentum of SGD; β₁ of AdamW.
    pub momentum: f64,
    /// Optimizer steps of the run.
    pub steps: u64,
    /// Linear warm-up steps, then cosine to zero.
    pub warmup: u64,
    /// Examples B per step.
    pub batch: usize,
    /// Augmentation.
    pub augment: AugmentKind,
    /// Seed of everything random.
    pub seed: u64,
    /// Share of the training split set aside for validation, stratified; 0 for none.
    pub val_fraction: f64,
    /// Steps between evaluations on the validation split; 0 for only at the end.
    pub eval_every: u64,
    /// Passes begin at block `insert_at`, ahead of which nothing is tuned, with what it reads of an image rounded to f16: as it is kept
    /// by [`Resources::prefix_cache`](super::Resources::prefix_cache), and whether it is or not.
    pub prefix_f16: bool,
    /// Which prompts are kept.
    pub keep: Keep,
}

impl Default for TuneOptions {
    fn default() -> Self {
        TuneOptions {
            guess: GuessKind::WeightTranspose,
            tangents: 1,
            power: 1.0,
            rank: 0,
            orthonormal: false,
            unit_rms: false,
            clip: 0.0,
            prompts: 4,
            deep: false,
            insert_at: 0,
            head: HeadKind::Prototype,
            optimizer: OptimizerKind::Adamw,
            lr: 1e-2,
            head_lr: 1e-2,
            weight_decay: 1e-4,
            momentum: 0.9,
            steps: 500,
            warmup: 20,
            batch: 32,
            augment: AugmentKind::ResizedCrop,
            seed: 0,
            val_fraction: 0.1,
            eval_every: 50,
            prefix_f16: false,
            keep: Keep::Best,
        }
    }
}

impl TuneOptions {
    /// The guess.
    pub fn guessing(&self) -> Guessing {
        let TuneOptions { guess: kind, power, rank, orthonormal, unit_rms, .. } = *self;
        Guessing { kind, power, rank, orthonormal, unit_rms }
    }

    /// Where the prompts enter; nowhere when only the head is tuned.
    pub fn layout(&self) -> PromptLayout {
        match self.guess {
            GuessKind::None => PromptLayout::NONE,
            _ => PromptLayout { prompts: self.prompts, deep: self.deep, insert_at: self.insert_at },
        }
    }

    /// Checks what can be checked without a model or data.
    ///
    /// # Errors
    /// [`Error::Options`] that names the option and the values it may have.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, value: f64, fits: bool, range: &str| match fits {
            true => Ok(()),
            false => Err(Error::Options(format!("{name} is {value}; it must be {range}"))),
        };
        let rate = |name, value: f64| within(name, value, value.is_finite() && value >= 0.0, "a number from 0 on");
        rate("lr", self.lr)?;
        rate("head-lr", self.head_lr)?;
        rate("weight-decay", self.weight_decay)?;
        rate("clip", self.clip)?;
        within("power", self.power, (0.0..=4.0).contains(&self.power), "from 0 to 4")?;
        if !self.guessing().is_plain() && !self.guess.transposes_weights() {
            let problem = "power and rank change the weights that weight-transpose, self-sharpening and matched-cosine send noise \
                           through";
            return Err(Error::Options(format!("{problem}; --guess {} has none", self.guess)));
        }
        let share = |name, value: f64| within(name, value, (0.0..1.0).contains(&value), "at least 0 and below 1");
        share("momentum", self.momentum)?;
        share("val-fraction", self.val_fraction)?;
        // The limits are those of the random numbers' 16-bit fields, and of batches anyone has memory for.
        for (name, value) in [("tangents", self.tangents), ("prompts", self.prompts), ("batch", self.batch)] {
            within(name, value as f64, (1..1 << 16).contains(&value), "from 1 to 65535")?;
        }
        if self.steps == 0 || self.warmup > self.steps {
            let (steps, warmup) = (self.steps, self.warmup);
            return Err(Error::Options(format!(
                "steps is {steps} and warmup {warmup}; a run needs at least one step and no more of them to warm up"
            )));
        }
        self.check_prefix()
    }

    /// Checks that what is to be kept of an image, if anything, is always the same. Errors: [`Error::Options`].
    pub(super) fn check_prefix(&self) -> Result<()> {
        let problem = match (self.prefix_f16, self.insert_at, self.augment) {
            (false, ..) => return Ok(()),
            (_, 0, _) => {
                "insert-at is 0: no block is ahead of the prompts, so that a prefix cache has nothing to keep; give --insert-at a \
                 block further on, or leave out --prefix-cache"
            }
            (.., AugmentKind::None) => return Ok(()),
            _ => {
                "a prefix cache keeps what a block reads of an image, and augmentation makes that another image every time; give \
                 --augment none, or leave out --prefix-cache"
            }
        };
        Err(Error::Options(problem.into()))
    }
}
