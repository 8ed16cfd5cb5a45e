//! What the concepts are called, as `concept_labels.parquet`.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::concepts::{CONCEPTS, Concept};

const SCHEMA: &str = "message labels {
    required int64 concept_id;
    required binary concept_name (utf8);
    required binary concept_description (utf8);
    required binary head (utf8);
    optional int64 public_group_id;
    optional binary group_name (utf8);
    required boolean is_steerable;
    required boolean is_tone;
    required boolean is_alignment;
    required boolean is_demographic;
}";

/// One row per known concept, with the columns of MODEL.md section 10. Unknown concepts have no rows: nobody named them.
pub(super) fn write(path: &Path) -> Result<()> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::builder().build()))?;
    let mut rows = writer.next_row_group()?;
    let text = |f: fn(&Concept) -> &str| CONCEPTS.iter().map(|concept| ByteArray::from(f(concept))).collect::<Vec<_>>();
    let flags = |f: fn(&Concept) -> bool| CONCEPTS.iter().map(f).collect::<Vec<_>>();
    let present = vec![1i16; CONCEPTS.len()];
    let mut column = 0;
    while let Some(mut next) = rows.next_column()? {
        match column {
            0 => {
                let ids: Vec<i64> = (0..CONCEPTS.len() as i64).collect();
                next.typed::<Int64Type>().write_batch(&ids, None, None)?;
            }
            4 => {
                let ids: Vec<i64> = CONCEPTS.iter().map(|concept| i64::from(concept.group.id)).collect();
                next.typed::<Int64Type>().write_batch(&ids, Some(&present), None)?;
            }
            1 => write_text(&mut next, &text(|concept| concept.name), None)?,
            2 => write_text(&mut next, &text(|concept| concept.description), None)?,
            3 => write_text(&mut next, &text(|_| "known"), None)?,
            5 => write_text(&mut next, &text(|concept| concept.group.name), Some(&present))?,
            6 => write_flags(&mut next, &flags(|concept| concept.flags.steerable))?,
            7 => write_flags(&mut next, &flags(|concept| concept.flags.tone))?,
            8 => write_flags(&mut next, &flags(|concept| concept.flags.alignment))?,
            _ => write_flags(&mut next, &flags(|concept| concept.flags.demographic))?,
        }
        next.close()?;
        column += 1;
    }
    rows.close()?;
    writer.close()?;
    Ok(())
}

type Column<'a> = parquet::file::writer::SerializedColumnWriter<'a>;

fn write_text(column: &mut Column<'_>, values: &[ByteArray], present: Option<&[i16]>) -> Result<()> {
    column.typed::<ByteArrayType>().write_batch(values, present, None)?;
    Ok(())
}

fn write_flags(column: &mut Column<'_>, values: &[bool]) -> Result<()> {
    column.typed::<BoolType>().write_batch(values, None, None)?;
    Ok(())
}
