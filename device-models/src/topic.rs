//! Topics of the twin protocol: which request a topic is, and where the answers go.
//!
//! The gateway takes `$hw/events/device/<namespace>/<name>/…` and, from older devices, `$hw/events/device/<name>/…` which
//! means namespace `default`; an answer goes out in the form the request came in.

use std::fmt;

const DEVICE: &str = "$hw/events/device/";
const NODE: &str = "$hw/events/node/";
/// The longest namespace, device or node name in a topic, in bytes.
const MAX_NAME: usize = 253;

/// How a topic names a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// `<namespace>/<name>`.
    #[default]
    Namespaced,
    /// `<name>`, in namespace `default`.
    Plain,
}

/// A device as a topic names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAddress<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Form of the topic.
    pub form: Form,
}

/// A request that a client can publish to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `…/twin/update`.
    TwinUpdate(DeviceAddress<'a>),
    /// `…/twin/get`.
    TwinGet(DeviceAddress<'a>),
    /// `…/state/update`.
    StateUpdate(DeviceAddress<'a>),
    /// `$hw/events/node/<node>/membership/get`.
    MembershipGet {
        /// Name of the node.
        node: &'a str,
    },
}

/// Why a topic is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not of the twin protocol: an ordinary topic.
    #[error("not a topic of devices or nodes")]
    NotOurs,
    /// Only the gateway publishes there.
    #[error("only the gateway publishes on this topic")]
    Reserved,
    /// Of the twin protocol, but no request that exists.
    #[error(
        "no such request: use $hw/events/device/<namespace>/<name>/twin/update, …/twin/get, …/state/update or $hw/events/node/<node>/membership/get"
    )]
    Unknown,
    /// A namespace, device or node name in it is empty, too long or has a wildcard.
    #[error("a name in the topic is empty, longer than 253 bytes or has a wildcard")]
    Name,
}

/// Reads the topic of a published message.
pub fn parse(topic: &str) -> Result<Request<'_>, TopicError> {
    if let Some(rest) = topic.strip_prefix(NODE) {
        return parse_node(rest);
    }
    let rest = topic.strip_prefix(DEVICE).ok_or(TopicError::NotOurs)?;
    // Levels beyond the longest form end up in the last and make it unknown.
    let mut parts = rest.splitn(6, '/');
    let levels: [Option<&str>; 6] = std::array::from_fn(|_| parts.next());
    let (form, namespace, name, tail) = match levels {
        [Some(name), Some(a), Some(b), None, ..] => (Form::Plain, "default", name, (a, b, None)),
        [
            Some(name),
            Some(a @ ("twin" | "state")),
            Some("update" | "get"),
            Some("result" | "delta" | "document"),
            None,
            _,
        ] => (Form::Plain, "default", name, (a, "", Some(""))),
        [Some(namespace), Some(name), Some(a), Some(b), None, _] => (Form::Namespaced, namespace, name, (a, b, None)),
        [Some(namespace), Some(name), Some(a), Some(b), Some(c), None] => {
            (Form::Namespaced, namespace, name, (a, b, Some(c)))
        }
        _ => return Err(TopicError::Unknown),
    };
    check_name(namespace)?;
    check_name(name)?;
    let device = DeviceAddress { namespace, name, form };
    match tail {
        ("twin", "update", None) => Ok(Request::TwinUpdate(device)),
        ("twin", "get", None) => Ok(Request::TwinGet(device)),
        ("state", "update", None) => Ok(Request::StateUpdate(device)),
        ("twin" | "state", _, Some(_)) => Err(TopicError::Reserved),
        _ => Err(TopicError::Unknown),
    }
}

fn parse_node(rest: &str) -> Result<Request<'_>, TopicError> {
    let (node, tail) = rest.split_once('/').ok_or(TopicError::Unknown)?;
    check_name(node)?;
    match tail {
        "membership/get" => Ok(Request::MembershipGet { node }),
        "membership/get/result" | "membership/updated" => Err(TopicError::Reserved),
        _ => Err(TopicError::Unknown),
    }
}

fn check_name(name: &str) -> Result<(), TopicError> {
    let good = !name.is_empty() && name.len() <= MAX_NAME && !name.contains(['+', '#', '\0']);
    if good { Ok(()) } else { Err(TopicError::Name) }
}

/// What the gateway publishes about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// `twin/update/result`
    UpdateResult,
    /// `twin/update/document`
    Document,
    /// `twin/update/delta`
    Delta,
    /// `twin/get/result`
    GetResult,
    /// `state/update/result`
    StateResult,
}

impl Answer {
    fn tail(self) -> &'static str {
        match self {
            Self::UpdateResult => "twin/update/result",
            Self::Document => "twin/update/document",
            Self::Delta => "twin/update/delta",
            Self::GetResult => "twin/get/result",
            Self::StateResult => "state/update/result",
        }
    }
}

impl DeviceAddress<'_> {
    /// The topic of an answer about this device, in the form of the address.
    pub fn topic(&self, answer: Answer) -> String {
        format!("{DEVICE}{self}/{}", answer.tail())
    }
}

/// The device as the topic names it: `namespace/name` or `name`.
impl fmt::Display for DeviceAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Form::Namespaced => write!(f, "{}/{}", self.namespace, self.name),
            Form::Plain => f.write_str(self.name),
        }
    }
}

/// Topic of the answer to `membership/get`.
pub fn membership_result(node: &str) -> String {
    format!("{NODE}{node}/membership/get/result")
}

/// Topic on which devices that came and went are announced.
pub fn membership_updated(node: &str) -> String {
    format!("{NODE}{node}/membership/updated")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_in_both_forms() {
        let d0 = DeviceAddress {
            namespace: "default",
            name: "d0",
            form: Form::Namespaced,
        };
        let old = DeviceAddress {
            form: Form::Plain,
            ..d0
        };
        assert_eq!(
            parse("$hw/events/device/default/d0/twin/update"),
            Ok(Request::TwinUpdate(d0))
        );
        assert_eq!(parse("$hw/events/device/default/d0/twin/get"), Ok(Request::TwinGet(d0)));
        assert_eq!(
            parse("$hw/events/device/default/d0/state/update"),
            Ok(Request::StateUpdate(d0))
        );
        assert_eq!(parse("$hw/events/device/d0/twin/update"), Ok(Request::TwinUpdate(old)));
        assert_eq!(
            parse("$hw/events/device/d0/state/update"),
            Ok(Request::StateUpdate(old))
        );
        assert_eq!(
            parse("$hw/events/node/edge1/membership/get"),
            Ok(Request::MembershipGet { node: "edge1" })
        );
        // A device named like a request is still a device.
        let odd = DeviceAddress {
            namespace: "twin",
            name: "update",
            form: Form::Namespaced,
        };
        assert_eq!(
            parse("$hw/events/device/twin/update/twin/get"),
            Ok(Request::TwinGet(odd))
        );
    }

    #[test]
    fn what_is_no_request() {
        for (topic, error) in [
            ("factory/press", TopicError::NotOurs),
            ("$hw/events/upload/x", TopicError::NotOurs),
            ("$hw/events/device/default/d0/twin/update/result", TopicError::Reserved),
            ("$hw/events/device/d0/twin/update/delta", TopicError::Reserved),
            ("$hw/events/device/d0/twin/update/document", TopicError::Reserved),
            ("$hw/events/device/d0/state/update/result", TopicError::Reserved),
            ("$hw/events/node/edge1/membership/updated", TopicError::Reserved),
            ("$hw/events/device/default/d0/twin/cloud_updated", TopicError::Unknown),
            ("$hw/events/device/default/d0/twin/update/result/x", TopicError::Unknown),
            ("$hw/events/device/", TopicError::Unknown),
            ("$hw/events/device/d0", TopicError::Unknown),
            ("$hw/events/device//d0/twin/update", TopicError::Name),
            ("$hw/events/device/default//twin/update", TopicError::Name),
            ("$hw/events/device/+/d0/twin/update", TopicError::Name),
            ("$hw/events/node//membership/get", TopicError::Name),
            ("$hw/events/node/edge1", TopicError::Unknown),
        ] {
            assert_eq!(parse(topic), Err(error), "{topic}");
        }
    }

    #[test]
    fn answers_go_where_the_request_came_from() {
        let Ok(Request::TwinUpdate(new)) = parse("$hw/events/device/plant/d0/twin/update") else {
            panic!()
        };
        assert_eq!(
            new.topic(Answer::UpdateResult),
            "$hw/events/device/plant/d0/twin/update/result"
        );
        assert_eq!(new.topic(Answer::Delta), "$hw/events/device/plant/d0/twin/update/delta");
        let Ok(Request::TwinGet(old)) = parse("$hw/events/device/d0/twin/get") else {
            panic!()
        };
        assert_eq!(old.topic(Answer::GetResult), "$hw/events/device/d0/twin/get/result");
        assert_eq!(
            membership_result("edge1"),
            "$hw/events/node/edge1/membership/get/result"
        );
        assert_eq!(membership_updated("edge1"), "$hw/events/node/edge1/membership/updated");
    }

    proptest! {
        #[test]
        fn no_topic_of_the_gateway_is_a_request(namespace in "[a-z]{1,6}", name in "[a-z]{1,6}", plain in any::<bool>()) {
            let form = if plain { Form::Plain } else { Form::Namespaced };
            let device = DeviceAddress { namespace: &namespace, name: &name, form };
            for answer in [Answer::UpdateResult, Answer::Document, Answer::Delta, Answer::GetResult, Answer::StateResult] {
                let topic = device.topic(answer);
                prop_assert_eq!(parse(&topic), Err(TopicError::Reserved));
            }
        }

        #[test]
        fn reads_anything(topic in "(\\$hw/events/(device|node)/)?[a-z/+#]{0,40}|\\PC{0,40}") {
            if let Ok(Request::TwinUpdate(device)) = parse(&topic) {
                prop_assert_eq!(format!("$hw/events/device/{}/twin/update", device), topic);
            }
        }
    }
}
