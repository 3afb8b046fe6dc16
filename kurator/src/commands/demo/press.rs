//! A hydraulic press in software: heats towards its setpoint, counts its strokes, obeys what MQTT tells it. It knows nothing of
//! Kubernetes and uses an ordinary MQTT client library.

use std::time::Duration;

use daemon::exit::{FAILED, Failure};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

/// How often it reports.
const CYCLE: Duration = Duration::from_millis(200);
/// Share of the way to the setpoint that it warms or cools in one cycle.
const WARMING: f64 = 0.15;
/// Room temperature, degrees Celsius.
const AMBIENT: f64 = 22.0;
const TOPIC: &str = "$hw/events/device/default/press-01/twin/update";

/// The model and the device, as they are shipped.
pub(super) fn manifests() -> Result<(Value, Value), Failure> {
    let parse = |text: &str| -> Result<Value, Failure> {
        serde_saphyr::from_str(text).map_err(|e| Failure::new(FAILED, format!("a shipped manifest is broken: {e}")))
    };
    let model = device_models::MODELS.iter().find(|m| m.name == "press");
    let model = model.ok_or_else(|| Failure::new(FAILED, "the press's model is not shipped"))?;
    Ok((parse(model.yaml)?, parse(device_models::PRESS_01.yaml)?))
}

/// A running press; dropping it unplugs it.
pub(super) struct Press {
    task: JoinHandle<()>,
}

impl Drop for Press {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Press {
    pub(super) fn start(mqtt: &str) -> Result<Self, Failure> {
        let bad = || Failure::new(FAILED, format!("{mqtt:?} is not an address"));
        let (host, port) = mqtt.rsplit_once(':').ok_or_else(bad)?;
        let mut options = MqttOptions::new("press-01", host, port.parse().map_err(|_| bad())?);
        options.set_keep_alive(Duration::from_secs(30)).set_clean_session(false);
        let (client, events) = AsyncClient::new(options, 64);
        Ok(Self {
            task: tokio::spawn(live(client, events)),
        })
    }
}

/// What the machine is doing.
#[derive(Debug, PartialEq)]
struct Machine {
    setpoint: f64,
    temperature: f64,
    enabled: bool,
    cycles: u64,
}

impl Machine {
    const fn cold() -> Self {
        Self {
            setpoint: 40.0,
            temperature: AMBIENT,
            enabled: true,
            cycles: 0,
        }
    }

    /// One cycle of its life.
    fn tick(&mut self) {
        let goal = if self.enabled { self.setpoint } else { AMBIENT };
        self.temperature += (goal - self.temperature) * WARMING;
        self.cycles += u64::from(self.enabled);
    }

    /// Takes what a delta asks for; what it does not understand it leaves, and goes on reporting what it does.
    fn obey(&mut self, delta: &Map<String, Value>) {
        if let Some(setpoint) = delta
            .get("setpoint")
            .and_then(Value::as_str)
            .and_then(|v| v.parse().ok())
        {
            self.setpoint = setpoint;
        }
        if let Some(enabled) = delta
            .get("enabled")
            .and_then(Value::as_str)
            .and_then(|v| v.parse().ok())
        {
            self.enabled = enabled;
        }
    }

    fn report(&self) -> String {
        let actual = |value: String| json!({"actual": {"value": value}});
        let state = match (self.enabled, self.setpoint - self.temperature > 2.0) {
            (false, _) => "idle",
            (true, true) => "heating",
            (true, false) => "pressing",
        };
        json!({"event_id": format!("c{}", self.cycles), "timestamp": daemon::clock::wall_ms(), "twin": {
            "setpoint": actual(self.setpoint.to_string()),
            "temperature": actual(format!("{:.1}", self.temperature)),
            "enabled": actual(self.enabled.to_string()),
            "cycles": actual(self.cycles.to_string()),
            "state": actual(state.to_owned()),
        }})
        .to_string()
    }
}

async fn live(client: AsyncClient, mut events: rumqttc::EventLoop) {
    let mut machine = Machine::cold();
    let mut clock = tokio::time::interval(CYCLE);
    loop {
        tokio::select! {
            event = events.poll() => match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    // An error says that the event loop is gone: the next poll will tell.
                    drop(client.try_subscribe(format!("{TOPIC}/delta"), QoS::AtLeastOnce));
                }
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    let document: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
                    if let Some(delta) = document["delta"].as_object() {
                        machine.obey(delta);
                        drop(client.try_publish(TOPIC, QoS::AtLeastOnce, false, machine.report()));
                    }
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(CYCLE).await,
            },
            _ = clock.tick() => {
                machine.tick();
                drop(client.try_publish(TOPIC, QoS::AtLeastOnce, false, machine.report()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_heats_towards_its_setpoint_and_cools_when_switched_off() {
        let mut m = Machine::cold();
        m.obey(json!({"setpoint": "80"}).as_object().unwrap());
        for _ in 0..60 {
            m.tick();
        }
        assert!((79.0..=80.0).contains(&m.temperature) && m.cycles == 60);
        m.obey(json!({"enabled": "false", "setpoint": "hot"}).as_object().unwrap());
        for _ in 0..60 {
            m.tick();
        }
        assert!(m.temperature < 23.0 && m.cycles == 60 && (m.setpoint - 80.0).abs() < f64::EPSILON);
        assert!(m.report().contains(r#""state":{"actual":{"value":"idle"}}"#));
    }
}
