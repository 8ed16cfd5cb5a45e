//! Attributions as tables.

use std::sync::Arc;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::errors::Result as ParquetResult;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::AttributeAnswer;
use super::request::Format;
use crate::api::attribution::{ShareBody, TokenBody};
use crate::error::ApiError;

/// The values of one column, one a row.
#[derive(Debug, Clone, PartialEq)]
enum Column {
    Integer(Vec<i64>),
    Real(Vec<f32>),
    Text(Vec<String>),
}

/// A table: named columns of the same length.
type Table = Vec<(&'static str, Column)>;

/// The answer as a file to keep: one row a target and input if inputs are attributed, else a token and concept.
pub(super) fn response(answer: &AttributeAnswer, format: Format) -> Result<Response, ApiError> {
    let table = match (&answer.inputs, &answer.tokens) {
        (Some(inputs), _) => input_table(inputs),
        (None, Some(tokens)) => concept_table(tokens),
        (None, None) => Vec::new(),
    };
    let (kind, name, bytes) = match format {
        Format::Parquet => {
            let bytes = parquet(&table).map_err(|error| {
                tracing::error!(%error, "a table could not be written");
                ApiError::internal()
            })?;
            ("application/vnd.apache.parquet", "attribution.parquet", bytes)
        }
        Format::Csv | Format::Json => ("text/csv; charset=utf-8", "attribution.csv", csv(&table).into_bytes()),
    };
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok((headers, bytes).into_response())
}

fn concept_table(tokens: &[TokenBody]) -> Table {
    let rows = || {
        tokens.iter().flat_map(|token| {
            let known = token.known.iter().map(|share| ("known", share));
            let unknown = token.unknown.iter().map(|share| ("unknown", share));
            known.chain(unknown).map(move |(head, share)| (token, head, share))
        })
    };
    type Row<'a> = (&'a TokenBody, &'static str, &'a ShareBody);
    let integers = |value: fn(Row<'_>) -> i64| Column::Integer(rows().map(value).collect());
    let reals = |value: fn(Row<'_>) -> f32| Column::Real(rows().map(value).collect());
    let texts = |value: fn(Row<'_>) -> String| Column::Text(rows().map(value).collect());
    vec![
        ("position", integers(|(token, ..)| token.position as i64)),
        ("token_id", integers(|(token, ..)| i64::from(token.id))),
        ("token", texts(|(token, ..)| token.text.clone())),
        ("step", integers(|(token, ..)| token.step as i64)),
        ("target_logit", reals(|(token, ..)| token.target_logit)),
        ("epsilon", reals(|(token, ..)| token.epsilon)),
        ("head", texts(|(_, head, _)| head.to_owned())),
        ("concept_id", integers(|(.., share)| i64::from(share.id))),
        ("concept_index", integers(|(.., share)| i64::from(share.index.unwrap_or(share.id)))),
        ("concept", texts(|(.., share)| share.name.clone())),
        ("weight", reals(|(.., share)| share.weight)),
        ("contribution", reals(|(.., share)| share.contribution)),
    ]
}

fn input_table(inputs: &super::Inputs) -> Table {
    let rows = || {
        inputs.targets.iter().flat_map(|target| {
            target.scores.iter().enumerate().map(move |(position, score)| (target, position, *score))
        })
    };
    vec![
        ("target_position", Column::Integer(rows().map(|(target, ..)| target.position as i64).collect())),
        ("target_id", Column::Integer(rows().map(|(target, ..)| i64::from(target.id)).collect())),
        ("position", Column::Integer(rows().map(|(_, position, _)| position as i64).collect())),
        ("token_id", Column::Integer(rows().map(|(_, position, _)| i64::from(inputs.ids[position])).collect())),
        ("score", Column::Real(rows().map(|(.., score)| score).collect())),
        ("logit_delta", Column::Real(rows().map(|(target, ..)| target.logit_delta).collect())),
    ]
}

fn csv(table: &Table) -> String {
    let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    let mut text = names.join(",") + "\r\n";
    for row in 0..table.first().map_or(0, |(_, column)| column.len()) {
        let cells: Vec<String> = table.iter().map(|(_, column)| column.cell(row)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Integer(values) => values.len(),
            Self::Real(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    /// As RFC 4180 has it.
    fn cell(&self, row: usize) -> String {
        match self {
            Self::Integer(values) => values[row].to_string(),
            Self::Real(values) => values[row].to_string(),
            Self::Text(values) if values[row].contains(['"', ',', '\n', '\r']) => {
                format!("\"{}\"", values[row].replace('"', "\"\""))
            }
            Self::Text(values) => values[row].clone(),
        }
    }

    fn kind(&self) -> (&'static str, &'static str) {
        match self {
            Self::Integer(_) => ("int64", ""),
            Self::Real(_) => ("float", ""),
            Self::Text(_) => ("binary", " (UTF8)"),
        }
    }
}

fn parquet(table: &Table) -> ParquetResult<Vec<u8>> {
    let fields: String = table
        .iter()
        .map(|(name, column)| {
            let (kind, logical) = column.kind();
            format!("required {kind} {name}{logical};\n")
        })
        .collect();
    let schema = Arc::new(parse_message_type(&format!("message attribution {{\n{fields}}}"))?);
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for (_, values) in table {
        let Some(mut column) = group.next_column()? else { break };
        match values {
            Column::Integer(values) => column.typed::<Int64Type>().write_batch(values, None, None)?,
            Column::Real(values) => column.typed::<FloatType>().write_batch(values, None, None)?,
            Column::Text(values) => {
                let values: Vec<ByteArray> = values.iter().map(|text| text.as_str().into()).collect();
                column.typed::<ByteArrayType>().write_batch(&values, None, None)?
            }
        };
        column.close()?;
    }
    group.close()?;
    writer.into_inner()
}
