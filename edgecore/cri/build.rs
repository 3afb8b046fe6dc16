//! Compiles the interfaces in `proto/` without protoc, so that a checkout builds with a Rust toolchain alone.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/cri.proto", "proto/containerd_events.proto"], ["proto"])?;
    let fake = std::env::var_os("CARGO_FEATURE_FAKE").is_some();
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(fake)
        .build_transport(false)
        // Stable order of labels and annotations, on the wire and in tests.
        .btree_map(".")
        // It carries a registry's password.
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(files)?;
    Ok(())
}
