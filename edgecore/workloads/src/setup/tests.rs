use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cri::v1::security_profile::ProfileType;
use cri::v1::{DnsConfig, NamespaceMode, Protocol, Signal, SupplementalGroupsPolicy};
use serde_json::{Value, json};

use super::testing::{cluster, host, pod, pod_of};
use super::*;
use crate::cluster::{Cluster, Key};
use crate::images::ImageRef;
use crate::pod::Pod;

fn ips() -> Vec<IpAddr> {
    vec!["10.42.0.9".parse().unwrap(), "fd00::9".parse().unwrap()]
}

fn image() -> ImageRef {
    ImageRef {
        id: "sha256:abc".to_owned(),
        ..ImageRef::default()
    }
}

fn configured(pod: &Pod, image: &ImageRef) -> Result<cri::v1::ContainerConfig, SetupError> {
    let env = Env::default();
    let inputs = Inputs {
        image,
        env: &env,
        mounts: Vec::new(),
        target: None,
    };
    container(pod, &pod.spec.containers[0], 3, inputs, &host(&PathBuf::from("/h")))
}

fn security(pod: &Pod) -> cri::v1::LinuxContainerSecurityContext {
    let config = configured(pod, &image()).unwrap();
    config.linux.unwrap().security_context.unwrap()
}

#[test]
fn classes_of_service_and_scores() {
    let both = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    for (resources, class, score) in [
        (json!({}), Qos::BestEffort, 1000),
        (json!({"limits": {"example.com/gpu": 1}}), Qos::BestEffort, 1000),
        (
            json!({"requests": both("1", "1Gi"), "limits": both("1000m", "1Gi")}),
            Qos::Guaranteed,
            -997,
        ),
        (
            json!({"requests": both("1", "1G"), "limits": both("2", "1G")}),
            Qos::Burstable,
            750,
        ),
        (json!({"requests": {"memory": "1"}}), Qos::Burstable, 999),
        (json!({"requests": {"memory": "4G"}}), Qos::Burstable, 3),
        (
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
            Qos::Burstable,
            999,
        ),
    ] {
        let pod = pod_of(json!({"resources": resources}));
        assert_eq!(qos(&pod), class, "{resources}");
        assert_eq!(
            oom_score_adj(&pod, &pod.spec.containers[0], 4_000_000_000),
            score,
            "{resources}"
        );
    }
    let critical = pod(json!({"priorityClassName": "system-node-critical"}));
    assert_eq!(oom_score_adj(&critical, &critical.spec.containers[0], 1), -997);
    let sidecar = pod(json!({
        "containers": [{"name": "a", "resources": {"requests": {"memory": "2G"}}}],
        "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
    }));
    let score = |at: usize| oom_score_adj(&sidecar, &sidecar.spec.init_containers[at], 4_000_000_000);
    assert_eq!((score(0), score(1)), (500, 999));
}

#[test]
fn cgroups_are_named_as_others_name_them() {
    let of = |resources: Value, systemd: bool| cgroups::parent(&pod_of(json!({"resources": resources})), systemd);
    let all = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(of(json!({}), false), "/kubepods/besteffort/pod0aa1-22");
    assert_eq!(
        of(json!({"requests": {"cpu": "1"}}), false),
        "/kubepods/burstable/pod0aa1-22"
    );
    assert_eq!(
        of(json!({"requests": all, "limits": all}), false),
        "/kubepods/pod0aa1-22"
    );
    assert_eq!(
        of(json!({}), true),
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0aa1_22.slice"
    );
    assert_eq!(
        of(json!({"requests": all, "limits": all}), true),
        "/kubepods.slice/kubepods-pod0aa1_22.slice"
    );
}

#[test]
fn resources_in_the_kernels_units() {
    for (said, shares, quota, memory) in [
        (json!({}), 2, 0, 0),
        (json!({"requests": {"cpu": "250m"}}), 256, 0, 0),
        (
            json!({"limits": {"cpu": "1500m", "memory": "64Mi"}}),
            1536,
            150_000,
            64 << 20,
        ),
        (
            json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1m", "memory": "1.5k"}}),
            2,
            1000,
            1500,
        ),
        (json!({"requests": {"cpu": "0"}, "limits": {"cpu": "1"}}), 2, 100_000, 0),
        (json!({"requests": {"cpu": "900"}}), 262_144, 0, 0),
    ] {
        let pod = pod_of(json!({"resources": said}));
        let got = resources(&pod, &pod.spec.containers[0], &host(&PathBuf::new()));
        assert_eq!(
            (got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes, got.cpu_period),
            (shares, quota, memory, 100_000),
            "{said}"
        );
        assert_eq!(got.memory_swap_limit_in_bytes, 0);
    }
    let mut with_swap = host(&PathBuf::new());
    with_swap.swap = true;
    let huge = pod_of(json!({"resources": {"limits": {"memory": "1Gi", "hugepages-2Mi": "4Mi"}}}));
    let got = resources(&huge, &huge.spec.containers[0], &with_swap);
    assert_eq!(got.memory_swap_limit_in_bytes, 1 << 30);
    assert_eq!(
        (got.hugepage_limits[0].page_size.as_str(), got.hugepage_limits[0].limit),
        ("2MB", 4 << 20)
    );
    let whole = pod(json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}));
    let got = resources(&whole, &whole.spec.containers[0], &with_swap);
    assert_eq!((got.cpu_quota, got.memory_limit_in_bytes), (200_000, 1 << 30));
}

#[test]
fn a_sandbox_has_its_pods_names_ports_and_limits() {
    let pod = pod(json!({
        "subdomain": "floor", "runtimeClassName": "kata",
        "initContainers": [
            {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 1, "hostPort": 1, "protocol": "TCP"}],
             "resources": {"requests": {"cpu": "100m"}}},
            {"name": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}}],
        "containers": [{"name": "app", "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "2Gi"}},
            "securityContext": {"privileged": true}, "ports": [
            {"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"},
            {"name": "dns", "containerPort": 53, "hostPort": 5353, "hostIP": "127.0.0.1", "protocol": "UDP"}]}],
        "shareProcessNamespace": true, "hostIPC": true,
        "securityContext": {"runAsUser": 5, "fsGroup": 7, "supplementalGroups": [8], "supplementalGroupsPolicy": "Strict",
            "sysctls": [{"name": "net.core.somaxconn", "value": "9"}]},
    }));
    let dns = DnsConfig {
        servers: vec!["10.43.0.10".to_owned()],
        ..DnsConfig::default()
    };
    let config = sandbox(&pod, 2, dns.clone(), &host(&PathBuf::from("/h"))).unwrap();
    let meta = config.metadata.unwrap();
    assert_eq!(
        (
            meta.name.as_str(),
            meta.namespace.as_str(),
            meta.uid.as_str(),
            meta.attempt
        ),
        ("press", "plant", "0aa1-22", 2)
    );
    assert_eq!(config.hostname, "press");
    assert_eq!(config.log_directory, "/h/logs/plant_press_0aa1-22");
    assert_eq!(config.dns_config, Some(dns));
    assert_eq!(config.labels["app"], "press");
    assert_eq!(config.labels[label::POD_UID], "0aa1-22");
    assert_eq!(config.labels[label::NODE], "gw-1");
    assert_eq!(config.annotations["note"], "a \"b\"\n");
    let ports: Vec<_> = config
        .port_mappings
        .iter()
        .map(|p| (p.protocol(), p.container_port, p.host_port, p.host_ip.as_str()))
        .collect();
    assert_eq!(
        ports,
        [
            (Protocol::Tcp, 1, 1, ""),
            (Protocol::Tcp, 80, 0, ""),
            (Protocol::Udp, 53, 5353, "127.0.0.1")
        ]
    );
    let linux = config.linux.unwrap();
    assert_eq!(linux.cgroup_parent, "/kubepods/burstable/pod0aa1-22");
    assert_eq!(linux.sysctls["net.core.somaxconn"], "9");
    let whole = linux.resources.unwrap();
    assert_eq!(
        (whole.cpu_shares, whole.memory_limit_in_bytes),
        (2150, 2 << 30),
        "the init container beside the sidecar"
    );
    let context = linux.security_context.unwrap();
    assert!(context.privileged);
    assert_eq!(context.run_as_user.unwrap().value, 5);
    assert_eq!(context.supplemental_groups, [7, 8]);
    assert_eq!(
        context.supplemental_groups_policy,
        i32::from(SupplementalGroupsPolicy::Strict)
    );
    assert_eq!(context.seccomp.unwrap().profile_type(), ProfileType::RuntimeDefault);
    let namespaces = context.namespace_options.unwrap();
    assert_eq!(
        (namespaces.network(), namespaces.pid(), namespaces.ipc()),
        (NamespaceMode::Pod, NamespaceMode::Pod, NamespaceMode::Node)
    );
}

#[test]
fn host_names() {
    let named = |spec: Value| {
        let config = sandbox(&pod(spec), 0, DnsConfig::default(), &host(&PathBuf::new()));
        config.map(|c| c.hostname).map_err(|e| (e.reason, e.message))
    };
    assert_eq!(named(json!({"hostNetwork": true})), Ok(String::new()));
    assert_eq!(named(json!({"hostname": "h", "subdomain": "s"})), Ok("h".to_owned()));
    assert_eq!(
        named(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true})),
        Ok("h.s.plant.svc.cluster.local".to_owned())
    );
    assert_eq!(named(json!({"setHostnameAsFQDN": true})), Ok("press".to_owned()));
    let long = format!("{}-{}", "a".repeat(62), "b".repeat(30));
    assert_eq!(named(json!({"hostname": long})), Ok("a".repeat(62)));
    let (reason, message) =
        named(json!({"hostname": "a".repeat(40), "subdomain": "s", "setHostnameAsFQDN": true})).unwrap_err();
    assert_eq!(reason, "ConfigPodSandboxError");
    assert!(
        message.ends_with("is too long (64 characters is the max, 66 characters requested)"),
        "{message}"
    );
}

#[test]
fn a_containers_own_word_goes_before_the_pods() {
    let pod = pod(json!({
        "securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"level": "s0"}},
        "containers": [{"name": "app", "securityContext": {"runAsUser": 10, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "seccompProfile": {"type": "Localhost", "localhostProfile": "p/a.json"},
            "appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}}}],
    }));
    let context = security(&pod);
    assert_eq!(
        (context.run_as_user.unwrap().value, context.run_as_group.unwrap().value),
        (10, 2)
    );
    assert!(context.no_new_privs && context.readonly_rootfs && !context.privileged);
    let capabilities = context.capabilities.unwrap();
    assert_eq!(
        (capabilities.add_capabilities, capabilities.drop_capabilities),
        (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()])
    );
    assert_eq!(context.supplemental_groups, [3]);
    assert_eq!(context.seccomp.unwrap().localhost_ref, "/h/seccomp/p/a.json");
    assert_eq!(context.apparmor.unwrap().localhost_ref, "mine");
    assert_eq!(context.selinux_options.unwrap().level, "s0");
    assert!(context.masked_paths.contains(&"/proc/kcore".to_owned()));
    assert!(context.readonly_paths.contains(&"/proc/sys".to_owned()));

    let bare = security(&super::testing::pod(json!({})));
    assert_eq!(bare.seccomp.unwrap().profile_type(), ProfileType::Unconfined);
    assert!(bare.run_as_user.is_none() && !bare.no_new_privs && bare.apparmor.is_none());
    let unmasked = security(&pod_of(json!({"securityContext": {"procMount": "Unmasked"}})));
    assert!(unmasked.masked_paths.is_empty() && unmasked.readonly_paths.is_empty());
    let unnamed = pod_of(json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}));
    assert!(configured(&unnamed, &image()).is_err());
}

#[test]
fn a_profile_is_one_of_its_folder() {
    for path in ["/etc/p.json", "..", "../p.json", "a/../../p.json", "a/..", "./p.json"] {
        let profile = json!({"type": "Localhost", "localhostProfile": path});
        let pod = pod_of(json!({"securityContext": {"seccompProfile": profile}}));
        let error = configured(&pod, &image()).unwrap_err();
        assert_eq!(
            (error.reason, error.message.as_str()),
            (
                "CreateContainerConfigError",
                "localhostProfile must be a relative path without '..'"
            ),
            "{path}"
        );
    }
}

#[test]
fn the_machines_addresses_are_those_of_now() {
    let known = Arc::new(std::sync::Mutex::new(Vec::<IpAddr>::new()));
    let told = Arc::clone(&known);
    let mut host = host(&PathBuf::new());
    host.ips = Ips(Arc::new(move || told.lock().unwrap().clone()));
    let pod = pod(json!({}));
    let both = || ["status.hostIP", "status.hostIPs"].map(|path| field(&pod, path, &[], &host).unwrap());
    assert_eq!(both(), ["", ""], "the lease is not there yet");
    *known.lock().unwrap() = ips();
    assert_eq!(both(), ["10.42.0.9", "10.42.0.9,fd00::9"]);
}

#[test]
fn who_must_not_be_root_is_not() {
    let as_user = |user: Option<i64>, name: &str| ImageRef {
        user,
        user_name: name.to_owned(),
        ..image()
    };
    let refused = |context: Value, image: &ImageRef| {
        let error = configured(&pod_of(json!({"securityContext": context})), image).err()?;
        assert_eq!(error.reason, "CreateContainerConfigError");
        Some(error.message)
    };
    let whose = "(pod: \"press_plant(0aa1-22)\", container: app)";
    let non_root = json!({"runAsNonRoot": true});
    assert_eq!(
        refused(json!({"runAsNonRoot": true, "runAsUser": 0}), &image()),
        Some(format!("container's runAsUser breaks non-root policy {whose}"))
    );
    assert_eq!(
        refused(json!({"runAsNonRoot": true, "runAsUser": 1}), &as_user(Some(0), "")),
        None
    );
    assert_eq!(
        refused(non_root.clone(), &as_user(Some(0), "")),
        Some(format!("container has runAsNonRoot and image will run as root {whose}"))
    );
    assert_eq!(
        refused(non_root.clone(), &as_user(None, "nobody")),
        Some(format!(
            "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root {whose}"
        ))
    );
    assert!(refused(non_root.clone(), &as_user(Some(1 << 40), "")).is_some());
    assert_eq!(refused(non_root, &as_user(Some(1000), "")), None);
    assert_eq!(refused(json!({}), &as_user(Some(0), "")), None);
    let config = configured(&super::testing::pod(json!({})), &as_user(None, "web")).unwrap();
    assert_eq!(config.linux.unwrap().security_context.unwrap().run_as_username, "web");
}

#[test]
fn a_container_has_its_program_and_marks() {
    let pod = pod_of(json!({
        "command": ["/bin/$(WHAT)", "$$(WHAT)"], "args": ["$(NONE)"], "workingDir": "/w", "tty": true, "stdin": true,
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "lifecycle": {"stopSignal": "SIGRTMIN+3"}}));
    let mut env = Env::default();
    env.0.insert("WHAT".to_owned(), b"press".to_vec());
    let image = image();
    let inputs = Inputs {
        image: &image,
        env: &env,
        mounts: Vec::new(),
        target: Some("other"),
    };
    let config = container(&pod, &pod.spec.containers[0], 3, inputs, &host(&PathBuf::new())).unwrap();
    assert_eq!(config.command, ["/bin/press", "$(WHAT)"]);
    assert_eq!(config.args, ["$(NONE)"]);
    assert_eq!(
        (config.working_dir.as_str(), config.tty, config.stdin, config.stdin_once),
        ("/w", true, true, false)
    );
    assert_eq!(config.log_path, "app/3.log");
    assert_eq!(config.stop_signal(), Signal::Sigrtminplus3);
    assert_eq!(config.image.unwrap().image, "sha256:abc");
    assert_eq!(config.labels[label::CONTAINER_NAME], "app");
    assert_eq!(config.labels[label::NODE], "gw-1");
    assert_eq!(config.annotations[label::RESTARTS], "3");
    assert_eq!(config.annotations[label::MESSAGE_PATH], "/dev/termination-log");
    assert!(!config.annotations.contains_key(label::GRACE));
    let namespaces = config
        .linux
        .unwrap()
        .security_context
        .unwrap()
        .namespace_options
        .unwrap();
    assert_eq!(
        (namespaces.pid(), namespaces.target_id.as_str()),
        (NamespaceMode::Target, "other")
    );
    assert!(!format!("{env:?}").contains("press"), "values are not shown");
    let mut other = pod.spec.containers[0].clone();
    other.image = "busybox:2".to_owned();
    assert_ne!(hash(&other), hash(&pod.spec.containers[0]));
    // Another value in a later agent would start every container anew.
    let known = crate::pod::Container {
        name: "app".to_owned(),
        image: "busybox:2".to_owned(),
        ..Default::default()
    };
    assert_eq!(hash(&known), "1ae6b6cb1e148dea");
}

#[test]
fn references_are_replaced_once() {
    for (said, want) in [
        ("a$(X)b", "a1b"),
        ("$(X)$(X)", "11"),
        ("$$(X)", "$(X)"),
        ("$$$(X)", "$1"),
        ("$(Y)", "$(Y)"),
        ("$(X", "$(X"),
        ("$X $", "$X $"),
        ("$()", "$()"),
        ("é$(X)", "é1"),
    ] {
        let got = expand(said, |name| (name == "X").then(|| b"1".to_vec()));
        assert_eq!(String::from_utf8(got).unwrap(), want, "{said}");
    }
}

async fn make(cluster: &Cluster, object: Value) {
    cluster.create(object).await.unwrap();
}

async fn plant() -> (tempfile::TempDir, Cluster) {
    let (dir, cluster) = cluster().await;
    make(
        &cluster,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "plant"}}),
    )
    .await;
    let meta = |name: &str| json!({"name": name, "namespace": "plant"});
    make(&cluster, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("c"), "data": {"A": "from-map", "b.c-d": "dotted"}})).await;
    let secret = json!({"P": STANDARD.encode([0xff, b'$']), "A": STANDARD.encode("from-secret")});
    make(
        &cluster,
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta("s"), "data": secret}),
    )
    .await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-1"},
        "status": {"allocatable": {"cpu": "3900m", "memory": "2Gi"}}});
    make(&cluster, node).await;
    let key = Key::new("", "gw-1");
    let status = |node: &mut Value| {
        node["status"]["allocatable"] = json!({"cpu": "3900m", "memory": "2Gi"});
        Ok(())
    };
    cluster
        .modify_status(crate::cluster::NODES, &key, status)
        .await
        .unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("web-ui"), "spec": {"clusterIP": "None",
        "ports": [{"port": 80}]}});
    make(&cluster, service).await;
    (dir, cluster)
}

fn env_of(cluster: &Cluster, container: Value) -> Result<Vec<(String, String)>, SetupError> {
    let pod = pod_of(container);
    let env = environment(cluster, &pod, &pod.spec.containers[0], &ips(), &host(&PathBuf::new()))?;
    let text = |(name, value): (&String, &Vec<u8>)| (name.clone(), String::from_utf8_lossy(value).into_owned());
    Ok(env.0.iter().map(text).collect())
}

#[tokio::test]
async fn variables_come_from_everywhere_in_order() {
    let (_dir, cluster) = plant().await;
    let got = env_of(
        &cluster,
        json!({
            "resources": {"requests": {"cpu": "1500m", "memory": "100Mi"}},
            "envFrom": [{"configMapRef": {"name": "c"}}, {"prefix": "S_", "secretRef": {"name": "s"}},
                {"secretRef": {"name": "s"}}, {"configMapRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "LATE", "value": "$(SOON)"},
                {"name": "SOON", "value": "x"},
                {"name": "TWICE", "value": "$(SOON)$(A)"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "NOTES", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations"}}},
                {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
                {"name": "MILLI", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
                {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "ALL", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "b.c-d"}}},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}},
                {"name": "EMPTY"},
            ]
        }),
    )
    .unwrap();
    let mut want: Vec<(String, String)> = [
        ("A", "from-secret"),
        ("P", "\u{fffd}$"),
        ("S_A", "from-secret"),
        ("S_P", "\u{fffd}$"),
        ("b.c-d", "dotted"),
        ("LATE", "$(SOON)"),
        ("SOON", "x"),
        ("TWICE", "xfrom-secret"),
        ("NAME", "press"),
        ("LABEL", "press"),
        ("NOTES", "note=\"a \\\"b\\\"\\n\""),
        ("HOST", "192.0.2.7"),
        ("IPS", "10.42.0.9,fd00::9"),
        ("CPU", "2"),
        ("MILLI", "1500"),
        ("LIMIT", "2048"),
        ("ALL", "4"),
        ("KEY", "dotted"),
        ("EMPTY", ""),
    ]
    .map(|(a, b)| (a.to_owned(), b.to_owned()))
    .to_vec();
    want.sort();
    assert_eq!(got, want);
}

#[tokio::test]
async fn what_is_missing_is_told_as_it_is_elsewhere() {
    let (_dir, cluster) = plant().await;
    let from = |from: Value| json!({"env": [{"name": "X", "valueFrom": from}]});
    for (container, message) in [
        (
            json!({"envFrom": [{"configMapRef": {"name": "no"}}]}),
            "configmap \"no\" not found",
        ),
        (
            json!({"envFrom": [{"secretRef": {"name": "no"}}]}),
            "secret \"no\" not found",
        ),
        (
            from(json!({"configMapKeyRef": {"name": "c", "key": "k"}})),
            "couldn't find key k in ConfigMap plant/c",
        ),
        (
            from(json!({"secretKeyRef": {"name": "s", "key": "k"}})),
            "couldn't find key k in Secret plant/s",
        ),
        (
            from(json!({"secretKeyRef": {"name": "no", "key": "k"}})),
            "secret \"no\" not found",
        ),
        (
            from(json!({"fieldRef": {"fieldPath": "spec.x"}})),
            "unsupported fieldPath: spec.x",
        ),
        (
            from(json!({"resourceFieldRef": {"resource": "limits.x"}})),
            "unsupported container resource : limits.x",
        ),
    ] {
        let error = env_of(&cluster, container).unwrap_err();
        assert_eq!(
            (error.reason, error.message.as_str()),
            ("CreateContainerConfigError", message)
        );
    }
}

#[tokio::test]
async fn services_are_in_the_environment() {
    let range = "10.43.0.0/24".parse::<metastore::api::ServiceRange>().unwrap();
    let (_dir, cluster) = super::testing::cluster_with(|b| b.service_ranges(vec![range])).await;
    make(
        &cluster,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "plant"}}),
    )
    .await;
    make(&cluster, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web-ui", "namespace": "plant"},
        "spec": {"clusterIP": "10.43.0.8", "ports": [{"name": "http-a", "port": 80}, {"name": "q", "port": 53, "protocol": "UDP"}]}})).await;
    let got = env_of(
        &cluster,
        json!({"env": [{"name": "WEB_UI_PORT", "value": "own"}, {"name": "U", "value": "$(WEB_UI_SERVICE_HOST)"}]}),
    )
    .unwrap();
    let value = |name: &str| got.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    for (name, want) in [
        ("U", "10.43.0.8"),
        ("WEB_UI_PORT", "own"),
        ("WEB_UI_SERVICE_HOST", "10.43.0.8"),
        ("WEB_UI_SERVICE_PORT", "80"),
        ("WEB_UI_SERVICE_PORT_HTTP_A", "80"),
        ("WEB_UI_SERVICE_PORT_Q", "53"),
        ("WEB_UI_PORT_80_TCP", "tcp://10.43.0.8:80"),
        ("WEB_UI_PORT_53_UDP", "udp://10.43.0.8:53"),
        ("WEB_UI_PORT_53_UDP_PROTO", "udp"),
        ("WEB_UI_PORT_53_UDP_PORT", "53"),
        ("WEB_UI_PORT_53_UDP_ADDR", "10.43.0.8"),
    ] {
        assert_eq!(value(name), Some(want), "{name}");
    }
    let pod = pod(json!({"enableServiceLinks": false}));
    let env = environment(&cluster, &pod, &pod.spec.containers[0], &[], &host(&PathBuf::new())).unwrap();
    assert!(!env.0.keys().any(|name| name.starts_with("WEB_UI")));
}

#[test]
fn every_pod_has_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let host = host(dir.path());
    let pod = pod(json!({
        "subdomain": "floor", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}],
        "containers": [{"name": "app", "terminationMessagePath": "dev/log"}]}));
    let container = &pod.spec.containers[0];
    let mounts = own_files(&host, &pod, container, 0, &ips(), &[]).unwrap();
    let paths: Vec<_> = mounts.iter().map(|m| m.container_path.as_str()).collect();
    assert_eq!(paths, ["/etc/hosts", "/dev/log"]);
    let text = std::fs::read_to_string(&mounts[0].host_path).unwrap();
    assert!(
        text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost"),
        "{text}"
    );
    assert!(text.ends_with("fe00::2\tip6-allrouters\n10.42.0.9\tpress.floor.plant.svc.cluster.local\tpress\nfd00::9\tpress.floor.plant.svc.cluster.local\tpress\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
    let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&mounts[0].host_path), mode(&mounts[1].host_path)), (0o644, 0o666));

    // Others in the pod have the file mounted: it is written in place.
    let inode = std::fs::metadata(&mounts[0].host_path).unwrap().ino();
    std::fs::write(&mounts[0].host_path, "spoilt").unwrap();
    for attempt in 1..4 {
        own_files(&host, &pod, container, attempt, &ips(), &[]).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&mounts[0].host_path).unwrap(), text);
    assert_eq!(std::fs::metadata(&mounts[0].host_path).unwrap().ino(), inode);
    let kept: Vec<_> = (0..4)
        .map(|attempt| termination_path(&host, pod.uid(), "app", attempt).exists())
        .collect();
    assert_eq!(kept, [false, false, true, true]);

    let own = cri::v1::Mount {
        container_path: "/etc/hosts".to_owned(),
        ..cri::v1::Mount::default()
    };
    assert_eq!(own_files(&host, &pod, container, 4, &ips(), &[own]).unwrap().len(), 1);
    assert_eq!(
        own_files(&host, &pod, container, 4, &[], &[]).unwrap().len(),
        1,
        "no address yet"
    );
}

#[test]
fn the_machines_hosts_file_need_not_be_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    assert_eq!(files::machine_hosts(&path).unwrap(), "");
    std::fs::write(&path, b"127.0.0.1 localhost # caf\xe9\n10.0.0.1 plc\n").unwrap();
    assert_eq!(
        files::machine_hosts(&path).unwrap(),
        "127.0.0.1 localhost # caf\u{fffd}\n10.0.0.1 plc\n"
    );
    let mut long = vec![b'#'; usize::try_from(files::MAX_HOSTS).unwrap() - 1];
    long.extend("\u{e9}\n".as_bytes());
    std::fs::write(&path, long).unwrap();
    assert!(files::machine_hosts(&path).unwrap().ends_with("#\u{fffd}"));
}
