//! Update rules on flat parameters. Element arithmetic is f64, state and parameters are f32.

use super::OptimizerKind;
use crate::{Error, Result};

/// Constants of an update rule; a rule reads those it knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerSettings {
    /// Decay rates of the first and second moment (Adam).
    pub betas: [f64; 2],
    /// Added to √v (Adam).
    pub eps: f64,
    /// Momentum μ (SGD).
    pub momentum: f64,
    /// Decoupled weight decay λ: θ shrinks by lr·λ ahead of the update.
    pub weight_decay: f64,
    /// Only the first `decayed` parameters decay (a linear head's matrix, not its bias).
    pub decayed: usize,
}

impl Default for OptimizerSettings {
    /// PyTorch's: betas 0.9 and 0.999, ε 1e-8; momentum 0.9; no decay.
    fn default() -> Self {
        OptimizerSettings { betas: [0.9, 0.999], eps: 1e-8, momentum: 0.9, weight_decay: 0.0, decayed: usize::MAX }
    }
}

/// An update rule and its state for one group of parameters.
#[derive(Clone, Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    settings: OptimizerSettings,
    /// First moment, or momentum.
    first: Vec<f32>,
    /// Second moment; empty for SGD.
    second: Vec<f32>,
}

impl Optimizer {
    /// An optimizer of `len` parameters that has taken no step.
    pub fn new(kind: OptimizerKind, len: usize, settings: OptimizerSettings) -> Self {
        let second = match kind {
            OptimizerKind::Adamw | OptimizerKind::StableAdamw => vec![0.0; len],
            OptimizerKind::Sgd => Vec::new(),
        };
        Optimizer { kind, settings, first: vec![0.0; len], second }
    }

    /// Updates `params` in place along `grad` with learning rate `lr`. `step` counts updates, this one included: the first
    /// call has step 1. Allocates nothing.
    ///
    /// AdamW is PyTorch's. StableAdamW (Wortsman et al. 2023, algorithm 2) treats the group as one tensor: it divides the
    /// learning rate, also that of the decay, by max(1, RMS of g/√v). SGD is PyTorch's with decoupled decay.
    ///
    /// # Panics
    /// When `params` or `grad` has another length than the state, or `step` is 0.
    pub fn step(&mut self, params: &mut [f32], grad: &[f32], lr: f64, step: u64) {
        assert!(params.len() == self.first.len() && grad.len() == self.first.len(), "one state per parameter");
        assert!(step > 0, "steps count from 1");
        match self.kind {
            OptimizerKind::Adamw => self.adamw(params, grad, lr, step),
            OptimizerKind::StableAdamw => self.stable_adamw(params, grad, lr, step),
            OptimizerKind::Sgd => self.sgd(params, grad, lr),
        }
    }

    /// The state vectors by PyTorch's names, each of the parameters' length.
    pub fn state(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        let names: &[&str] = match self.kind {
            OptimizerKind::Adamw | OptimizerKind::StableAdamw => &["exp_avg", "exp_avg_sq"],
            OptimizerKind::Sgd => &["momentum_buffer"],
        };
        names.iter().copied().zip([&self.first[..], &self.second[..]])
    }

    /// The state vectors, to be changed.
    pub(super) fn state_mut(&mut self) -> [&mut [f32]; 2] {
        [&mut self.first, &mut self.second]
    }

    /// Takes over saved state.
    ///
    /// # Errors
    /// [`Error::Shape`] when the names or lengths are not those of [`state`](Self::state); nothing has changed then.
    pub fn restore<'n, 'v>(&mut self, saved: impl IntoIterator<Item = (&'n str, &'v [f32])>) -> Result<()> {
        let saved: Vec<_> = saved.into_iter().collect();
        let own: Vec<_> = self.state().collect();
        let fits = own.len() == saved.len()
            && own.iter().zip(&saved).all(|(own, saved)| own.0 == saved.0 && own.1.len() == saved.1.len());
        if !fits {
            let describe = |state: &[(&str, &[f32])]| {
                state.iter().map(|(name, v)| format!("{name} [{}]", v.len())).collect::<Vec<_>>().join(", ")
            };
            let (expected, found) = (describe(&own), describe(&saved));
            return Err(Error::Shape { what: "optimizer state", expected, found });
        }
        for (own, (_, saved)) in [&mut self.first, &mut self.second].into_iter().zip(saved) {
            own.copy_from_slice(saved);
        }
        Ok(())
    }

    fn decay(&self, params: &mut [f32], lr: f64) {
        let keep = 1.0 - lr * self.settings.weight_decay;
        let decayed = self.settings.decayed.min(params.len());
        if keep != 1.0 {
            params[..decayed].iter_mut().for_each(|p| *p = (f64::from(*p) * keep) as f32);
        }
    }

    fn adamw(&mut self, params: &mut [f32], grad: &[f32], lr: f64, step: u64) {
        self.decay(params, lr);
        let OptimizerSettings { betas: [beta1, beta2], eps, .. } = self.settings;
        let rate = lr / (1.0 - power(beta1, step));
        let correction = (1.0 - power(beta2, step)).sqrt();
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((p, &g), (m, v)) in params.iter_mut().zip(grad).zip(moments) {
            let g = f64::from(g);
            let m_new = f64::from(*m) + (1.0 - beta1) * (g - f64::from(*m));
            let v_new = beta2 * f64::from(*v) + (1.0 - beta2) * g * g;
            (*m, *v) = (m_new as f32, v_new as f32);
            *p = (f64::from(*p) - rate * m_new / (v_new.sqrt() / correction + eps)) as f32;
        }
    }

    fn stable_adamw(&mut self, params: &mut [f32], grad: &[f32], lr: f64, step: u64) {
        let OptimizerSettings { betas, eps, .. } = self.settings;
        // Debiased rates: the moments need no correction afterwards.
        let [beta1, beta2] = betas.map(|b| b * (1.0 - power(b, step - 1)) / (1.0 - power(b, step)));
        let mut squares = 0.0;
        for ((&g, m), v) in grad.iter().zip(&mut self.first).zip(&mut self.second) {
            let g = f64::from(g);
            *m = (beta1 * f64::from(*m) + (1.0 - beta1) * g) as f32;
            *v = (beta2 * f64::from(*v) + (1.0 - beta2) * g * g) as f32;
            squares += g * g / f64::from(*v).max(eps * eps);
        }
        let rms = (squares / grad.len().max(1) as f64).sqrt();
        let rate = lr / rms.max(1.0);
        self.decay(params, rate);
        for ((p, &m), &v) in params.iter_mut().zip(&self.first).zip(&self.second) {
            *p = (f64::from(*p) - rate * f64::from(m) / (f64::from(v).sqrt() + eps)) as f32;
        }
    }

    fn sgd(&mut self, params: &mut [f32], grad: &[f32], lr: f64) {
        self.decay(params, lr);
        for ((p, &g), buffer) in params.iter_mut().zip(grad).zip(&mut self.first) {
            *buffer = (self.settings.momentum * f64::from(*buffer) + f64::from(g)) as f32;
            *p = (f64::from(*p) - lr * f64::from(*buffer)) as f32;
        }
    }
}

/// baseⁿ by squaring: the same bits everywhere, unlike `powi`.
fn power(mut base: f64, mut n: u64) -> f64 {
    let mut result = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            result *= base;
        }
        base *= base;
        n >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRADS: [[f32; 3]; 3] = [[0.1, -0.2, 0.3], [0.4, 0.0, -0.1], [-3.0, 2.0, 1e-9]];

    fn run(kind: OptimizerKind, weight_decay: f64, decayed: usize) -> ([f32; 3], Optimizer) {
        let settings = OptimizerSettings { weight_decay, decayed, ..OptimizerSettings::default() };
        let mut optimizer = Optimizer::new(kind, 3, settings);
        let mut params = [0.5, -1.0, 2.0];
        for (i, grad) in GRADS.iter().enumerate() {
            optimizer.step(&mut params, grad, 0.05, i as u64 + 1);
        }
        (params, optimizer)
    }

    fn assert_close(found: [f32; 3], expected: [f64; 3]) {
        for (f, e) in found.into_iter().zip(expected) {
            assert!((f64::from(f) - e).abs() < 4e-7, "{found:?} {expected:?}");
        }
    }

    // Expected values, torch 2.15 and pytorch_optimizer 4.1.0, float64:
    //
    //   p = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    //   o = torch.optim.AdamW([p], lr=0.05, weight_decay=0.1)
    //     | StableAdamW([p], lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    //     | torch.optim.SGD([p], lr=0.05, momentum=0.9)
    //   for g in GRADS: p.grad = torch.tensor(g, dtype=torch.float64); o.step()

    #[test]
    fn adamw_is_pytorchs() {
        let (params, _) = run(OptimizerKind::Adamw, 0.1, usize::MAX);
        assert_close(params, [0.4260303995338472, -0.9314463296140505, 1.885269123528505]);
    }

    #[test]
    fn stable_adamw_clips_by_rms() {
        let (params, _) = run(OptimizerKind::StableAdamw, 0.1, usize::MAX);
        assert_close(params, [0.41884766120948347, -0.9243534175278653, 1.8924614150447638]);
    }

    #[test]
    fn sgd_is_pytorchs_and_decay_is_decoupled() {
        let (params, _) = run(OptimizerKind::Sgd, 0.0, usize::MAX);
        assert_close(params, [0.59845, -1.0729, 1.96884999995]);
        // By hand: p ← p(1 − 0.005) − 0.05·b with b = g, then 0.9b + g.
        let (params, _) = run(OptimizerKind::Sgd, 0.1, 1);
        let mut p = 0.5;
        for b in [0.1, 0.9 * 0.1 + 0.4, 0.9 * (0.9 * 0.1 + 0.4) - 3.0] {
            p = p * 0.995 - 0.05 * b;
        }
        assert_close(params, [p, -1.0729, 1.96884999995]);
    }

    #[test]
    fn restored_state_continues_with_the_same_bits() {
        for kind in [OptimizerKind::Adamw, OptimizerKind::StableAdamw, OptimizerKind::Sgd] {
            let (params, optimizer) = run(kind, 0.1, 2);
            let mut straight = (params, optimizer.clone());
            let mut resumed = (params, Optimizer::new(kind, 3, optimizer.settings));
            resumed.1.restore(optimizer.state()).unwrap();
            for (params, optimizer) in [&mut straight, &mut resumed] {
                optimizer.step(params, &[0.3, -0.1, 0.7], 0.02, 4);
            }
            assert_eq!(straight.0.map(f32::to_bits), resumed.0.map(f32::to_bits));
        }
    }

    #[test]
    fn foreign_state_is_refused_whole() {
        let (_, sgd) = run(OptimizerKind::Sgd, 0.0, 0);
        let (_, mut adamw) = run(OptimizerKind::Adamw, 0.0, 0);
        let before = adamw.first.clone();
        let message = adamw.restore(sgd.state()).unwrap_err().to_string();
        assert!(message.contains("exp_avg [3]") && message.contains("momentum_buffer [3]"), "{message}");
        assert!(adamw.restore([("exp_avg", &[0.0; 3][..]), ("exp_avg_sq", &[0.0; 2][..])]).is_err());
        assert_eq!(adamw.first, before);
    }

    #[test]
    fn power_agrees_with_powi() {
        for n in [0, 1, 2, 7, 1000] {
            assert!((power(0.999, n) - 0.999f64.powi(n as i32)).abs() < 1e-13);
        }
    }
}
