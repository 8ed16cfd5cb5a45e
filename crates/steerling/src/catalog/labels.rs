//! `concept_labels.parquet` -> [`Table`], every row checked.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;

use super::columns::{COLUMNS, Column, Column as C, select};
use super::table::{Label, Table};
use super::{Flags, Head, LABELS_FILE};
use crate::{Error, ModelDir, Result};

/// Reads the labels of `known` and `unknown` concepts. Rows are counted from 0 in messages.
///
/// A file without `is_steerable` forbids nothing: all concepts may be steered. A file with that column speaks of what
/// may be steered, so a concept without a row may not. Columns of other names are not read.
pub(super) fn read(dir: &ModelDir, known: u32, unknown: u32) -> Result<Table> {
    let (path, content) = (dir.file(LABELS_FILE), dir.read(LABELS_FILE)?);
    // The parquet reader asserts some of what a file says of itself; a damaged file is an error like any other.
    std::panic::catch_unwind(|| read_rows(&path, content, known, unknown)).unwrap_or_else(|_| {
        Err(Error::Checkpoint { path: path.clone(), message: "not a usable parquet file: damaged".to_owned() })
    })
}

/// `path` is what errors call the content.
fn read_rows(path: &Path, content: Bytes, known: u32, unknown: u32) -> Result<Table> {
    let unusable = |message: String| Error::Checkpoint { path: path.to_owned(), message };
    let reader =
        SerializedFileReader::new(content).map_err(|error| unusable(format!("not a usable parquet file: {error}")))?;
    let root = reader.metadata().file_metadata().schema_descr().root_schema();
    let (columns, projection) = select(root).map_err(unusable)?;
    let says_steerable = columns.contains(&C::Steerable);
    let rows =
        RowIter::from_file(Some(projection), &reader).map_err(|error| unusable(format!("unreadable: {error}")))?;

    let mut labels = Labels { table: Table::new(known, unknown), groups: HashMap::new(), says_steerable };
    for (number, row) in rows.enumerate() {
        let row = row.map_err(|error| unusable(format!("row {number}: unreadable: {error}")))?;
        let mut cells = Cells([const { None }; COLUMNS.len()]);
        for (column, (_, field)) in columns.iter().zip(row.get_column_iter()) {
            cells.0[*column as usize] = Some(field);
        }
        labels.add(&cells).map_err(|message| unusable(format!("row {number}: {message}")))?;
    }
    let mut table = labels.table;
    if !table.generate_missing(Flags { steerable: !says_steerable, ..Flags::default() }) {
        return Err(unusable("names and descriptions together pass 4 GiB".to_owned()));
    }
    table.finish();
    Ok(table)
}

/// The values of one row; `None` where the file lacks the column.
struct Cells<'a>([Option<&'a Field>; COLUMNS.len()]);

impl Cells<'_> {
    /// The value, `None` if it is null or the column is absent.
    fn value(&self, column: Column) -> Option<&Field> {
        self.0[column as usize].filter(|field| !matches!(field, Field::Null))
    }

    fn text(&self, column: Column) -> Result<Option<&str>, String> {
        match self.value(column) {
            None => Ok(None),
            Some(Field::Str(text)) => Ok(Some(text)),
            Some(Field::Bytes(bytes)) => match std::str::from_utf8(bytes.data()) {
                Ok(text) => Ok(Some(text)),
                Err(error) => Err(cell(column, format!("found bytes that are no UTF-8 ({error}), expected text"))),
            },
            Some(other) => Err(cell(column, format!("found {other}, expected text"))),
        }
    }

    fn integer(&self, column: Column) -> Result<Option<i64>, String> {
        let Some(field) = self.value(column) else { return Ok(None) };
        let real = |x: f64| match x {
            _ if x.is_nan() => Ok(None),
            // Beyond 2^53 neighbouring integers are no longer told apart.
            _ if x.fract() == 0.0 && x.abs() <= 9_007_199_254_740_992.0 => Ok(Some(x as i64)),
            _ => Err(cell(column, format!("found {x}, expected an integer"))),
        };
        Ok(Some(match *field {
            Field::Byte(x) => x.into(),
            Field::Short(x) => x.into(),
            Field::Int(x) => x.into(),
            Field::Long(x) => x,
            Field::UByte(x) => x.into(),
            Field::UShort(x) => x.into(),
            Field::UInt(x) => x.into(),
            Field::ULong(x) => {
                i64::try_from(x).map_err(|_| cell(column, format!("found {x}, expected at most {}", i64::MAX)))?
            }
            Field::Float(x) => return real(x.into()),
            Field::Double(x) => return real(x),
            ref other => return Err(cell(column, format!("found {other}, expected an integer"))),
        }))
    }

    /// Null is false, as in the reference package.
    fn boolean(&self, column: Column) -> Result<bool, String> {
        match self.value(column) {
            None => Ok(false),
            Some(Field::Bool(value)) => Ok(*value),
            Some(other) => Err(cell(column, format!("found {other}, expected a boolean"))),
        }
    }
}

fn cell(column: Column, message: String) -> String {
    format!("column `{}`: {message}", COLUMNS[column as usize].1)
}

struct Labels {
    table: Table,
    /// Group id to the table's index.
    groups: HashMap<i64, u32>,
    says_steerable: bool,
}

impl Labels {
    fn add(&mut self, cells: &Cells<'_>) -> Result<(), String> {
        let id = self.id(cells)?;
        let group = match cells.integer(C::GroupId)? {
            None => None,
            Some(group) => {
                let table = &mut self.table;
                let index = *self.groups.entry(group).or_insert_with(|| table.add_group(group));
                if let Some(name) = cells.text(C::GroupName)? {
                    table.name_group(index, name);
                }
                Some(index)
            }
        };
        let flags = Flags {
            steerable: !self.says_steerable || cells.boolean(C::Steerable)?,
            tone: cells.boolean(C::Tone)?,
            alignment: cells.boolean(C::Alignment)?,
            demographic: cells.boolean(C::Demographic)?,
        };
        let name = cells.text(C::Name)?.filter(|name| !name.is_empty());
        let description = cells.text(C::Description)?.unwrap_or_default();
        if !self.table.fill(id, &Label { name, description, group, flags }) {
            return Err("names and descriptions together pass 4 GiB".to_owned());
        }
        Ok(())
    }

    /// The row's global id: within the config's counts, of the head that the row names, and new.
    fn id(&self, cells: &Cells<'_>) -> Result<u32, String> {
        let table = &self.table;
        let found = cells.integer(C::Id)?.ok_or_else(|| cell(C::Id, "found null, expected an id".to_owned()))?;
        let id = u32::try_from(found).ok().filter(|id| *id < table.len()).ok_or_else(|| {
            let (known, unknown) = (table.known(), table.len() - table.known());
            cell(
                C::Id,
                format!("found {found}, the config has ids 0..{} ({known} known, {unknown} unknown)", table.len()),
            )
        })?;
        let head = table.head(id);
        match cells.text(C::Head)? {
            Some(found) if found == head.as_str() => {}
            found => {
                let range = match head {
                    Head::Known => format!("below {}", table.known()),
                    Head::Unknown => format!("from {} on", table.known()),
                };
                let found = found.map_or("null".to_owned(), |text| format!("`{text}`"));
                return Err(cell(C::Head, format!("found {found} for id {id}, expected `{}` {range}", head.as_str())));
            }
        }
        if table.is_filled(id) {
            return Err(cell(C::Id, format!("found {id} a second time")));
        }
        Ok(id)
    }
}
