//! How much of a connection may be in flight: Cubic's window, and room for the last word.
//!
//! quinn holds a connection's closing packet back like any other: while there is data to send and no window for it. Acknowledgements
//! that come after the close do not open the window, so a peer that was being sent much would not hear of the close at all. This never
//! lets more data out: of a closed connection nothing but that one packet is sent.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};

/// As good as no limit.
const OPEN: u64 = 1 << 30;

/// Makes the windows of connections.
#[derive(Default)]
pub(super) struct Windows(Arc<CubicConfig>);

impl ControllerFactory for Windows {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Window {
            cubic: Cubic::new(Arc::clone(&self.0), now, current_mtu),
            closing: Arc::default(),
        })
    }
}

/// Clones open together.
#[derive(Clone)]
struct Window {
    cubic: Cubic,
    closing: Arc<AtomicBool>,
}

/// To be called right before a connection is closed, with a clone of its controller.
pub(crate) fn make_room_for_close(controller: Box<dyn Controller>) {
    if let Ok(window) = controller.into_any().downcast::<Window>() {
        window.closing.store(true, Ordering::Relaxed);
    }
}

impl Controller for Window {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.closing.load(Ordering::Relaxed) {
            OPEN
        } else {
            self.cubic.window()
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
