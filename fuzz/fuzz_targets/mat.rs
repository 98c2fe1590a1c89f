//! MATLAB 5 files.
#![no_main]

use foretune::data::mat::{Value, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for (_, value) in parse(bytes).into_iter().flatten() {
        let _ = value.texts();
        if let Value::Struct(elements) = value {
            let _ = elements.get(elements.len().saturating_sub(1), "fname").and_then(Value::text);
        }
    }
});
