//! A value against a shape.

use serde_json::{Number, Value};

use super::shape::{Field, Shape};
use crate::error::{ApiError, Code};
use crate::nearest::{cut, is_slip, listed, not_one_of, unknown};

/// What is wrong with a value, and where.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    /// From the value that is checked; empty for that value itself.
    path: String,
    message: String,
}

impl From<Fault> for ApiError {
    fn from(Fault { path, message }: Fault) -> Self {
        match path.is_empty() {
            true => Self::new(Code::InvalidRequest, message),
            false => Self::invalid(path, message),
        }
    }
}

impl Fault {
    fn new(message: String) -> Self {
        Self { path: String::new(), message }
    }

    /// The same within a field of an object.
    fn field(self, name: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self { path: format!("{name}{dot}{}", self.path), ..self }
    }

    /// The same within an entry of a list.
    fn item(self, index: usize) -> Self {
        self.field(&format!("[{index}]"))
    }

    fn expected(what: &str, found: &Value) -> Self {
        Self::new(format!("expected {what}, found {}", shown(found)))
    }
}

impl Shape {
    /// Checks a value, and writes integers such as `8.0` as integers.
    pub(super) fn check(&self, value: &mut Value) -> Result<(), Fault> {
        match (self, &mut *value) {
            (Self::Any, _) | (Self::Null, Value::Null) | (Self::Boolean, Value::Bool(_)) => Ok(()),
            (Self::Only(only), found) if only == found => Ok(()),
            (Self::Integer { least, most }, Value::Number(number)) => {
                *number = integer(number, *least, *most).map_err(Fault::new)?;
                Ok(())
            }
            (Self::Number { least, most }, Value::Number(number)) => {
                let within = number.as_f64().is_some_and(|number| (*least..=*most).contains(&number));
                let outside = || Fault::new(format!("{number} is outside {}..={}", plain(*least), plain(*most)));
                within.then_some(()).ok_or_else(outside)
            }
            (Self::Text { words }, Value::String(word)) => match words.is_empty() || words.contains(word) {
                true => Ok(()),
                false => Err(Fault::new(not_one_of(word, words))),
            },
            (Self::List(entry), Value::Array(list)) => {
                list.iter_mut().enumerate().try_for_each(|(i, value)| entry.check(value).map_err(|f| f.item(i)))
            }
            (Self::Object(fields), Value::Object(object)) => {
                if let Some(name) = object.keys().find(|name| fields.iter().all(|field| field.name != **name)) {
                    return Err(unknown_field(name, fields));
                }
                for Field { name, required, shape } in fields {
                    match object.get_mut(name) {
                        Some(value) => shape.check(value).map_err(|fault| fault.field(name))?,
                        None if *required => return Err(missing(shape).field(name)),
                        None => {}
                    }
                }
                Ok(())
            }
            (Self::OneOf(shapes), found) => choose(shapes, found)?.check(found),
            (_, found) => Err(Fault::expected(&self.expected(), found)),
        }
    }

    /// Whether a value is of the JSON type of this shape.
    fn is_type_of(&self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Null => value.is_null(),
            Self::Boolean => value.is_boolean(),
            Self::Integer { .. } | Self::Number { .. } => value.is_number(),
            Self::Text { .. } => value.is_string(),
            Self::Only(only) => only == value,
            Self::List(_) => value.is_array(),
            Self::Object(_) => value.is_object(),
            Self::OneOf(shapes) => shapes.iter().any(|shape| shape.is_type_of(value)),
        }
    }

    /// What is expected, in JSON's words.
    fn expected(&self) -> String {
        match self {
            Self::Any => "a value".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Boolean => "a boolean".to_owned(),
            Self::Integer { .. } => "an integer".to_owned(),
            Self::Number { .. } => "a number".to_owned(),
            Self::Text { words } if words.is_empty() => "a string".to_owned(),
            Self::Text { words } => format!("a string, one of {}", listed(words)),
            Self::Only(only) => only.to_string(),
            Self::List(_) => "an array".to_owned(),
            Self::Object(_) => "an object".to_owned(),
            Self::OneOf(shapes) => any_of(shapes),
        }
    }

    fn fields(&self) -> &[Field] {
        match self {
            Self::Object(fields) => fields,
            _ => &[],
        }
    }
}

/// What several shapes expect. That a value may also be null goes without saying.
fn any_of<'a>(shapes: impl IntoIterator<Item = &'a Shape>) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in shapes.into_iter().filter(|shape| !matches!(shape, Shape::Null)).map(Shape::expected) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" or ")
}

/// The shape among alternatives that a value is meant to have.
fn choose<'a>(shapes: &'a [Shape], value: &Value) -> Result<&'a Shape, Fault> {
    let of_type: Vec<&Shape> = shapes.iter().filter(|shape| shape.is_type_of(value)).collect();
    match (&of_type[..], value) {
        ([], _) => Err(Fault::expected(&any_of(shapes), value)),
        ([shape], _) => Ok(shape),
        (lists, Value::Array(list)) => {
            let entries: Vec<&Shape> = lists.iter().filter_map(|list| list.entry()).collect();
            let Some(first) = list.first() else { return Ok(lists[0]) };
            match entries.iter().position(|entry| entry.is_type_of(first)) {
                Some(i) => Ok(lists[i]),
                None => Err(Fault::expected(&any_of(entries), first).item(0)),
            }
        }
        (objects, Value::Object(_)) => match tag(objects) {
            Some(tag) => by_tag(objects, tag, value),
            None => by_key(objects, value),
        },
        (several, _) => Ok(several[0]),
    }
}

impl Shape {
    fn entry(&self) -> Option<&Self> {
        match self {
            Self::List(entry) => Some(entry),
            _ => None,
        }
    }

    /// The one word that a field may hold.
    fn word(&self, name: &str) -> Option<&str> {
        match &self.fields().iter().find(|field| field.name == name)?.shape {
            Self::Text { words } => words.first().filter(|_| words.len() == 1).map(String::as_str),
            _ => None,
        }
    }
}

/// The field whose word tells the alternatives apart.
fn tag<'a>(objects: &[&'a Shape]) -> Option<&'a str> {
    let names = objects.first()?.fields().iter().map(|field| field.name.as_str());
    names.into_iter().find(|name| objects.iter().all(|object| object.word(name).is_some()))
}

fn by_tag<'a>(objects: &[&'a Shape], tag: &str, value: &Value) -> Result<&'a Shape, Fault> {
    let words: Vec<String> = objects.iter().filter_map(|object| object.word(tag)).map(str::to_owned).collect();
    let fault = match &value[tag] {
        Value::String(word) => match objects.iter().find(|object| object.word(tag) == Some(word)) {
            Some(object) => return Ok(object),
            None => Fault::new(not_one_of(word, &words)),
        },
        Value::Null if value.get(tag).is_none() => {
            // A misspelt tag is more likely than a forgotten one.
            let known: Vec<&str> = objects.iter().flat_map(|object| object.fields()).map(|f| f.name.as_str()).collect();
            let keys = value.as_object().into_iter().flatten().map(|(key, _)| key);
            if let Some(key) = keys.into_iter().find(|key| !known.contains(&key.as_str())) {
                return Err(Fault::new(unknown("field", key, &known)).field(key));
            }
            Fault::new(format!("a string is needed, one of {}", listed(&words)))
        }
        other => Fault::expected(&format!("a string, one of {}", listed(&words)), other),
    };
    Err(fault.field(tag))
}

/// By the field that only one alternative has.
fn by_key<'a>(objects: &[&'a Shape], value: &Value) -> Result<&'a Shape, Fault> {
    let keys: Vec<&str> = objects.iter().flat_map(|object| object.fields()).map(|field| field.name.as_str()).collect();
    let given: Vec<&String> = value.as_object().into_iter().flat_map(|object| object.keys()).collect();
    if let Some(other) = given.iter().find(|name| !keys.contains(&name.as_str())) {
        return Err(Fault::new(unknown("field", other, &keys)).field(other));
    }
    let has = |object: &&&'a Shape| object.fields().iter().any(|field| given.iter().any(|name| **name == field.name));
    match (objects.iter().find(has), given.len()) {
        (Some(object), 1) => Ok(object),
        (_, n) => Err(Fault::new(format!("{n} fields; exactly one of {} is needed", listed(&keys)))),
    }
}

fn unknown_field(name: &str, fields: &[Field]) -> Fault {
    let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    // The right name at the wrong level is a likelier slip than a name that is only somewhat alike.
    let message = match deeper(name, fields).filter(|_| !is_slip(name, &known)) {
        Some(path) => format!("unknown field `{name}`; did you mean `{path}`?"),
        None => unknown("field", name, &known),
    };
    Fault::new(message).field(name)
}

/// Where below `fields` a field of this name stands.
fn deeper(name: &str, fields: &[Field]) -> Option<String> {
    let inner = |field: &Field| {
        let shapes: Vec<&Shape> = match &field.shape {
            Shape::OneOf(shapes) => shapes.iter().collect(),
            shape => vec![shape],
        };
        shapes.into_iter().find_map(|shape| {
            let (shape, index) = shape.entry().map_or((shape, ""), |entry| (entry, "[]"));
            let found = shape.fields().iter().any(|field| field.name == name).then(|| name.to_owned());
            let path = found.or_else(|| deeper(name, shape.fields()))?;
            Some(format!("{}{index}.{path}", field.name))
        })
    };
    fields.iter().find_map(inner)
}

fn missing(shape: &Shape) -> Fault {
    Fault::new(format!("this field is required: {}", shape.expected()))
}

/// A number as an integer within bounds. As in JSON Schema, `8.0` and `1e2` are integers.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn integer(number: &Number, least: i128, most: i128) -> Result<Number, String> {
    /// Integers beyond 64 bits reach us as the floating-point numbers next to them: from these on they are too large.
    const BEYOND: [f64; 2] = [-9_223_372_036_854_775_808.0, 18_446_744_073_709_551_616.0];
    let whole = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    let value = match (whole, number.as_f64()) {
        (Some(value), _) => Some(value),
        (None, Some(value)) if value.fract() != 0.0 => return Err(format!("{number} is not an integer")),
        (None, Some(value)) if BEYOND[0] < value && value < BEYOND[1] => Some(value as i128),
        _ => None,
    };
    match value.filter(|value| (least..=most).contains(value)) {
        Some(value) => Ok(u64::try_from(value).map_or_else(|_| Number::from(value as i64), Number::from)),
        None if most < u64::MAX.into() => Err(format!("{number} is outside {least}..={most}")),
        None if number.as_f64().is_some_and(|value| value < 1.0) => {
            Err(format!("{number} is below the minimum of {least}"))
        }
        None => Err(format!("{number} is above the maximum of {most}")),
    }
}

/// A bound as an error tells it: without dozens of zeros.
fn plain(bound: f64) -> String {
    if bound.abs() < 1e9 { bound.to_string() } else { format!("{bound:e}") }
}

/// A value as an error tells it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(text) => format!("the string {}", Value::from(cut(text))),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
