//! The fuzz targets over their corpora and over mutations of them: what a long run of a fuzzer found once is found here every time.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proto::fuzzing;
use std::path::Path;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz-corpus").join(target);
    let files = std::fs::read_dir(dir).unwrap();
    let all: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!all.is_empty());
    all
}

#[test]
fn corpora() {
    corpus("frame").iter().for_each(|data| fuzzing::frame(data));
    corpus("session")
        .iter()
        .chain(&corpus("frame"))
        .for_each(|data| fuzzing::session(data));
    corpus("token").iter().for_each(|data| fuzzing::token(data));
}

/// A seed from the corpus with some bytes changed, cut out, doubled or added.
fn mutate(mut data: Vec<u8>, changes: &[(u8, u16, u8)]) -> Vec<u8> {
    for &(what, at, byte) in changes {
        if data.is_empty() {
            break;
        }
        let at = usize::from(at) % data.len();
        match what % 5 {
            0 => data[at] = byte,
            1 => drop(data.remove(at)),
            2 => data.insert(at, byte),
            3 => data[at] ^= 1 << (byte % 8),
            _ => data.extend_from_within(..at),
        }
    }
    data.truncate(64 << 10);
    data
}

fn changes() -> impl Strategy<Value = Vec<(u8, u16, u8)>> {
    prop::collection::vec((any::<u8>(), any::<u16>(), any::<u8>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_frames(seed in prop::sample::select(corpus("frame")), changes in changes()) {
        fuzzing::frame(&mutate(seed, &changes));
    }

    #[test]
    fn mutated_sessions(seed in prop::sample::select(corpus("session")), changes in changes()) {
        fuzzing::session(&mutate(seed, &changes));
    }

    #[test]
    fn mutated_tokens(seed in prop::sample::select(corpus("token")), changes in changes()) {
        fuzzing::token(&mutate(seed, &changes));
    }

    #[test]
    fn random_bytes(data in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzzing::frame(&data);
        fuzzing::token(&data);
        // Random bytes hardly ever hold a good length: give them one.
        let mut framed = (data.len() as u32).to_be_bytes().to_vec();
        framed.extend(&data);
        fuzzing::frame(&framed);
        fuzzing::session(&framed);
    }
}
