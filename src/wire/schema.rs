//! Messages that are only ever looked into, never made here: described by one line of text each, decoded into plain values.
//!
//! The records of Kafka's own topics and of its metadata log. A description is a list of `name:type` in the order of the bytes, where a
//! type is one of `bool i8 i16 u16 i32 i64 f64 uuid str bytes`, `[type]`, or `{fields}`. Behind it may stand, in this order, `?` (may be
//! null), `@2` (from version 2 on), `@1-1` (in these versions), `#0` (a tagged field with that number, KIP-482).

use super::WireError;
use super::primitive::Reader;
use crate::base::ids::Uuid;

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number of any width.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// An id.
    Uuid(Uuid),
    /// A string.
    Text(String),
    /// A byte string.
    Bytes(Vec<u8>),
    /// An array.
    List(Vec<Value>),
    /// A structure.
    Fields(Fields),
}

/// The fields that a message of that version has, in the order of their description; tagged ones only if they were sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(pub Vec<(&'static str, Value)>);

impl Fields {
    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Option<i64> {
        if let Some(Value::Int(value)) = self.get(name) { Some(*value) } else { None }
    }

    /// An id.
    pub fn uuid(&self, name: &str) -> Option<Uuid> {
        if let Some(Value::Uuid(value)) = self.get(name) { Some(*value) } else { None }
    }

    /// A string.
    pub fn text(&self, name: &str) -> Option<&str> {
        if let Some(Value::Text(value)) = self.get(name) { Some(value) } else { None }
    }

    /// An array.
    pub fn list(&self, name: &str) -> Option<&[Value]> {
        if let Some(Value::List(value)) = self.get(name) { Some(value) } else { None }
    }
}

#[derive(Debug)]
enum Kind {
    Bool,
    I8,
    I16,
    U16,
    I32,
    I64,
    F64,
    Uuid,
    Str,
    Bytes,
    List(Box<Kind>),
    Struct(Vec<Field>),
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    kind: Kind,
    nullable: bool,
    from: i16,
    to: i16,
    tag: Option<u32>,
}

/// One kind of message.
#[derive(Debug)]
pub struct Schema {
    /// Its number among its kin.
    pub key: i16,
    /// Its name.
    pub name: &'static str,
    /// Versions are 0 to this.
    pub max_version: i16,
    /// From this version on lengths are varints, and tagged fields may follow.
    flexible_from: i16,
    fields: Vec<Field>,
}

/// For messages without a flexible version.
pub const NEVER: i16 = i16::MAX;

impl Schema {
    /// Reads a description (see the module). Panics on one that is wrong: descriptions are part of the program.
    pub fn new(key: i16, name: &'static str, max_version: i16, flexible_from: i16, description: &'static str) -> Schema {
        let mut rest = description;
        let fields = parse_fields(&mut rest);
        assert!(rest.is_empty(), "{name}: {rest}");
        Schema { key, name, max_version, flexible_from, fields }
    }

    /// Decodes a body of that version; what lies behind it is returned. Errors: a version that is not known, bytes that do not fit.
    pub fn decode<'a>(&self, version: i16, body: &'a [u8]) -> Result<(Fields, &'a [u8]), WireError> {
        if !(0..=self.max_version).contains(&version) {
            return Err(WireError::Codec(format!("{} has versions 0 to {}, not {version}", self.name, self.max_version)));
        }
        let mut decoder = Decoder { reader: Reader::new(body), version, flexible: version >= self.flexible_from };
        let fields = decoder.fields(&self.fields)?;
        Ok((fields, decoder.reader.rest()))
    }
}

struct Decoder<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
}

impl Decoder<'_> {
    fn fields(&mut self, fields: &[Field]) -> Result<Fields, WireError> {
        let present = |field: &&Field| (field.from..=field.to).contains(&self.version);
        let present: Vec<&Field> = fields.iter().filter(present).collect();
        let mut values = vec![None; present.len()];
        for (field, value) in present.iter().zip(&mut values).filter(|(field, _)| field.tag.is_none()) {
            *value = Some(self.value(&field.kind, field.nullable)?);
        }
        if self.flexible {
            for _ in 0..self.reader.unsigned_varint()? {
                let tag = self.reader.unsigned_varint()?;
                let len = self.reader.unsigned_varint()? as usize;
                let mut inner = Decoder { reader: Reader::new(self.reader.take(len)?), ..*self };
                if let Some(at) = present.iter().position(|field| field.tag == Some(tag)) {
                    values[at] = Some(inner.value(&present[at].kind, present[at].nullable)?);
                }
            }
        }
        let named = present.iter().zip(values).filter_map(|(field, value)| Some((field.name, value?)));
        Ok(Fields(named.collect()))
    }

    fn value(&mut self, kind: &Kind, nullable: bool) -> Result<Value, WireError> {
        let null = if nullable { Ok(Value::Null) } else { Err(WireError::Malformed("null")) };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map(Value::Text).map_err(|_| WireError::Malformed("string"));
        Ok(match kind {
            Kind::Bool => Value::Bool(self.reader.u8()? != 0),
            Kind::I8 => Value::Int((self.reader.u8()? as i8).into()),
            Kind::I16 => Value::Int(self.reader.i16()?.into()),
            Kind::U16 => Value::Int((self.reader.i16()? as u16).into()),
            Kind::I32 => Value::Int(self.reader.i32()?.into()),
            Kind::I64 => Value::Int(self.reader.i64()?),
            Kind::F64 => Value::Float(f64::from_bits(self.reader.i64()? as u64)),
            Kind::Uuid => Value::Uuid(Uuid(self.reader.uuid()?)),
            Kind::Str => self.reader.string(self.flexible)?.map_or(null, text)?,
            Kind::Bytes => self.reader.bytes(self.flexible)?.map_or(null, |bytes| Ok(Value::Bytes(bytes.to_vec())))?,
            Kind::List(of) => match self.reader.nullable_array_len(self.flexible)? {
                None => null?,
                Some(len) => {
                    let mut list = Vec::new();
                    for _ in 0..len {
                        list.push(self.value(of, false)?);
                    }
                    Value::List(list)
                }
            },
            // A structure that may be null begins with a byte that says which: 1 is there, -1 null, as a tagged field 0 null.
            Kind::Struct(_) if nullable && (self.reader.u8()? as i8) <= 0 => Value::Null,
            Kind::Struct(fields) => Value::Fields(self.fields(fields)?),
        })
    }
}

fn parse_fields(rest: &mut &'static str) -> Vec<Field> {
    let mut fields = Vec::new();
    while !rest.is_empty() && !rest.starts_with('}') {
        let (name, after) = rest.split_once(':').expect("a type follows a name");
        *rest = after;
        let kind = parse_kind(rest);
        let nullable = eat(rest, '?');
        let (mut from, mut to) = (0, i16::MAX);
        if eat(rest, '@') {
            from = number(rest);
            to = if eat(rest, '-') { number(rest) } else { i16::MAX };
        }
        let tag = eat(rest, '#').then(|| number(rest) as u32);
        eat(rest, ' ');
        fields.push(Field { name, kind, nullable, from, to, tag });
    }
    fields
}

fn parse_kind(rest: &mut &'static str) -> Kind {
    if eat(rest, '[') {
        let of = parse_kind(rest);
        assert!(eat(rest, ']'), "{rest}");
        return Kind::List(Box::new(of));
    }
    if eat(rest, '{') {
        let fields = parse_fields(rest);
        assert!(eat(rest, '}'), "{rest}");
        return Kind::Struct(fields);
    }
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after;
    match word {
        "bool" => Kind::Bool,
        "i8" => Kind::I8,
        "i16" => Kind::I16,
        "u16" => Kind::U16,
        "i32" => Kind::I32,
        "i64" => Kind::I64,
        "f64" => Kind::F64,
        "uuid" => Kind::Uuid,
        "str" => Kind::Str,
        "bytes" => Kind::Bytes,
        other => panic!("no type: {other}"),
    }
}

fn eat(rest: &mut &'static str, wanted: char) -> bool {
    rest.strip_prefix(wanted).map(|after| *rest = after).is_some()
}

fn number(rest: &mut &'static str) -> i16 {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    digits.parse().expect("a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn everything() -> Schema {
        let fields = "a:i8 b:str? c:[{x:i32@1-1 y:[uuid]?@1 z:bytes?#3}] d:{e:u16}?@1 f:f64#0 g:bool#1 h:i64@1#2";
        Schema::new(7, "Everything", 2, 1, fields)
    }

    #[test]
    fn versions_nulls_and_tags() {
        let schema = everything();
        let classic = [0xff, 0, 1, b'b', 0, 0, 0, 1, 9];
        let (fields, rest) = schema.decode(0, &classic).unwrap();
        let list = Value::List(vec![Value::Fields(Fields(vec![]))]);
        assert_eq!(fields.0, [("a", Value::Int(-1)), ("b", Value::Text("b".into())), ("c", list)]);
        assert_eq!(rest, [9]);

        // Version 1: a, null b, one c (x, null y, one tag: z), null d, two tags (an unknown one, and g).
        let flexible = [5, 0, 2, 0, 0, 0, 4, 0, 1, 3, 3, 3, 1, 2, 0xff, 2, 99, 1, 0, 1, 1, 1];
        let (fields, rest) = schema.decode(1, &flexible).unwrap();
        let c = Fields(vec![("x", Value::Int(4)), ("y", Value::Null), ("z", Value::Bytes(vec![1, 2]))]);
        let expected = [
            ("a", Value::Int(5)),
            ("b", Value::Null),
            ("c", Value::List(vec![Value::Fields(c)])),
            ("d", Value::Null),
            ("g", Value::Bool(true)),
        ];
        assert_eq!(fields.0, expected);
        assert!(rest.is_empty());
        assert_eq!((fields.int("a"), fields.text("b"), fields.uuid("nothing")), (Some(5), None, None));
    }

    #[test]
    fn claims_are_checked() {
        let schema = everything();
        assert!(schema.decode(3, &[0; 99]).is_err(), "unknown version");
        assert!(schema.decode(0, &[0, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]).is_err(), "more elements than bytes");
        let not_null = Schema::new(0, "NotNull", 0, 0, "a:str");
        assert!(not_null.decode(0, &[0, 0]).is_err());
        assert!(not_null.decode(0, &[2, 0xff, 0]).is_err(), "not UTF-8");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(version in 0..3i16, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = everything().decode(version, &bytes);
        }
    }
}
