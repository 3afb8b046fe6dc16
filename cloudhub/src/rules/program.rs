//! A rule as it is evaluated: the parsed expression with its macros as loops. Made by [`compile`], which bounds what may be parsed.

use kube_cel::cel::Value;
use kube_cel::cel::common::ast::{self, Expr, IdedExpr, LiteralValue, operators};
use kube_cel::cel::parser::Parser;

use super::library::FUNCTIONS;
use super::value;

/// Longest expression; real ones stay under a thousand characters.
pub(super) const MAX_SOURCE: usize = 16 * 1024;
/// Deepest nesting of an expression.
const MAX_DEPTH: usize = 120;
/// The parser's own counting of nested brackets.
const MAX_BRACKETS: usize = 60;

/// An expression.
#[derive(Debug)]
pub(super) enum Node {
    Literal(Value),
    Name(Box<str>),
    Member {
        of: Box<Self>,
        name: Box<str>,
        /// Only whether it is there.
        test: bool,
        /// Of an optional, to an optional.
        optional: bool,
    },
    Call {
        name: Box<str>,
        target: Option<Box<Self>>,
        arguments: Vec<Self>,
    },
    /// Items; one that is optional may be left out.
    List(Vec<(Self, bool)>),
    Map(Vec<(Self, Self, bool)>),
    Loop(Box<Loop>),
    /// `optional.optMap(name, body)`; `flat`: the body is an optional itself.
    Inside {
        optional: Box<Self>,
        name: Box<str>,
        body: Box<Self>,
        flat: bool,
    },
}

/// A macro over a list or a map.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) what: What,
    pub(super) range: Node,
    pub(super) first: Box<str>,
    pub(super) second: Option<Box<str>>,
    pub(super) filter: Option<Node>,
    pub(super) body: Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    All,
    Exists,
    One,
    /// Makes a list.
    Each,
    /// Makes a map with the same keys.
    Values,
    /// Makes a map of maps with one entry.
    Entries,
}

/// Parses an expression.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn compile(source: &str) -> Result<Node, String> {
    if source.len() > MAX_SOURCE {
        return Err(format!("ERROR: the expression is longer than {MAX_SOURCE} characters"));
    }
    check_brackets(source)?;
    let parsed = Parser::new()
        .enable_optional_syntax(true)
        .parse(source)
        .map_err(|e| e.to_string())?;
    node(parsed, 0)
}

/// The parser recurses for each bracket, so that they are counted before it looks.
fn check_brackets(source: &str) -> Result<(), String> {
    let (mut depth, mut signs) = (0_usize, 0_usize);
    let mut quote = None;
    let (mut escaped, mut raw, mut last) = (false, false, ' ');
    for c in source.chars() {
        let before = std::mem::replace(&mut last, c);
        if let Some(q) = quote {
            if escaped {
                escaped = false;
            } else if c == '\\' && !raw {
                escaped = true;
            } else if c == q || c == '\n' {
                quote = None;
            }
            continue;
        }
        match c {
            '\'' | '"' => {
                quote = Some(c);
                raw = matches!(before, 'r' | 'R');
            }
            '(' | '[' | '{' | '?' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '!' | '-' => signs += 1,
            _ => signs = 0,
        }
        if depth > MAX_BRACKETS || signs > MAX_BRACKETS {
            return Err(format!("ERROR: the expression is nested deeper than {MAX_BRACKETS}"));
        }
    }
    Ok(())
}

fn boxed(expr: IdedExpr, depth: usize) -> Result<Box<Node>, String> {
    node(expr, depth + 1).map(Box::new)
}

fn all(list: Vec<IdedExpr>, depth: usize) -> Result<Vec<Node>, String> {
    list.into_iter().map(|e| node(e, depth + 1)).collect()
}

fn node(expr: IdedExpr, depth: usize) -> Result<Node, String> {
    if depth > MAX_DEPTH {
        return Err(format!("ERROR: the expression is nested deeper than {MAX_DEPTH}"));
    }
    match expr.expr {
        Expr::Literal(literal) => Ok(Node::Literal(constant(literal))),
        Expr::Ident(name) => Ok(Node::Name(name.into())),
        Expr::Select(select) => Ok(Node::Member {
            of: boxed(*select.operand, depth)?,
            name: select.field.into(),
            test: select.test,
            optional: false,
        }),
        Expr::Call(call) => self::call(call, depth),
        Expr::List(list) => {
            let ast::ListExpr {
                elements,
                optional_indices,
            } = list;
            let items = all(elements, depth)?;
            Ok(Node::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(i, item)| (item, optional_indices.contains(&i)))
                    .collect(),
            ))
        }
        Expr::Map(map) => {
            let mut out = Vec::with_capacity(map.entries.len());
            for entry in map.entries {
                let ast::EntryExpr::MapEntry(entry) = entry.expr else {
                    return Err("ERROR: objects cannot be made".to_owned());
                };
                out.push((
                    node(entry.key, depth + 1)?,
                    node(entry.value, depth + 1)?,
                    entry.optional,
                ));
            }
            Ok(Node::Map(out))
        }
        Expr::Comprehension(comprehension) => comprehended(*comprehension, depth),
        Expr::Struct(made) => Err(format!("ERROR: undeclared reference to '{}'", made.type_name)),
        Expr::Unspecified => Err("ERROR: Syntax error: the expression is incomplete".to_owned()),
    }
}

fn constant(literal: LiteralValue) -> Value {
    match literal {
        LiteralValue::Boolean(b) => Value::Bool(b.into_inner()),
        LiteralValue::Bytes(b) => Value::Bytes(b.into_inner().into()),
        LiteralValue::Double(f) => Value::Float(f.into_inner()),
        LiteralValue::Int(i) => Value::Int(i.into_inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(s) => value::text(s.into_inner()),
        LiteralValue::UInt(u) => Value::UInt(u.into_inner()),
    }
}

fn call(call: ast::CallExpr, depth: usize) -> Result<Node, String> {
    let ast::CallExpr {
        func_name,
        target,
        args,
    } = call;
    if func_name == operators::OPT_SELECT {
        return optional_member(args, depth);
    }
    let Some(target) = target else {
        return Ok(Node::Call {
            name: func_name.into(),
            target: None,
            arguments: all(args, depth)?,
        });
    };
    if let Expr::Ident(space) = &target.expr {
        let qualified = format!("{space}.{func_name}");
        if FUNCTIONS.contains_key(qualified.as_str()) {
            return Ok(Node::Call {
                name: qualified.into(),
                target: None,
                arguments: all(args, depth)?,
            });
        }
    }
    let what = match (func_name.as_str(), args.len()) {
        ("all", 3) => Some((What::All, false)),
        ("exists", 3) => Some((What::Exists, false)),
        ("existsOne", 3) => Some((What::One, false)),
        ("transformList", 3 | 4) => Some((What::Each, args.len() == 4)),
        ("transformMap", 3 | 4) => Some((What::Values, args.len() == 4)),
        ("transformMapEntry", 3 | 4) => Some((What::Entries, args.len() == 4)),
        _ => None,
    };
    if let Some((what, filtered)) = what {
        return two_names(what, filtered, *target, args, depth);
    }
    if matches!(func_name.as_str(), "optMap" | "optFlatMap") && args.len() == 2 {
        let mut args = args.into_iter();
        let (Some(first), Some(body)) = (args.next(), args.next()) else {
            return Err("ERROR: a macro without its arguments".to_owned());
        };
        return Ok(Node::Inside {
            optional: boxed(*target, depth)?,
            name: name_of(first)?,
            body: boxed(body, depth)?,
            flat: func_name == "optFlatMap",
        });
    }
    Ok(Node::Call {
        name: func_name.into(),
        target: Some(boxed(*target, depth)?),
        arguments: all(args, depth)?,
    })
}

fn optional_member(args: Vec<IdedExpr>, depth: usize) -> Result<Node, String> {
    let mut args = args.into_iter();
    let (Some(of), Some(name)) = (args.next(), args.next()) else {
        return Err("ERROR: an optional member without a name".to_owned());
    };
    let Expr::Literal(LiteralValue::String(name)) = name.expr else {
        return Err("ERROR: an optional member without a name".to_owned());
    };
    Ok(Node::Member {
        of: boxed(of, depth)?,
        name: name.into_inner().into(),
        test: false,
        optional: true,
    })
}

fn name_of(expr: IdedExpr) -> Result<Box<str>, String> {
    match expr.expr {
        Expr::Ident(name) => Ok(name.into()),
        _ => Err("ERROR: argument must be a simple name".to_owned()),
    }
}

fn two_names(what: What, filtered: bool, range: IdedExpr, args: Vec<IdedExpr>, depth: usize) -> Result<Node, String> {
    let mut args = args.into_iter();
    let mut next = || args.next().ok_or("ERROR: a macro without its arguments");
    let (first, second) = (name_of(next()?)?, name_of(next()?)?);
    let filter = if filtered {
        Some(node(next()?, depth + 1)?)
    } else {
        None
    };
    Ok(Node::Loop(Box::new(Loop {
        what,
        range: node(range, depth + 1)?,
        first,
        second: Some(second),
        filter,
        body: node(next()?, depth + 1)?,
    })))
}

/// The macro that the parser made this of.
fn comprehended(c: ast::ComprehensionExpr, depth: usize) -> Result<Node, String> {
    const STRANGE: &str = "ERROR: unknown comprehension";
    let Expr::Call(step) = c.loop_step.expr else {
        return Err(STRANGE.to_owned());
    };
    let mut args = step.args.into_iter();
    let (what, filter, body) = match (c.accu_init.expr, step.func_name.as_str()) {
        (Expr::Literal(LiteralValue::Boolean(_)), name) => {
            let what = if name == operators::LOGICAL_AND {
                What::All
            } else {
                What::Exists
            };
            (what, None, args.nth(1))
        }
        (Expr::Literal(LiteralValue::Int(_)), _) => (What::One, None, args.next()),
        (Expr::List(_), operators::CONDITIONAL) => {
            let filter = args.next();
            (What::Each, filter, args.next().and_then(appended))
        }
        (Expr::List(_), _) => (What::Each, None, args.nth(1).and_then(only_item)),
        _ => return Err(STRANGE.to_owned()),
    };
    Ok(Node::Loop(Box::new(Loop {
        what,
        range: node(c.iter_range, depth + 1)?,
        first: c.iter_var.into(),
        second: None,
        filter: filter.map(|f| node(f, depth + 1)).transpose()?,
        body: node(body.ok_or(STRANGE)?, depth + 1)?,
    })))
}

fn appended(sum: IdedExpr) -> Option<IdedExpr> {
    match sum.expr {
        Expr::Call(sum) => sum.args.into_iter().nth(1).and_then(only_item),
        _ => None,
    }
}

fn only_item(list: IdedExpr) -> Option<IdedExpr> {
    match list.expr {
        Expr::List(list) => list.elements.into_iter().next(),
        _ => None,
    }
}

impl Node {
    /// Whether a free name stands somewhere in it.
    pub(super) fn names(&self, wanted: &str) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Name(name) => &**name == wanted,
            Self::Member { of, .. } => of.names(wanted),
            Self::Call { target, arguments, .. } => {
                target.as_ref().is_some_and(|t| t.names(wanted)) || arguments.iter().any(|a| a.names(wanted))
            }
            Self::List(items) => items.iter().any(|(i, _)| i.names(wanted)),
            Self::Map(entries) => entries.iter().any(|(k, v, _)| k.names(wanted) || v.names(wanted)),
            Self::Loop(l) => {
                l.range.names(wanted)
                    || (&*l.first != wanted
                        && l.second.as_deref() != Some(wanted)
                        && (l.body.names(wanted) || l.filter.as_ref().is_some_and(|f| f.names(wanted))))
            }
            Self::Inside {
                optional, name, body, ..
            } => optional.names(wanted) || (&**name != wanted && body.names(wanted)),
        }
    }
}
