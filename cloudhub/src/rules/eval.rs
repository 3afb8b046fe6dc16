//! Evaluates a rule. Every step costs fuel, so that no rule runs long whatever the object holds; the functions of the libraries are
//! those of `kube-cel`, called with values that are already there.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use kube_cel::KubeCelExt as _;
use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr};
use kube_cel::cel::objects::{Key, Map, OptionalValue};
use kube_cel::cel::{Context, Value};
use regex_automata::nfa::thompson::{self, pikevm::PikeVM};

use super::library;
use super::program::{Loop, Node, What};
use super::{url, value};

/// Most bytes of the program of a regular expression.
const MAX_PATTERN: usize = 256 * 1024;
/// Most bytes of a text, and most items of a list, that a rule makes.
const MAX_MADE: usize = 4 << 20;

/// Why a rule has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It ran out of fuel.
    Spent,
    /// It cannot be evaluated for this object.
    Failed(String),
}

type Outcome = Result<Value, Fault>;

fn failed<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Failed(why.into()))
}

const NO_OVERLOAD: &str = "no such overload";

/// The libraries.
static LIBRARY: LazyLock<Context<'static>> = LazyLock::new(|| Context::default().with_all());

/// Compiles a regular expression; it is searched in linear time.
pub(super) fn pattern(source: &str) -> Result<PikeVM, String> {
    PikeVM::builder()
        .thompson(thompson::Config::new().nfa_size_limit(Some(MAX_PATTERN)))
        .build(source)
        .map_err(|e| e.to_string())
}

/// One evaluation: its names, and the fuel that is left.
pub(super) struct Run<'a> {
    names: Vec<(&'a str, Value)>,
    pub(super) fuel: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(names: Vec<(&'a str, Value)>, fuel: u64) -> Self {
        Self { names, fuel }
    }

    fn burn(&mut self, n: u64) -> Result<(), Fault> {
        match self.fuel.checked_sub(n) {
            Some(left) => {
                self.fuel = left;
                Ok(())
            }
            None => {
                self.fuel = 0;
                Err(Fault::Spent)
            }
        }
    }

    pub(super) fn eval(&mut self, node: &'a Node) -> Outcome {
        self.burn(1)?;
        match node {
            Node::Literal(value) => Ok(value.clone()),
            Node::Name(name) => match self.names.iter().rev().find(|(n, _)| *n == &**name) {
                Some((_, value)) => Ok(value.clone()),
                None if library::is_type_word(name) => Ok(type_value(name)),
                None => failed(format!("undeclared reference to '{name}'")),
            },
            Node::Member {
                of,
                name,
                test,
                optional,
            } => {
                let target = self.eval(of)?;
                member(&target, name, *test, *optional)
            }
            Node::Call {
                name,
                target,
                arguments,
            } => self.call(name, target.as_deref(), arguments),
            Node::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (item, optional) in items {
                    let item = self.eval(item)?;
                    out.extend(if *optional { within(&item)? } else { Some(item) });
                }
                Ok(Value::List(Arc::new(out)))
            }
            Node::Map(entries) => {
                let mut out = HashMap::with_capacity(entries.len());
                for (k, v, optional) in entries {
                    let k = key(self.eval(k)?)?;
                    let v = self.eval(v)?;
                    if let Some(v) = if *optional { within(&v)? } else { Some(v) } {
                        out.insert(k, v);
                    }
                }
                Ok(Value::Map(Map { map: Arc::new(out) }))
            }
            Node::Loop(l) => self.looped(l),
            Node::Inside {
                optional,
                name,
                body,
                flat,
            } => {
                let Some(inner) = within(&self.eval(optional)?)? else {
                    return Ok(optional_of(None));
                };
                self.names.push((name, inner));
                let out = self.eval(body);
                self.names.pop();
                Ok(if *flat { out? } else { optional_of(Some(out?)) })
            }
        }
    }

    fn looped(&mut self, l: &'a Loop) -> Outcome {
        let range = self.eval(&l.range)?;
        // What each round's names are.
        let rounds: Vec<(Value, Option<Value>)> = match (&range, &l.second) {
            (Value::List(list), None) => list.iter().map(|v| (v.clone(), None)).collect(),
            (Value::List(list), Some(_)) => (0..).map(Value::Int).zip(list.iter().cloned().map(Some)).collect(),
            (Value::Map(map), second) => {
                let mut all: Vec<_> = map.map.iter().collect();
                all.sort_by(|a, b| a.0.cmp(b.0));
                all.into_iter()
                    .map(|(k, v)| (of_key(k), second.is_some().then(|| v.clone())))
                    .collect()
            }
            _ => return failed(NO_OVERLOAD),
        };
        self.burn(rounds.len() as u64)?;
        let mut made = Vec::new();
        let mut entries = HashMap::new();
        let mut count = 0_u32;
        let mut fault = None;
        for (first, second) in rounds {
            self.burn(2)?;
            let at = self.names.len();
            let first_key = matches!(l.what, What::Values).then(|| first.clone());
            self.names.push((&l.first, first));
            if let (Some(name), Some(v)) = (&l.second, second) {
                self.names.push((name, v));
            }
            let kept = match &l.filter {
                Some(filter) => self.eval(filter).and_then(truth),
                None => Ok(true),
            };
            let body = match kept {
                Ok(true) => self.eval(&l.body).map(Some),
                Ok(false) => Ok(None),
                Err(e) => Err(e),
            };
            self.names.truncate(at);
            match (l.what, body) {
                (_, Err(Fault::Spent)) => return Err(Fault::Spent),
                // What decides makes up for what failed.
                (What::All | What::Exists, Err(e)) => fault = fault.or(Some(e)),
                (_, Err(e)) => return Err(e),
                (_, Ok(None)) => {}
                (What::All, Ok(Some(v))) => {
                    if !truth(v)? {
                        return Ok(Value::Bool(false));
                    }
                }
                (What::Exists, Ok(Some(v))) => {
                    if truth(v)? {
                        return Ok(Value::Bool(true));
                    }
                }
                (What::One, Ok(Some(v))) => count += u32::from(truth(v)?),
                (What::Each, Ok(Some(v))) => made.push(v),
                (What::Values, Ok(Some(v))) => {
                    entries.insert(key(first_key.unwrap_or(Value::Null))?, v);
                }
                (What::Entries, Ok(Some(Value::Map(one)))) => {
                    for (k, v) in one.map.iter() {
                        if entries.insert(k.clone(), v.clone()).is_some() {
                            return failed("insert failed: key already exists");
                        }
                    }
                }
                (What::Entries, Ok(Some(_))) => return failed(NO_OVERLOAD),
            }
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        Ok(match l.what {
            What::All => Value::Bool(true),
            What::Exists => Value::Bool(false),
            What::One => Value::Bool(count == 1),
            What::Each => Value::List(Arc::new(made)),
            What::Values | What::Entries => Value::Map(Map { map: Arc::new(entries) }),
        })
    }

    fn call(&mut self, name: &'a str, target: Option<&'a Node>, arguments: &'a [Node]) -> Outcome {
        if let ("_&&_" | "_||_", [left, right]) = (name, arguments) {
            return self.decide(name == "_||_", left, right);
        }
        if let ("_?_:_", [condition, yes, no]) = (name, arguments) {
            let chosen = if truth(self.eval(condition)?)? { yes } else { no };
            return self.eval(chosen);
        }
        if let ("or" | "orValue", Some(target), [other]) = (name, target, arguments) {
            let optional = self.eval(target)?;
            return match within(&optional)? {
                None => self.eval(other),
                Some(_) if name == "or" => Ok(optional),
                Some(value) => Ok(value),
            };
        }
        let target = target.map(|t| self.eval(t)).transpose()?;
        let arguments = arguments.iter().map(|a| self.eval(a)).collect::<Result<Vec<_>, _>>()?;
        match (name, target.as_ref(), &arguments[..]) {
            ("!_", None, [v]) => Ok(Value::Bool(!truth(v.clone())?)),
            ("_==_", None, [a, b]) => self.equal(a, b).map(Value::Bool),
            ("_!=_", None, [a, b]) => self.equal(a, b).map(|e| Value::Bool(!e)),
            ("_<_" | "_<=_" | "_>_" | "_>=_", None, [a, b]) => {
                self.burn(value::weight(a).min(value::weight(b)))?;
                let Some(order) = compare(a, b) else {
                    return if !is_nan(a) && !is_nan(b) {
                        failed(NO_OVERLOAD)
                    } else {
                        Ok(Value::Bool(false))
                    };
                };
                Ok(Value::Bool(match name {
                    "_<_" => order.is_lt(),
                    "_<=_" => order.is_le(),
                    "_>_" => order.is_gt(),
                    _ => order.is_ge(),
                }))
            }
            ("@in", None, [item, Value::List(list)]) => {
                for have in list.iter() {
                    self.burn(1)?;
                    if self.equal(item, have)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            ("@in", None, [item, Value::Map(map)]) => {
                Ok(Value::Bool(key(item.clone()).is_ok_and(|k| map.get(&k).is_some())))
            }
            ("_[_]", None, [of, at]) => match indexed(of, at)? {
                Some(v) => Ok(v),
                None => failed(match of {
                    Value::List(_) => format!("index out of bounds: {}", shown(at)),
                    _ => format!("no such key: {}", shown(at)),
                }),
            },
            ("_[?_]", None, [of, at]) => match within_or(of)? {
                Some(of) => indexed(&of, at).map(optional_of),
                None => Ok(optional_of(None)),
            },
            ("size", target, rest) => match target.or(rest.first()) {
                Some(Value::String(s)) => {
                    self.burn(s.len() as u64 / 10)?;
                    Ok(int(s.chars().count()))
                }
                Some(Value::Bytes(b)) => Ok(int(b.len())),
                Some(Value::List(l)) => Ok(int(l.len())),
                Some(Value::Map(m)) => Ok(int(m.map.len())),
                _ => failed(NO_OVERLOAD),
            },
            ("dyn", None, [v]) => Ok(v.clone()),
            ("type", None, [v]) => Ok(type_value(type_name(v))),
            ("bool", None, [v]) => match v {
                Value::Bool(_) => Ok(v.clone()),
                Value::String(s) if matches!(s.as_str(), "true" | "True" | "TRUE" | "t" | "1") => Ok(Value::Bool(true)),
                Value::String(s) if matches!(s.as_str(), "false" | "False" | "FALSE" | "f" | "0") => {
                    Ok(Value::Bool(false))
                }
                _ => failed("type conversion error"),
            },
            ("duration", None, [Value::String(s)]) => match value::duration(s) {
                Some(d) => Ok(Value::Duration(d)),
                None => failed("type conversion error"),
            },
            ("duration", None, [v @ Value::Duration(_)]) | ("timestamp", None, [v @ Value::Timestamp(_)]) => {
                Ok(v.clone())
            }
            ("contains", Some(Value::String(s)), [Value::String(part)]) => {
                self.burn((s.len() / 10 * part.len().div_ceil(10)) as u64)?;
                Ok(Value::Bool(s.contains(part.as_str())))
            }
            ("startsWith", Some(Value::String(s)), [Value::String(part)]) => {
                Ok(Value::Bool(s.starts_with(part.as_str())))
            }
            ("endsWith", Some(Value::String(s)), [Value::String(part)]) => Ok(Value::Bool(s.ends_with(part.as_str()))),
            ("matches", Some(Value::String(s)), [Value::String(p)])
            | ("matches", None, [Value::String(s), Value::String(p)]) => self.search(s, p),
            ("hasValue", Some(o), []) => Ok(Value::Bool(within(o)?.is_some())),
            ("value", Some(o), []) => match within(o)? {
                Some(v) => Ok(v),
                None => failed("optional.none() dereference"),
            },
            ("optional.of", None, [v]) => Ok(optional_of(Some(v.clone()))),
            ("optional.none", None, []) => Ok(optional_of(None)),
            ("optional.ofNonZeroValue", None, [v]) => Ok(optional_of((!v.is_zero()).then(|| v.clone()))),
            ("_+_", None, [Value::List(a), Value::List(b)]) => {
                self.burn((a.len() + b.len()) as u64)?;
                self.made(a.len() + b.len())?;
                Ok(Value::List(Arc::new(a.iter().chain(b.iter()).cloned().collect())))
            }
            ("_+_", None, [Value::String(a), Value::String(b)]) => {
                self.made(a.len() + b.len())?;
                Ok(value::text(format!("{a}{b}")))
            }
            ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", None, [a, b]) => arithmetic(name, a, b),
            ("-_", None, [Value::Int(n)]) => n
                .checked_neg()
                .map_or_else(|| failed("integer overflow"), |n| Ok(Value::Int(n))),
            ("-_", None, [Value::Float(x)]) => Ok(Value::Float(-x)),
            _ => self.library(name, target, arguments),
        }
    }

    /// `&&` and `||`: the side that decides does so even when the other one fails.
    fn decide(&mut self, decisive: bool, left: &'a Node, right: &'a Node) -> Outcome {
        let first = match self.eval(left) {
            Ok(v) => match truth(v) {
                Ok(b) if b == decisive => return Ok(Value::Bool(b)),
                other => other.map(|_| ()),
            },
            Err(Fault::Spent) => return Err(Fault::Spent),
            Err(e) => Err(e),
        };
        let second = truth(self.eval(right)?)?;
        if second == decisive {
            return Ok(Value::Bool(decisive));
        }
        first.map(|()| Value::Bool(second))
    }

    fn equal(&mut self, a: &Value, b: &Value) -> Result<bool, Fault> {
        self.burn(value::weight(a).min(value::weight(b)))?;
        Ok(a == b)
    }

    fn made(&mut self, n: usize) -> Result<(), Fault> {
        self.burn(n as u64 / 10)?;
        if n > MAX_MADE { Err(Fault::Spent) } else { Ok(()) }
    }

    fn search(&mut self, text: &str, source: &str) -> Outcome {
        self.burn((1 + text.len() as u64 / 10).saturating_mul(1 + source.len() as u64 / 4))?;
        let program = pattern(source).or_else(failed)?;
        Ok(Value::Bool(program.is_match(&mut program.create_cache(), text)))
    }

    /// A function of a library.
    fn library(&mut self, name: &str, target: Option<Value>, arguments: Vec<Value>) -> Outcome {
        let weight: u64 = target.iter().chain(&arguments).map(value::weight).sum();
        self.burn(weight)?;
        match name {
            "find" | "findAll" => {
                let of = |v: Option<&Value>| match v {
                    Some(Value::String(s)) => s.len() as u64,
                    _ => 0,
                };
                self.burn((of(target.as_ref()) / 10).saturating_mul(1 + of(arguments.first()) / 4))?;
            }
            "sets.contains" | "sets.equivalent" | "sets.intersects" => self.burn(weight.saturating_mul(weight))?,
            "replace" | "join" | "format" => {
                // What comes out may be longer than all that goes in.
                let longest = arguments.iter().map(value::weight).max().unwrap_or(0);
                self.burn(weight.saturating_mul(longest) / 10)?;
            }
            _ => {}
        }
        if let Some(out) = url::call(name, target.as_ref(), &arguments) {
            return out.map_err(Fault::Failed);
        }
        let mut scope = LIBRARY.new_inner_scope();
        let mut next = 0;
        let mut bind = |value: Value| {
            let name = format!("@{next}");
            next += 1;
            scope.add_variable_from_value(name.clone(), value);
            IdedExpr {
                id: 0,
                expr: Expr::Ident(name),
            }
        };
        let target = target.map(|t| Box::new(bind(t)));
        let args = arguments.into_iter().map(&mut bind).collect();
        let call = IdedExpr {
            id: 0,
            expr: Expr::Call(CallExpr {
                func_name: name.to_owned(),
                target,
                args,
            }),
        };
        let out = Value::resolve(&call, &scope).map_err(|e| Fault::Failed(cut(&e.to_string())))?;
        // The library answers with the format itself, where the API has an optional.
        if name == "format.named" {
            return Ok(optional_of((!matches!(out, Value::Null)).then_some(out)));
        }
        self.made(match &out {
            Value::String(s) => s.len(),
            Value::List(l) => l.len(),
            _ => 0,
        })?;
        Ok(out)
    }
}

/// The libraries' messages may show values.
fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

fn truth(value: Value) -> Result<bool, Fault> {
    match value {
        Value::Bool(b) => Ok(b),
        _ => failed(NO_OVERLOAD),
    }
}

fn int(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

pub(super) fn optional_of(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(match value {
        Some(v) => OptionalValue::of(v),
        None => OptionalValue::none(),
    }))
}

/// What is in an optional.
fn within(value: &Value) -> Result<Option<Value>, Fault> {
    match value {
        Value::Opaque(o) => match o.downcast_ref::<OptionalValue>() {
            Some(optional) => Ok(optional.value().cloned()),
            None => failed(NO_OVERLOAD),
        },
        _ => failed(NO_OVERLOAD),
    }
}

/// What is in an optional, or the value itself.
fn within_or(value: &Value) -> Result<Option<Value>, Fault> {
    match value {
        Value::Opaque(_) => within(value),
        other => Ok(Some(other.clone())),
    }
}

fn member(target: &Value, name: &str, test: bool, optional: bool) -> Outcome {
    let wrapped = matches!(target, Value::Opaque(_));
    let found = match within_or(target)? {
        None => None,
        Some(Value::Map(map)) => map.get(&Key::from(name)).cloned(),
        Some(_) => return failed(NO_OVERLOAD),
    };
    if test {
        return Ok(Value::Bool(found.is_some()));
    }
    if wrapped || optional {
        return Ok(optional_of(found));
    }
    found.map_or_else(|| failed(format!("no such key: {name}")), Ok)
}

fn key(value: Value) -> Result<Key, Fault> {
    match value {
        Value::Int(n) => Ok(Key::Int(n)),
        Value::UInt(n) => Ok(Key::Uint(n)),
        Value::Bool(b) => Ok(Key::Bool(b)),
        Value::String(s) => Ok(Key::String(s)),
        _ => failed("unsupported key type"),
    }
}

fn of_key(key: &Key) -> Value {
    match key {
        Key::Int(n) => Value::Int(*n),
        Key::Uint(n) => Value::UInt(*n),
        Key::Bool(b) => Value::Bool(*b),
        Key::String(s) => Value::String(s.clone()),
    }
}

fn indexed(of: &Value, at: &Value) -> Result<Option<Value>, Fault> {
    match (of, at) {
        (Value::List(list), Value::Int(n)) => Ok(usize::try_from(*n).ok().and_then(|n| list.get(n)).cloned()),
        (Value::Map(map), at) => Ok(map.get(&key(at.clone())?).cloned()),
        _ => failed(NO_OVERLOAD),
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        _ => a.partial_cmp(b),
    }
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::Float(x) if x.is_nan())
}

fn arithmetic(name: &str, a: &Value, b: &Value) -> Outcome {
    if let (Value::Bytes(a), Value::Bytes(b), "_+_") = (a, b, name) {
        return Ok(Value::Bytes(Arc::new([&a[..], &b[..]].concat())));
    }
    let zero = matches!(b, Value::Int(0) | Value::UInt(0));
    match name {
        "_/_" if zero => return failed("division by zero"),
        "_%_" if zero => return failed("modulus by zero"),
        _ => {}
    }
    let out = match (name, a, b) {
        ("_%_", Value::Int(i64::MIN), Value::Int(-1)) => return failed("integer overflow"),
        ("_+_", ..) => a.clone() + b.clone(),
        ("_-_", ..) => a.clone() - b.clone(),
        ("_*_", ..) => a.clone() * b.clone(),
        ("_/_", ..) => a.clone() / b.clone(),
        _ => a.clone() % b.clone(),
    };
    out.map_err(|e| {
        use kube_cel::cel::ExecutionError as E;
        Fault::Failed(match e {
            E::Overflow(..) => "integer overflow".to_owned(),
            E::UnsupportedBinaryOperator(..) => NO_OVERLOAD.to_owned(),
            other => cut(&other.to_string()),
        })
    })
}

/// A type as a value: something that equals only itself.
fn type_value(name: &str) -> Value {
    Value::Function(Arc::new(name.to_owned()), None)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Function(..) => "type",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "bool",
        Value::Duration(_) => "google.protobuf.Duration",
        Value::Timestamp(_) => "google.protobuf.Timestamp",
        Value::Opaque(_) => "optional_type",
        Value::Null => "null_type",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Int(n) => n.to_string(),
        Value::UInt(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::String(s) => cut(s),
        _ => String::new(),
    }
}
