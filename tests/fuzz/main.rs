//! Every parser of the API under bytes that nobody meant: its corpus, and thousands of variations of it. A target that finds something leaves
//! the bytes in its corpus' folder, to be committed with the repair. `cargo fuzz` can take the same functions.

// A test says what is wrong by stopping there.
#![allow(clippy::unwrap_used)]

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use metastore::api::{FUZZ_TARGETS, FuzzTarget};

/// Variations of each target's corpus in a normal run.
const VARIATIONS: u64 = 3_000;
/// What parsers look for, to be put where it was not.
const WORDS: [&str; 28] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "0",
    "-1",
    "1e999",
    "$patch",
    "replace",
    "delete",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "$retainKeys",
    "/",
    "~1",
    "~0",
    "..",
    "%00",
    "%ff",
    "=",
    "!",
    " in (",
    "&a ",
    "*a",
];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder(target))
        .unwrap_or_else(|e| panic!("{target} has no corpus: {e}"))
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|f| std::fs::read(f).unwrap()).collect()
}

/// One input made of others.
fn varied(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let pick = |random: &mut fastrand::Rng| corpus[random.usize(..corpus.len())].clone();
    let mut out = pick(random);
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=out.len());
        match random.u8(..7) {
            0 => out.truncate(at),
            1 if at < out.len() => out[at] = random.u8(..),
            2 if at < out.len() => out[at] ^= 1 << random.u8(..8),
            3 => drop(out.splice(at..at, WORDS[random.usize(..WORDS.len())].bytes())),
            4 => {
                let other = pick(random);
                let from = random.usize(..=other.len());
                let to = random.usize(from..=other.len());
                drop(out.splice(at..at, other[from..to].iter().copied()));
            }
            5 => {
                let end = random.usize(at..=out.len());
                drop(out.drain(at..end));
            }
            _ => {
                let end = random.usize(at..=out.len()).min(at + 64);
                let piece = out[at..end].to_vec();
                for _ in 0..random.usize(..16) {
                    drop(out.splice(at..at, piece.iter().copied()));
                }
            }
        }
    }
    out.truncate(16 * 1024);
    out
}

fn survives((name, target): FuzzTarget, bytes: &[u8]) {
    if catch_unwind(|| target(bytes)).is_err() {
        let file = folder(name).join(format!("found-{:016x}", hash(bytes)));
        std::fs::write(&file, bytes).unwrap();
        panic!("{name} falls over {}", file.display());
    }
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn endure(range: impl Iterator<Item = usize>) {
    for i in range {
        let target = FUZZ_TARGETS[i];
        let corpus = corpus(target.0);
        assert!(!corpus.is_empty());
        for bytes in &corpus {
            survives(target, bytes);
        }
        for seed in 0..VARIATIONS {
            let mut random = fastrand::Rng::with_seed(seed);
            survives(target, &varied(&corpus, &mut random));
        }
    }
}

// In parts, so that they run beside each other.
#[test]
fn parsers_of_requests_endure_anything() {
    endure(0..4);
}

#[test]
fn patches_endure_anything() {
    endure(4..7);
}

#[test]
fn apply_endures_anything() {
    endure(7..9);
}

#[test]
fn schemas_and_bodies_endure_anything() {
    endure(9..FUZZ_TARGETS.len());
}
