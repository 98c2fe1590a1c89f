//! The table of operations on every instruction set of this CPU.

use super::isa::Isa;
use super::{CpuBackend, CpuOptions};
use crate::ops::table::{check_independence, compare, run, shapes};

#[test]
fn every_operation_agrees_with_the_f64_reference() {
    let mut worst = std::collections::BTreeMap::new();
    for isa in Isa::available() {
        let backend = CpuBackend::with_isa(isa, CpuOptions::threads(2)).unwrap();
        for shape in shapes() {
            for found in compare(&backend, &shape) {
                let (name, error) = (found.name, found.error);
                // Exact copies stay exact; a single f32 operation is within an ulp; sums grow slowly.
                let limit = match name.as_str() {
                    "gather" | "scatter" | "patches" | "zero" => 0.0,
                    _ => 5e-6,
                };
                assert!(error <= limit, "{name} on {}, {shape:?}: off by {error:e}", isa.name());
                let entry = worst.entry(name).or_insert(0.0_f64);
                *entry = entry.max(error);
            }
        }
    }
    println!("{worst:#?}");
}

#[test]
fn results_do_not_depend_on_threads() {
    for isa in Isa::available() {
        let [one, three] = [1, 3].map(|threads| CpuBackend::with_isa(isa, CpuOptions::threads(threads)).unwrap());
        for shape in shapes() {
            for ((name, a), (_, b)) in run(&one, &shape).iter().zip(&run(&three, &shape)) {
                assert!(a == b, "{name} on {}, {shape:?}", isa.name());
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_other_examples() {
    for isa in Isa::available() {
        let backend = CpuBackend::with_isa(isa, CpuOptions::threads(2)).unwrap();
        shapes().iter().for_each(|shape| check_independence(&backend, shape));
    }
}
