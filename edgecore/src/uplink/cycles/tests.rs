use super::*;
use crate::objects::{DEVICES, STATUSES, device_key};
use crate::uplink::observed::{Changed, Leaving, Pending};
use metastore::store::Object;
use proptest::prelude::*;
use serde_json::json;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The cycles of a device that says some.
fn rates(default: u64, properties: &[(&str, u64)]) -> Rates {
    let mut cycles = Cycles::new(ms(default));
    let named = properties
        .iter()
        .map(|(name, cycle)| json!({"name": name, "reportCycle": cycle}));
    let device = json!({"spec": {"properties": named.collect::<Vec<_>>()}});
    cycles.learn(&device_key(DEVICES, "default", "d"), &device);
    cycles.of(&device_key(STATUSES, "default", "d"))
}

/// A status: properties with the time they were reported at, and the time of the last of all.
fn status(online: u64, reported: &[(&str, u64)]) -> Value {
    let twins = reported.iter().map(|(name, at)| {
        json!({"propertyName": name, "reported": {"value": at.to_string(), "metadata": {"timestamp": at.to_string()}}})
    });
    json!({"metadata": {"name": "d", "uid": "u"},
        "status": {"lastOnlineTime": online.to_string(), "twins": twins.collect::<Vec<_>>()}})
}

fn value(body: &[u8], property: &str) -> Option<String> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let found = twins(&body).find(|(name, _)| *name == property)?.1["reported"]["value"].clone();
    found.as_str().map(str::to_owned)
}

#[test]
fn each_property_leaves_at_its_own_pace() {
    let rates = rates(0, &[("slow", 1000), ("quick", 100)]);
    let mut sent = Sent::default();
    let mut take = |now: u64, status: Value| {
        let Due { body, next } = sent.take(status, &rates, ms(now));
        let of = |name| body.as_ref().and_then(|body| value(body, name));
        (of("slow"), of("quick"), of("free"), next.map(|next| next.as_millis()))
    };
    let some = |n: u64| Some(n.to_string());
    let all = |at| status(at, &[("slow", at), ("quick", at), ("free", at)]);
    assert_eq!(take(5000, all(1)), (some(1), some(1), some(1), None));
    assert_eq!(take(5050, all(2)), (some(1), some(1), some(2), Some(5100)));
    assert_eq!(take(5100, all(3)), (some(1), some(3), some(3), Some(6000)));
    assert_eq!(take(5110, all(3)), (None, None, None, Some(6000)), "nothing new");
    assert_eq!(take(6000, all(3)), (some(3), some(3), some(3), None));
}

#[test]
fn the_time_of_the_last_report_travels_with_reports_and_does_not_make_any() {
    let rates = rates(0, &[("a", 1000)]);
    let mut sent = Sent::default();
    sent.take(status(1, &[("a", 1)]), &rates, ms(5000));
    for online in 2..9 {
        let due = sent.take(status(online, &[("a", online)]), &rates, ms(5000 + online));
        assert_eq!(
            due,
            Due {
                body: None,
                next: Some(ms(6000))
            }
        );
    }
    let due = sent.take(status(8, &[("a", 8)]), &rates, ms(6000));
    assert_eq!(due.body.unwrap(), objects::replica_body(status(8, &[("a", 8)])));
    // Alone it is sent too, at the pace of the quickest.
    assert_eq!(sent.take(status(9, &[("a", 8)]), &rates, ms(6500)).next, Some(ms(7000)));
    let due = sent.take(status(9, &[("a", 8)]), &rates, ms(7000));
    assert_eq!(due.body.unwrap(), objects::replica_body(status(9, &[("a", 8)])));
}

#[test]
fn only_what_is_reported_is_held_back() {
    let rates = rates(60_000, &[]);
    let mut sent = Sent::default();
    sent.take(status(1, &[("a", 1)]), &rates, ms(5000));
    let mut next = status(2, &[("a", 2)]);
    next["status"]["state"] = json!("online");
    next["status"]["twins"][0]["observedDesired"] = json!({"value": "7"});
    let body = sent.take(next, &rates, ms(5001)).body.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["status"]["state"], "online");
    assert_eq!(body["status"]["twins"][0]["observedDesired"]["value"], "7");
    assert_eq!(body["status"]["twins"][0]["reported"]["value"], "1");
    // A property that is gone is gone.
    let body = sent.take(status(2, &[]), &rates, ms(5002)).body.unwrap();
    assert_eq!(value(&body, "a"), None);
}

#[test]
fn what_is_remembered_goes_with_its_reason() {
    let rates = rates(1000, &[]);
    let mut sent = Sent::default();
    for n in 0..50_u64 {
        let name = n.to_string();
        sent.take(status(n, &[(&name, n)]), &rates, ms(n));
    }
    assert!(sent.left.len() <= 2, "{:?}", sent.left);
    sent.take(status(99, &[]), &rates, ms(5000));
    assert!(sent.left.is_empty());

    let key = device_key(DEVICES, "default", "d");
    let mut cycles = Cycles::new(Duration::ZERO);
    let device = |cycle: u64| json!({"spec": {"properties": [{"name": "a", "reportCycle": cycle}, {"name": "b"}]}});
    assert!(cycles.learn(&key, &device(500)) && !cycles.learn(&key, &device(500)));
    assert!(!cycles.of(&key).is_free());
    assert!(cycles.learn(&key, &device(0)) && cycles.devices.is_empty());
    assert!(cycles.of(&key).is_free() && !cycles.forget(&key));
}

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Cycles come in these steps.
const STEP: u64 = 10;

#[derive(Clone, Debug)]
enum Input {
    /// Properties (by bit) are reported.
    Report(u8),
    /// The hub acknowledges what is under way.
    Settle,
    /// The Device gets other cycles.
    Pace([u64; 3]),
}

fn input() -> impl Strategy<Value = (u64, Input)> {
    let cycles = || prop::array::uniform3(0..5_u64);
    let input = prop_oneof![
        6 => (1..8_u8).prop_map(Input::Report),
        3 => Just(Input::Settle),
        1 => cycles().prop_map(Input::Pace),
    ];
    (0..2 * STEP, input)
}

/// A gateway's queue, the hub's end of it, and what both know.
struct Gateway {
    pending: Pending,
    cycles: [u64; 3],
    /// Least cycle of each property since it left last.
    least: [u64; 3],
    truth: [u64; 3],
    revision: u64,
    hub: Bytes,
    left: [Option<u64>; 3],
}

impl Gateway {
    fn rates(&self) -> Rates {
        let named: Vec<_> = NAMES
            .into_iter()
            .zip(self.cycles)
            .map(|(name, cycle)| (name, cycle * STEP))
            .collect();
        rates(0, &named)
    }

    fn status(&self) -> Value {
        let reported: Vec<_> = NAMES.into_iter().zip(self.truth).collect();
        status(self.revision, &reported)
    }

    fn changed(&mut self, now: u64) {
        let object = Object {
            key: device_key(STATUSES, "default", "d"),
            revision: self.revision,
            json: objects::canonical(&self.status()),
        };
        let changed = Changed {
            key: "k".into(),
            object: Some(object),
            rates: self.rates(),
            paced: None,
        };
        self.pending.changed(changed, ms(now));
    }

    /// As the session does after everything that happens.
    fn flush(&mut self, now: u64) {
        for (key, leaving) in self.pending.take(ms(now)) {
            if &*key != "k" {
                // The Device's own entry is another matter.
                self.pending.settled(&key);
                continue;
            }
            let body = match leaving {
                Leaving::Body(body) => body,
                Leaving::Object(object) => objects::replica_body(object.value().unwrap()),
                Leaving::Gone => panic!("it is there"),
            };
            for (n, name) in NAMES.into_iter().enumerate() {
                if value(&body, name) == value(&self.hub, name) {
                    continue;
                }
                if let Some(left) = self.left[n] {
                    let least = self.least[n] * STEP;
                    assert!(
                        now >= left + least,
                        "{name} left at {left} and {now}, its cycle is {least}"
                    );
                }
                self.left[n] = Some(now);
                self.least[n] = self.cycles[n];
            }
            self.hub = body;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_leaves_too_often_and_everything_leaves_in_the_end(
        cycles in prop::array::uniform3(0..5_u64), inputs in prop::collection::vec(input(), 0..60)
    ) {
        let mut gateway = Gateway {
            pending: Pending::default(), cycles, least: cycles, truth: [0; 3], revision: 0,
            hub: Bytes::from_static(b"{}"), left: [None; 3],
        };
        let mut now = 1000;
        for (pause, input) in inputs {
            // What is due meanwhile leaves at its time.
            let until = now + pause;
            while let Some(due) = gateway.pending.due().filter(|due| *due <= ms(until)) {
                gateway.flush(u64::try_from(due.as_millis()).unwrap().max(now));
            }
            now = until;
            match input {
                Input::Report(which) => {
                    gateway.revision += 1;
                    for n in (0..3).filter(|n| which & (1 << n) != 0) {
                        gateway.truth[n] = gateway.revision;
                    }
                    gateway.changed(now);
                }
                Input::Settle => gateway.pending.settled("k"),
                Input::Pace(cycles) => {
                    gateway.cycles = cycles;
                    for (least, cycle) in gateway.least.iter_mut().zip(cycles) {
                        *least = cycle.min(*least);
                    }
                    let changed = Changed {
                        key: "other".into(), object: None, rates: Rates::default(),
                        paced: Some(("k".into(), gateway.rates())),
                    };
                    gateway.pending.changed(changed, ms(now));
                }
            }
            gateway.flush(now);
        }
        let last = now;
        gateway.pending.settled("k");
        while let Some(due) = gateway.pending.due() {
            now = now.max(u64::try_from(due.as_millis()).unwrap());
            gateway.flush(now);
            gateway.pending.settled("k");
        }
        let longest = 4 * STEP;
        prop_assert!(now <= last + longest, "the last left {} after the last change", now - last);
        if gateway.revision > 0 {
            prop_assert_eq!(&gateway.hub, &objects::replica_body(gateway.status()));
        }
    }
}
