//! Compiles `proto/kurator.proto` without protoc, so that a checkout builds with a Rust toolchain alone.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/kurator.proto");
    let files = protox::compile(["proto/kurator.proto"], ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    // It carries the token's secret: its Debug is written by hand in wire.rs and leaves the secret out.
    config.skip_debug(["kurator.link.JoinRequest"]);
    config.compile_fds(files)?;
    Ok(())
}
