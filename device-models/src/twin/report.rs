//! Applying a `twin/update`: all of it or nothing.

use std::borrow::Cow;
use std::sync::Arc;

use super::outcome::{Change, Outcome, Snapshot};
use super::wire_type::WireType;
use super::{MAX_TWIN_BYTES, Property, Reported, STATES, Twin, weight};
use crate::admit::lost_message;
use crate::hlc::Clock;
use crate::payload::Entry;
use crate::register::{Register, merge};
use crate::values::{MAX_PROPERTIES, Quoted, Rule, ValueError, check_length, check_property_name, check_type};

/// Who makes a request: needed when it sets a desired value.
#[derive(Debug)]
pub struct Author<'a> {
    /// The gateway's clock. Persist [`Clock::last`] with the outcome when [`Outcome::desired_body`] is not `None`.
    pub clock: &'a mut Clock,
    /// Who, and by which path, for people: `mqtt client-7`.
    pub by: &'a str,
}

/// A request was refused. The text names property, value and bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// A value or name is wrong, or the property does not exist.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// Neither `expected` nor `actual` with a value, nor null.
    #[error("property {property}: neither expected nor actual has a value")]
    Empty {
        /// Name of the property.
        property: String,
    },
    /// A type that no property has; only without a model.
    #[error(
        "property {property}: {value_type} is not a type: use string, int, float, double, boolean, bytes or stream"
    )]
    UnknownType {
        /// Name of the property.
        property: String,
        /// The type, shortened.
        value_type: Quoted,
    },
    /// One property stands twice in the request.
    #[error("property {property} stands there twice")]
    Twice {
        /// Name of the property.
        property: String,
    },
    /// The desired value would lose against the one that is there.
    #[error("{message}")]
    Policy {
        /// Which value stays, and by which policy.
        message: String,
    },
    /// The twin would have too many properties.
    #[error("property {property}: the device already has {MAX_PROPERTIES} properties, the maximum")]
    TooMany {
        /// Name of the property.
        property: String,
    },
    /// The values of the twin would be too large together.
    #[error(
        "property {property}: the values of the device would take more than {MAX_TWIN_BYTES} bytes together, the maximum"
    )]
    TooLarge {
        /// Name of the property.
        property: String,
    },
    /// Not a state that a device can have.
    #[error("state {state} is not one of {}", STATES.join(", "))]
    State {
        /// The state, shortened.
        state: Quoted,
    },
}

impl ReportError {
    /// The code in the error message: 404 for a property that does not exist, 409 for a desired value that would lose by
    /// its merge policy, 400 for the rest.
    pub fn code(&self) -> u16 {
        match self {
            Self::Value(ValueError::Unknown { .. }) => 404,
            Self::Policy { .. } => 409,
            _ => 400,
        }
    }
}

/// Writes over a desired register, or where there is none.
type Write<'w> = dyn FnMut(Option<&Arc<Register>>, Option<String>) -> Arc<Register> + 'w;

/// What one entry will do, checked.
struct Step<'a> {
    name: &'a str,
    shared_name: Option<&'a Arc<str>>,
    value_type: WireType,
    /// `None`: as it is. `Some(None)`: away.
    expected: Option<Option<Arc<Register>>>,
    actual: Option<Option<Arc<Reported>>>,
    set_expected: bool,
}

fn check_twice(entries: &[(Cow<'_, str>, Entry<'_>)]) -> Result<(), ReportError> {
    if entries.len() < 2 {
        return Ok(());
    }
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ReportError::Twice {
            property: pair[0].to_owned(),
        }),
        None => Ok(()),
    }
}

impl Twin {
    /// Applies a `twin/update` at the gateway's time `now_ms`. On an error nothing is changed.
    ///
    /// Taking a property out (null) removes its reported value and a desired value that was set at this gateway; a
    /// desired value from the cloud stays.
    pub fn report(
        &mut self,
        now_ms: u64,
        author: Author<'_>,
        entries: &[(Cow<'_, str>, Entry<'_>)],
    ) -> Result<Outcome, ReportError> {
        check_twice(entries)?;
        let rules = self.rules.clone();
        let mut clock = None;
        let mut steps = Vec::with_capacity(entries.len());
        let (mut total, mut count) = (self.weight, self.properties.len());
        for (name, entry) in entries {
            let there = self.find(name).ok().map(|at| &self.properties[at]);
            let rule = match &rules {
                None => {
                    check_property_name(name)?;
                    None
                }
                Some(rules) => match rules.get(name) {
                    Ok(rule) => Some(rule),
                    // What an older model left behind can still be taken out.
                    Err(_) if *entry == Entry::Delete && there.is_some() => None,
                    Err(error) => return Err(error.into()),
                },
            };
            // The clock is copied only when a desired value is written, and put back when all entries are good.
            let mut write = |old: Option<&Arc<Register>>, value: Option<String>| {
                let clock = clock.get_or_insert_with(|| author.clock.clone());
                Arc::new(Register::write(old.map(|old| &**old), value, author.by, clock, now_ms))
            };
            let mut step = self.check(name, entry, there, rule, now_ms, &mut write)?;
            step.shared_name = rule.map(Rule::name);
            if there.is_none() && (step.expected.is_some() || step.actual.is_some()) {
                count += 1;
                if count > MAX_PROPERTIES {
                    return Err(ReportError::TooMany {
                        property: name.to_string(),
                    });
                }
            }
            total -= there.map_or(0, Property::weight);
            let expected = step
                .expected
                .as_ref()
                .map_or(there.and_then(|there| there.expected.as_ref()), Option::as_ref);
            let actual = step
                .actual
                .as_ref()
                .map_or(there.and_then(|there| there.actual.as_ref()), Option::as_ref);
            total += weight(expected.and_then(|expected| expected.value.as_deref()));
            total += weight(actual.map(|actual| &*actual.value));
            // A twin that is too large already may still shrink.
            if total > MAX_TWIN_BYTES && total > self.weight {
                return Err(ReportError::TooLarge {
                    property: name.to_string(),
                });
            }
            steps.push(step);
        }
        if let Some(clock) = clock {
            *author.clock = clock;
        }
        let mut changes: Vec<Change> = steps.into_iter().map(|step| self.apply(step)).collect();
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        self.weight = total;
        self.last_online_ms = Some(now_ms);
        Ok(Outcome { now_ms, changes })
    }

    fn check<'a>(
        &self,
        name: &'a str,
        entry: &Entry<'_>,
        there: Option<&Property>,
        rule: Option<&Rule>,
        now_ms: u64,
        write: &mut Write<'_>,
    ) -> Result<Step<'a>, ReportError> {
        let old = there.and_then(|there| there.expected.as_ref());
        let known_type = rule
            .map(|rule| rule.property_type().into())
            .or(there.map(|there| there.value_type));
        let mut step = Step {
            name,
            shared_name: None,
            value_type: known_type.unwrap_or_default(),
            expected: None,
            actual: None,
            set_expected: false,
        };
        let (expected, actual, value_type, metadata) = match entry {
            Entry::Set {
                expected,
                actual,
                value_type,
                metadata,
            } => (expected, actual, value_type, metadata),
            Entry::Delete => {
                step.actual = Some(None);
                if let Some(old) = old.filter(|old| !old.stamp.is_cloud() && old.value.is_some()) {
                    step.expected = Some(Some(write(Some(old), None)));
                }
                return Ok(step);
            }
        };
        if let (None, Some(text)) = (rule, value_type) {
            let unknown = || ReportError::UnknownType {
                property: name.to_owned(),
                value_type: Quoted::new(text),
            };
            step.value_type = WireType::parse(text).ok_or_else(unknown)?;
        }
        if expected.is_none() && actual.is_none() {
            return Err(ReportError::Empty {
                property: name.to_owned(),
            });
        }
        let free = |value: &str| {
            check_length(name, value).and_then(|()| check_type(name, step.value_type.property_type(), value))
        };
        if let Some(value) = actual {
            rule.map_or_else(|| free(value), |rule| rule.check_reported(value))?;
            let reported = Reported {
                value: (&**value).into(),
                timestamp: now_ms,
                metadata: metadata.clone(),
            };
            step.actual = Some(Some(Arc::new(reported)));
        }
        if let Some(value) = expected {
            rule.map_or_else(|| free(value), |rule| rule.check_desired(value))?;
            step.set_expected = true;
            // The same value again is no new write: it must not win over one that was made elsewhere meanwhile.
            if old.and_then(|old| old.value.as_deref()) != Some(&**value) {
                let register = write(old, Some(value.clone().into_owned()));
                let policy = self.policies.get(name);
                if let Some(old) = old.filter(|old| merge(policy, old, &register) == &***old) {
                    return Err(ReportError::Policy {
                        message: lost_message(name, old, policy),
                    });
                }
                step.expected = Some(Some(register));
            }
        }
        Ok(step)
    }

    fn apply(&mut self, step: Step<'_>) -> Change {
        let nothing = step.expected.is_none() && matches!(step.actual, None | Some(None));
        let at = match self.find(step.name) {
            Ok(at) => at,
            // Taking out what was never there.
            Err(_) if nothing => {
                return Change {
                    name: step.name.into(),
                    last: Snapshot::default(),
                    current: Snapshot::default(),
                    set_expected: false,
                    set_actual: false,
                };
            }
            Err(at) => {
                let name = step.shared_name.map_or_else(|| step.name.into(), Arc::clone);
                self.properties.insert(at, Property::new(name, step.value_type));
                at
            }
        };
        let property = &mut self.properties[at];
        let snapshot = |property: &Property| Snapshot {
            expected: property.expected.clone(),
            actual: property.actual.clone(),
            value_type: property.value_type,
        };
        let last = snapshot(property);
        let set_actual = matches!(step.actual, Some(Some(_)));
        property.value_type = step.value_type;
        if let Some(expected) = step.expected {
            property.expected = expected;
        }
        if let Some(actual) = step.actual {
            property.actual = actual;
        }
        let differed = property.differs;
        property.update_differs();
        self.differing = self.differing + usize::from(property.differs) - usize::from(differed);
        let change = Change {
            name: Arc::clone(&property.name),
            last,
            current: snapshot(property),
            set_expected: step.set_expected,
            set_actual,
        };
        if property.expected.is_none() && property.actual.is_none() {
            self.properties.remove(at);
        }
        change
    }
}
