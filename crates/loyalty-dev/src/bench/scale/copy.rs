//! COPY in PostgreSQL's binary format.

use anyhow::Result;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::SinkExt as _;
use std::pin::Pin;
use tokio_postgres::{Client, CopyInSink};

/// Sent at once: enough that sending costs little.
const CHUNK: usize = 256 * 1024;

const DATE: u32 = 1082;
const BIGINT: u32 = 20;

/// One COPY under way.
pub struct Copy {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: BytesMut,
}

impl Copy {
    /// Begins; the server has looked at the table when this returns.
    pub async fn begin(client: &Client, table: &str, columns: &str) -> Result<Self> {
        let sql = format!("copy {table} ({columns}) from stdin (format binary)");
        let sink = Box::pin(client.copy_in(&sql).await?);
        let mut buffer = BytesMut::with_capacity(CHUNK + 4096);
        buffer.put_slice(b"PGCOPY\n\xff\r\n\0");
        // No flags, no extension of the header.
        buffer.put_i32(0);
        buffer.put_i32(0);
        Ok(Self { sink, buffer })
    }

    /// A row of so many columns, to be filled in that order.
    pub fn row(&mut self, columns: i16) -> Row<'_> {
        self.buffer.put_i16(columns);
        Row(&mut self.buffer)
    }

    /// Sends what has come together, if it is enough.
    pub async fn flush(&mut self) -> Result<()> {
        if self.buffer.len() >= CHUNK {
            let full = self.buffer.split().freeze();
            self.sink.send(full).await?;
            self.buffer.reserve(CHUNK + 4096);
        }
        Ok(())
    }

    /// Ends it, and tells how many rows were written.
    pub async fn end(mut self) -> Result<u64> {
        self.buffer.put_i16(-1);
        self.sink.send(self.buffer.split().freeze()).await?;
        Ok(self.sink.as_mut().finish().await?)
    }
}

/// The columns of a row, one after the other.
pub struct Row<'a>(&'a mut BytesMut);

impl Row<'_> {
    /// A bigint, or a timestamptz in microseconds since 2000.
    pub fn i64(self, value: i64) -> Self {
        self.0.put_i32(8);
        self.0.put_i64(value);
        self
    }

    /// An integer, or a date in days since 2000.
    pub fn i32(self, value: i32) -> Self {
        self.0.put_i32(4);
        self.0.put_i32(value);
        self
    }

    pub fn maybe_i32(self, value: Option<i32>) -> Self {
        match value {
            Some(value) => self.i32(value),
            None => self.null(),
        }
    }

    /// A text, or an enum's label.
    pub fn text(self, value: &str) -> Self {
        self.0.put_i32(value.len() as i32);
        self.0.put_slice(value.as_bytes());
        self
    }

    pub fn jsonb(self, value: &str) -> Self {
        self.0.put_i32(value.len() as i32 + 1);
        // The version of the format.
        self.0.put_u8(1);
        self.0.put_slice(value.as_bytes());
        self
    }

    pub fn null(self) -> Self {
        self.0.put_i32(-1);
        self
    }

    /// A date[].
    pub fn dates(mut self, values: &[i32]) -> Self {
        self.array(DATE, values.len(), 4);
        for value in values {
            self.0.put_i32(4);
            self.0.put_i32(*value);
        }
        self
    }

    /// A bigint[].
    pub fn i64s(mut self, values: &[i64]) -> Self {
        self.array(BIGINT, values.len(), 8);
        for value in values {
            self.0.put_i32(8);
            self.0.put_i64(*value);
        }
        self
    }

    fn array(&mut self, of: u32, length: usize, width: usize) {
        let dimensions = i32::from(length > 0);
        self.0
            .put_i32(12 + dimensions * 8 + (length * (4 + width)) as i32);
        self.0.put_i32(dimensions);
        // No nulls.
        self.0.put_i32(0);
        self.0.put_u32(of);
        if length > 0 {
            self.0.put_i32(length as i32);
            self.0.put_i32(1);
        }
    }
}
