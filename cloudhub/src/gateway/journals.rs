//! `/kurator/v1/journals/<node>/<stream>?from=&limit=`: the records of a gateway's journal as the hub keeps them, a page at a time.
//!
//! `from` is a position in the hub's history, counted from 1; `next` in an answer is the one to go on with. Beside it each record
//! has the gateway's own number and the store it was counted in: a gateway whose disk was lost counts anew.

use std::sync::Arc;

use metastore::api::Status;
use serde_json::{Value, json};

use super::admin::query_value;
use crate::enroll::hex;
use crate::fleet::{Fleet, history};

/// Records in one answer, when nothing is said and at most.
const USUAL_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Bytes of records in one answer.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// One page.
///
/// # Errors
/// Of a query that is none, for a journal that never had a record, and when the store cannot be read.
pub(super) async fn page(fleet: &Arc<Fleet>, node: &str, stream: &str, query: &str) -> Result<Value, Status> {
    let from = number(query, "from")?.unwrap_or(1);
    let limit = number(query, "limit")?.map_or(USUAL_PAGE, |n| usize::try_from(n).unwrap_or(MAX_PAGE));
    let most = (limit.clamp(1, MAX_PAGE), MAX_PAGE_BYTES);
    let (store, of, name) = (fleet.store.clone(), node.to_owned(), stream.to_owned());
    let read = tokio::task::spawn_blocking(move || history(&store, &of, &name, from, most));
    let (extent, kept) = read
        .await
        .map_err(|e| Status::internal(e.to_string()))?
        .map_err(|e| Status::unavailable(format!("the journal cannot be read: {e}")))?;
    if extent.newest == 0 {
        return Err(Status::not_found("", "journals", &format!("{node}/{stream}")));
    }
    let next = kept
        .last()
        .map(|k| k.position + 1)
        .filter(|next| *next <= extent.newest);
    // Records are JSON; whatever else came is shown as bytes.
    let record = |body: &[u8]| serde_json::from_slice(body).unwrap_or_else(|_| json!({"hex": hex(body)}));
    let items: Vec<Value> = kept
        .into_iter()
        .map(|k| {
            json!({
                "position": k.position,
                "instance": format!("{:016x}", k.instance),
                "seq": k.seq,
                "record": record(&k.body),
            })
        })
        .collect();
    Ok(json!({
        "node": node,
        "stream": stream,
        "newest": extent.newest,
        "forcedOut": extent.forced_out,
        "items": items,
        "next": next,
    }))
}

fn number(query: &str, name: &str) -> Result<Option<u64>, Status> {
    let Some(value) = query_value(query, name) else {
        return Ok(None);
    };
    let wrong = |_| Status::bad_request(format!("{name} must be a whole number, not {value:?}"));
    value.parse().map(Some).map_err(wrong)
}
