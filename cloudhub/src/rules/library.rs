//! The functions that rules may call, and the types they take: a table, read once. The names and types are those of the Kubernetes API in
//! version 1.33.
//!
//! A line: the name, then its forms: `receiver.(arguments)result` or `(arguments)result`. `[T]` is a list, `{K:V}` a map, `?T` an optional,
//! a capital letter any type, the same one wherever it stands in a form.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::types::{Shape, Type};

const TABLE: &str = "
!_ (bool)bool
-_ (int)int (double)double
_&&_ (bool,bool)bool
_||_ (bool,bool)bool
_?_:_ (bool,A,A)A
_==_ (A,A)bool
_!=_ (A,A)bool
_+_ (int,int)int (uint,uint)uint (double,double)double (string,string)string (bytes,bytes)bytes ([A],[A])[A] (duration,duration)duration (timestamp,duration)timestamp (duration,timestamp)timestamp
_-_ (int,int)int (uint,uint)uint (double,double)double (duration,duration)duration (timestamp,duration)timestamp (timestamp,timestamp)duration
_*_ (int,int)int (uint,uint)uint (double,double)double
_/_ (int,int)int (uint,uint)uint (double,double)double
_%_ (int,int)int (uint,uint)uint
@in (A,[A])bool (A,{A:B})bool
_[_] ([A],int)A ({A:B},A)B
_[?_] ([A],int)?A ({A:B},A)?B (?[A],int)?A (?{A:B},A)?B
size (string)int (bytes)int ([A])int ({A:B})int string.()int bytes.()int [A].()int {A:B}.()int
type (A)type
dyn (A)dyn
bool (bool)bool (string)bool
bytes (bytes)bytes (string)bytes
double (double)double (int)double (uint)double (string)double
int (int)int (uint)int (double)int (string)int (timestamp)int (duration)int
uint (uint)uint (int)uint (double)uint (string)uint
string (string)string (bool)string (int)string (uint)string (double)string (bytes)string (timestamp)string (duration)string (ip)string (cidr)string
duration (duration)duration (string)duration (int)duration
timestamp (timestamp)timestamp (string)timestamp (int)timestamp
contains string.(string)bool
startsWith string.(string)bool
endsWith string.(string)bool
matches string.(string)bool (string,string)bool
getFullYear timestamp.()int timestamp.(string)int
getMonth timestamp.()int timestamp.(string)int
getDayOfYear timestamp.()int timestamp.(string)int
getDayOfMonth timestamp.()int timestamp.(string)int
getDate timestamp.()int timestamp.(string)int
getDayOfWeek timestamp.()int timestamp.(string)int
getHours timestamp.()int timestamp.(string)int duration.()int
getMinutes timestamp.()int timestamp.(string)int duration.()int
getSeconds timestamp.()int timestamp.(string)int duration.()int
getMilliseconds timestamp.()int timestamp.(string)int duration.()int
charAt string.(int)string
indexOf string.(string)int string.(string,int)int [A].(A)int
lastIndexOf string.(string)int string.(string,int)int [A].(A)int
lowerAscii string.()string
upperAscii string.()string
replace string.(string,string)string string.(string,string,int)string
split string.(string)[string] string.(string,int)[string]
substring string.(int)string string.(int,int)string
trim string.()string
format string.([dyn])string
strings.quote (string)string
join [string].()string [string].(string)string
find string.(string)string
findAll string.(string)[string] string.(string,int)[string]
isSorted [int].()bool [uint].()bool [double].()bool [bool].()bool [duration].()bool [timestamp].()bool [string].()bool [bytes].()bool
sum [int].()int [uint].()uint [double].()double [duration].()duration
min [int].()int [uint].()uint [double].()double [bool].()bool [duration].()duration [timestamp].()timestamp [string].()string [bytes].()bytes
max [int].()int [uint].()uint [double].()double [bool].()bool [duration].()duration [timestamp].()timestamp [string].()string [bytes].()bytes
first [A].()?A
last [A].()?A
sets.contains ([A],[A])bool
sets.equivalent ([A],[A])bool
sets.intersects ([A],[A])bool
url (string)url
isURL (string)bool
getScheme url.()string
getHost url.()string
getHostname url.()string
getPort url.()string
getEscapedPath url.()string
getQuery url.(){string:[string]}
quantity (string)quantity
isQuantity (string)bool
sign quantity.()int
isGreaterThan quantity.(quantity)bool semver.(semver)bool
isLessThan quantity.(quantity)bool semver.(semver)bool
compareTo quantity.(quantity)int semver.(semver)int
asApproximateFloat quantity.()double
asInteger quantity.()int
isInteger quantity.()bool
add quantity.(quantity)quantity quantity.(int)quantity
sub quantity.(quantity)quantity quantity.(int)quantity
ip (string)ip cidr.()ip
isIP (string)bool
ip.isCanonical (string)bool
family ip.()int
isUnspecified ip.()bool
isLoopback ip.()bool
isLinkLocalMulticast ip.()bool
isLinkLocalUnicast ip.()bool
isGlobalUnicast ip.()bool
cidr (string)cidr
isCIDR (string)bool
containsIP cidr.(string)bool cidr.(ip)bool
containsCIDR cidr.(string)bool cidr.(cidr)bool
prefixLength cidr.()int
masked cidr.()cidr
format.named (string)?format
format.dns1123Label ()format
format.dns1123Subdomain ()format
format.dns1035Label ()format
format.qualifiedName ()format
format.dns1123LabelPrefix ()format
format.dns1123SubdomainPrefix ()format
format.dns1035LabelPrefix ()format
format.labelValue ()format
format.uri ()format
format.uuid ()format
format.byte ()format
format.date ()format
format.datetime ()format
validate format.(string)?[string]
semver (string)semver (string,bool)semver
isSemver (string)bool (string,bool)bool
major semver.()int
minor semver.()int
patch semver.()int
optional.of (A)?A
optional.ofNonZeroValue (A)?A
optional.none ()?A
hasValue ?A.()bool
value ?A.()A
or ?A.(?A)?A
orValue ?A.(A)A
";

/// One form of a function.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) receiver: Option<Shape>,
    pub(super) arguments: Vec<Shape>,
    pub(super) result: Shape,
}

/// The forms of each function.
pub(super) static FUNCTIONS: LazyLock<BTreeMap<&'static str, Vec<Form>>> =
    LazyLock::new(|| read(TABLE).expect("the table is read by a test"));

fn read(table: &'static str) -> Option<BTreeMap<&'static str, Vec<Form>>> {
    let mut out: BTreeMap<&'static str, Vec<Form>> = BTreeMap::new();
    for line in table.lines().filter(|l| !l.is_empty()) {
        let mut words = line.split(' ');
        let forms = out.entry(words.next()?).or_default();
        for word in words {
            forms.push(form(word)?);
        }
    }
    // Values that can be ordered: of one type, or numbers among each other.
    for name in ["_<_", "_<=_", "_>_", "_>=_"] {
        let forms = out.entry(name).or_default();
        for one in ["bool", "string", "bytes", "duration", "timestamp"] {
            forms.push(comparison(shape(one)?, shape(one)?)?);
        }
        for left in ["int", "uint", "double"] {
            for right in ["int", "uint", "double"] {
                forms.push(comparison(shape(left)?, shape(right)?)?);
            }
        }
    }
    Some(out)
}

fn comparison(left: Shape, right: Shape) -> Option<Form> {
    Some(Form {
        receiver: None,
        arguments: vec![left, right],
        result: shape("bool")?,
    })
}

fn form(word: &'static str) -> Option<Form> {
    let (receiver, rest) = word.split_once('(')?;
    let (arguments, result) = rest.split_once(')')?;
    let mut list = Vec::new();
    for argument in arguments.split(',').filter(|a| !a.is_empty()) {
        list.push(shape(argument)?);
    }
    Some(Form {
        receiver: match receiver.strip_suffix('.') {
            Some(receiver) => Some(shape(receiver)?),
            None => None,
        },
        arguments: list,
        result: shape(result)?,
    })
}

fn shape(word: &'static str) -> Option<Shape> {
    let ty = if let Some(item) = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')) {
        Type::List(shape(item)?.into())
    } else if let Some(both) = word.strip_prefix('{').and_then(|w| w.strip_suffix('}')) {
        let (key, value) = both.split_once(':')?;
        Type::Map(shape(key)?.into(), shape(value)?.into())
    } else if let Some(of) = word.strip_prefix('?') {
        Type::Optional(shape(of)?.into())
    } else {
        match word {
            "A" | "B" => Type::Param(word.chars().next()?),
            "url" | "quantity" | "ip" | "cidr" | "format" | "semver" => Type::Opaque(word),
            plain => denoted(plain)?,
        }
    };
    Some(ty.into())
}

/// The type that a word means.
pub(super) fn denoted(word: &str) -> Option<Type> {
    Some(match word {
        "dyn" => Type::Dyn,
        "null_type" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::Text,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "type" => Type::Denoted,
        _ => return None,
    })
}

/// Words that are types as values.
pub(super) fn is_type_word(word: &str) -> bool {
    matches!(
        word,
        "bool" | "int" | "uint" | "double" | "string" | "bytes" | "list" | "map" | "null_type" | "type"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_readable() {
        let functions = read(TABLE).expect("readable");
        assert!(functions.values().all(|forms| !forms.is_empty()));
        assert_eq!(functions["_<_"].len(), 14);
        assert_eq!(functions["_[?_]"][3].arguments[0].ty.name(), "optional_type(map(A, B))");
    }
}
