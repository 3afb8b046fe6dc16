//! Ready-made models and an example device, as YAML.

/// A ready-made object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyMade {
    /// Name of the object.
    pub name: &'static str,
    /// The YAML document.
    pub yaml: &'static str,
}

/// DeviceModels to start from.
pub const MODELS: &[ReadyMade] = &[
    ReadyMade {
        name: "power-meter",
        yaml: include_str!("../models/power-meter.yaml"),
    },
    ReadyMade {
        name: "press",
        yaml: include_str!("../models/press.yaml"),
    },
    ReadyMade {
        name: "thermostat",
        yaml: include_str!("../models/thermostat.yaml"),
    },
];

/// An example Device, of model `press`.
pub const PRESS_01: ReadyMade = ReadyMade {
    name: "press-01",
    yaml: include_str!("../models/press-01.yaml"),
};

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::hlc::Clock;
    use crate::kinds::DeviceModel;
    use crate::{admit_device, validate_model};

    fn read(made: &ReadyMade) -> Value {
        let object: Value = serde_saphyr::from_str(made.yaml).unwrap();
        assert_eq!(object["metadata"]["name"], made.name);
        object
    }

    #[test]
    fn models_are_good_and_complete() {
        for made in MODELS {
            let object = read(made);
            assert_eq!(validate_model(&object), [], "{}", made.name);
            let model = DeviceModel::deserialize(&object).unwrap();
            // Nothing is lost in the typed view: no field is misspelt.
            assert_eq!(serde_json::to_value(&model).unwrap(), object, "{}", made.name);
            for property in model.spec.properties {
                let complete = property.description.is_some()
                    && property.property_type.is_some()
                    && property.access_mode.is_some();
                assert!(complete, "{}: {:?}", made.name, property.name);
            }
        }
    }

    #[test]
    fn the_example_device_fits_its_model() {
        let mut device = read(&PRESS_01);
        let press = MODELS
            .iter()
            .find(|made| made.name == device["spec"]["deviceModelRef"]["name"])
            .unwrap();
        admit_device(
            None,
            &mut device,
            Some(&read(press)),
            &mut Clock::hub("h", None),
            1,
            "demo",
        )
        .unwrap();
    }
}
