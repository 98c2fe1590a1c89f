//! What a tuning run is asked to do.

use crate::model::PromptLayout;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where the prompts' gradient comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuessKind {
    /// A_s·n, A_s = J_LNᵀ·Wᵀ normalised: forward only, the default.
    WeightTranspose,
    /// n ~ N(0, I), the same for the whole batch: forward only.
    Directional,
    /// n ~ N(0, I) per example: forward only.
    Activation,
    /// The exact gradient by per-block recompute: the oracle.
    Backprop,
    /// No prompts at all: only the head, on the frozen backbone. The baseline.
    None,
}

impl GuessKind {
    /// Whether the gradient is guessed and scaled by derivatives of the forward pass.
    pub fn is_forward_only(self) -> bool {
        matches!(self, GuessKind::WeightTranspose | GuessKind::Directional | GuessKind::Activation)
    }
}

impl std::fmt::Display for GuessKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

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
#[serde(deny_unknown_fields)]
pub struct TuneOptions {
    /// Gradient source.
    pub guess: GuessKind,
    /// Tangents K per example and step (ignored by `backprop` and `none`).
    pub tangents: usize,
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
    /// Momentum of SGD.
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
    /// Which prompts are kept.
    #[serde(default)]
    pub keep: Keep,
}

impl Default for TuneOptions {
    fn default() -> Self {
        TuneOptions {
            guess: GuessKind::WeightTranspose,
            tangents: 1,
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
            keep: Keep::Best,
        }
    }
}

impl TuneOptions {
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
        Ok(())
    }
}
