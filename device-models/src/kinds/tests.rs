use serde_json::{Value, json};

use super::*;

fn there_and_back<T: Serialize + for<'de> Deserialize<'de>>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), *object);
}

#[test]
fn every_field_of_a_device_comes_back() {
    there_and_back::<Device>(&json!({
        "apiVersion": DEVICES_API_VERSION, "kind": "Device",
        "metadata": {"name": "d", "namespace": "n", "labels": {"a": "b"}, "annotations": {"c": "d"}, "uid": "u", "ownerReferences": [{"name": "x"}]},
        "spec": {
            "deviceModelRef": {"name": "m"}, "nodeName": "gw-1",
            "protocol": {"protocolName": "modbus", "configData": {"ip": "10.0.0.7", "deep": [{"x": null}]}},
            "stateReport": {"reportToCloud": true, "reportCycle": 5},
            "methods": [{"name": "go", "description": "goes", "propertyNames": ["p"]}],
            "properties": [{
                "name": "p", "desired": {"value": "1", "metadata": {"type": "int"}}, "reportCycle": 1, "collectCycle": 2, "reportToCloud": true,
                "visitors": {"protocolName": "modbus", "configData": {"offset": 3}},
                "pushMethod": {
                    "http": {"hostName": "http://h", "port": 80, "requestPath": "/x", "timeout": 3},
                    "mqtt": {"address": "tcp://h:1883", "topic": "t", "qos": 1, "retained": true},
                    "otel": {"endpointURL": "http://o"},
                    "anomalyDetection": {"any": {"thing": 1}},
                    "dbMethod": {
                        "influxdb2": {"influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"}, "influxdb2DataConfig": {"measurement": "m", "tag": {"k": "v"}, "fieldKey": "f"}},
                        "redis": {"redisClientConfig": {"addr": "a", "db": 1, "poolsize": 2, "minIdleConns": 3}},
                        "TDEngine": {"TDEngineClientConfig": {"addr": "a", "dbName": "d"}},
                        "mysql": {"mysqlClientConfig": {"addr": "a", "database": "d", "userName": "u"}},
                    },
                },
            }],
        },
        "status": {"reportToCloud": true, "reportCycle": 9},
    }));
}

#[test]
fn every_field_of_the_others_comes_back() {
    there_and_back::<DeviceModel>(&json!({
        "apiVersion": DEVICES_API_VERSION, "kind": "DeviceModel", "metadata": {"name": "m"},
        "spec": {"protocol": "modbus", "protocolConfigData": {"port": 502}, "properties": [
            {"name": "p", "description": "d", "type": "STREAM", "accessMode": "ReadOnly", "minimum": "1", "maximum": "2", "unit": "u",
             "visitors": {"protocolName": "modbus", "configData": {"a": [1]}}}]},
    }));
    there_and_back::<DeviceStatus>(&json!({
        "apiVersion": DEVICES_API_VERSION, "kind": "DeviceStatus", "metadata": {"name": "d"}, "spec": {},
        "status": {"state": "ok", "lastOnlineTime": "2026-11-21T03:11:10Z", "extensions": {"x": 1}, "twins": [
            {"propertyName": "p", "reported": {"value": "1", "metadata": {"timestamp": "5"}}, "observedDesired": {"value": "2", "metadata": {"a": "b"}}}]},
    }));
    there_and_back::<EdgeNode>(&json!({
        "apiVersion": EDGE_API_VERSION, "kind": "EdgeNode", "metadata": {"name": "gw-1"},
        "spec": {"nodeInfo": {"nodeID": "gw-1", "nodeIP": "192.168.1.100"}, "labels": {"region": "east"}, "site": "hall-4"},
        "status": {
            "connected": true, "lastSeen": "2026-11-21T03:11:10Z", "agentVersion": "0.1.0", "arch": "arm64", "os": "linux", "link": "quic",
            "address": "192.0.2.7:4433", "sessionEpoch": 7, "desired": {"digest": "00ff", "entries": 3, "refused": 1, "refusedKeys": [{"key": "k", "reason": "r"}]},
            "observed": {"digest": "00ff", "entries": 3, "refused": 0}, "inSync": true, "bytesSent": 1, "bytesReceived": 2,
            "journals": [{"stream": "telemetry", "accepted": 9, "delivered": 5, "dropped": 1, "waiting": 3}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-11-21T03:11:10Z", "observedGeneration": 1}],
        },
    }));
}

#[test]
fn what_is_left_empty_is_absent() {
    let device: Device = serde_json::from_value(json!({
        "metadata": {"name": "d", "annotations": null},
        "spec": {"protocol": {"configData": null}, "properties": [{"name": "p", "desired": {"value": "1", "metadata": null}}], "methods": null},
    }))
    .unwrap();
    assert_eq!(device.spec.protocol, Some(ProtocolConfig::default()));
    assert!(serde_json::from_value::<Device>(json!({"metadata": {"name": "d"}, "spec": null})).is_ok());
    assert!(serde_json::from_value::<Device>(json!({"spec": {"properties": [{"name": "p", "desired": {}}]}})).is_err());
}
