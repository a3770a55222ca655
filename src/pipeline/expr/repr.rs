//! Values as Python's `repr` writes them, for people. Characters beyond ASCII are escaped by Rust's notion of
//! what can be printed, which is close to Python's.

use std::fmt::{self, Write as _};

use super::value::Value;

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(integer) => write!(f, "{integer}"),
            Self::Float(float) => write_float(f, *float),
            Self::Str(text) => write_text(f, text),
            Self::List(items) => write_items(f, "[", items, "]"),
            Self::Set(items) => write_items(f, "{", items, "}"),
            Self::Tuple(items) => write_items(f, "(", items, if items.len() == 1 { ",)" } else { ")" }),
            Self::Dict(dict) => {
                f.write_char('{')?;
                for (index, (key, value)) in dict.entries().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{key}: {value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

fn write_items(f: &mut fmt::Formatter<'_>, open: &str, items: &[Value<'_>], close: &str) -> fmt::Result {
    f.write_str(open)?;
    for (index, item) in items.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    f.write_str(close)
}

/// The shortest digits that read back as the same float, with an exponent from 1e16 on and below 1e-4.
fn write_float(f: &mut fmt::Formatter<'_>, float: f64) -> fmt::Result {
    if float.is_nan() {
        return f.write_str("nan");
    }
    if float.is_infinite() {
        return f.write_str(if float > 0.0 { "inf" } else { "-inf" });
    }
    if float == 0.0 || (1e-4..1e16).contains(&float.abs()) {
        return write!(f, "{float:?}");
    }
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    write!(f, "{digits}e{sign}{:02}", exponent.abs())
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    f.write_char(quote)?;
    for character in text.chars() {
        match character {
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            _ if character == quote => write!(f, "\\{quote}")?,
            _ if !character.is_control() => f.write_char(character)?,
            _ => write!(f, "\\x{:02x}", u32::from(character))?,
        }
    }
    f.write_char(quote)
}

#[cfg(test)]
mod tests {
    use super::super::{Context, Expression};
    use crate::python;
    use crate::reading::Reading;

    #[test]
    fn values_are_written_as_python_writes_them() {
        let texts = [
            "None",
            "1 < 2",
            "-7",
            "2 ** 100",
            "0.1 + 0.2",
            "1e16",
            "1.5e300",
            "1e15",
            "1e-4",
            "0.00001234",
            "-0.0",
            "1e308 * 10",
            "-(1e308 * 10)",
            "1e308 * 10 - 1e308 * 10",
            "'plain'",
            r#""it's""#,
            r#"'"'"#,
            r#"'both \' and "'"#,
            r"'\\ \n \t \r \x00 \x7f \x9f ü 水'",
            "[]",
            "[1, 2.0, 'a']",
            "()",
            "(1,)",
            "(1, [True, None])",
            "{}",
            "{'a': 1, 2: (3,)}",
        ];
        let theirs =
            python::answers("import sys\nfor line in sys.stdin: print(repr(eval(line)))", texts.join("\n"));
        let reading = Reading { sensor_name: "x", timestamp: 0.0, value: 0.0, unit: "", metadata: "{}" };
        let ours = texts.map(|text| {
            let expression = Expression::compile(text).unwrap();
            format!("{}\n", expression.evaluate(&Context::new(reading)).unwrap())
        });
        assert_eq!(ours.concat(), theirs);
    }
}
