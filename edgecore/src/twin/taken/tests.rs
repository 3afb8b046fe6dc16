use metastore::store::{StoreOptions, Tx};

use super::*;

fn store(dir: &tempfile::TempDir) -> Store {
    Store::open(StoreOptions::new(dir.path().join("s.db"))).unwrap().0
}

fn sent(client: &str, packet_id: u16, text: &str) -> Origin {
    Sender::new(client).sent(packet_id, false, false, "t", text.as_bytes())
}

fn again(client: &str, packet_id: u16, text: &str) -> Origin {
    Sender::new(client).sent(packet_id, true, false, "t", text.as_bytes())
}

/// Puts what was noted into the store.
async fn keep(taken: &mut Taken, store: &Store) {
    let mut ops = Vec::new();
    let sealed = taken.seal(&mut ops);
    store.commit(Tx(ops)).await.unwrap();
    taken.landed(sealed, true);
}

fn rows(store: &Store) -> usize {
    store.kv_scan(BUCKET, b"").unwrap().len()
}

#[tokio::test]
async fn what_was_taken_is_known_before_during_and_after_its_commit_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut taken = Taken::load(&store).unwrap();
    taken.note(&sent("c", 5, "a"), true);
    assert!(taken.knows(&again("c", 5, "a"), true), "in the same transaction");
    let mut ops = Vec::new();
    let sealed = taken.seal(&mut ops);
    assert!(taken.knows(&again("c", 5, "a"), true), "under way");
    store.commit(Tx(ops)).await.unwrap();
    taken.landed(sealed, true);
    for taken in [taken, Taken::load(&store).unwrap()] {
        assert!(taken.knows(&again("c", 5, "a"), true));
        for (other, why) in [
            (sent("c", 5, "a"), "not marked as sent again"),
            (again("d", 5, "a"), "another client"),
            (again("c", 6, "a"), "another packet id"),
            (again("c", 5, "b"), "another payload"),
            (Sender::new("c").sent(5, true, false, "u", b"a"), "another topic"),
        ] {
            assert!(!taken.knows(&other, true), "{why}");
        }
        assert!(
            !taken.knows(&again("c", 5, "a"), false),
            "nothing tells it from another one"
        );
    }
}

#[tokio::test]
async fn a_packet_id_used_again_is_another_message() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut taken = Taken::load(&store).unwrap();
    for (text, identified) in [("a", true), ("b", false)] {
        taken.note(&sent("c", 5, text), identified);
        keep(&mut taken, &store).await;
    }
    for taken in [taken, Taken::load(&store).unwrap()] {
        assert!(!taken.knows(&again("c", 5, "a"), true));
        assert!(
            !taken.knows(&again("c", 5, "b"), true),
            "it was not known to have a name"
        );
    }
}

#[tokio::test]
async fn at_qos_2_the_packet_id_tells_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut taken = Taken::load(&store).unwrap();
    let message = |again| Sender::new("c").sent(5, again, true, "t", b"same");
    assert!(!taken.releasable().load(Ordering::Relaxed));
    taken.note(&message(false), false);
    keep(&mut taken, &store).await;
    assert!(taken.releasable().load(Ordering::Relaxed));
    let mut taken = Taken::load(&store).unwrap();
    assert!(taken.releasable().load(Ordering::Relaxed), "also after a restart");
    assert!(taken.knows(&message(true), false));
    assert!(!taken.knows(&again("c", 5, "same"), false), "QoS 1 is no QoS 2");
    let client = Sender::new("c").client();
    assert!(!taken.release(client, 6));
    assert!(taken.release(client, 5));
    assert!(!taken.release(client, 5), "once is enough");
    keep(&mut taken, &store).await;
    for taken in [taken, Taken::load(&store).unwrap()] {
        assert!(
            !taken.knows(&message(true), false),
            "the next one with this id is another"
        );
    }
}

#[tokio::test]
async fn what_failed_was_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut taken = Taken::load(&store).unwrap();
    taken.note(&sent("c", 1, "a"), true);
    keep(&mut taken, &store).await;
    // Two under way; the first fails, the second must not bring its messages in.
    taken.note(&sent("c", 2, "b"), true);
    let first = taken.seal(&mut Vec::new());
    taken.note(&sent("c", 3, "c"), true);
    let mut ops = Vec::new();
    let second = taken.seal(&mut ops);
    taken.landed(first, false);
    store.commit(Tx(ops)).await.unwrap();
    taken.landed(second, true);
    for taken in [&taken, &Taken::load(&store).unwrap()] {
        assert!(taken.knows(&again("c", 1, "a"), true));
        assert!(!taken.knows(&again("c", 2, "b"), true));
        assert!(taken.knows(&again("c", 3, "c"), true));
        assert_eq!(taken.messages, 2);
    }
    // A client of which nothing else is known is not known.
    taken.note(&sent("d", 1, "a"), true);
    let lost = taken.seal(&mut Vec::new());
    taken.landed(lost, false);
    assert_eq!(taken.clients.len(), 1);
}

#[tokio::test]
async fn a_slow_client_has_few_rows_and_a_window() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut taken = Taken::load(&store).unwrap();
    let total = WINDOW + 500;
    for n in 0..total {
        taken.note(&sent("c", n as u16, "x"), true);
        let mut ops = Vec::new();
        let sealed = taken.seal(&mut ops);
        assert!(ops.len() <= 2, "one put and at most one removal a transaction");
        // Not awaited one by one: what is tested is what is written.
        drop(store.submit(Tx(ops)));
        taken.landed(sealed, true);
    }
    store.commit(Tx::new()).await.unwrap();
    assert_eq!(rows(&store), taken.clients[&Sender::new("c").client()].chunks.len());
    assert!(rows(&store) <= WINDOW / ROW + 2, "{} rows", rows(&store));
    for taken in [taken, Taken::load(&store).unwrap()] {
        assert!((WINDOW..WINDOW + ROW).contains(&taken.messages), "{}", taken.messages);
        assert!(taken.knows(&again("c", (total - WINDOW) as u16, "x"), true));
        assert!(!taken.knows(&again("c", 0, "x"), true), "forgotten");
    }
}

#[tokio::test]
async fn messages_and_clients_are_bounded_and_the_quiet_are_not_pushed_out_by_the_loud() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut taken = Taken::load(&store).unwrap();
    taken.note(&sent("quiet", 1, "x"), true);
    keep(&mut taken, &store).await;
    for client in 0..100 {
        for n in 0..1000 {
            taken.note(&sent(&format!("loud {client}"), n, "x"), true);
        }
        keep(&mut taken, &store).await;
        assert!(taken.messages <= MESSAGES);
    }
    assert!(taken.messages > MESSAGES / 4);
    assert!(taken.knows(&again("quiet", 1, "x"), true));
    for client in 0..2 * CLIENTS {
        taken.note(&sent(&format!("new {client}"), 1, "x"), true);
        if client % 64 == 0 {
            keep(&mut taken, &store).await;
        }
    }
    keep(&mut taken, &store).await;
    let restarted = Taken::load(&store).unwrap();
    assert_eq!(restarted.clients.len(), taken.clients.len());
    for taken in [taken, restarted] {
        assert_eq!(taken.clients.len(), CLIENTS);
        let count: usize = taken.clients.values().map(|known| known.count).sum();
        assert_eq!(taken.messages, count);
        assert!(!taken.knows(&again("quiet", 1, "x"), true), "silent for longest");
        assert!(taken.knows(&again(&format!("new {}", 2 * CLIENTS - 1), 1, "x"), true));
    }
}

/// A transaction larger than any bound: nothing loops, nothing is left behind.
#[tokio::test]
async fn more_than_fits_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut taken = Taken::load(&store).unwrap();
    for client in 0..40 {
        for n in 0..u16::MAX / 20 {
            taken.note(&sent(&format!("c{client}"), n, "x"), true);
        }
    }
    keep(&mut taken, &store).await;
    assert!(
        (MESSAGES / 4..=MESSAGES).contains(&taken.messages),
        "{}",
        taken.messages
    );
    let left: usize = store
        .kv_scan(BUCKET, b"")
        .unwrap()
        .iter()
        .map(|(_, value)| value.len() / RECORD)
        .sum();
    assert_eq!(left, taken.messages);
}

#[tokio::test]
async fn damaged_rows_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let tx =
        Tx::new()
            .kv_put(BUCKET, b"short".to_vec(), vec![0; RECORD])
            .kv_put(BUCKET, key(7, 3), vec![0; RECORD + 1]);
    store.commit(tx).await.unwrap();
    let mut taken = Taken::load(&store).unwrap();
    assert!(taken.clients.is_empty());
    taken.note(&sent("c", 1, "x"), true);
    keep(&mut taken, &store).await;
    assert_eq!(rows(&store), 1);
}
