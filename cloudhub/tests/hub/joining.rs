//! Tokens, identities, their renewal and their end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use link::driver::End;
use link::join::JoinFailure;
use link::pki::NodeKey;
use link::{CloseCode, DialError};
use proto::join::JoinCode;
use proto::{CloseReason, JoinToken, Rotation, Secret, TokenError};
use serde_json::json;

use crate::gateway::{Enrolled, Gateway, Kept, ask, enrol, pem, request};
use crate::world::{EDGE_NODES, World, eventually};

fn refused(result: Result<Enrolled, JoinFailure>) -> JoinCode {
    match result {
        Err(JoinFailure::Refused(refusal)) => {
            assert!(!refusal.message.is_empty() && !refusal.hint.is_empty(), "{refusal:?}");
            refusal.code
        }
        Err(other) => panic!("{other}"),
        Ok(enrolled) => panic!("{} was let in", enrolled.node),
    }
}

#[tokio::test]
async fn every_refusal_has_its_own_name() {
    let world = World::start().await;
    let admin = &world.admin;
    let once = admin.token(json!({})).await;
    enrol(&once, "gw-1").await.unwrap();
    assert_eq!(refused(enrol(&once, "gw-9").await), JoinCode::Used);

    let bound = admin.token(json!({"node": "gw-2"})).await;
    assert_eq!(refused(enrol(&bound, "gw-3").await), JoinCode::WrongNode);
    assert_eq!(enrol(&bound, "").await.unwrap().node, "gw-2", "no name: the token's");

    let many = admin.token(json!({"uses": 5})).await;
    assert_eq!(refused(enrol(&many, "gw-1").await), JoinCode::NameTaken);
    assert_eq!(enrol(&many, "gw-4").await.unwrap().node, "gw-4");

    let revoked = admin.token(json!({})).await;
    let id = revoked.parse::<JoinToken>().unwrap().id;
    admin.delete(&format!("/kurator/v1/tokens/{id}")).await.unwrap();
    assert_eq!(refused(enrol(&revoked, "gw-5").await), JoinCode::Revoked);
    assert_eq!(admin.delete("/kurator/v1/tokens/nobody").await.unwrap_err().0, 404);

    let mut guessed: JoinToken = many.parse().unwrap();
    guessed.secret = Secret::new(vec![0; guessed.secret.expose().len()]);
    assert_eq!(refused(enrol(&guessed.to_string(), "gw-5").await), JoinCode::Unknown);

    let short = admin.token(json!({"ttlSeconds": 1})).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(refused(enrol(&short, "gw-5").await), JoinCode::Expired);

    let failure = enrol(&many, "no-such-node-name-.").await.err().unwrap();
    assert!(matches!(failure, JoinFailure::Refused(r) if r.code == JoinCode::BadRequest));
    let (parsed, key) = (many.parse::<JoinToken>().unwrap(), NodeKey::generate().unwrap());
    let mut question = request(&parsed, "gw-5", &key);
    question.labels.insert("not a label".to_owned(), "x".to_owned());
    assert_eq!(refused(ask(&parsed, &key, question).await), JoinCode::BadRequest);
    let garbled = many.replace(&many[20..24], "AAAA");
    assert!(
        matches!(
            garbled.parse::<JoinToken>(),
            Err(TokenError::Garbled | TokenError::Invalid(_))
        ),
        "{garbled}"
    );

    let list = admin.get("/kurator/v1/tokens").await.unwrap();
    let mut states: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["state"].as_str().unwrap())
        .collect();
    states.sort_unstable();
    assert_eq!(states, ["active", "expired", "revoked", "used", "used"]);
    let text = list.to_string();
    assert!(!text.contains("secret") && !text.contains("kj1"), "{text}");
}

#[tokio::test]
async fn another_hubs_token_finds_another_pin() {
    let (here, there) = (World::start().await, World::start().await);
    let mut token: JoinToken = there.admin.token(json!({})).await.parse().unwrap();
    token.addrs = vec![here.listen()];
    let failure = enrol(&token.to_string(), "gw-1").await.err().unwrap();
    assert!(matches!(failure, JoinFailure::Dial(_)), "{failure}");
}

#[tokio::test]
async fn bad_token_requests_are_refused_by_field() {
    let world = World::start().await;
    for (body, field) in [
        (json!({"node": "Not_A_Name"}), "node"),
        (json!({"ttlSeconds": 0}), "ttlSeconds"),
        (json!({"uses": 0}), "uses"),
        (json!({"labels": {"a b": "c"}}), "labels"),
        (json!({"nodee": "x"}), "nodee"),
        (json!([]), "expected"),
    ] {
        let (code, message) = world.admin.post("/kurator/v1/tokens", &body).await.unwrap_err();
        assert!(
            (code == 422 || code == 400) && message.contains(field),
            "{body}: {code} {message}"
        );
    }
    assert_eq!(world.admin.get("/kurator/v1/nothing").await.unwrap_err().0, 404);
    assert_eq!(
        world.admin.post("/kurator/v1/nodes", &json!({})).await.unwrap_err().0,
        405
    );
}

#[tokio::test]
async fn a_lost_answer_costs_no_token_and_a_second_question_does() {
    let world = World::start().await;
    let token: JoinToken = world.admin.token(json!({})).await.parse().unwrap();
    let key = NodeKey::generate().unwrap();
    let question = request(&token, "gw-1", &key);
    let first = ask(&token, &key, question.clone()).await.unwrap();
    let mut again = question.clone();
    again.csr_der = key.request().unwrap().into();
    let second = ask(&token, &key, again).await.unwrap();
    assert_ne!(first.credential.chain_pem, second.credential.chain_pem);
    for enrolled in [&first, &second] {
        Gateway::online(enrolled, &Arc::default()).await.leave().await;
    }
    // Another key is another gateway, whatever nonce it shows.
    let other = NodeKey::generate().unwrap();
    let mut stolen = question;
    stolen.csr_der = other.request().unwrap().into();
    assert_eq!(refused(ask(&token, &other, stolen).await), JoinCode::Used);
}

#[tokio::test]
async fn joining_makes_the_objects_that_people_look_for() {
    let world = World::start().await;
    enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    eventually("an EdgeNode", async || {
        world.admin.get(&format!("{EDGE_NODES}/gw-1")).await.ok()
    })
    .await;
    let node = eventually("a Node", async || world.admin.get("/api/v1/nodes/gw-1").await.ok()).await;
    assert_eq!(node["metadata"]["labels"]["shelf"], "3");
    assert_eq!(node["status"]["conditions"][0]["status"], "False");
}

#[tokio::test]
async fn revocation_ends_the_session_at_once_and_outlives_the_hub() {
    let mut world = World::start().await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let spare = world.admin.token(json!({"node": "gw-1"})).await;
    let gateway = Gateway::online(&enrolled, &Arc::default()).await;
    let begun = daemon::clock::now();
    let answer = world
        .admin
        .post("/kurator/v1/nodes/gw-1/revoke", &json!({}))
        .await
        .unwrap();
    assert_eq!(answer, json!({"node": "gw-1", "sessionsEnded": 1}));
    let end = gateway.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(
        matches!(
            end,
            End::Peer {
                reason: CloseReason::Revoked,
                ..
            }
        ),
        "{end}"
    );
    let turned_away = async |enrolled: &Enrolled| match Gateway::connect(enrolled, Arc::default()).await {
        Err(DialError::Refused(goodbye)) => goodbye.code,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    };
    assert_eq!(turned_away(&enrolled).await, CloseCode::Revoked);
    world.stop().await;
    world.start_again().await;
    assert_eq!(turned_away(&enrolled).await, CloseCode::Revoked);
    let node = world.admin.node("gw-1").await.unwrap();
    assert_eq!((&node["revoked"], &node["connected"]), (&json!(true), &json!(false)));
    // Tokens bound to it before do not bring it back, unbound ones neither; one made for it now does.
    assert_eq!(refused(enrol(&spare, "gw-1").await), JoinCode::Revoked);
    assert_eq!(
        refused(enrol(&world.admin.token(json!({})).await, "gw-1").await),
        JoinCode::Revoked
    );
    let back = enrol(&world.admin.token(json!({"node": "gw-1"})).await, "gw-1")
        .await
        .unwrap();
    Gateway::online(&back, &Arc::default()).await.leave().await;
    assert_eq!(turned_away(&enrolled).await, CloseCode::Revoked);
    assert_eq!(
        world
            .admin
            .post("/kurator/v1/nodes/nobody/revoke", &json!({}))
            .await
            .unwrap_err()
            .0,
        404
    );
}

#[tokio::test]
async fn a_replaced_gateway_takes_the_name_with_a_token_for_it() {
    let world = World::start().await;
    let old = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let gateway = Gateway::online(&old, &Arc::default()).await;
    let new = enrol(&world.admin.token(json!({"node": "gw-1"})).await, "gw-1")
        .await
        .unwrap();
    let end = gateway.ended().await;
    assert!(
        matches!(
            end,
            End::Peer {
                reason: CloseReason::Revoked,
                ..
            }
        ),
        "{end}"
    );
    assert!(Gateway::connect(&old, Arc::default()).await.is_err());
    Gateway::online(&new, &Arc::default()).await.leave().await;
}

#[tokio::test]
async fn certificates_are_renewed_over_the_link() {
    let world = World::start().await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let gateway = Gateway::online(&enrolled, &kept).await;
    let key = NodeKey::generate().unwrap();
    let csr = key.request().unwrap();
    assert!(gateway.handle.ask(move |s, _| s.rotate(csr)).await.unwrap());
    let answer = eventually("the answer", async || kept.lock().unwrap().rotated.clone()).await;
    let Rotation::Issued(chain) = answer else {
        panic!("{answer:?}")
    };
    let mut renewed = enrolled.clone();
    renewed.credential.chain_pem = chain.iter().map(|c| pem(c)).collect();
    renewed.credential.key_pem = key.to_pem();
    let info = renewed.credential.info().unwrap();
    assert_eq!(info.common_name, "system:node:gw-1");
    assert_eq!(info.pin, key.pin());
    gateway.leave().await;
    // Either is good until the next renewal under the new one.
    Gateway::online(&enrolled, &kept).await.leave().await;
    let gateway = Gateway::online(&renewed, &kept).await;
    kept.lock().unwrap().rotated = None;
    let csr = NodeKey::generate().unwrap().request().unwrap();
    assert!(gateway.handle.ask(move |s, _| s.rotate(csr)).await.unwrap());
    eventually("the answer", async || kept.lock().unwrap().rotated.clone()).await;
    assert!(Gateway::connect(&enrolled, Arc::default()).await.is_err());
    // Junk is answered, not obeyed.
    kept.lock().unwrap().rotated = None;
    assert!(gateway.handle.ask(|s, _| s.rotate(&b"junk"[..])).await.unwrap());
    let answer = eventually("the answer", async || kept.lock().unwrap().rotated.clone()).await;
    assert!(matches!(answer, Rotation::Refused(_)), "{answer:?}");
    gateway.leave().await;
}

#[tokio::test]
async fn two_gateways_with_one_identity_are_found() {
    let world = World::start().await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let (one, two): (Arc<Mutex<Kept>>, Arc<Mutex<Kept>>) = Default::default();
    let first = Gateway::connect_as(&enrolled, Arc::clone(&one), 1, 1).await.unwrap();
    eventually("the first", async || (one.lock().unwrap().welcomes == 1).then_some(())).await;
    let second = Gateway::connect_as(&enrolled, Arc::clone(&two), 2, 2).await.unwrap();
    let end = first.ended().await;
    assert!(
        matches!(
            end,
            End::Peer {
                reason: CloseReason::Fenced,
                ..
            }
        ),
        "{end}"
    );
    eventually("the second", async || (two.lock().unwrap().welcomes == 1).then_some(())).await;
    let first = Gateway::connect_as(&enrolled, Arc::clone(&one), 1, 1).await.unwrap();
    match first.ended().await {
        End::Peer {
            reason: CloseReason::Busy { retry_after },
            ..
        } => assert!(retry_after >= Duration::from_secs(60)),
        other => panic!("{other}"),
    }
    assert!(!second.handle.is_ended(), "the one that is in stays in");
    eventually("the mark", async || {
        let edge_node = world.admin.get(&format!("{EDGE_NODES}/gw-1")).await.ok()?;
        let conditions = edge_node["status"]["conditions"].as_array()?.clone();
        conditions
            .iter()
            .any(|c| c["type"] == "DuplicateIdentity" && c["status"] == "True")
            .then_some(())
    })
    .await;
}
