//! What shall happen to calls, and what was called.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

/// What happens to a call that a rule fits.
#[derive(Clone, Debug)]
pub enum Act {
    /// It is done after a while.
    Delay(Duration),
    /// It is refused and nothing is done.
    Refuse(Code, String),
    /// It is done, and the connection says that it broke.
    LoseAnswer,
    /// Nothing is done and nothing answered.
    Hang,
}

/// A rule: which calls, and what becomes of them.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Name of the call (`create_container`); empty: all.
    pub call: String,
    /// What the call is about must contain this: a container's name, an image, an id.
    pub about: String,
    /// How many calls it passes over first.
    pub skip: usize,
    /// How many it then fits.
    pub times: usize,
    /// What happens to them.
    pub act: Act,
}

impl Rule {
    /// For the next call of this name.
    pub fn next(call: &str, act: Act) -> Self {
        Self {
            call: call.to_owned(),
            about: String::new(),
            skip: 0,
            times: 1,
            act,
        }
    }

    /// For every call of this name.
    pub fn every(call: &str, act: Act) -> Self {
        Self {
            times: usize::MAX,
            ..Self::next(call, act)
        }
    }

    /// Only for calls about this.
    #[must_use]
    pub fn about(mut self, about: &str) -> Self {
        about.clone_into(&mut self.about);
        self
    }
}

/// A call that was made.
#[derive(Clone, Debug)]
pub struct Call {
    /// `create_container`.
    pub name: &'static str,
    /// What it was about: a container's name, an image, an id.
    pub about: String,
    /// Whether it was about something that ran.
    pub running: bool,
    /// When it came.
    pub at: Instant,
}

#[derive(Default)]
pub(super) struct Script {
    pub(super) rules: Vec<Rule>,
    pub(super) calls: Vec<Call>,
}

impl Script {
    /// Notes a call and finds what shall happen to it.
    pub(super) fn called(&mut self, name: &'static str, about: &str, running: bool) -> Option<Act> {
        self.calls.push(Call {
            name,
            about: about.to_owned(),
            running,
            at: Instant::now(),
        });
        let fits = |r: &Rule| (r.call.is_empty() || r.call == name) && about.contains(&r.about);
        for rule in self.rules.iter_mut().filter(|r| fits(r)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if rule.times > 0 {
                rule.times = rule.times.saturating_sub(usize::from(rule.times != usize::MAX));
                return Some(rule.act.clone());
            }
        }
        None
    }
}

/// Before the work of a call: delays, refusals. Whether the answer is to be lost.
pub(super) async fn before(act: Option<Act>) -> Result<bool, Status> {
    match act {
        None => Ok(false),
        Some(Act::LoseAnswer) => Ok(true),
        Some(Act::Delay(while_)) => {
            tokio::time::sleep(while_).await;
            Ok(false)
        }
        Some(Act::Refuse(code, text)) => Err(Status::new(code, text)),
        Some(Act::Hang) => std::future::pending().await,
    }
}
