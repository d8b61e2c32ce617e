//! Rows of entities as a stream: NDJSON, CSV, or Arrow, piece by piece and in bounded memory.
//!
//! The next piece is made when the client has taken the last, by the threads for bulk work (T4). A stream that cannot go on
//! breaks off, so that nobody takes a part for the whole.

use super::{
    App,
    media::{self, ARROW, CSV, NDJSON},
    problem::Problem,
    query::{Asking, READER_PATIENCE, piece},
};
use arrow_array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use everworld_engine::{
    Image,
    column::Scalar,
    query::{Cell, ChunkRows, FoundRow, Leaf, LeafKind, chunks_of},
};
use hyper::body::Frame;
use serde_json::Value;
use std::{
    io::Write as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Rows of a stream that are encoded at once: a townsman is told in some 2.6 kB, and each reader that does not read holds two
/// such pieces.
pub(super) const ROWS_AT_ONCE: usize = 32;
/// In columns they are worth more together.
const ROWS_AT_ONCE_ARROW: usize = 1_024;

/// How rows are told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Lines,
    Csv,
    Arrow,
}

impl Format {
    /// The one that a client asks for, if it asks for all rows.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        media::wanted(headers, &[NDJSON, CSV, ARROW]).map(|media| match media {
            CSV => Self::Csv,
            ARROW => Self::Arrow,
            _ => Self::Lines,
        })
    }

    fn media(self) -> &'static str {
        match self {
            Self::Lines => NDJSON,
            Self::Csv => CSV,
            Self::Arrow => ARROW,
        }
    }

    fn encoder(self, asking: &Asking) -> Result<Box<dyn Encoder>, Problem> {
        let leaves = || asking.select.leaves(&asking.registry);
        Ok(match self {
            Self::Lines => Box::new(Lines),
            Self::Csv => Box::new(Csv { leaves: leaves(), is_begun: false }),
            Self::Arrow => Box::new(Arrow::new(leaves()).map_err(|_| Problem::failed("no Arrow schema"))?),
        })
    }

    fn rows_at_once(self) -> usize {
        if self == Self::Arrow { ROWS_AT_ONCE_ARROW } else { ROWS_AT_ONCE }
    }
}

/// Makes bytes of rows.
trait Encoder: Send {
    fn rows(&mut self, asking: &Asking, image: &Image, rows: &[FoundRow]) -> Result<Vec<u8>, BrokenOff>;

    /// What comes behind the last row.
    fn end(&mut self) -> Result<Vec<u8>, BrokenOff>;
}

/// The stream cannot go on: its connection is closed, as nothing else tells a client behind a status of 200.
#[derive(Debug, thiserror::Error)]
#[error("the rows broke off")]
pub(super) struct BrokenOff;

/// All rows of a view.
pub(super) fn stream(
    app: Arc<App>,
    asking: Asking,
    image: Arc<Image>,
    format: Format,
    permit: OwnedSemaphorePermit,
) -> Result<Response, Problem> {
    let (send, receive) = mpsc::channel::<Result<Bytes, BrokenOff>>(1);
    let encoder = format.encoder(&asking)?;
    tokio::spawn(async move {
        let _permit = permit;
        if tell(&app, &asking, &image, (format, encoder), &send).await.is_some() {
            // All of it. Without this, whatever the reason, the body breaks off.
            let _ = tokio::time::timeout(READER_PATIENCE, send.send(Ok(Bytes::new()))).await;
        }
    });
    Ok(([(header::CONTENT_TYPE, format.media())], Body::new(Pieces::whole(receive))).into_response())
}

/// None when the stream cannot go on.
async fn tell(
    app: &App,
    asking: &Asking,
    image: &Arc<Image>,
    (format, mut encoder): (Format, Box<dyn Encoder>),
    send: &mpsc::Sender<Result<Bytes, BrokenOff>>,
) -> Option<()> {
    let tell = async |bytes: Vec<u8>| {
        if bytes.is_empty() {
            return Some(());
        }
        // A client that went away, or takes nothing.
        tokio::time::timeout(READER_PATIENCE, send.send(Ok(bytes.into()))).await.ok()?.ok()
    };
    for place in chunks_of(image) {
        let mut rest = None;
        loop {
            let begun = Instant::now();
            let encode = move |asking: &Asking, image: &Image| {
                let mut rest: ChunkRows = rest.unwrap_or_else(|| asking.filter.rows(image, place));
                let rows = rest.take(image, format.rows_at_once());
                let bytes = encoder.rows(asking, image, &rows);
                (bytes, (!rest.is_empty()).then_some(rest), encoder)
            };
            let (bytes, left, given_back) = piece(app, asking, image, encode).await?;
            (rest, encoder) = (left, given_back);
            tell(bytes.ok()?).await?;
            if rest.is_none() {
                break;
            }
            // What the tick feels of a stream is its CPU: two thirds of the time it rests.
            tokio::time::sleep(2 * begun.elapsed()).await;
        }
    }
    tell(encoder.end().ok()?).await
}

struct Lines;

impl Encoder for Lines {
    fn rows(&mut self, asking: &Asking, image: &Image, rows: &[FoundRow]) -> Result<Vec<u8>, BrokenOff> {
        let mut bytes = Vec::with_capacity(rows.len() * 256);
        for row in rows {
            let entity = asking.select.entity(image, &asking.registry, row);
            serde_json::to_writer(&mut bytes, &entity).map_err(|_| BrokenOff)?;
            bytes.push(b'\n');
        }
        Ok(bytes)
    }

    fn end(&mut self) -> Result<Vec<u8>, BrokenOff> {
        Ok(Vec::new())
    }
}

/// A header of `uid` and the fields by their paths, then a line for each entity; what it lacks is empty (RFC 4180).
struct Csv {
    leaves: Vec<Leaf>,
    is_begun: bool,
}

impl Csv {
    fn begin(&mut self, writer: &mut csv::Writer<Vec<u8>>) -> csv::Result<()> {
        if std::mem::replace(&mut self.is_begun, true) {
            return Ok(());
        }
        writer.write_field("uid")?;
        self.leaves.iter().try_for_each(|leaf| writer.write_field(leaf.path.join(".")))?;
        writer.write_record(None::<&[u8]>)
    }

    fn write(&mut self, asking: &Asking, image: &Image, rows: &[FoundRow]) -> csv::Result<Vec<u8>> {
        let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
        self.begin(&mut writer)?;
        let mut columns: Vec<_> = self
            .leaves
            .iter()
            .map(|leaf| {
                (leaf.kind, leaf.cells(image, &asking.registry, rows).collect::<Vec<_>>().into_iter())
            })
            .collect();
        let mut field = Vec::new();
        for row in rows {
            writer.write_field(row.uid.to_string())?;
            for (kind, cells) in &mut columns {
                field.clear();
                if let Some(cell) = cells.next() {
                    push_text(*kind, &cell, &mut field);
                }
                writer.write_field(&field)?;
            }
            writer.write_record(None::<&[u8]>)?;
        }
        writer.into_inner().map_err(|error| error.into_error().into())
    }
}

impl Encoder for Csv {
    fn rows(&mut self, asking: &Asking, image: &Image, rows: &[FoundRow]) -> Result<Vec<u8>, BrokenOff> {
        self.write(asking, image, rows).map_err(|_| BrokenOff)
    }

    fn end(&mut self) -> Result<Vec<u8>, BrokenOff> {
        // Of nobody there is the header.
        let mut writer = csv::Writer::from_writer(Vec::new());
        self.begin(&mut writer).map_err(|_| BrokenOff)?;
        writer.into_inner().map_err(|_| BrokenOff)
    }
}

/// Writes a value as text: as JSON has it, but for quotes around names. False where there is none.
fn push_text(kind: LeafKind, cell: &Cell, text: &mut Vec<u8>) -> bool {
    // Writing into memory does not fail, and none of these is anything that JSON does not have.
    let _ = match (cell, kind) {
        (Cell::Missing | Cell::Json(Value::Null), _) => return false,
        (Cell::Name(name), _) => text.write_all(name.as_bytes()),
        (Cell::Whole(number), _) => write!(text, "{number}"),
        // In as few digits as read as the same number of 32 bits.
        (Cell::Float(number), LeafKind::Number(Scalar::F32)) => {
            serde_json::to_writer(text, &(*number as f32)).map_err(Into::into)
        }
        (Cell::Float(number), _) => serde_json::to_writer(text, number).map_err(Into::into),
        (Cell::Json(value), _) => serde_json::to_writer(text, value).map_err(Into::into),
    };
    true
}

/// The Arrow IPC streaming format: the schema, then batches of rows; what an entity lacks is null.
struct Arrow {
    leaves: Vec<Leaf>,
    schema: SchemaRef,
    writer: StreamWriter<Vec<u8>>,
}

impl Arrow {
    fn new(leaves: Vec<Leaf>) -> Result<Self, ArrowError> {
        let mut fields = vec![Field::new("uid", DataType::UInt64, false)];
        fields.extend(leaves.iter().map(|leaf| {
            let kind = match leaf.kind {
                LeafKind::Number(Scalar::F32) => DataType::Float32,
                LeafKind::Number(Scalar::F64) => DataType::Float64,
                LeafKind::Number(Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64 | Scalar::Uid) => {
                    DataType::UInt64
                }
                LeafKind::Number(_) => DataType::Int64,
                LeafKind::Label | LeafKind::Json => DataType::Utf8,
            };
            Field::new(leaf.path.join("."), kind, true)
        }));
        let schema: SchemaRef = Schema::new(fields).into();
        let writer = StreamWriter::try_new(Vec::new(), &schema)?;
        Ok(Self { leaves, schema, writer })
    }

    fn write(&mut self, asking: &Asking, image: &Image, rows: &[FoundRow]) -> Result<(), ArrowError> {
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(rows.iter().map(|row| row.uid.get()).collect::<UInt64Array>())];
        for (leaf, field) in self.leaves.iter().zip(&self.schema.fields()[1..]) {
            let cells = leaf.cells(image, &asking.registry, rows);
            let float = |cell| if let Cell::Float(number) = cell { Some(number) } else { None };
            let whole = |cell| if let Cell::Whole(number) = cell { Some(number) } else { None };
            let text = |cell| {
                let mut text = Vec::new();
                push_text(leaf.kind, &cell, &mut text).then(|| String::from_utf8(text).ok()).flatten()
            };
            columns.push(match field.data_type() {
                DataType::Float32 => Arc::new(
                    cells.map(|cell| float(cell).map(|number| number as f32)).collect::<Float32Array>(),
                ),
                DataType::Float64 => Arc::new(cells.map(float).collect::<Float64Array>()),
                DataType::UInt64 => {
                    Arc::new(cells.map(|cell| u64::try_from(whole(cell)?).ok()).collect::<UInt64Array>())
                }
                DataType::Int64 => {
                    Arc::new(cells.map(|cell| i64::try_from(whole(cell)?).ok()).collect::<Int64Array>())
                }
                _ => Arc::new(cells.map(text).collect::<StringArray>()),
            });
        }
        self.writer.write(&RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Encoder for Arrow {
    fn rows(&mut self, asking: &Asking, image: &Image, rows: &[FoundRow]) -> Result<Vec<u8>, BrokenOff> {
        if !rows.is_empty() {
            self.write(asking, image, rows).map_err(|_| BrokenOff)?;
        }
        Ok(std::mem::take(self.writer.get_mut()))
    }

    fn end(&mut self) -> Result<Vec<u8>, BrokenOff> {
        self.writer.finish().map_err(|_| BrokenOff)?;
        Ok(std::mem::take(self.writer.get_mut()))
    }
}

/// A body of what comes through a channel.
pub(super) struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, BrokenOff>>,
    /// It must say when it is whole, by a piece without bytes.
    must_end: bool,
}

impl Pieces {
    /// Of a stream that ends when there is no more.
    pub(super) fn endless(pieces: mpsc::Receiver<Result<Bytes, BrokenOff>>) -> Self {
        Self { pieces, must_end: false }
    }

    fn whole(pieces: mpsc::Receiver<Result<Bytes, BrokenOff>>) -> Self {
        Self { pieces, must_end: true }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.pieces.poll_recv(context).map(|piece| match piece {
            Some(Ok(bytes)) if bytes.is_empty() => None,
            Some(piece) => Some(piece.map(Frame::data)),
            None if self.must_end => Some(Err(BrokenOff)),
            None => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn what_is_not_said_to_be_whole_breaks_off() {
        let body = |pieces: &[&'static str], must_end| {
            let (send, receive) = mpsc::channel(4);
            for piece in pieces {
                send.try_send(Ok(Bytes::from_static(piece.as_bytes()))).unwrap();
            }
            Pieces { pieces: receive, must_end }.collect()
        };
        assert_eq!(body(&["a", "b", ""], true).await.unwrap().to_bytes(), "ab");
        assert!(body(&["a", "b"], true).await.is_err());
        assert_eq!(body(&["a", "b"], false).await.unwrap().to_bytes(), "ab");
    }
}
