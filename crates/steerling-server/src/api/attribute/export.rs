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
    let names: Vec<String> = table.iter().map(|(name, _)| text_cell(name)).collect();
    let mut text = names.join(",") + "\r\n";
    for row in 0..table.first().map_or(0, |(_, column)| column.len()) {
        let cells: Vec<String> = table.iter().map(|(_, column)| column.cell(row)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

/// Characters at the start of a cell that make spreadsheets take it for a formula, as OWASP lists them (CSV injection).
const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '\u{FF1D}', '\u{FF0B}', '\u{FF0D}', '\u{FF20}'];
/// Characters for which a cell is quoted: those of RFC 4180, and other separators that spreadsheets split at.
const QUOTED: [char; 6] = ['"', ',', ';', '\t', '\r', '\n'];

/// A text as RFC 4180 has it; what would be a formula begins with a single quote, so that spreadsheets show it as text.
fn text_cell(text: &str) -> String {
    let guard = if text.starts_with(FORMULA) { "'" } else { "" };
    if guard.is_empty() && !text.contains(QUOTED) {
        return text.to_owned();
    }
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Integer(values) => values.len(),
            Self::Real(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    fn cell(&self, row: usize) -> String {
        match self {
            Self::Integer(values) => values[row].to_string(),
            Self::Real(values) => values[row].to_string(),
            Self::Text(values) => text_cell(&values[row]),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_cell_or_header_starts_a_formula_and_numbers_stay_numbers() {
        let texts =
            ["=1+1", "+1", "-x", "@SUM(A1)", "\tx", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠x", " =1", "a;=1", "=\"\""];
        let n = texts.len();
        let table: Table = vec![
            ("=name", Column::Text(texts.map(str::to_owned).to_vec())),
            ("integer", Column::Integer(vec![-3; n])),
            ("real", Column::Real(vec![-0.5; n])),
        ];
        let csv = csv(&table);
        assert!(csv.starts_with("\"'=name\",integer,real\r\n\"'=1+1\",-3,-0.5\r\n"), "{csv}");
        for text in texts {
            let guarded = !text.starts_with([' ', 'a']);
            let cell = text_cell(text);
            let inner = cell.strip_prefix('"').and_then(|cell| cell.strip_suffix('"'));
            assert_eq!(guarded, inner.is_some_and(|inner| inner.starts_with('\'')), "{cell:?}");
            let read = inner.map_or(cell.clone(), |inner| inner.replace("\"\"", "\""));
            assert_eq!(read.trim_start_matches('\''), text, "the text itself stays");
        }
        assert_eq!(text_cell("a;=1"), "\"a;=1\"");
        assert_eq!(text_cell(" kettle"), " kettle");
        assert_eq!(text_cell("say \"x\", y"), "\"say \"\"x\"\", y\"");
    }

    #[test]
    fn a_parquet_table_has_texts_as_they_are() {
        use parquet::file::reader::{FileReader, SerializedFileReader};
        let table: Table = vec![("concept", Column::Text(vec!["=1+1".to_owned()]))];
        let bytes = axum::body::Bytes::from(parquet(&table).unwrap());
        let row = SerializedFileReader::new(bytes).unwrap().get_row_iter(None).unwrap().next().unwrap().unwrap();
        assert_eq!(row.get_column_iter().next().unwrap().1.to_string(), "\"=1+1\"");
    }
}
