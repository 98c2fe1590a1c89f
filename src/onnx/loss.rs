//! Cross entropy: formulas in [`ops::loss`](crate::ops::loss).

use super::dual::Dual;
use super::graph::{Graph, Value, int};
use super::proto::DataType;

/// What becomes of logits `[B, C]`.
pub(super) struct Judged {
    /// L `[B]`.
    pub losses: Value,
    /// ∂L/∂z `[B, C]`.
    pub slopes: Value,
    /// L̇ `[K, B]`.
    pub derivatives: Option<Value>,
}

/// Of logits `z` and labels `[B]`, 64-bit integers below C.
pub(super) fn cross_entropy(g: &mut Graph, z: &Dual, labels: &Value) -> Judged {
    g.enter("loss");
    let log = g.node("LogSoftmax", &[&z.primal], vec![int("axis", -1)]);
    let classes = g.node("Shape", &[&z.primal], vec![int("start", 1), int("end", 2)]);
    let axis = g.ints(&[0]);
    let [classes, zero, one] = {
        let (zero, one) = (g.ints(&[0]), g.ints(&[1]));
        [classes, zero, one].map(|number| g.node("Squeeze", &[&number, &axis], Vec::new()))
    };
    let range = g.node("Range", &[&zero, &classes, &one], Vec::new());
    let labels = g.unsqueeze(labels, -1);
    let hit = g.node("Equal", &[&labels, &range], Vec::new());
    let hit = g.cast(&hit, DataType::Float);
    let chosen = g.mul(&log, &hit);
    let chosen = g.total(&chosen);
    let losses = g.node("Neg", &[&chosen], Vec::new());
    let probabilities = g.node("Exp", &[&log], Vec::new());
    let slopes = g.sub(&probabilities, &hit);
    let derivatives = z.tangents.as_ref().map(|dz| {
        let products = g.mul(&slopes, dz);
        g.total(&products)
    });
    Judged { losses, slopes, derivatives }
}
