//! Validation rules of CustomResourceDefinitions (`x-kubernetes-validations`), in CEL. The expressions are parsed, and the functions of the
//! Kubernetes libraries come from, `kube-cel`; types and costs are inferred before a definition is accepted ([`infer`]), and evaluation is
//! our own ([`eval`]), because every step must count against a budget.

use std::collections::BTreeMap;
use std::sync::Arc;

use metastore::api::{Cause, RuleEngine, Rules, Spent, Verdict};
use serde_json::{Map, Value};

mod eval;
mod infer;
mod library;
mod program;
mod types;
mod url;
mod value;

use eval::{Fault, Run};
use infer::Scope;
use program::Node;
use types::{Decl, Shape, Type};

/// What one rule may cost by its estimate, times how often its value may be there.
const MAX_ESTIMATE: u64 = 10_000_000;
/// What all rules of a schema may cost by their estimates.
const MAX_TOTAL: u64 = 100 * 1_000_000;
/// What one evaluation of a rule may really cost.
const MAX_CALL: u64 = 1_000_000;
/// Most rules of a schema, and most bytes of their expressions: compiling takes a millisecond or so for each.
const MAX_RULES: usize = 2_000;
const MAX_SOURCES: usize = 512 * 1024;
/// Longest message that an expression may make.
const MAX_MESSAGE: usize = 5 * 1024;
/// Deepest schema; those that reach this module are flatter.
const MAX_DEPTH: usize = 100;
/// Stack of the thread that compiles: the parser recurses, and the limits on nesting are generous.
const STACK: usize = 16 << 20;
const RULES: &str = "x-kubernetes-validations";
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CelRules;

impl RuleEngine for CelRules {
    fn compile(&self, schema: &Value, path: &str) -> Result<Option<Arc<dyn Rules>>, Vec<Cause>> {
        if !has_rules(schema, 0) {
            return Ok(None);
        }
        std::thread::scope(|scope| {
            let compiled = std::thread::Builder::new()
                .name("rules".to_owned())
                .stack_size(STACK)
                .spawn_scoped(scope, || compile(schema, path));
            match compiled.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(Ok(place))) => Ok(Some(Arc::new(Compiled(place)) as Arc<dyn Rules>)),
                Ok(Ok(Err(causes))) => Err(causes),
                // The parser gave up on it.
                Ok(Err(_)) | Err(_) => Err(vec![Cause::forbidden(path, "the validation rules cannot be compiled")]),
            }
        })
    }
}

fn has_rules(schema: &Value, depth: usize) -> bool {
    let Some(map) = schema.as_object().filter(|_| depth <= MAX_DEPTH) else {
        return false;
    };
    let list = |v: &Value| v.as_array().is_some_and(|l| !l.is_empty());
    map.get(RULES).is_some_and(list)
        || map.get("items").is_some_and(|s| has_rules(s, depth + 1))
        || map.get("additionalProperties").is_some_and(|s| has_rules(s, depth + 1))
        || map
            .get("properties")
            .and_then(Value::as_object)
            .is_some_and(|m| m.values().any(|s| has_rules(s, depth + 1)))
}

/// One rule.
#[derive(Debug)]
struct Rule {
    program: Node,
    /// As written, or what it says of itself.
    title: Box<str>,
    message: Box<str>,
    expression: Option<Node>,
    reason: Option<Box<str>>,
    field: Box<str>,
    uses_old: bool,
    optional_old: bool,
}

/// A place in the schema that has rules, or has some below it.
#[derive(Debug)]
struct Place {
    decl: Option<Arc<Decl>>,
    rules: Vec<Rule>,
    members: BTreeMap<Box<str>, Self>,
    values: Option<Box<Self>>,
    items: Option<Box<Self>>,
    /// By which items are recognised in an update.
    keys: Option<Vec<Box<str>>>,
    /// Members that the schema gives a schema of their own.
    known: Vec<Box<str>>,
}

#[derive(Debug)]
struct Compiled(Place);

struct Compiler {
    causes: Vec<Cause>,
    rules: usize,
    bytes: usize,
    total: u64,
    /// The most expensive rules.
    costs: Vec<(u64, String)>,
}

/// Where a schema stands.
struct At<'p> {
    path: String,
    root: bool,
    /// How many such values an object may have; none where nothing bounds it.
    cardinality: Option<u64>,
    /// The list above it whose items cannot be told apart in an update.
    uncorrelatable: Option<&'p str>,
    depth: usize,
}

fn compile(schema: &Value, path: &str) -> Result<Place, Vec<Cause>> {
    let mut compiler = Compiler {
        causes: Vec::new(),
        rules: 0,
        bytes: 0,
        total: 0,
        costs: Vec::new(),
    };
    let place = compiler.place(
        schema,
        At {
            path: path.to_owned(),
            root: true,
            cardinality: Some(1),
            uncorrelatable: None,
            depth: 0,
        },
    );
    if compiler.total > MAX_TOTAL {
        compiler.costs.sort();
        for (_, field) in compiler.costs.iter().rev().take(4) {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            compiler.causes.push(Cause::forbidden(field, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        compiler
            .causes
            .push(Cause::forbidden(path, &too_expensive(what, compiler.total, MAX_TOTAL)));
    }
    match place {
        Some(place) if compiler.causes.is_empty() => Ok(place),
        _ => Err(compiler.causes),
    }
}

#[allow(clippy::cast_precision_loss)]
fn too_expensive(what: &str, cost: u64, limit: u64) -> String {
    let times = cost as f64 / limit as f64;
    let factor = if times > 100.0 {
        "more than 100x".to_owned()
    } else if times < 1.5 {
        format!("{times:.6}x")
    } else {
        format!("{times:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

fn word<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl Compiler {
    fn place(&mut self, schema: &Value, at: At<'_>) -> Option<Place> {
        if at.depth > MAX_DEPTH {
            return None;
        }
        let mut out = Place {
            decl: None,
            rules: Vec::new(),
            members: BTreeMap::new(),
            values: None,
            items: None,
            keys: list_keys(schema),
            known: Vec::new(),
        };
        self.below(schema, &at, &mut out);
        if let Some(Value::Array(rules)) = schema.get(RULES) {
            // Rules are held against the schema only where the schema is sound.
            let before = self.causes.len();
            for (i, rule) in rules.iter().enumerate() {
                self.outline(rule, &format!("{}.{RULES}[{i}]", at.path), schema);
            }
            if before == self.causes.len() {
                match Decl::read(schema, at.root || types::embedded(schema)).map(Arc::new) {
                    Some(decl) => {
                        for (i, rule) in rules.iter().enumerate() {
                            let field = format!("{}.{RULES}[{i}]", at.path);
                            out.rules.extend(self.rule(rule, &field, schema, &decl, &at));
                        }
                        out.decl = Some(decl);
                    }
                    None => self.causes.push(Cause::invalid(
                        format!("{}.{RULES}", at.path),
                        "\"\"",
                        "rules cannot see this part of the schema: it has no type that they know",
                    )),
                }
            }
        }
        let empty = out.rules.is_empty() && out.members.is_empty() && out.values.is_none() && out.items.is_none();
        (!empty).then_some(out)
    }

    fn below(&mut self, schema: &Value, at: &At<'_>, out: &mut Place) {
        let bound = |key: &str| {
            let most = types::count(schema, key)?;
            Some(at.cardinality?.saturating_mul(most))
        };
        let child = |path: String, cardinality, uncorrelatable| At {
            path,
            root: false,
            cardinality,
            uncorrelatable,
            depth: at.depth + 1,
        };
        if let Some(Value::Object(members)) = schema.get("properties") {
            for (name, member) in members {
                out.known.push(name.as_str().into());
                let path = format!("{}.properties[{name}]", at.path);
                if let Some(place) = self.place(member, child(path, at.cardinality, at.uncorrelatable)) {
                    out.members.insert(name.as_str().into(), place);
                }
            }
        }
        if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
            let path = format!("{}.additionalProperties", at.path);
            let place = self.place(values, child(path, bound("maxProperties"), at.uncorrelatable));
            out.values = place.map(Box::new);
        }
        if let Some(items) = schema.get("items") {
            let path = format!("{}.items", at.path);
            let lost = match (at.uncorrelatable, &out.keys) {
                (None, None) => Some(&*at.path),
                (lost, _) => lost,
            };
            let place = self.place(items, child(path, bound("maxItems"), lost));
            out.items = place.map(Box::new);
        }
    }

    /// What a rule says beside its expressions.
    fn outline(&mut self, rule: &Value, at: &str, schema: &Value) {
        let causes = &mut self.causes;
        let quoted = |s: &str| format!("{s:?}");
        let (source, message, expression) = (
            word(rule, "rule"),
            word(rule, "message"),
            word(rule, "messageExpression"),
        );
        let broken = |s: &str| s.contains(['\n', '\r']);
        if source.trim().is_empty() {
            causes.push(Cause::required(format!("{at}.rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            let why = "must be non-empty if specified";
            causes.push(Cause::invalid(format!("{at}.message"), &quoted(message), why));
        } else if broken(message.trim()) {
            let why = "must not contain line breaks";
            causes.push(Cause::invalid(format!("{at}.message"), &quoted(message), why));
        } else if broken(source.trim()) && message.trim().is_empty() {
            let why = "message must be specified if rule contains line breaks";
            causes.push(Cause::required(format!("{at}.message"), why));
        }
        if !expression.is_empty() && expression.trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            causes.push(Cause::required(format!("{at}.messageExpression"), why));
        }
        const REASONS: [&str; 4] = [
            "FieldValueDuplicate",
            "FieldValueForbidden",
            "FieldValueInvalid",
            "FieldValueRequired",
        ];
        if let Some(reason) = rule.get("reason").and_then(Value::as_str)
            && !REASONS.contains(&reason)
        {
            causes.push(Cause::not_supported(format!("{at}.reason"), &quoted(reason), &REASONS));
        }
        let field = word(rule, "fieldPath");
        if !field.is_empty() {
            let place = format!("{at}.fieldPath");
            if field.trim().is_empty() {
                let why = "must be non-empty if specified";
                causes.push(Cause::invalid(place.clone(), &quoted(field), why));
            }
            if broken(field) {
                let why = "must not contain line breaks";
                causes.push(Cause::invalid(place.clone(), &quoted(field), why));
            }
            if field_path(field, schema).is_none() {
                causes.push(Cause::invalid(place, &quoted(field), "must be a valid path"));
            }
        }
    }

    fn rule(&mut self, rule: &Value, at: &str, schema: &Value, decl: &Arc<Decl>, place: &At<'_>) -> Option<Rule> {
        let source = word(rule, "rule");
        let optional = rule.get("optionalOldSelf").and_then(Value::as_bool);
        let field = format!("{at}.rule");
        self.rules += 1;
        self.bytes += source.len() + word(rule, "messageExpression").len();
        if self.rules > MAX_RULES || self.bytes > MAX_SOURCES {
            if self.rules <= MAX_RULES + 1 {
                let why = format!("there are more than {MAX_RULES} rules, or more than {MAX_SOURCES} bytes of them");
                self.causes.push(Cause::forbidden(field, &why));
            }
            self.rules = self.rules.max(MAX_RULES + 1);
            return None;
        }
        let old = if optional == Some(true) {
            Type::Optional(decl.shape.clone().into()).into()
        } else {
            decl.shape.clone()
        };
        let names = || vec![("self", decl.shape.clone()), ("oldSelf", old.clone())];
        let shown = format!("{source:?}");
        let program = match expression(source, names(), &Type::Bool) {
            Ok((program, cost)) => {
                self.spend("estimated rule cost", &field, cost, decl, place);
                program
            }
            Err(Wrong::Source(why)) => {
                let why = format!("compilation failed: {why}");
                self.causes.push(Cause::invalid(field, &shown, &why));
                return None;
            }
            Err(Wrong::Type) => {
                self.causes
                    .push(Cause::invalid(field, &shown, "cel expression must evaluate to a bool"));
                return None;
            }
        };
        let uses_old = program.names("oldSelf");
        let said = word(rule, "messageExpression");
        let message_field = format!("{at}.messageExpression");
        let expression = match (!said.is_empty()).then(|| expression(said, names(), &Type::Text)) {
            None => None,
            Some(Ok((node, cost))) => {
                let what = "estimated messageExpression cost";
                if cost > MAX_ESTIMATE {
                    let why = too_expensive(what, cost, MAX_ESTIMATE);
                    self.causes.push(Cause::forbidden(&message_field, &why));
                }
                self.total = self.total.saturating_add(cost);
                Some(node)
            }
            Some(Err(wrong)) => {
                let why = match wrong {
                    Wrong::Source(why) => format!("messageExpression compilation failed: {why}"),
                    Wrong::Type => "messageExpression must evaluate to a string".to_owned(),
                };
                self.causes
                    .push(Cause::invalid(message_field, &format!("{said:?}"), &why));
                None
            }
        };
        if let (true, Some(path)) = (uses_old, place.uncorrelatable) {
            let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {path}");
            self.causes.push(Cause::invalid(field, &shown, &why));
        }
        if let (false, Some(optional)) = (uses_old, optional) {
            let why = "may not be set if oldSelf is not used in rule";
            self.causes.push(Cause::invalid(
                format!("{at}.optionalOldSelf"),
                &optional.to_string(),
                why,
            ));
        }
        let message = word(rule, "message").trim();
        let title = if message.is_empty() { source.trim() } else { message };
        Some(Rule {
            program,
            title: title.into(),
            message: if message.is_empty() {
                format!("failed rule: {title}").into()
            } else {
                message.into()
            },
            expression,
            reason: rule.get("reason").and_then(Value::as_str).map(Into::into),
            field: field_path(word(rule, "fieldPath"), schema).unwrap_or_default().into(),
            uses_old,
            optional_old: optional == Some(true),
        })
    }

    fn spend(&mut self, what: &str, field: &str, cost: u64, decl: &Decl, place: &At<'_>) {
        let often = place.cardinality.unwrap_or(types::MAX_REQUEST / (decl.least + 1));
        let cost = cost.saturating_mul(often);
        if cost > MAX_ESTIMATE {
            let why = too_expensive(what, cost, MAX_ESTIMATE);
            self.causes.push(Cause::forbidden(field, &why));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= MAX_TOTAL / 100 {
            self.costs.push((cost, field.to_owned()));
        }
    }
}

enum Wrong {
    Source(String),
    Type,
}

/// Compiles one expression and says what it may cost.
fn expression(source: &str, names: Vec<(&str, Shape)>, wanted: &Type) -> Result<(Node, u64), Wrong> {
    let node = program::compile(source).map_err(Wrong::Source)?;
    let inferred = Scope::new(names).infer(&node).map_err(Wrong::Source)?;
    let fits = matches!(
        (wanted, &inferred.shape.ty),
        (Type::Bool, Type::Bool) | (Type::Text, Type::Text)
    );
    if fits {
        Ok((node, inferred.cost))
    } else {
        Err(Wrong::Type)
    }
}

fn list_keys(schema: &Value) -> Option<Vec<Box<str>>> {
    if word(schema, "x-kubernetes-list-type") != "map" {
        return None;
    }
    let keys = schema.get("x-kubernetes-list-map-keys")?.as_array()?;
    Some(keys.iter().filter_map(Value::as_str).map(Into::into).collect())
}

/// A rule's `fieldPath` (`.spec.name`, `['a.b']`) as fields are named, if the schema has it.
fn field_path(path: &str, schema: &Value) -> Option<String> {
    let mut out = String::new();
    let mut schema = schema;
    let mut rest = path;
    while !rest.is_empty() {
        let name: String;
        if let Some(after) = rest.strip_prefix("['") {
            let mut end = 0;
            let bytes = after.as_bytes();
            while *bytes.get(end)? != b'\'' || (end > 0 && bytes[end - 1] == b'\\') {
                end += 1;
            }
            name = after[..end].replace("\\'", "'").replace("\\\\", "\\");
            rest = after[end + 1..].strip_prefix(']')?;
        } else {
            let after = rest.strip_prefix('.')?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            name = after[..end].to_owned();
            rest = &after[end..];
        }
        if let Some(Value::Object(members)) = schema.get("properties") {
            schema = members.get(&name)?;
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&name);
        } else {
            schema = schema.get("additionalProperties").filter(|s| s.is_object())?;
            out.push_str(&format!("[{name}]"));
        }
    }
    (!out.is_empty()).then_some(out)
}

impl Rules for Compiled {
    fn check(&self, new: &Value, old: Option<&Value>, budget: u64) -> Result<Verdict, Spent> {
        let mut checker = Checker {
            verdict: Verdict::default(),
            left: budget,
            budget,
        };
        let same = Same {
            old,
            parent: false,
            update: old.is_some(),
        };
        match checker.visit(&self.0, "", new, old, same) {
            Ok(()) => Ok(checker.verdict),
            Err(Stop) => Err(Spent(checker.verdict)),
        }
    }
}

/// Whether a value was the same before: what did not change is not refused.
#[derive(Clone, Copy)]
struct Same<'v> {
    /// The former value; none where there is none to compare with.
    old: Option<&'v Value>,
    /// The nearest part that can be compared did not change.
    parent: bool,
    update: bool,
}

struct Checker {
    verdict: Verdict,
    left: u64,
    budget: u64,
}

struct Stop;

fn child_path(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

impl Checker {
    fn visit(
        &mut self,
        place: &Place,
        path: &str,
        new: &Value,
        old: Option<&Value>,
        same: Same<'_>,
    ) -> Result<(), Stop> {
        if new.is_null() {
            return Ok(());
        }
        self.rules(place, path, new, old.filter(|o| !o.is_null()), same)?;
        match new {
            Value::Object(map) => self.members(place, path, map, old, same),
            Value::Array(list) => self.items(place, path, list, old, same),
            _ => Ok(()),
        }
    }

    fn members(
        &mut self,
        place: &Place,
        path: &str,
        map: &Map<String, Value>,
        old: Option<&Value>,
        same: Same<'_>,
    ) -> Result<(), Stop> {
        let unchanged = |name: &str, value: &Value| Same {
            old: same.old.and_then(|o| o.get(name)),
            parent: same.parent || same.old.and_then(|o| o.get(name)) == Some(value),
            update: same.update,
        };
        for (name, value) in map {
            let former = old.and_then(|o| o.get(name));
            if let Some(member) = place.members.get(name.as_str()) {
                self.visit(member, &child_path(path, name), value, former, unchanged(name, value))?;
            } else if let Some(values) = &place.values
                && !place.known.iter().any(|k| **k == **name)
            {
                self.visit(
                    values,
                    &format!("{path}[{name}]"),
                    value,
                    former,
                    unchanged(name, value),
                )?;
            }
        }
        Ok(())
    }

    fn items(
        &mut self,
        place: &Place,
        path: &str,
        list: &[Value],
        old: Option<&Value>,
        same: Same<'_>,
    ) -> Result<(), Stop> {
        let Some(items) = &place.items else { return Ok(()) };
        let identity = |item: &Value| -> Option<Vec<Value>> {
            let keys = place.keys.as_ref()?;
            Some(
                keys.iter()
                    .map(|k| item.get(&**k).cloned().unwrap_or(Value::Null))
                    .collect(),
            )
        };
        let before: Vec<(Vec<Value>, &Value)> = old
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|item| Some((identity(item)?, item)))
            .collect();
        let whole =
            same.parent || (same.old.is_some() && same.old.and_then(Value::as_array).is_some_and(|o| o == list));
        for (i, item) in list.iter().enumerate() {
            let former = identity(item).and_then(|id| before.iter().find(|(other, _)| *other == id).map(|(_, v)| *v));
            let same = Same {
                old: former.filter(|_| same.old.is_some()),
                parent: whole || former == Some(item),
                update: same.update,
            };
            self.visit(items, &format!("{path}[{i}]"), item, former, same)?;
        }
        Ok(())
    }

    fn rules(
        &mut self,
        place: &Place,
        path: &str,
        new: &Value,
        old: Option<&Value>,
        same: Same<'_>,
    ) -> Result<(), Stop> {
        let Some(decl) = &place.decl else { return Ok(()) };
        if place.rules.is_empty() {
            return Ok(());
        }
        let this = value::of(new, decl);
        self.left = self.left.saturating_sub(value::weight(&this) / 4);
        let before = old.map(|o| value::of(o, decl));
        let unchanged = same.update && (same.parent || same.old == Some(new));
        for rule in &place.rules {
            if rule.uses_old && before.is_none() && !rule.optional_old {
                continue;
            }
            let mut names = vec![("self", this.clone())];
            if rule.optional_old {
                names.push(("oldSelf", eval::optional_of(before.clone())));
            } else if let Some(before) = &before {
                names.push(("oldSelf", before.clone()));
            }
            let outcome = self.run(&rule.program, names.clone());
            let cause = match outcome {
                Ok(kube_cel::cel::Value::Bool(true)) => continue,
                Ok(kube_cel::cel::Value::Bool(false)) => {
                    let message = self.message(rule, names);
                    failure(rule, path, new, &message)
                }
                Ok(_) => Cause::invalid(
                    named(path),
                    &kind_of(new),
                    &format!("rule did not evaluate to a bool: {}", rule.title),
                ),
                Err(Fault::Spent) => {
                    let why = if self.left == 0 {
                        OUT_OF_BUDGET.to_owned()
                    } else {
                        format!(
                            "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                            rule.title
                        )
                    };
                    self.verdict
                        .causes
                        .push(Cause::invalid(named(path), &kind_of(new), &why));
                    return Err(Stop);
                }
                Err(Fault::Failed(why)) if why == "no such overload" => {
                    let why = format!(
                        "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                        rule.title
                    );
                    self.verdict
                        .causes
                        .push(Cause::invalid(named(path), &kind_of(new), &why));
                    continue;
                }
                Err(Fault::Failed(why)) => {
                    let why = format!("{why} evaluating rule: {}", rule.title);
                    self.verdict
                        .causes
                        .push(Cause::invalid(named(path), &kind_of(new), &why));
                    continue;
                }
            };
            if unchanged && !rule.uses_old {
                self.verdict
                    .warnings
                    .push(format!("{}: {}", cause.field, cause.message));
            } else {
                self.verdict.causes.push(cause);
            }
        }
        Ok(())
    }

    fn run(&mut self, program: &Node, names: Vec<(&str, kube_cel::cel::Value)>) -> Result<kube_cel::cel::Value, Fault> {
        let given = self.left.min(MAX_CALL).min(self.budget);
        let mut run = Run::new(names, given);
        let out = run.eval(program);
        self.left -= given - run.fuel;
        out
    }

    fn message(&mut self, rule: &Rule, names: Vec<(&str, kube_cel::cel::Value)>) -> String {
        if let Some(expression) = &rule.expression
            && let Ok(kube_cel::cel::Value::String(text)) = self.run(expression, names)
        {
            let text = text.trim();
            if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
                return text.to_owned();
            }
        }
        rule.message.to_string()
    }
}

/// A path as causes name it: the API has no word for the whole object.
fn named(path: &str) -> String {
    if path.is_empty() { "<nil>" } else { path }.to_owned()
}

fn kind_of(value: &Value) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("{kind:?}")
}

/// A broken rule as clients are told.
fn failure(rule: &Rule, path: &str, new: &Value, message: &str) -> Cause {
    let field = match &*rule.field {
        "" => named(path),
        below => child_path(path, below),
    };
    match rule.reason.as_deref() {
        Some("FieldValueForbidden") => Cause::forbidden(field, message),
        Some("FieldValueRequired") => Cause::required(field, message),
        Some("FieldValueDuplicate") => Cause::duplicate(field, &shown(new)),
        _ if new.is_object() || new.is_array() => Cause {
            reason: "FieldValueInvalid".to_owned(),
            message: format!("Invalid value: {message}"),
            field,
        },
        _ => Cause::invalid(field, &shown(new), message),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => kind_of(value),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests;
