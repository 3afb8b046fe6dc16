//! The controllers of a cluster of one: each brings what the store says towards what one kind of object asks for.
//!
//! A controller is a function of the store at one moment ([`Controller::reconcile`]): it keeps nothing that it could not work out again, so a lost,
//! late or doubled change costs a look and no more. It reads what was committed before it looked, so it needs no expectations about its own
//! writes. What it owns it finds by the controller's uid in `ownerReferences`.

mod queue;
mod run;

pub(crate) use run::{Change, Controller, Reconciled, run};
