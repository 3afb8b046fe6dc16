//! What the write path does for custom resources beyond the common rules: their schema, the scale that their definition names, their
//! validation rules; and the rules of definitions themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::builtin::DEFINITIONS;
use super::jsonpath::Path;
use super::kinds::{KindSpec, Registry, Selector};
use super::rules::{INLINE_BUDGET, OBJECT_BUDGET, RuleEngine, Rules, Spent, Verdict};
use super::schema::check;
use super::server::Core;
use super::status::{Cause, Status};
use super::write::{Part, Writing, parse, store_status};
use super::{definitions, meta};
use crate::store::{CommitError, Expect, ListOptions, Object, Scope, Tx};

/// What keeps rules from being evaluated: they may count on the schema.
const BLOCKING: [&str; 5] = [
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
];

/// What the definitions became, by their names.
#[derive(Debug, Default)]
pub(crate) struct Loaded(BTreeMap<Arc<str>, One>);

#[derive(Debug)]
struct One {
    /// Of all that the rows are made of.
    fingerprint: u64,
    rows: Vec<Arc<KindSpec>>,
    unserved: Option<Arc<KindSpec>>,
}

impl Loaded {
    fn renewed(mut self, objects: Vec<Object>, engine: Option<&Arc<dyn RuleEngine>>) -> Result<Self, Status> {
        let mut out = Self::default();
        for object in objects {
            let definition = parse(&object)?;
            let fingerprint = fingerprint(&definition);
            let known = self.0.remove(&object.key.name).filter(|k| k.fingerprint == fingerprint);
            let one = known.unwrap_or_else(|| {
                let mut rows = definitions::rows(&definition, object.revision, engine);
                let unserved = rows.extract_if(.., |row| row.1).map(|r| Arc::new(r.0)).next();
                One {
                    fingerprint,
                    unserved: unserved.filter(|_| rows.is_empty()),
                    rows: rows.into_iter().map(|r| Arc::new(r.0)).collect(),
                }
            });
            out.0.insert(object.key.name.clone(), one);
        }
        Ok(out)
    }
}

fn fingerprint(definition: &Value) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    let established = definitions::condition(definition, "Established").and_then(|c| c.get("status"));
    let names = definition.pointer("/status/acceptedNames");
    for part in [definition.get("spec"), established, names] {
        part.map(ToString::to_string).hash(&mut hasher);
    }
    hasher.finish()
}

/// Whether objects of a kind define kinds.
pub(crate) fn is_definition(kind: &KindSpec) -> bool {
    (&*kind.storage.group, &*kind.storage.plural) == DEFINITIONS
}

/// Finds what the schema and the scale of a kind refuse.
pub(crate) fn check(kind: &KindSpec, value: &Value, old: Option<&Value>, part: Part, causes: &mut Vec<Cause>) {
    if matches!(part, Part::Status) {
        causes.extend(check::status(value, old, &kind.schema));
    } else {
        causes.extend(check::object(value, old, &kind.schema));
    }
    let Some(scale) = &kind.scale else { return };
    let mut replicas = |path: &Path| {
        let Some(n) = path.first(value).filter(|n| !n.is_null()) else {
            return;
        };
        let why = match n.as_i64() {
            None => "must be an integer",
            Some(i64::MIN..0) => "should be a non-negative integer",
            Some(n) if n > i64::from(i32::MAX) => "should be less than or equal to 2147483647",
            Some(_) => return,
        };
        causes.push(Cause::invalid(path.source(), &n.to_string(), why));
    };
    if !matches!(part, Part::Status) {
        replicas(&scale.spec);
    }
    replicas(&scale.status);
    if let Selector::Text(path) = &scale.selector
        && let Some(other) = path.first(value).filter(|v| !v.is_string() && !v.is_null())
    {
        causes.push(Cause::invalid(path.source(), &other.to_string(), "must be text"));
    }
}

impl Core {
    /// Evaluates the rules of a custom resource, or compiles those of a definition. Adds causes; returns warnings.
    pub(crate) async fn check_rules(
        &self,
        w: &Writing<'_>,
        value: &Value,
        old: Option<&Value>,
        causes: &mut Vec<Cause>,
    ) -> Result<Vec<String>, Status> {
        if matches!(w.part, Part::Whole) {
            return Ok(Vec::new());
        }
        if is_definition(w.kind) {
            if causes.is_empty() && matches!(w.part, Part::Main) {
                causes.extend(self.compile_rules(value, old).await?);
            }
            return Ok(definitions::unrecognized_formats(value, old));
        }
        let Some(rules) = &w.kind.rules else {
            return Ok(Vec::new());
        };
        if causes.iter().any(|c| BLOCKING.contains(&c.reason.as_str())) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            causes.push(Cause::invalid("<nil>", "null", why));
            return Ok(Vec::new());
        }
        let verdict = evaluate(rules, value, old).await?;
        causes.extend(verdict.causes);
        Ok(verdict.warnings)
    }

    /// Reads the definitions from the store and replaces the table. Rows of definitions that did not change stay as they are, with
    /// whoever watches them.
    pub(crate) async fn load_definitions(&self) -> Result<(), Status> {
        let mut loaded = self.reload.lock().await;
        let scope = Scope::all(DEFINITIONS.0, DEFINITIONS.1);
        let listed = self.store.list(&scope, ListOptions::default()).map_err(store_status)?;
        let (before, engine) = (std::mem::take(&mut *loaded), self.rules.clone());
        // Compiling the rules of many definitions takes its time.
        let after = blocking(move || before.renewed(listed.items, engine.as_ref())).await??;
        let mut next = Registry::default();
        next.generation = self.registry().generation + 1;
        for kind in &self.base {
            next.add(kind.clone());
        }
        for one in after.0.values() {
            one.rows.iter().for_each(|row| next.add(row.clone()));
            next.unserved.extend(one.unserved.clone());
        }
        self.replace_registry(next);
        *loaded = after;
        Ok(())
    }

    /// Gives a definition the names that are free, which it says in its status.
    pub(crate) fn settle_names(&self, kind: &KindSpec, definition: &mut Value) -> Result<(), Status> {
        if !is_definition(kind) {
            return Ok(());
        }
        let group = definition
            .pointer("/spec/group")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let (taken, _) = self.names_of(&group)?;
        definitions::accept(definition, &taken, &meta::now());
        Ok(())
    }

    /// Looks again at definitions of a group that did not get all their names: somebody may have given one back.
    pub(crate) async fn resettle_names(&self, group: &str) -> Result<(), Status> {
        let (_, all) = self.names_of(group)?;
        let mut changed = false;
        for (object, mut definition) in all {
            let accepted = definitions::condition(&definition, "NamesAccepted");
            if accepted.is_some_and(|c| c.get("status") == Some(&json!("True"))) {
                continue;
            }
            let (taken, _) = self.names_of(group)?;
            let before = definition.clone();
            definitions::accept(&mut definition, &taken, &meta::now());
            if definition == before {
                continue;
            }
            let tx = Tx::new().put(object.key.clone(), definition, Expect::Revision(object.revision));
            match self.store.commit(tx).await {
                // Whoever changed it meanwhile has asked for its names as well.
                Ok(_) | Err(CommitError::Conflict { .. } | CommitError::NotFound(_)) => changed = true,
                Err(e) => return Err(Status::unavailable(e.to_string())),
            }
        }
        if changed {
            self.load_definitions().await?;
        }
        Ok(())
    }

    /// The names in use in a group, and its definitions.
    fn names_of(&self, group: &str) -> Result<(definitions::Taken, Vec<(Object, Value)>), Status> {
        let scope = Scope::all(DEFINITIONS.0, DEFINITIONS.1);
        let listed = self.store.list(&scope, ListOptions::default()).map_err(store_status)?;
        let mut taken = definitions::Taken::default();
        let mut all = Vec::new();
        for object in listed.items {
            // A definition's name is its plural, a dot, and its group.
            if object.key.name.split_once('.').is_none_or(|(_, g)| g != group) {
                continue;
            }
            let definition = parse(&object)?;
            taken.add(&definition);
            all.push((object, definition));
        }
        Ok((taken, all))
    }

    async fn compile_rules(&self, definition: &Value, old: Option<&Value>) -> Result<Vec<Cause>, Status> {
        let schemas = definitions::schemas(definition);
        let with: Vec<(String, Value)> = schemas
            .into_iter()
            .filter(|(path, schema)| {
                let mut found = Vec::new();
                super::rules::places(schema, path, &mut found);
                !found.is_empty()
            })
            .map(|(path, schema)| (path, schema.clone()))
            .collect();
        if with.is_empty() || old.is_some_and(|o| o.pointer("/spec/versions") == definition.pointer("/spec/versions")) {
            return Ok(Vec::new());
        }
        let Some(engine) = self.rules.clone() else {
            return Ok(with
                .iter()
                .flat_map(|(path, schema)| unsupported(schema, path))
                .collect());
        };
        blocking(move || {
            with.iter()
                .filter_map(|(path, schema)| engine.compile(schema, path).err())
                .flatten()
                .collect()
        })
        .await
    }
}

/// Refuses rules where nobody evaluates them.
fn unsupported(schema: &Value, path: &str) -> Vec<Cause> {
    let mut places = Vec::new();
    super::rules::places(schema, path, &mut places);
    places
        .into_iter()
        .map(|field| {
            let why = "validation rules (CEL) are not evaluated by a gateway: create the definition in the hub, or leave the rules out of the gateway's copy";
            Cause::forbidden(field, why)
        })
        .collect()
}

/// The compiled rules of a stored schema; none when nobody evaluates them here.
pub(crate) fn compiled(engine: Option<&Arc<dyn RuleEngine>>, schema: &Value) -> Option<Arc<dyn Rules>> {
    engine?.compile(schema, "").unwrap_or_else(|causes| {
        tracing::error!(rules = causes.len(), "Stored validation rules cannot be compiled.");
        None
    })
}

/// Most rules take microseconds; those that take longer are begun again where they hold up nobody.
async fn evaluate(rules: &Arc<dyn Rules>, value: &Value, old: Option<&Value>) -> Result<Verdict, Status> {
    if let Ok(verdict) = rules.check(value, old, INLINE_BUDGET) {
        return Ok(verdict);
    }
    let (rules, value, old) = (rules.clone(), value.clone(), old.cloned());
    blocking(move || match rules.check(&value, old.as_ref(), OBJECT_BUDGET) {
        Ok(verdict) | Err(Spent(verdict)) => verdict,
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Status::internal("the validation rules could not be evaluated"))
}
