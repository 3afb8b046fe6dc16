//! Bodies on the wire: zstd with a dictionary that both sides have, plain when that is not smaller.
//!
//! Owns the dictionary (raw content: typical objects, the most typical last) and one context per thread and direction, so that ten
//! thousand idle sessions hold none. The dictionary is part of the protocol: a changed one gets a new number and a new `Encoding`,
//! the old one stays for as long as the version that uses it.

use crate::wire::Encoding;
use bytes::Bytes;
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};

static DICTIONARY_1: &[u8] = include_bytes!("../dictionary/1.jsonl");

/// Below this zstd's own header eats the gain.
const PLAIN_BELOW: usize = 64;
/// Level 1 is within a few percent of 3 on JSON of this size and needs a third of the memory.
const LEVEL: i32 = 1;
/// A context that has worked on more than this is not kept: its tables have grown with the body.
const KEEP_UPTO: usize = 128 << 10;

thread_local! {
    static PACKER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Why a body cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It says it is longer than the cap.
    #[error("a body of {len} bytes; at most {max} are taken")]
    TooLong {
        /// Claimed length.
        len: usize,
        /// The cap.
        max: usize,
    },
    /// It does not decode to the length it claims.
    #[error("a body that does not decode to the {len} bytes it claims")]
    Damaged {
        /// Claimed length.
        len: usize,
    },
    /// An encoding this version does not know.
    #[error("a body in encoding {0}, which is unknown here")]
    Encoding(i32),
}

/// Encodes a body, with whichever encoding is the smaller.
pub(crate) fn pack(body: &Bytes) -> (Encoding, Bytes) {
    if body.len() < PLAIN_BELOW {
        return (Encoding::Plain, body.clone());
    }
    let packed = PACKER.with_borrow_mut(|slot| {
        let mut packer = match slot.take() {
            Some(packer) => packer,
            None => Compressor::with_dictionary(LEVEL, DICTIONARY_1).ok()?,
        };
        let packed = packer.compress(body).ok()?;
        if body.len() <= KEEP_UPTO {
            *slot = Some(packer);
        }
        Some(packed)
    });
    match packed {
        Some(packed) if packed.len() < body.len() => (Encoding::Zstd1, packed.into()),
        _ => (Encoding::Plain, body.clone()),
    }
}

/// Decodes a body that claims to have `len` bytes, never allocating more than `max`. The result shares nothing with the frame it came
/// in, so that keeping a small body does not keep a large frame.
pub(crate) fn unpack(encoding: i32, len: usize, body: &[u8], max: usize) -> Result<Bytes, UnpackError> {
    if len > max || (encoding == Encoding::Plain as i32 && body.len() > max) {
        return Err(UnpackError::TooLong {
            len: len.max(body.len()),
            max,
        });
    }
    let damaged = UnpackError::Damaged { len };
    match Encoding::try_from(encoding) {
        Ok(Encoding::Plain) if body.len() == len => Ok(Bytes::copy_from_slice(body)),
        Ok(Encoding::Plain) => Err(damaged),
        Ok(Encoding::Zstd1) => {
            let unpacked = UNPACKER.with_borrow_mut(|slot| {
                let mut unpacker = match slot.take() {
                    Some(unpacker) => unpacker,
                    None => Decompressor::with_dictionary(DICTIONARY_1).ok()?,
                };
                let unpacked = unpacker.decompress(body, len).ok()?;
                *slot = Some(unpacker);
                Some(unpacked)
            });
            match unpacked {
                Some(unpacked) if unpacked.len() == len => Ok(unpacked.into()),
                _ => Err(damaged),
            }
        }
        Err(_) => Err(UnpackError::Encoding(encoding)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn roundtrip(body: &Bytes) -> usize {
        let (encoding, packed) = pack(body);
        assert_eq!(
            unpack(encoding as i32, body.len(), &packed, body.len()).as_ref(),
            Ok(body)
        );
        packed.len()
    }

    #[test]
    fn dictionary_1_never_changes() {
        let sum = ring::digest::digest(&ring::digest::SHA256, DICTIONARY_1);
        let first: String = sum.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            first, "69dcb1cbd12a908d",
            "make dictionary/2.jsonl and a new Encoding instead"
        );
    }

    #[test]
    fn a_body_of_version_1_is_read() {
        let packed = *b"(\xb5/\xfd Z\xbd\0\0Poven-07\"}}\x03@\0\xc3\x85B\x9d\xa0\xc9\xec\x0e\x06";
        let body = br#"{"apiVersion":"devices.kubeedge.io/v1beta1","kind":"Device","metadata":{"name":"oven-07"}}"#;
        let read = unpack(Encoding::Zstd1 as i32, body.len(), &packed, 4096);
        assert_eq!(read.as_deref(), Ok(&body[..]), "{:?}", pack(&Bytes::from_static(body)));
    }

    #[test]
    fn typical_objects_become_a_fraction() {
        let twin = |name: &str, value: &str| {
            let kind = if value.contains('.') { "float" } else { "int" };
            format!(
                r#"{{"propertyName":"{name}","reported":{{"metadata":{{"timestamp":"1763700000123","type":"{kind}"}},"value":"{value}"}}}}"#
            )
        };
        let twins = [
            twin("temperature", "181.25"),
            twin("setpoint", "180"),
            twin("cycles", "99812"),
        ]
        .join(",");
        let status = Bytes::from(format!(
            r#"{{"apiVersion":"devices.kubeedge.io/v1beta1","kind":"DeviceStatus","metadata":{{"name":"oven-07","namespace":"hall-3"}},"spec":{{}},"status":{{"lastOnlineTime":"2026-11-21T04:40:00Z","state":"online","twins":[{twins}]}}}}"#
        ));
        let packed = roundtrip(&status);
        assert!(packed * 3 < status.len(), "{packed} of {}", status.len());
    }

    #[test]
    fn what_does_not_shrink_stays_plain() {
        assert_eq!(pack(&Bytes::from_static(b"{}")).0, Encoding::Plain);
        let noise: Vec<u8> = (0..4000u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        let (encoding, packed) = pack(&noise.clone().into());
        assert!(packed.len() <= noise.len());
        assert!(encoding == Encoding::Plain || packed.len() < noise.len());
    }

    proptest! {
        #[test]
        fn bodies_come_back(parts in prop::collection::vec("[ -~]{1,40}", 0..60), times in 1usize..40) {
            roundtrip(&Bytes::from(parts.concat().repeat(times)));
        }

        #[test]
        fn anything_is_answered(body in prop::collection::vec(any::<u8>(), 0..300), len in 0usize..10_000) {
            if let Ok(read) = unpack(Encoding::Zstd1 as i32, len, &body, 5000) {
                prop_assert_eq!(read.len(), len);
                prop_assert!(len <= 5000);
            }
        }
    }
}
