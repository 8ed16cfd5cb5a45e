//! The columns of `concept_labels.parquet`: which are read, and of which types they may be.

use std::sync::Arc;

use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::schema::types::Type;

/// What a column must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    /// Integers, also as floating-point numbers: so pandas writes a column of integers that has gaps.
    Number,
    Text,
    Boolean,
}

/// A column that is read; its number is its place in [`COLUMNS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Id,
    Head,
    Name,
    Description,
    GroupId,
    GroupName,
    Steerable,
    Tone,
    Alignment,
    Demographic,
}

use Column as C;

/// Name in the file, kind, and whether a file without it is refused. The order is that of [`Column`].
pub(super) const COLUMNS: [(Column, &str, Kind, bool); 10] = [
    (C::Id, "concept_id", Kind::Integer, true),
    (C::Head, "head", Kind::Text, true),
    (C::Name, "concept_name", Kind::Text, true),
    (C::Description, "concept_description", Kind::Text, false),
    (C::GroupId, "public_group_id", Kind::Number, false),
    (C::GroupName, "group_name", Kind::Text, false),
    (C::Steerable, "is_steerable", Kind::Boolean, false),
    (C::Tone, "is_tone", Kind::Boolean, false),
    (C::Alignment, "is_alignment", Kind::Boolean, false),
    (C::Demographic, "is_demographic", Kind::Boolean, false),
];

/// The columns to read, and the part of the file's schema that they make up.
pub(super) fn select(root: &Type) -> Result<(Vec<Column>, Type), String> {
    let (mut columns, mut fields) = (Vec::new(), Vec::new());
    for (column, name, kind, required) in COLUMNS {
        let mut found = root.get_fields().iter().filter(|field| field.name() == name);
        let Some(field) = found.next() else {
            if required {
                let names: Vec<_> = root.get_fields().iter().map(|field| field.name()).collect();
                return Err(format!("column `{name}` is missing; the file has {}", names.join(", ")));
            }
            continue;
        };
        if found.next().is_some() {
            return Err(format!("column `{name}` exists twice"));
        }
        check_type(field, kind).map_err(|message| format!("column `{name}`: {message}"))?;
        columns.push(column);
        fields.push(Arc::clone(field));
    }
    let projection = Type::group_type_builder(root.name()).with_fields(fields).build();
    Ok((columns, projection.map_err(|error| error.to_string())?))
}

/// Refuses what the row reader would not give as the expected kind of value.
fn check_type(field: &Type, kind: Kind) -> Result<(), String> {
    use ConvertedType as T;
    let expected = match kind {
        Kind::Integer => "integers",
        Kind::Number => "integers (or floating-point numbers that are integers)",
        Kind::Text => "text",
        Kind::Boolean => "booleans",
    };
    if !field.is_primitive() {
        return Err(format!("found nested values, expected {expected}"));
    }
    let (physical, converted) = (field.get_physical_type(), field.get_basic_info().converted_type());
    let integer = match physical {
        Physical::INT32 => {
            matches!(converted, T::NONE | T::INT_8 | T::INT_16 | T::INT_32 | T::UINT_8 | T::UINT_16 | T::UINT_32)
        }
        Physical::INT64 => matches!(converted, T::NONE | T::INT_64 | T::UINT_64),
        _ => false,
    };
    let fits = match kind {
        Kind::Integer => integer,
        Kind::Number => integer || matches!(physical, Physical::FLOAT | Physical::DOUBLE),
        Kind::Text => physical == Physical::BYTE_ARRAY && matches!(converted, T::NONE | T::UTF8),
        Kind::Boolean => physical == Physical::BOOLEAN,
    };
    if !fits {
        return Err(format!("found {physical} ({converted}), expected {expected}"));
    }
    if field.get_basic_info().repetition() == Repetition::REPEATED {
        return Err(format!("found lists, expected {expected}"));
    }
    Ok(())
}
