//! The fuzz target over its corpus, over every cut and many changes of it, and over arbitrary bytes.

use mqtt::fuzzing;
use proptest::prelude::*;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz-corpus");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus is not there");
    files
}

#[test]
fn corpus_and_its_neighbours() {
    for (name, data) in corpus() {
        fuzzing::packet(&data);
        fuzzing::record(&data);
        for cut in 0..data.len() {
            fuzzing::packet(&data[..cut]);
        }
        for index in 0..data.len() {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff, data[index] ^ 1, data[index].wrapping_add(1)] {
                let mut changed = data.clone();
                changed[index] = value;
                fuzzing::packet(&changed);
            }
        }
        assert!(!name.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzzing::packet(&data);
        fuzzing::record(&data);
    }

    #[test]
    fn arbitrary_bodies(first in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..120)) {
        let mut data = vec![first, body.len() as u8];
        data.extend(&body);
        fuzzing::packet(&data);
    }

    #[test]
    fn corpus_spliced(cut in any::<prop::sample::Index>(), which in any::<(prop::sample::Index, prop::sample::Index)>()) {
        let files = corpus();
        let (a, b) = (&files[which.0.index(files.len())].1, &files[which.1.index(files.len())].1);
        let at = cut.index(a.len().max(1)).min(a.len());
        fuzzing::packet(&[&a[..at], b].concat());
    }
}
