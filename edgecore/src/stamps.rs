//! The gateway's one hybrid logical clock, shared by everything that writes a desired value: the twin service (MQTT `expected`),
//! the local API's admission and the mirror of the hub's set.
//!
//! Its last stamp is written with whatever was stamped. At start the clock takes up the latest stamp it can find, in its own record
//! and in the Devices: a stamp is in one of them, because a write and its stamp are one transaction.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device_models::desired_registers;
use device_models::hlc::{Clock, Stamp};
use metastore::store::{Op, Store, StoreError};
use serde_json::Value;

/// Where the last stamp is kept.
const BUCKET: &str = "clock";
const KEY: &[u8] = b"last";

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stamps(Arc<Mutex<Clock>>);

impl Stamps {
    /// The clock of gateway `node`, not earlier than what the store says was stamped.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn load(node: &str, store: &Store) -> Result<Self, StoreError> {
        let last = store
            .kv_get(BUCKET, KEY)?
            .and_then(|text| str::from_utf8(&text).ok()?.parse::<Stamp>().ok());
        Ok(Self(Arc::new(Mutex::new(Clock::edge(node, last)))))
    }

    /// The clock itself. Held for a computation, never across a wait.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Clock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of every stamp in a Device.
    pub(crate) fn observe(&self, device: &Value, wall_ms: u64) {
        let mut clock = self.lock();
        for (name, register) in desired_registers(device) {
            if let device_models::hlc::Observed::TooFarAhead(ms) = clock.observe(&register.stamp, wall_ms) {
                tracing::warn!(property = %name, ahead_ms = ms, "A stamp is further ahead than any clock can be.");
            }
        }
    }

    /// The operation that makes the clock's last stamp durable, for the transaction of what was stamped.
    pub(crate) fn persist(&self) -> Op {
        Op::KvPut {
            bucket: BUCKET.into(),
            key: KEY.to_vec(),
            value: self.lock().last().to_string().into_bytes(),
        }
    }
}
