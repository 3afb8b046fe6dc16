//! mosquitto_pub and mosquitto_sub against the broker. They have to be installed: a skip would look like a pass.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn program(name: &str, port: u16, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(args)
        .kill_on_drop(true);
    command
}

async fn publish(port: u16, args: &[&str]) {
    let status = timeout(PATIENCE, program("mosquitto_pub", port, args).status())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success(), "{args:?}: {status}");
}

struct Sub {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Sub {
    /// Starts mosquitto_sub and waits until the broker knows its subscriptions.
    async fn start(bench: &Bench, args: &[&str]) -> Self {
        let before = bench.local.log().len();
        let mut sub = Self::start_resumed(bench, args);
        let subscribed = async {
            while !bench.local.log()[before..].iter().any(|line| line.starts_with('~')) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, subscribed).await.is_err() {
            panic!("mosquitto_sub {args:?} did not subscribe: {:?}", sub.child.try_wait());
        }
        sub
    }

    fn start_resumed(bench: &Bench, args: &[&str]) -> Self {
        let mut command = program("mosquitto_sub", bench.port(), args);
        let mut child = command
            .args(["-F", "%t %q %r %p"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line())
            .await
            .expect("nothing came")
            .unwrap()
            .expect("mosquitto_sub ended")
    }

    async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_quality_in_both_versions() {
    let bench = Bench::start().await;
    for version in ["mqttv311", "mqttv5"] {
        let mut sub = Sub::start(&bench, &["-V", version, "-q", "2", "-t", "t/#"]).await;
        for publisher in ["mqttv311", "mqttv5"] {
            for qos in ["0", "1", "2"] {
                let body = format!("{publisher}-{qos}");
                publish(bench.port(), &["-V", publisher, "-q", qos, "-t", "t/x", "-m", &body]).await;
                assert_eq!(sub.line().await, format!("t/x {qos} 0 {body}"));
            }
        }
        sub.stop().await;
    }
    // A long burst from one process, in order.
    let mut sub = Sub::start(&bench, &["-q", "1", "-t", "burst"]).await;
    let args = ["-q", "1", "-t", "burst", "-m", "x", "--repeat", "500"];
    publish(bench.port(), &args).await;
    for _ in 0..500 {
        assert_eq!(sub.line().await, "burst 1 0 x");
    }
    assert_eq!(bench.broker.stats().protocol_errors, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_will_and_dollar_topics() {
    let bench = Bench::start().await;
    publish(bench.port(), &["-q", "1", "-r", "-t", "state/a", "-m", "on"]).await;
    let mut sub = Sub::start(&bench, &["-q", "1", "-t", "#", "-t", "$hw/#"]).await;
    assert_eq!(sub.line().await, "state/a 1 1 on");
    let mut plain = Sub::start(&bench, &["-t", "#"]).await;
    assert_eq!(plain.line().await, "state/a 0 1 on");

    publish(
        bench.port(),
        &["-q", "1", "-t", "$hw/events/device/default/d0/twin/update", "-m", "{}"],
    )
    .await;
    assert_eq!(sub.line().await, "$hw/events/device/default/d0/twin/update 1 0 {}");
    assert_eq!(bench.local.count(), 1);
    // The daemon answers on a `$hw` topic; `#` alone sees none of it.
    bench
        .broker
        .publish("$hw/answer", "a", mqtt::QoS::AtLeastOnce, false)
        .unwrap()
        .await
        .unwrap();
    assert_eq!(sub.line().await, "$hw/answer 1 0 a");

    let will = [
        "-t",
        "x",
        "-i",
        "mortal",
        "--will-topic",
        "will/mortal",
        "--will-payload",
        "gone",
        "--will-qos",
        "1",
    ];
    Sub::start(&bench, &will).await.stop().await;
    assert_eq!(sub.line().await, "will/mortal 1 0 gone");
    assert_eq!(
        plain.line().await,
        "will/mortal 0 0 gone",
        "and nothing of $hw before it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persistent_session_over_a_restart_of_the_broker() {
    for (version, more) in [("mqttv311", &["-c"][..]), ("mqttv5", &["-c", "-x", "3600"])] {
        let bench = Bench::start().await;
        let base = [&["-V", version, "-i", "keeper", "-q", "2", "-t", "t/#"][..], more].concat();
        let mut sub = Sub::start(&bench, &base).await;
        publish(bench.port(), &["-q", "1", "-t", "t/1", "-m", "seen"]).await;
        assert_eq!(sub.line().await, "t/1 1 0 seen");
        sub.stop().await;
        while bench.broker.stats().connections > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for (qos, body) in [("0", "lost"), ("1", "one"), ("2", "two")] {
            publish(bench.port(), &["-q", qos, "-t", "t/2", "-m", body]).await;
        }
        assert!(bench.broker.shutdown(Duration::from_secs(5)).await);

        let bench = Bench::on(bench.persist, |_| {}).await;
        publish(bench.port(), &["-q", "1", "-t", "t/3", "-m", "after the restart"]).await;
        let mut sub = Sub::start_resumed(&bench, &base);
        // mosquitto_sub prints a QoS 2 message at its PUBREL, so behind the QoS 1 message that follows it.
        let mut lines = [sub.line().await, sub.line().await, sub.line().await];
        lines.sort();
        assert_eq!(lines, ["t/2 1 0 one", "t/2 2 0 two", "t/3 1 0 after the restart"]);
        sub.stop().await;
    }
}
