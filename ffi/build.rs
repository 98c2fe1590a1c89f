//! How the shared library is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // Threads of a pool end on their own after their session is destroyed, and must find their code until then.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
