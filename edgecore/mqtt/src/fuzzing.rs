//! Entry points for fuzzers; each must neither panic nor hang for any input.

/// Bytes of a connection, from the first on and also as what follows a CONNECT, in both protocols.
pub fn packet(data: &[u8]) {
    crate::codec::fuzz(data);
}

/// Bytes of a stored record: the first byte says how long the key is.
pub fn record(data: &[u8]) {
    let Some((len, rest)) = data.split_first() else { return };
    let (key, value) = rest.split_at(usize::from(*len).min(rest.len()));
    drop(crate::State::from_kv([(key, value)]));
}
