//! `include/foretune.h` is what cbindgen makes of this crate.

use std::path::Path;

#[test]
fn the_committed_header_is_the_generated_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut found = Vec::new();
    cbindgen::Builder::new().with_crate(root).with_config(config).generate().unwrap().write(&mut found);
    let path = root.join("../include/foretune.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let committed = std::fs::read(&path).unwrap_or_default();
    assert!(
        committed == found,
        "include/foretune.h is out of date; run UPDATE_HEADER=1 cargo test -p foretune-ffi --test header"
    );
}
