//! How the shared library is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // Threads of the host that have called us have something of ours to destroy when they end.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
