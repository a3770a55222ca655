//! A frozen batch as a request body. The same batch gives the same bytes on every attempt and after
//! every restart, as long as the compression is not changed.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::GzEncoder;

use super::Compression;
use crate::store::FrozenBatch;

/// The bytes to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub body: Bytes,
    /// The value of `Content-Encoding`; `None` for plain JSON.
    pub content_encoding: Option<&'static str>,
}

/// Encodes `batch` as `{"batch_id":…,"timestamp":…,"count":…,"items":[…]}`.
///
/// # Errors
///
/// The compressor failed, which only lack of memory brings about: try again later.
pub fn encode(batch: &FrozenBatch, compression: Compression) -> io::Result<Encoded> {
    let mut body = json(batch)?;
    let content_encoding = match compression {
        Compression::None => None,
        Compression::Gzip => {
            let mut encoder =
                GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::default());
            encoder.write_all(&body)?;
            body = encoder.finish()?;
            Some("gzip")
        }
        Compression::Zstd => {
            body = zstd::bulk::compress(&body, ZSTD_LEVEL)?;
            Some("zstd")
        }
    };
    Ok(Encoded { body: body.into(), content_encoding })
}

fn json(batch: &FrozenBatch) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(batch.items.len() + batch.batch_id.len() + ENVELOPE_BYTES);
    body.extend_from_slice(b"{\"batch_id\":");
    serde_json::to_writer(&mut body, &batch.batch_id)?;
    body.extend_from_slice(b",\"timestamp\":");
    // JSON has no NaN; the store stamps with a clock, which never gives one.
    let timestamp = if batch.timestamp.is_finite() { batch.timestamp } else { 0.0 };
    body.extend_from_slice(ryu::Buffer::new().format_finite(timestamp).as_bytes());
    write!(body, ",\"count\":{},\"items\":[", batch.key.count())?;
    body.extend_from_slice(&batch.items);
    body.extend_from_slice(b"]}");
    Ok(body)
}

/// Level 3 is zstd's own default; higher ones cost a small board more than they save on the line.
const ZSTD_LEVEL: i32 = 3;
/// Room for the names, the numbers and the quotes around the items.
const ENVELOPE_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::store::{BatchKey, Lane};

    fn batch() -> FrozenBatch {
        FrozenBatch {
            key: BatchKey { lane: Lane::Telemetry, first: 7, last: 8 },
            batch_id: "d1-3-7-8".to_owned(),
            timestamp: 1_717_156_800.0,
            items: br#"{"value":1.0},{"value":2.0}"#.to_vec(),
            backlog: false,
        }
    }

    const JSON: &str =
        r#"{"batch_id":"d1-3-7-8","timestamp":1717156800.0,"count":2,"items":[{"value":1.0},{"value":2.0}]}"#;

    #[test]
    fn the_body_is_the_documented_one() {
        let encoded = encode(&batch(), Compression::None).unwrap();
        assert_eq!(encoded.body, JSON);
        assert_eq!(encoded.content_encoding, None);
    }

    #[test]
    fn compressed_bodies_hold_the_same_json() {
        let gzip = encode(&batch(), Compression::Gzip).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&gzip.body[..]).read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), gzip.content_encoding), (JSON, Some("gzip")));

        let zstd = encode(&batch(), Compression::Zstd).unwrap();
        let bytes = zstd::bulk::decompress(&zstd.body, 4096).unwrap();
        assert_eq!((bytes.as_slice(), zstd.content_encoding), (JSON.as_bytes(), Some("zstd")));
    }

    #[test]
    fn the_same_batch_gives_the_same_bytes() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            assert_eq!(encode(&batch(), compression).unwrap(), encode(&batch(), compression).unwrap());
        }
    }

    #[test]
    fn the_body_is_json_whatever_the_store_says() {
        let odd = FrozenBatch { batch_id: "a\"\n".to_owned(), timestamp: f64::NAN, ..batch() };
        let encoded = encode(&odd, Compression::None).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&encoded.body).unwrap();
        assert_eq!(value["batch_id"], "a\"\n");
        assert_eq!(value["timestamp"], 0.0);
    }
}
