//! Types as the MQTT messages spell them.

use crate::kinds::PropertyType;

/// A type in a message. KubeEdge knows two spellings of INT and shows the one the client used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WireType {
    #[default]
    String,
    Int,
    Integer,
    Float,
    Double,
    Boolean,
    Bytes,
    Stream,
}

impl WireType {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "" | "string" => Self::String,
            "int" => Self::Int,
            "integer" => Self::Integer,
            "float" => Self::Float,
            "double" => Self::Double,
            "boolean" => Self::Boolean,
            "bytes" => Self::Bytes,
            "stream" => Self::Stream,
            _ => return None,
        })
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Double => "double",
            Self::Boolean => "boolean",
            Self::Bytes => "bytes",
            Self::Stream => "stream",
        }
    }

    pub(super) fn property_type(self) -> PropertyType {
        match self {
            Self::String => PropertyType::String,
            Self::Int | Self::Integer => PropertyType::Int,
            Self::Float => PropertyType::Float,
            Self::Double => PropertyType::Double,
            Self::Boolean => PropertyType::Boolean,
            Self::Bytes => PropertyType::Bytes,
            Self::Stream => PropertyType::Stream,
        }
    }
}

impl From<PropertyType> for WireType {
    fn from(property_type: PropertyType) -> Self {
        match property_type {
            PropertyType::Int => Self::Int,
            PropertyType::Float => Self::Float,
            PropertyType::Double => Self::Double,
            PropertyType::String => Self::String,
            PropertyType::Boolean => Self::Boolean,
            PropertyType::Bytes => Self::Bytes,
            PropertyType::Stream => Self::Stream,
        }
    }
}
