//! Types and costs of expressions, before anything is evaluated: a rule that cannot be true or false, names what the schema does not have,
//! or may take too long for some object that the schema allows, is refused with the definition.

use std::collections::BTreeMap;

use kube_cel::cel::Value;

use super::library::{self, FUNCTIONS, Form};
use super::program::{Loop, Node, What};
use super::types::{Shape, Size, Type};

/// What looking at one character costs.
const PER_CHARACTER: f64 = 0.1;
/// What one character of a regular expression costs for each of a text.
const PER_PATTERN: f64 = 0.25;
/// The longest pattern behind a named format.
const NAMED_FORMAT: f64 = 128.0;

/// An expression's type, the size of its value, and what evaluating it costs at most.
#[derive(Clone, Debug)]
pub(super) struct Inferred {
    pub(super) shape: Shape,
    pub(super) cost: u64,
}

/// The names in scope.
pub(super) struct Scope<'a> {
    names: Vec<(&'a str, Shape)>,
}

type Found = Result<Inferred, String>;

fn ok(shape: Shape, cost: u64) -> Found {
    Ok(Inferred { shape, cost })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]
fn scaled(n: u64, factor: f64) -> u64 {
    if n == u64::MAX {
        return u64::MAX;
    }
    let x = (n as f64 * factor).ceil();
    if x >= u64::MAX as f64 { u64::MAX } else { x as u64 }
}

fn undeclared(name: &str) -> String {
    format!("ERROR: <input>: undeclared reference to '{name}' (in container '')")
}

impl<'a> Scope<'a> {
    pub(super) fn new(names: Vec<(&'a str, Shape)>) -> Self {
        Self { names }
    }

    fn with<T>(&mut self, names: impl IntoIterator<Item = (&'a str, Shape)>, f: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.names.len();
        self.names.extend(names);
        let out = f(self);
        self.names.truncate(before);
        out
    }

    /// Infers an expression.
    pub(super) fn infer(&mut self, node: &'a Node) -> Found {
        match node {
            Node::Literal(value) => ok(literal(value), 0),
            Node::Name(name) => match self.names.iter().rev().find(|(n, _)| *n == &**name) {
                Some((_, shape)) => ok(shape.clone(), 1),
                None if library::is_type_word(name) => ok(Type::Denoted.into(), 1),
                None => Err(undeclared(name)),
            },
            Node::Member {
                of,
                name,
                test,
                optional,
            } => self.member(of, name, *test, *optional),
            Node::Call {
                name,
                target,
                arguments,
            } => self.call(name, target.as_deref(), arguments),
            Node::List(items) => {
                let mut item: Option<Shape> = None;
                let mut cost = 10_u64;
                for (node, optional) in items {
                    let found = self.infer(node)?;
                    cost = cost.saturating_add(found.cost);
                    item = Some(joined(item, unwrapped(found.shape, *optional))?);
                }
                let size = Size {
                    min: items.iter().filter(|(_, optional)| !optional).count() as u64,
                    max: items.len() as u64,
                };
                let mut shape = Shape::list(item.unwrap_or_else(|| Type::Dyn.into()));
                shape.size = Some(size);
                ok(shape, cost)
            }
            Node::Map(entries) => {
                let (mut key, mut value) = (None, None);
                let mut cost = 30_u64;
                for (k, v, optional) in entries {
                    let (k, v) = (self.infer(k)?, self.infer(v)?);
                    cost = cost.saturating_add(k.cost).saturating_add(v.cost);
                    key = Some(joined(key, k.shape)?);
                    value = Some(joined(value, unwrapped(v.shape, *optional))?);
                }
                let part = |s: Option<Shape>| s.unwrap_or_else(|| Type::Dyn.into()).into();
                let shape = Shape {
                    ty: Type::Map(part(key), part(value)),
                    size: Some(Size::exactly(entries.len() as u64)),
                };
                ok(shape, cost)
            }
            Node::Loop(l) => self.looped(l),
            Node::Inside {
                optional,
                name,
                body,
                flat,
            } => {
                let outer = self.infer(optional)?;
                let inner = match outer.shape.ty {
                    Type::Optional(of) => (*of).clone(),
                    Type::Dyn => Type::Dyn.into(),
                    other => return Err(no_overload("optMap", &[other.name()])),
                };
                let body = self.with([(&**name, inner)], |s| s.infer(body))?;
                let cost = outer.cost.saturating_add(body.cost).saturating_add(1);
                let shape = if *flat {
                    body.shape
                } else {
                    Type::Optional(body.shape.into()).into()
                };
                ok(shape, cost)
            }
        }
    }

    fn member(&mut self, of: &'a Node, name: &str, test: bool, optional: bool) -> Found {
        let target = self.infer(of)?;
        let (inner, wrapped) = match target.shape.ty {
            Type::Optional(of) => ((*of).clone(), true),
            ty => (ty.into(), false),
        };
        let (found, step) = match &inner.ty {
            Type::Dyn => (Type::Dyn.into(), 0),
            Type::Map(_, value) => ((**value).clone(), 1),
            Type::Object(object) => match object.members.get(name) {
                Some(shape) => (shape.clone(), 1),
                None => return Err(format!("ERROR: <input>: undefined field '{name}'")),
            },
            other => {
                return Err(format!(
                    "ERROR: <input>: type '{}' does not support field selection",
                    other.name()
                ));
            }
        };
        if test {
            return ok(Type::Bool.into(), target.cost);
        }
        let shape = if wrapped || optional {
            Type::Optional(found.into()).into()
        } else {
            found
        };
        ok(shape, target.cost.saturating_add(step))
    }

    fn looped(&mut self, l: &'a Loop) -> Found {
        let range = self.infer(&l.range)?;
        let dynamic = || Shape::from(Type::Dyn);
        let (key, item) = match &range.shape.ty {
            Type::List(item) => (Type::Int.into(), (**item).clone()),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn => (dynamic(), dynamic()),
            other => {
                return Err(format!(
                    "ERROR: <input>: expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    other.name()
                ));
            }
        };
        let names = match &l.second {
            Some(second) => vec![(&*l.first, key.clone()), (&**second, item)],
            None if matches!(range.shape.ty, Type::Map(..)) => vec![(&*l.first, key.clone())],
            None => vec![(&*l.first, item)],
        };
        let (filter, body) = self.with(names, |s| {
            let filter = l.filter.as_ref().map(|f| s.infer(f)).transpose()?;
            Ok::<_, String>((filter, s.infer(&l.body)?))
        })?;
        if let Some(filter) = &filter {
            truth(&filter.shape.ty, "_?_:_")?;
        }
        // What the steps of the loop cost beside their bodies.
        let (shape, around): (Shape, u64) = match l.what {
            What::All => {
                truth(&body.shape.ty, "_&&_")?;
                (Type::Bool.into(), 3)
            }
            What::Exists => {
                truth(&body.shape.ty, "_||_")?;
                (Type::Bool.into(), 4)
            }
            What::One => {
                truth(&body.shape.ty, "_?_:_")?;
                (Type::Bool.into(), 2)
            }
            What::Each => (Shape::list(body.shape), 12),
            What::Values => (Type::Map(key.into(), body.shape.into()).into(), 32),
            What::Entries => (body.shape, 32),
        };
        let rounds = range.shape.size.unwrap_or(Size::UNKNOWN);
        let step = body
            .cost
            .saturating_add(filter.map_or(0, |f| f.cost))
            .saturating_add(around);
        let init = match l.what {
            What::Each => 10,
            What::Values | What::Entries => 30,
            _ => 0,
        };
        let cost = range
            .cost
            .saturating_add(rounds.max.saturating_mul(step))
            .saturating_add(init + 1);
        let made = matches!(l.what, What::Each | What::Values | What::Entries);
        let size = made.then_some(Size::up_to(rounds.max));
        ok(Shape { ty: shape.ty, size }, cost)
    }

    fn mixed(&mut self, items: &'a [(Node, bool)]) -> Found {
        let mut cost = 10_u64;
        for (item, _) in items {
            cost = cost.saturating_add(self.infer(item)?.cost);
        }
        ok(Shape::list(Type::Dyn.into()), cost)
    }

    fn call(&mut self, name: &str, target: Option<&'a Node>, arguments: &'a [Node]) -> Found {
        let forms = FUNCTIONS.get(name).ok_or_else(|| undeclared(name))?;
        let receiver = target.map(|t| self.infer(t)).transpose()?;
        let given = arguments
            .iter()
            .map(|a| match a {
                // What a text is made of may be of several types.
                Node::List(items) if name == "format" => self.mixed(items),
                _ => self.infer(a),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut results: Vec<Shape> = Vec::new();
        for form in forms {
            if let Some(result) = fits(form, receiver.as_ref(), &given) {
                results.push(result);
            }
        }
        let Some(mut shape) = results.pop() else {
            let mut names: Vec<String> = receiver.iter().map(|r| r.shape.ty.name()).collect();
            names.extend(given.iter().map(|a| a.shape.ty.name()));
            return Err(no_overload(name, &names));
        };
        if results.iter().any(|r| r.ty.name() != shape.ty.name()) {
            shape = Type::Dyn.into();
        }
        check_literals(name, target, arguments)?;
        let (cost, size) = price(name, receiver.as_ref(), &given, arguments);
        if size.is_some() {
            shape.size = size;
        }
        let below = receiver.iter().map(|r| r.cost).fold(0, u64::saturating_add);
        let cost = match name {
            // Only one of the two is evaluated.
            "_?_:_" => given[0].cost.saturating_add(given[1].cost.max(given[2].cost)),
            _ => given.iter().map(|a| a.cost).fold(cost, u64::saturating_add),
        };
        ok(shape, cost.saturating_add(below))
    }
}

fn no_overload(name: &str, types: &[String]) -> String {
    format!(
        "ERROR: <input>: found no matching overload for '{name}' applied to '({})'",
        types.join(", ")
    )
}

fn truth(ty: &Type, name: &str) -> Result<(), String> {
    match ty {
        Type::Bool | Type::Dyn => Ok(()),
        other => Err(no_overload(name, &["bool".to_owned(), other.name()])),
    }
}

fn unwrapped(shape: Shape, optional: bool) -> Shape {
    match shape.ty {
        Type::Optional(of) if optional => (*of).clone(),
        _ => shape,
    }
}

/// The type of a list that holds both: literals are of one type.
fn joined(have: Option<Shape>, next: Shape) -> Result<Shape, String> {
    let Some(have) = have else { return Ok(next) };
    let size = match (have.size, next.size) {
        (Some(a), Some(b)) => Some(a.union(b)),
        _ => None,
    };
    let mut bound = BTreeMap::new();
    if assignable(&have.ty, &next.ty, &mut bound) {
        return Ok(Shape { ty: have.ty, size });
    }
    if assignable(&next.ty, &have.ty, &mut bound) {
        return Ok(Shape { ty: next.ty, size });
    }
    Err(format!(
        "ERROR: <input>: expected type '{}' but found '{}'",
        have.ty.name(),
        next.ty.name()
    ))
}

fn literal(value: &Value) -> Shape {
    let sized = |ty, n: usize| Shape {
        ty,
        size: Some(Size::exactly(n as u64)),
    };
    match value {
        Value::Bool(_) => Type::Bool.into(),
        Value::Int(_) => Type::Int.into(),
        Value::UInt(_) => Type::Uint.into(),
        Value::Float(_) => Type::Double.into(),
        Value::String(s) => sized(Type::Text, s.chars().count()),
        Value::Bytes(b) => sized(Type::Bytes, b.len()),
        _ => Type::Null.into(),
    }
}

/// Whether arguments are those of a form; what it results in then.
fn fits(form: &Form, receiver: Option<&Inferred>, given: &[Inferred]) -> Option<Shape> {
    if form.receiver.is_some() != receiver.is_some() || form.arguments.len() != given.len() {
        return None;
    }
    let mut bound = BTreeMap::new();
    if let (Some(wanted), Some(have)) = (&form.receiver, receiver)
        && !matches(wanted, &have.shape, &mut bound)
    {
        return None;
    }
    for (wanted, have) in form.arguments.iter().zip(given) {
        if !matches(wanted, &have.shape, &mut bound) {
            return None;
        }
    }
    Some(filled(&form.result, &bound))
}

type Bound = BTreeMap<char, Shape>;

fn matches(wanted: &Shape, have: &Shape, bound: &mut Bound) -> bool {
    if let Type::Param(p) = wanted.ty {
        return match bound.get(&p).cloned() {
            None => {
                bound.insert(p, have.clone());
                true
            }
            Some(first) => {
                let mut inner = BTreeMap::new();
                let fits = assignable(&first.ty, &have.ty, &mut inner);
                let wider = !fits && assignable(&have.ty, &first.ty, &mut inner);
                let size = match (first.size, have.size) {
                    (Some(a), Some(b)) => Some(a.union(b)),
                    _ => None,
                };
                let ty = if wider || matches!(first.ty, Type::Null) {
                    have.ty.clone()
                } else {
                    first.ty
                };
                bound.insert(p, Shape { ty, size });
                fits || wider
            }
        };
    }
    assignable(&wanted.ty, &have.ty, bound)
}

fn assignable(wanted: &Type, have: &Type, bound: &mut Bound) -> bool {
    match (wanted, have) {
        (Type::Dyn, _) | (_, Type::Dyn) => {
            if let Type::List(item) = wanted {
                matches(item, &Type::Dyn.into(), bound);
            }
            true
        }
        (Type::Null, Type::Null)
        | (Type::Bool, Type::Bool)
        | (Type::Int, Type::Int)
        | (Type::Uint, Type::Uint)
        | (Type::Double, Type::Double)
        | (Type::Text, Type::Text)
        | (Type::Bytes, Type::Bytes)
        | (Type::Duration | Type::Timestamp | Type::Object(_) | Type::Optional(_) | Type::Opaque(_), Type::Null)
        | (Type::Duration, Type::Duration)
        | (Type::Timestamp, Type::Timestamp)
        | (Type::Denoted, Type::Denoted) => true,
        (Type::Opaque(a), Type::Opaque(b)) => a == b,
        (Type::Object(a), Type::Object(b)) => same_members(a, b),
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => matches(a, b, bound),
        (Type::Map(ka, va), Type::Map(kb, vb)) => matches(ka, kb, bound) && matches(va, vb, bound),
        _ => false,
    }
}

/// Objects of one type: two nodes of a schema are of different types unless they are the same node.
fn same_members(a: &std::sync::Arc<super::types::Object>, b: &std::sync::Arc<super::types::Object>) -> bool {
    std::sync::Arc::ptr_eq(a, b)
}

fn filled(shape: &Shape, bound: &Bound) -> Shape {
    match &shape.ty {
        Type::Param(p) => bound.get(p).cloned().unwrap_or_else(|| Type::Dyn.into()),
        Type::List(item) => Type::List(filled(item, bound).into()).into(),
        Type::Optional(of) => Type::Optional(filled(of, bound).into()).into(),
        Type::Map(k, v) => Type::Map(filled(k, bound).into(), filled(v, bound).into()).into(),
        _ => shape.clone(),
    }
}

/// Literals that cannot be what they must be.
fn check_literals(name: &str, target: Option<&Node>, arguments: &[Node]) -> Result<(), String> {
    let text = |n: Option<&Node>| match n {
        Some(Node::Literal(Value::String(s))) => Some(s.clone()),
        _ => None,
    };
    match name {
        "matches" | "find" | "findAll" => {
            let at = if target.is_some() { 0 } else { 1 };
            if let Some(s) = text(arguments.get(at)) {
                super::eval::pattern(&s).map_err(|why| format!("ERROR: <input>: invalid {name} argument: {why}"))?;
            }
        }
        "duration" => {
            if let Some(s) = text(arguments.first())
                && super::value::duration(&s).is_none()
            {
                return Err(format!("ERROR: <input>: invalid {name} argument"));
            }
        }
        "timestamp" => {
            if let Some(s) = text(arguments.first())
                && chrono::DateTime::parse_from_rfc3339(&s).is_err()
            {
                return Err(format!("ERROR: <input>: invalid {name} argument"));
            }
        }
        _ => {}
    }
    Ok(())
}

/// What a call costs beside its arguments, and the size of its result where it follows from theirs.
fn price(name: &str, receiver: Option<&Inferred>, given: &[Inferred], arguments: &[Node]) -> (u64, Option<Size>) {
    let size = |i: Option<&Inferred>| i.and_then(|i| i.shape.size).unwrap_or(Size::UNKNOWN);
    let argument = |n: usize| size(given.get(n));
    let target = size(receiver.or(given.first()));
    let scan = |s: Size| scaled(s.max, PER_CHARACTER);
    let scalar = |i: &Inferred| {
        matches!(
            i.shape.ty,
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Null | Type::Denoted
        )
    };
    match name {
        "_&&_" | "_||_" | "_?_:_" => (0, None),
        "dyn" => (1, Some(argument(0))),
        "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => {
            let of = |i: &Inferred| {
                if scalar(i) {
                    1
                } else {
                    i.shape.size.map_or(u64::MAX, |s| s.max)
                }
            };
            let opaque = given.iter().all(|i| matches!(i.shape.ty, Type::Opaque(_)));
            let least = given.iter().map(of).min().unwrap_or(1);
            (if opaque { 1 } else { scaled(least, PER_CHARACTER) }, None)
        }
        "_+_" => match given.first().map(|g| &g.shape.ty) {
            Some(Type::Text | Type::Bytes) => {
                let sum = argument(0).plus(argument(1));
                (scan(sum), Some(sum))
            }
            Some(Type::List(_)) => (1, Some(argument(0).plus(argument(1)))),
            _ => (1, None),
        },
        "@in" => match given.get(1).map(|g| &g.shape.ty) {
            Some(Type::Map(..)) => (1, None),
            _ => (argument(1).max, None),
        },
        "startsWith" | "endsWith" => (scan(argument(0)), None),
        "contains" => (scan(target).saturating_mul(scan(argument(0))), None),
        "matches" | "find" | "findAll" => {
            let (text, pattern) = match receiver {
                Some(_) => (target, argument(0)),
                None => (argument(0), argument(1)),
            };
            let cost = scan(text.plus(Size::exactly(1))).saturating_mul(scaled(pattern.max, PER_PATTERN));
            (cost, (name != "matches").then_some(Size::up_to(text.max)))
        }
        "string" | "bytes" if !matches!(given.first().map(|g| &g.shape.ty), Some(Type::Text | Type::Bytes)) => {
            (1, None)
        }
        "lowerAscii" | "upperAscii" | "substring" | "trim" | "url" | "string" | "bytes" => (scan(target), Some(target)),
        "replace" => (
            scaled(target.max, 2.0 * PER_CHARACTER),
            Some(replaced(target, argument(0), argument(1))),
        ),
        "split" => {
            let most = match arguments.get(1) {
                Some(Node::Literal(Value::Int(n))) => u64::try_from(*n).unwrap_or(target.max),
                _ => target.max,
            };
            (scaled(target.max, 2.0 * PER_CHARACTER), Some(Size::up_to(most)))
        }
        "join" => {
            let item = item_size(receiver);
            let separators = argument_or_zero(given).saturating_mul(target.max.saturating_sub(1));
            let all = target.max.saturating_mul(item.max).saturating_add(separators);
            (scaled(all, PER_CHARACTER), Some(Size::up_to(all)))
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => match receiver.map(|r| &r.shape.ty) {
            Some(Type::List(item)) => {
                let one = match item.ty {
                    Type::Text | Type::Bytes => 1_u64.saturating_add(scan(item_size(receiver))),
                    _ => 1,
                };
                (target.max.saturating_mul(one), None)
            }
            _ => (scan(target), None),
        },
        "sets.contains" | "sets.equivalent" | "sets.intersects" => {
            let both = argument(0).max.saturating_mul(argument(1).max);
            (both.saturating_mul(if name == "sets.equivalent" { 2 } else { 1 }), None)
        }
        "isURL" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            (scan(argument(0)), None)
        }
        "ip" if receiver.is_none() => (scan(argument(0)), None),
        "ip.isCanonical" => (scaled(argument(0).max, 2.0 * PER_CHARACTER), None),
        "containsIP" | "containsCIDR" => match given.first().map(|g| &g.shape.ty) {
            Some(Type::Text) => (4_u64.saturating_add(scan(argument(0))), None),
            _ => (4, None),
        },
        "validate" => (scaled(scan(argument(0)), NAMED_FORMAT * PER_PATTERN), None),
        "format" => (scan(target), None),
        _ => (1, None),
    }
}

fn item_size(list: Option<&Inferred>) -> Size {
    match list.map(|l| &l.shape.ty) {
        Some(Type::List(item)) => item.size.unwrap_or(Size::UNKNOWN),
        _ => Size::UNKNOWN,
    }
}

fn argument_or_zero(given: &[Inferred]) -> u64 {
    given.first().map_or(0, |g| g.shape.size.map_or(u64::MAX, |s| s.max))
}

/// How long a text can become by replacing.
fn replaced(text: Size, from: Size, to: Size) -> Size {
    let most = if from.min == 0 {
        text.max
            .saturating_add(1)
            .saturating_mul(to.max)
            .saturating_add(text.max)
    } else if to.max <= from.min {
        text.max
    } else {
        text.max.div_ceil(from.min).saturating_mul(to.max)
    };
    Size::up_to(most)
}
