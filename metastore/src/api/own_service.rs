//! The Service by which programs in pods find this server, with its endpoints: made at start where the server is told its address, and put right
//! when the address has changed.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::auth::User;
use super::server::{ApiServer, ResourceId};
use super::status::Status;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// The port that programs use.
const PORT: u16 = 443;

/// Makes the Service and its endpoints say where the server is.
pub(crate) async fn keep(server: &ApiServer, address: SocketAddr) -> Result<(), Status> {
    for (group, resource, object, parts) in objects(server, address) {
        match server.create(&User::internal(), object.clone()).await {
            Ok(_) => continue,
            Err(s) if s.reason == "AlreadyExists" => {}
            // A table of kinds without this one.
            Err(s) if s.code == 404 => continue,
            Err(s) => return Err(s),
        }
        let id = ResourceId::new(group, resource, NAMESPACE, NAME);
        server
            .modify(&User::internal(), &id, "", |current| {
                for pointer in parts {
                    if let (Some(have), Some(want)) = (current.pointer_mut(pointer), object.pointer(pointer)) {
                        *have = want.clone();
                    }
                }
                Ok(())
            })
            .await?;
    }
    Ok(())
}

type Wanted = (&'static str, &'static str, Value, &'static [&'static str]);

fn objects(server: &ApiServer, address: SocketAddr) -> Vec<Wanted> {
    let (ip, port) = (address.ip(), address.port());
    let mut spec = json!({"ports": [{"name": "https", "port": PORT, "protocol": "TCP", "targetPort": port}]});
    if let Some(range) = server.core.service_ranges.first() {
        spec["clusterIP"] = json!(range.first());
    }
    let meta = |labels: Value| json!({"name": NAME, "namespace": NAMESPACE, "labels": labels});
    let service = json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
        "metadata": meta(json!({"component": "apiserver", "provider": "kubernetes"}))});
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": meta(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
        "subsets": [{"addresses": [{"ip": ip}], "ports": ports}]});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": meta(json!({"kubernetes.io/service-name": NAME})),
        "addressType": super::addresses::family(ip), "ports": ports,
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}]});
    let mut out: Vec<Wanted> = vec![("", "services", service, &["/spec/ports"])];
    // Endpoints may not name the machine itself: then there are none, and the Service leads nowhere.
    if !ip.is_loopback() && !ip.is_unspecified() {
        out.push(("", "endpoints", endpoints, &["/subsets"]));
        out.push(("discovery.k8s.io", "endpointslices", slice, &["/endpoints", "/ports"]));
    }
    out
}
