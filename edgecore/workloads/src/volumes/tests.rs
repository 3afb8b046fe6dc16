//! On the machine itself: folders, mounts and links as containers get them. What is mounted goes with the stage.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metastore::api::{DeleteOptions, TokenOptions};
use serde_json::{Value, json};

use super::*;
use crate::setup::testing;

struct Stage {
    dir: tempfile::TempDir,
    _store: tempfile::TempDir,
    cluster: Cluster,
    volumes: Volumes,
}

impl Drop for Stage {
    fn drop(&mut self) {
        mounts::unmount_below(&self.dir.path().canonicalize().unwrap()).unwrap();
    }
}

impl Stage {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("sa");
        let (store, cluster) = testing::cluster_with(|b| b.tokens(TokenOptions::new(keys, "https://here:1"))).await;
        let mut host = testing::host(&dir.path().canonicalize().unwrap());
        host.memory = 64 << 20;
        let volumes = Volumes::new(cluster.clone(), Arc::new(host));
        let stage = Self {
            dir,
            _store: store,
            cluster,
            volumes,
        };
        stage.make("Namespace", "", "plant", json!({})).await;
        stage.make("ServiceAccount", "plant", "robot", json!({})).await;
        stage
            .make(
                "ConfigMap",
                "plant",
                "c",
                json!({"data": {"a": "1", "b": "2"}, "binaryData": {"z": STANDARD.encode([0, 255])}}),
            )
            .await;
        stage
            .make(
                "Secret",
                "plant",
                "s",
                json!({"data": {"key": STANDARD.encode("hidden")}}),
            )
            .await;
        stage
    }

    async fn make(&self, kind: &str, namespace: &str, name: &str, rest: Value) -> Value {
        let mut object = rest;
        object["apiVersion"] = "v1".into();
        object["kind"] = kind.into();
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        self.cluster.create(object).await.unwrap()
    }

    /// A pod that is stored, with these volumes and more in its spec.
    async fn pod(&self, volumes: Value, more: Value) -> Arc<Pod> {
        let mut spec = json!({"nodeName": "gw-1", "serviceAccountName": "robot", "volumes": volumes,
            "containers": [{"name": "app", "image": "x"}]});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let name = format!("p{}", fastrand::u32(..));
        let rest = json!({"metadata": {"labels": {"app": "press"}}, "spec": spec});
        Arc::new(Pod::read(self.make("Pod", "plant", &name, rest).await).unwrap())
    }

    async fn changed(&self, kind: Kind, name: &str, data: Value) -> ObjectKey {
        let key = Key::new("plant", name);
        let set = |object: &mut Value| {
            object["data"] = data.clone();
            Ok(())
        };
        self.cluster.modify(kind, &key, set).await.unwrap();
        ObjectKey::new("", kind.plural, "plant", name)
    }

    fn mounted(&self) -> usize {
        mounts::below(&self.dir.path().canonicalize().unwrap()).unwrap().len()
    }
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn needs_root_volumes_of_every_sort_are_made() {
    let stage = Stage::new().await;
    let volumes = json!([
        {"name": "disk", "emptyDir": {}},
        {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "map", "configMap": {"name": "c", "defaultMode": 0o400}},
        {"name": "items", "configMap": {"name": "c", "items": [{"key": "a", "path": "sub/x", "mode": 0o755}, {"key": "z", "path": "z"}]}},
        {"name": "secret", "secret": {"secretName": "s"}},
        {"name": "down", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "app", "resource": "limits.cpu", "divisor": "1m"}}]}},
        {"name": "all", "projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}},
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}},
        {"name": "none", "configMap": {"name": "absent", "optional": true}},
        {"name": "host", "hostPath": {"path": stage.dir.path().join("made"), "type": "DirectoryOrCreate"}},
    ]);
    let more = json!({"securityContext": {"fsGroup": 4321},
        "containers": [{"name": "app", "image": "x", "resources": {"limits": {"cpu": "2", "memory": "32Mi"}}}]});
    let pod = stage.pod(volumes, more).await;
    let mounted = stage.volumes.prepare(&pod).await.unwrap();
    let at = |name: &str| mounted.get(name).unwrap().path.clone();

    assert_eq!(mode(at("disk")), 0o2777);
    assert_eq!(fs::metadata(at("disk")).unwrap().gid(), 4321);
    assert!(mounts::is_tmpfs(&at("ram")).unwrap() && !mounts::is_tmpfs(&at("disk")).unwrap());
    let full = fs::write(at("ram").join("big"), vec![0; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(
        (text(at("map").join("a")), mode(at("map").join("a"))),
        ("1".to_owned(), 0o440)
    );
    assert_eq!(fs::metadata(at("map").join("a")).unwrap().gid(), 4321);
    assert_eq!(
        (text(at("items").join("sub/x")), mode(at("items").join("sub/x"))),
        ("1".to_owned(), 0o755)
    );
    assert_eq!(fs::read(at("items").join("z")).unwrap(), [0, 255]);
    assert!(!at("items").join("b").exists());
    assert!(mounts::is_tmpfs(&at("secret")).unwrap());
    assert_eq!(text(at("secret").join("key")), "hidden");
    assert_eq!(text(at("down").join("labels")), "app=\"press\"");
    assert_eq!(text(at("down").join("cpu")), "2000");
    assert_eq!(text(at("all").join("b")), "2");
    assert_eq!(mode(at("all").join("token")), 0o640);
    assert_eq!(text(at("all").join("token")).split('.').count(), 3);
    assert!(at("none").join("..data").exists());
    assert!(stage.dir.path().join("made").is_dir());
    assert!(mounted.get("map").unwrap().read_only && !mounted.get("disk").unwrap().read_only);

    // Once more changes nothing: a container may have written to them.
    fs::write(at("disk").join("work"), "done").unwrap();
    let (before, token) = (stage.mounted(), text(at("all").join("token")));
    assert_eq!(stage.volumes.prepare(&pod).await.unwrap(), mounted);
    assert_eq!(
        (stage.mounted(), text(at("disk").join("work"))),
        (before, "done".to_owned())
    );
    assert_eq!(text(at("all").join("token")), token);

    let usage = stage.volumes.usage(&pod).await.unwrap();
    assert!(usage.volumes["ram"].bytes > 900_000, "{usage:?}");
    assert!(
        (4096..200_000).contains(&usage.total.bytes),
        "what is in memory is not on the disk: {usage:?}"
    );

    assert_eq!(stage.volumes.on_disk().unwrap(), [pod.uid()]);
    stage.volumes.tear_down(pod.uid()).await.unwrap();
    assert_eq!((stage.mounted(), stage.volumes.on_disk().unwrap().len()), (0, 0));
    assert!(stage.dir.path().join("made").is_dir(), "the machine's own stays");
    stage.volumes.tear_down(pod.uid()).await.unwrap();
}

#[tokio::test]
async fn needs_root_files_follow_their_objects() {
    let stage = Stage::new().await;
    let volumes = json!([
        {"name": "map", "configMap": {"name": "c"}},
        {"name": "mix", "projected": {"sources": [{"secret": {"name": "s"}},
            {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels['app']"}}]}}]}}]);
    let pod = stage.pod(volumes, json!({})).await;
    let plain = stage.pod(json!([{"name": "e", "emptyDir": {}}]), json!({})).await;
    let mounted = stage.volumes.prepare(&pod).await.unwrap();
    let at = |name: &str| mounted.get(name).unwrap().path.clone();
    assert!(!stage.volumes.refresh(&pod).await.unwrap());

    let changed = stage.changed(CONFIG_MAPS, "c", json!({"a": "one"})).await;
    assert_eq!(stage.volumes.wants(&changed), [pod.uid()]);
    assert_eq!(text(at("map").join("a")), "1");
    assert!(stage.volumes.refresh(&pod).await.unwrap());
    assert_eq!(text(at("map").join("a")), "one");
    assert!(!at("map").join("b").exists());

    let changed = stage
        .changed(SECRETS, "s", json!({"key": STANDARD.encode("new"), "more": ""}))
        .await;
    assert_eq!(stage.volumes.wants(&changed), [pod.uid()]);
    assert!(stage.volumes.refresh(&pod).await.unwrap());
    assert_eq!(
        (text(at("mix").join("key")), text(at("mix").join("more"))),
        ("new".to_owned(), String::new())
    );

    let key = pod.key();
    let relabel = |object: &mut Value| {
        object["metadata"]["labels"]["app"] = "drill".into();
        Ok(())
    };
    let relabelled = stage.cluster.modify(PODS, &key, relabel).await.unwrap();
    let changed = ObjectKey::new("", "pods", "plant", &*key.name);
    assert_eq!(stage.volumes.wants(&changed), [pod.uid()]);
    let other = ObjectKey::new("", "pods", "plant", plain.metadata.name.as_str());
    assert_eq!(stage.volumes.wants(&other), [""; 0]);
    assert!(
        stage
            .volumes
            .refresh(&Arc::new(Pod::read(relabelled).unwrap()))
            .await
            .unwrap()
    );
    assert_eq!(text(at("mix").join("l")), "drill");

    // What is gone stays as it was, and is told.
    stage
        .cluster
        .delete(CONFIG_MAPS, &Key::new("plant", "c"), &DeleteOptions::default())
        .await
        .unwrap();
    let error = stage.volumes.refresh(&pod).await.unwrap_err();
    assert_eq!(
        error.0,
        "MountVolume.SetUp failed for volume \"map\" : configmap \"c\" not found"
    );
    assert_eq!(text(at("map").join("a")), "one");
    assert_eq!(
        stage.volumes.prepared(&pod).await.unwrap(),
        mounted,
        "a container may start again with it"
    );
    stage.volumes.prepare(&pod).await.unwrap_err();
}

#[tokio::test]
async fn needs_root_tokens_are_renewed_before_they_end() {
    let stage = Stage::new().await;
    let volumes = json!([{"name": "t", "projected": {"sources": [{"configMap": {"name": "c"}},
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}]);
    let pod = stage.pod(volumes, json!({"securityContext": {"runAsUser": 77}})).await;
    assert_eq!(stage.volumes.refresh_in(&pod), None, "there is none yet");
    let refreshed = stage.volumes.refresh(&pod).await.unwrap();
    assert!(!refreshed, "only what was made is kept up");
    assert_eq!(stage.volumes.on_disk().unwrap(), [""; 0]);
    let mounted = stage.volumes.prepare(&pod).await.unwrap();
    let token = mounted.get("t").unwrap().path.join("token");
    let first = text(&token);
    assert_eq!((fs::metadata(&token).unwrap().uid(), mode(&token)), (77, 0o600));
    let left = stage.volumes.refresh_in(&pod).unwrap().as_secs();
    assert!((2870..=2885).contains(&left), "{left}");

    // Another change keeps it, with its age.
    let age = |seconds: u64| {
        let made =
            SystemTime::UNIX_EPOCH + Duration::from_millis(daemon::clock::wall_ms()) - Duration::from_secs(seconds);
        let file = fs::File::options().write(true).open(&token).unwrap();
        file.set_modified(made).unwrap();
    };
    age(2000);
    stage.changed(CONFIG_MAPS, "c", json!({"a": "3"})).await;
    assert!(stage.volumes.refresh(&pod).await.unwrap());
    assert_eq!(text(&token), first);
    let left = stage.volumes.refresh_in(&pod).unwrap().as_secs();
    assert!((870..=885).contains(&left), "{left}");

    age(2900);
    assert_eq!(stage.volumes.refresh_in(&pod), Some(Duration::ZERO));
    assert!(stage.volumes.refresh(&pod).await.unwrap());
    assert_ne!(text(&token), first);
    assert!(!stage.volumes.refresh(&pod).await.unwrap());

    stage
        .cluster
        .delete(
            crate::cluster::PODS,
            &pod.key(),
            &DeleteOptions {
                grace: Some(0),
                ..DeleteOptions::default()
            },
        )
        .await
        .unwrap();
    fs::remove_file(&token).unwrap();
    age_gone(&mounted);
    let error = stage.volumes.refresh(&pod).await.unwrap_err();
    assert!(
        error
            .0
            .starts_with("MountVolume.SetUp failed for volume \"t\" : failed to fetch token: pods"),
        "{error}"
    );
}

fn age_gone(mounted: &Mounted) {
    let folder = &mounted.get("t").unwrap().path;
    fs::remove_file(folder.join("..data/token")).unwrap();
}

#[tokio::test]
async fn what_is_missing_is_told() {
    let stage = Stage::new().await;
    let file = stage.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let host = |path: &Path, ty: &str| json!({"hostPath": {"path": path, "type": ty}});
    for (volume, why) in [
        (
            json!({"configMap": {"name": "no"}}),
            "configmap \"no\" not found".to_owned(),
        ),
        (
            json!({"secret": {"secretName": "no"}}),
            "secret \"no\" not found".to_owned(),
        ),
        (
            json!({"configMap": {"name": "c", "items": [{"key": "no", "path": "x"}]}}),
            "configmap references non-existent config key: no".to_owned(),
        ),
        (
            json!({"secret": {"secretName": "s", "items": [{"key": "no", "path": "x"}]}}),
            "references non-existent secret key: no".to_owned(),
        ),
        (
            json!({"projected": {"sources": [{"secret": {"name": "no"}}, {"configMap": {"name": "no"}}]}}),
            "[secret \"no\" not found, configmap \"no\" not found]".to_owned(),
        ),
        (
            host(&file, "Directory"),
            format!("hostPath type check failed: {} is not a directory", file.display()),
        ),
        (
            host(&file, "Socket"),
            format!("hostPath type check failed: {} is not a socket file", file.display()),
        ),
        (
            host(Path::new("/none"), "File"),
            "hostPath type check failed: /none is not a file".to_owned(),
        ),
        (
            host(Path::new("/dev/null"), "BlockDevice"),
            "hostPath type check failed: /dev/null is not a block device".to_owned(),
        ),
        (
            json!({"nfs": {"server": "a", "path": "/"}}),
            "no volume plugin matched".to_owned(),
        ),
    ] {
        let mut volume = volume;
        volume["name"] = "v".into();
        let pod = Pod::read(
            json!({"metadata": {"name": "p", "namespace": "plant", "uid": "u"}, "spec": {"volumes": [volume]}}),
        );
        let error = stage.volumes.prepare(&Arc::new(pod.unwrap())).await.unwrap_err();
        assert_eq!(error.0, format!("MountVolume.SetUp failed for volume \"v\" : {why}"));
    }
    for good in [
        host(&file, "File"),
        host(&stage.dir.path().join("new"), "FileOrCreate"),
        host(Path::new("/dev/null"), "CharDevice"),
        host(Path::new("/none"), ""),
    ] {
        let mut volume = good;
        volume["name"] = "v".into();
        let pod = Pod::read(
            json!({"metadata": {"name": "p", "namespace": "plant", "uid": "u"}, "spec": {"volumes": [volume]}}),
        );
        stage.volumes.prepare(&Arc::new(pod.unwrap())).await.unwrap();
    }
    for uid in ["", "..", "a/b", ".hidden"] {
        let pod = Pod::read(json!({"metadata": {"name": "p", "namespace": "plant", "uid": uid}}));
        assert!(stage.volumes.prepare(&Arc::new(pod.unwrap())).await.is_err(), "{uid}");
        assert!(stage.volumes.tear_down(uid).await.is_err(), "{uid}");
    }
}

fn mounting(list: Value) -> Value {
    json!({"containers": [{"name": "app", "image": "x", "volumeMounts": list}]})
}

#[tokio::test]
async fn needs_root_parts_of_volumes_do_not_lead_out() {
    let stage = Stage::new().await;
    let volumes = json!([{"name": "e", "emptyDir": {}}, {"name": "map", "configMap": {"name": "c"}}]);
    let list = json!([
        {"name": "e", "mountPath": "/a", "subPath": "deep/er"},
        {"name": "e", "mountPath": "/b", "subPathExpr": "$(NAME)-x", "readOnly": true},
        {"name": "map", "mountPath": "/etc/app.conf", "subPath": "a"},
        {"name": "e", "mountPath": "c", "mountPropagation": "HostToContainer"},
        {"name": "e", "mountPath": "/d", "subPath": "inside"}]);
    let pod = stage.pod(volumes, mounting(list)).await;
    let mounted = stage.volumes.prepare(&pod).await.unwrap();
    let empty = mounted.get("e").unwrap().path.clone();
    fs::create_dir(empty.join("real")).unwrap();
    symlink("real", empty.join("inside")).unwrap();
    let mut env = Env::default();
    env.0.insert("NAME".to_owned(), b"press".to_vec());
    let container = &pod.spec.containers[0];
    let got = stage.volumes.mounts(&pod, container, &mounted, &env).await.unwrap();
    fs::write(Path::new(&got[0].host_path).join("f"), "1").unwrap();
    assert_eq!(text(empty.join("deep/er/f")), "1");
    assert_eq!(mode(empty.join("deep")), 0o777);
    fs::write(Path::new(&got[1].host_path).join("g"), "2").unwrap();
    assert_eq!(text(empty.join("press-x/g")), "2");
    assert_eq!(text(&got[2].host_path), "1");
    fs::write(Path::new(&got[4].host_path).join("h"), "3").unwrap();
    assert_eq!(text(empty.join("real/h")), "3");
    let flags: Vec<_> = got
        .iter()
        .map(|m| (m.container_path.as_str(), m.readonly, m.propagation))
        .collect();
    assert_eq!(
        flags,
        [
            ("/a", false, 0),
            ("/b", true, 0),
            ("/etc/app.conf", true, 0),
            ("/c", false, 1),
            ("/d", false, 0)
        ]
    );

    // The same again for the container's next run: nothing is mounted twice, and a file that changed is the new one.
    let before = stage.mounted();
    stage.changed(CONFIG_MAPS, "c", json!({"a": "one"})).await;
    stage.volumes.refresh(&pod).await.unwrap();
    assert_eq!(text(&got[2].host_path), "1", "what runs keeps its file");
    assert_eq!(
        stage.volumes.mounts(&pod, container, &mounted, &env).await.unwrap(),
        got
    );
    assert_eq!(text(&got[2].host_path), "one");
    assert_eq!(stage.mounted(), before);

    // A container that puts links into its volume gets no further than the volume.
    let outside = stage.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, empty.join("absolute")).unwrap();
    symlink("../../../../../outside", empty.join("upwards")).unwrap();
    symlink("/proc/self/root", empty.join("magic")).unwrap();
    for part in [
        "absolute",
        "upwards",
        "absolute/new",
        "upwards/new/er",
        "magic/etc",
        "deep/../../..",
        "/etc",
    ] {
        let list = json!([{"name": "e", "mountPath": "/a", "subPath": part}]);
        let bad = Pod::read(
            json!({"metadata": {"uid": pod.uid(), "name": "p", "namespace": "plant"}, "spec": mounting(list)}),
        )
        .unwrap();
        let bad = Arc::new(bad);
        let error = stage
            .volumes
            .mounts(&bad, &bad.spec.containers[0], &mounted, &env)
            .await
            .unwrap_err();
        assert_eq!(error.reason, "CreateContainerConfigError");
        assert!(!error.message.contains("outside"), "{error}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let told = async |mount: Value| {
        let bad = Arc::new(Pod::read(json!({"metadata": {"uid": "u"}, "spec": mounting(json!([mount]))})).unwrap());
        stage
            .volumes
            .mounts(&bad, &bad.spec.containers[0], &mounted, &env)
            .await
            .unwrap_err()
            .message
    };
    assert_eq!(
        told(json!({"name": "e", "mountPath": "/a", "subPathExpr": "$(NO)/$(NAME)"})).await,
        "missing value for NO"
    );
    assert_eq!(
        told(json!({"name": "no", "mountPath": "/a"})).await,
        "cannot find volume \"no\" to mount into container \"app\""
    );
    assert_eq!(
        told(json!({"name": "e", "mountPath": "/a", "readOnly": true, "recursiveReadOnly": "Enabled"})).await,
        "failed to resolve recursive read-only mode: volume \"e\" requested recursive read-only mode, but it is not supported by the runtime"
    );
    stage.volumes.tear_down(pod.uid()).await.unwrap();
    assert_eq!(stage.mounted(), 0);
}

#[tokio::test]
async fn needs_root_nothing_is_deleted_through_a_mount() {
    let stage = Stage::new().await;
    let pod = stage.pod(json!([{"name": "e", "emptyDir": {}}]), json!({})).await;
    let mounted = stage.volumes.prepare(&pod).await.unwrap();
    let outside = stage.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    let inside = mounted.get("e").unwrap().path.join("in side");
    fs::create_dir(&inside).unwrap();
    let source = rustix::fs::open(&outside, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    mounts::bind(&source, &inside).unwrap();
    assert!(inside.join("kept").exists());
    // Only if unmounting were forgotten.
    let folder = stage.volumes.folder(pod.uid()).unwrap();
    tree::remove(&folder).unwrap_err();
    assert!(outside.join("kept").exists());
    stage.volumes.tear_down(pod.uid()).await.unwrap();
    assert!(outside.join("kept").exists() && !folder.exists());
}

#[tokio::test]
async fn needs_root_a_place_for_another_volume_is_made_where_containers_cannot() {
    let stage = Stage::new().await;
    let volumes = json!([{"name": "map", "configMap": {"name": "c"}}, {"name": "e", "emptyDir": {}}]);
    let list = json!([{"name": "map", "mountPath": "/etc/app"}, {"name": "e", "mountPath": "/etc/app/run/x"}]);
    let pod = stage.pod(volumes, mounting(list)).await;
    let mounted = stage.volumes.prepare(&pod).await.unwrap();
    stage.changed(CONFIG_MAPS, "c", json!({"a": "3"})).await;
    stage.volumes.refresh(&pod).await.unwrap();
    assert!(mounted.get("map").unwrap().path.join("run/x").is_dir());
}

#[tokio::test]
async fn needs_root_claims_lead_to_their_volume() {
    let stage = Stage::new().await;
    let data = stage.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("old"), "x").unwrap();
    let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}});
    let claim = stage.make("PersistentVolumeClaim", "plant", "claim", claim).await;
    let pod = stage
        .pod(
            json!([{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}]),
            json!({"securityContext": {"fsGroup": 99}}),
        )
        .await;
    let refused = stage.volumes.prepare(&pod).await.unwrap_err();
    assert_eq!(refused.0, "error processing PVC plant/claim: PVC is not bound");

    let volume = json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": data},
        "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "plant", "name": "claim", "uid": claim["metadata"]["uid"]}}});
    stage.make("PersistentVolume", "", "vol", volume).await;
    let key = Key::new("plant", "claim");
    let bind = |object: &mut Value| {
        object["spec"]["volumeName"] = "vol".into();
        Ok(())
    };
    stage.cluster.modify(CLAIMS, &key, bind).await.unwrap();
    let bound = |object: &mut Value| {
        object["status"]["phase"] = "Bound".into();
        Ok(())
    };
    stage.cluster.modify_status(CLAIMS, &key, bound).await.unwrap();
    let mounted = stage.volumes.prepare(&pod).await.unwrap();
    assert_eq!(
        mounted.get("v"),
        Some(&Place {
            path: data.clone(),
            read_only: false
        })
    );
    assert_eq!(
        (fs::metadata(data.join("old")).unwrap().gid(), mode(&data) & 0o2070),
        (99, 0o2070)
    );

    // A pod that has its volume keeps it when the claim is gone; another one gets nothing.
    let delete = async |kind: Kind, key: &Key| {
        let options = DeleteOptions::default();
        stage.cluster.delete(kind, key, &options).await.unwrap();
    };
    delete(CLAIMS, &key).await;
    assert_eq!(stage.volumes.prepared(&pod).await.unwrap(), mounted);
    let claim_again = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}]);
    let late = stage.pod(claim_again, json!({})).await;
    let gone = "error processing PVC plant/claim: persistentvolumeclaims \"claim\" not found";
    assert_eq!(stage.volumes.prepare(&late).await.unwrap_err().0, gone);
    let reference = json!({"kind": "PersistentVolumeClaim", "namespace": "plant", "name": "claim"});
    let mut other = json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/none"}, "claimRef": reference}});
    stage.make("PersistentVolume", "", "waits", other.clone()).await;
    assert_eq!(stage.volumes.prepared(&pod).await.unwrap(), mounted);
    other["spec"]["claimRef"]["uid"] = "another".into();
    stage.make("PersistentVolume", "", "older", other).await;
    let refused = stage.volumes.prepared(&pod).await.unwrap_err();
    assert!(refused.0.contains("several PVs"), "{refused}");
    delete(PERSISTENT, &Key::new("", "older")).await;
    delete(PERSISTENT, &Key::new("", "vol")).await;
    assert_eq!(stage.volumes.prepared(&pod).await.unwrap_err().0, gone);

    stage.volumes.tear_down(pod.uid()).await.unwrap();
    assert!(data.join("old").exists());
}

#[tokio::test]
async fn nothing_is_taken_away_while_somebody_works_on_it() {
    let stage = Stage::new().await;
    let folder = stage.volumes.folder("u").unwrap();
    fs::create_dir_all(folder.join("volumes")).unwrap();
    let mut going = Box::pin(stage.volumes.tear_down("u"));
    stage.volumes.in_turn("u", || {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(going.as_mut().poll(&mut context).is_pending());
        // The list has the turn, so do we, and then who waits for it.
        let waits = || Arc::strong_count(&stage.volumes.turns.lock().unwrap()["u"]) > 2;
        while folder.exists() && !waits() {
            std::thread::yield_now();
        }
        assert!(folder.exists());
    });
    going.await.unwrap();
    assert!(!folder.exists());
}

#[tokio::test]
async fn read_only_goes_below_where_the_runtime_can() {
    let mut stage = Stage::new().await;
    Arc::make_mut(&mut stage.volumes.host).recursive_read_only = true;
    let below = |said: &str, propagation: &str| {
        let mount = json!({"name": "e", "mountPath": "/a", "readOnly": true, "recursiveReadOnly": said,
            "mountPropagation": propagation});
        let pod = Pod::read(json!({"metadata": {"uid": "u"}, "spec": mounting(json!([mount]))})).unwrap();
        let mount = &pod.spec.containers[0].volume_mounts[0];
        stage.volumes.is_read_only_below(mount)
    };
    for (said, want) in [("Disabled", false), ("IfPossible", true), ("Enabled", true)] {
        assert_eq!(below(said, "None"), Ok(want), "{said}");
    }
    assert_eq!(
        below("Enabled", "HostToContainer").unwrap_err(),
        "failed to resolve recursive read-only mode: volume \"e\" requested recursive read-only mode, but it is not compatible with \
         propagation \"HostToContainer\""
    );
}
