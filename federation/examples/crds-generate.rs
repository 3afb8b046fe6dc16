//! Writes the CustomResourceDefinitions into `crds/`, after a change of the kinds:
//! `cargo run -p federation --features schema --example crds-generate`

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    std::fs::create_dir_all(&folder)?;
    for (file, definition) in federation::crds::generate() {
        let path = folder.join(file);
        std::fs::write(&path, serde_saphyr::to_string(&definition)?)?;
        #[allow(clippy::print_stdout, reason = "the output of a command")]
        {
            println!("{}", path.display());
        }
    }
    Ok(())
}
