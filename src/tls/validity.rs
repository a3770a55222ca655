//! Until when a certificate is valid: a walk through its DER to that one field (RFC 5280, section 4.1).
//! A parser of whole certificates would cost more code than it is worth here.

use time::{Date, Month, PrimitiveDateTime, Time};

/// Unix seconds of `notAfter`; `None` when `der` is no certificate.
pub fn expires_at(der: &[u8]) -> Option<f64> {
    let (certificate, _) = value(der, SEQUENCE)?;
    let (mut rest, _) = value(certificate, SEQUENCE)?;
    if let Some((_, after)) = value(rest, VERSION) {
        rest = after;
    }
    // Serial number, algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = value(rest, tag)?.1;
    }
    let (validity, _) = value(rest, SEQUENCE)?;
    let (_, not_after) = element(validity)?;
    let ((tag, text), _) = element(not_after)?;
    unix_seconds(tag, std::str::from_utf8(text).ok()?)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`; the first is 1950 to 2049.
fn unix_seconds(tag: u8, text: &str) -> Option<f64> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year: i32 = digits[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, &digits[4..]),
        _ => return None,
    };
    let part = |index: usize| rest[2 * index..2 * index + 2].parse::<u8>().ok();
    let date = Date::from_calendar_date(year, Month::try_from(part(0)?).ok()?, part(1)?).ok()?;
    let time = Time::from_hms(part(2)?, part(3)?, part(4)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp() as f64)
}

/// The content of the first element when it has this tag, and what follows it.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let ((found, content), rest) = element(der)?;
    (found == tag).then_some((content, rest))
}

/// Tag and content of the first element, and what follows it.
#[expect(clippy::type_complexity, reason = "two names for it would say no more")]
fn element(der: &[u8]) -> Option<((u8, &[u8]), &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        if bytes.is_empty() || bytes.len() > LENGTH_BYTES_MAX {
            return None;
        }
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some(((tag, content), rest))
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, explicit.
const VERSION: u8 = 0xa0;
/// 16 MiB.
const LENGTH_BYTES_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(["example.com".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1990, 1, 1);
        params.not_after = date_time_ymd(year, 3, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_is_found_in_both_forms_of_time() {
        assert_eq!(expires_at(&certificate(2030)), Some(1_898_553_600.0));
        assert_eq!(expires_at(&certificate(2060)), Some(2_845_324_800.0));
        assert_eq!(expires_at(&certificate(1999)), Some(920_246_400.0));
    }

    #[test]
    fn no_garbage_and_no_part_of_a_certificate_is_taken_for_one() {
        let whole = certificate(2030);
        for length in 0..whole.len() {
            assert_eq!(expires_at(&whole[..length]), None, "{length}");
        }
        for text in ["240231000000Z", "24020100000", "2402010000000Z", "24ab01000000Z", "240201250000Z"] {
            assert_eq!(unix_seconds(UTC_TIME, text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_bytes_it_ends(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            expires_at(&bytes);
        }
    }
}
