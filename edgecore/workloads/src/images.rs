//! Images on the machine: brought when a container needs one, counted, and removed when nobody does and the disk fills.

mod reference;

pub(crate) use reference::{BadReference, Reference};

/// An image on the machine, ready to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageRef {
    /// What the runtime calls it.
    pub(crate) id: String,
    /// As a container's status names it (`imageID`): with a digest where it has one.
    pub(crate) shown: String,
    /// The user that its programs run as, when it is a number; 0 is root.
    pub(crate) user: Option<i64>,
    /// The same, when it is a name.
    pub(crate) user_name: String,
}
