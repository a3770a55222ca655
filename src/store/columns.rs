//! Columns: what compresses in a block is not its text but how its lines differ. Lines are taken apart
//! into shapes, which repeat, and numbers, which are kept as differences to earlier ones. Exact for any
//! text: a number that would not come back letter by letter stays part of its shape.

use std::collections::HashMap;

/// The first byte of what [`pack`] makes; no JSON text begins with it.
pub const MARK: u8 = 1;
/// Stands for a number in a shape. JSON has no raw control characters.
const HOLE: u8 = 0;
/// Numbers of a line that are taken out; further ones stay in the shape.
const SLOTS_MAX: usize = 16;
/// A block with more shapes than this gains nothing.
const SHAPES_MAX: usize = 4096;
/// So that every number fits 63 bits.
const DIGITS_MAX: usize = 18;

/// A decimal number as it was written: `mantissa / 10^decimals`, all decimals shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Number {
    mantissa: i64,
    decimals: u8,
}

/// The columns of `lines`, each of which ends with a line break; `None` where they would not be shorter.
pub fn pack(lines: &[u8]) -> Option<Vec<u8>> {
    if lines.last() != Some(&b'\n') || lines.contains(&HOLE) {
        return None;
    }
    let table = Table::read(lines)?;
    let mut out = Vec::with_capacity(lines.len() / 4);
    out.push(MARK);
    push_varint(&mut out, table.shapes.len() as u64);
    for shape in &table.shapes {
        out.extend_from_slice(shape);
        out.push(b'\n');
    }
    push_varint(&mut out, table.rows.len() as u64);
    for row in &table.rows {
        push_varint(&mut out, u64::from(*row));
    }
    let layout = Layout::new(&table.shapes, &table.rows);
    for slot in 0..layout.slots_max() {
        let by_shape = table.repeats_by_shape(&layout, slot);
        out.push(u8::from(by_shape));
        layout.cells(slot).for_each(|cell| out.push(table.numbers[cell.number].decimals));
        let mut last = Last::new(&layout, by_shape);
        for cell in layout.cells(slot) {
            let number = table.numbers[cell.number];
            let expected = last.replace(cell.shape, number);
            push_varint(&mut out, zigzag(number.mantissa.wrapping_sub(expected)));
        }
    }
    (out.len() < lines.len()).then_some(out)
}

/// The lines that [`pack`] made `packed` of, which were `raw_bytes` long.
///
/// # Errors
///
/// What is wrong with `packed`.
pub fn unpack(packed: &[u8], raw_bytes: usize) -> Result<Vec<u8>, &'static str> {
    let mut input = Input(packed);
    if input.byte()? != MARK {
        return Err("it does not hold columns");
    }
    let count = input.count(SHAPES_MAX)?;
    let shapes = (0..count).map(|_| input.line()).collect::<Result<Vec<_>, _>>()?;
    let count = input.count(raw_bytes)?;
    let mut rows = Vec::with_capacity(count.min(packed.len()));
    for _ in 0..count {
        rows.push(u32::try_from(input.count(shapes.len().saturating_sub(1))?).map_err(|_| TOO_LARGE)?);
    }
    // A number takes at least the room of its hole, a line at least its break: this bounds the memory.
    let bytes_min: usize = rows.iter().map(|row| shapes.get(*row as usize).map_or(0, |s| s.len() + 1)).sum();
    if rows.iter().any(|row| *row as usize >= shapes.len()) || bytes_min > raw_bytes {
        return Err("its lines do not fit its size");
    }
    let layout = Layout::new(&shapes, &rows);
    let mut numbers = vec![Number::default(); layout.numbers];
    for slot in 0..layout.slots_max() {
        let by_shape = input.byte()? != 0;
        for cell in layout.cells(slot) {
            numbers[cell.number].decimals = input.byte()?;
            if usize::from(numbers[cell.number].decimals) >= DIGITS_MAX {
                return Err("a number has too many decimals");
            }
        }
        let mut last = Last::new(&layout, by_shape);
        for cell in layout.cells(slot) {
            let number = &mut numbers[cell.number];
            number.mantissa =
                last.expect(cell.shape, number.decimals).wrapping_add(unzigzag(input.varint()?));
            last.replace(cell.shape, *number);
        }
    }
    if !input.0.is_empty() {
        return Err("something follows its columns");
    }
    write_lines(&shapes, &rows, &numbers, raw_bytes)
}

fn write_lines(
    shapes: &[&[u8]],
    rows: &[u32],
    numbers: &[Number],
    raw_bytes: usize,
) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(raw_bytes);
    let mut numbers = numbers.iter();
    for row in rows {
        for (index, text) in shapes[*row as usize].split(|byte| *byte == HOLE).enumerate() {
            if index > 0 {
                push_number(&mut out, *numbers.next().ok_or("a number is missing")?);
            }
            out.extend_from_slice(text);
        }
        out.push(b'\n');
        if out.len() > raw_bytes {
            break;
        }
    }
    if out.len() == raw_bytes { Ok(out) } else { Err("it is not as long as it should be") }
}

/// The lines, taken apart.
struct Table {
    shapes: Vec<Vec<u8>>,
    /// The shape of each line.
    rows: Vec<u32>,
    /// Of all lines in order.
    numbers: Vec<Number>,
}

impl Table {
    fn read(lines: &[u8]) -> Option<Self> {
        let mut known: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut table = Self { shapes: Vec::new(), rows: Vec::new(), numbers: Vec::new() };
        let mut shape = Vec::new();
        for line in lines[..lines.len() - 1].split(|byte| *byte == b'\n') {
            shape.clear();
            take_apart(line, &mut shape, &mut table.numbers);
            let row = match known.get(&shape) {
                Some(row) => *row,
                None if table.shapes.len() == SHAPES_MAX => return None,
                None => {
                    let row = u32::try_from(table.shapes.len()).expect("there are few shapes");
                    table.shapes.push(shape.clone());
                    known.insert(shape.clone(), row);
                    row
                }
            };
            table.rows.push(row);
        }
        Some(table)
    }

    /// Whether the numbers of `slot` are nearer to the last one of their own shape, as values of a
    /// sensor are, than to that of the line before, as times are.
    fn repeats_by_shape(&self, layout: &Layout, slot: usize) -> bool {
        let bits = |by_shape| -> u64 {
            let mut last = Last::new(layout, by_shape);
            layout
                .cells(slot)
                .map(|cell| {
                    let number = self.numbers[cell.number];
                    let expected = last.replace(cell.shape, number);
                    u64::from(64 - zigzag(number.mantissa.wrapping_sub(expected)).leading_zeros())
                })
                .sum()
        };
        bits(true) < bits(false)
    }
}

/// Where the numbers of each line are.
struct Layout<'r> {
    rows: &'r [u32],
    /// Numbers in a line of each shape.
    slots: Vec<usize>,
    numbers: usize,
}

/// A number in its place.
struct Cell {
    shape: usize,
    number: usize,
}

impl<'r> Layout<'r> {
    fn new(shapes: &[impl AsRef<[u8]>], rows: &'r [u32]) -> Self {
        let holes = |shape: &[u8]| shape.iter().filter(|byte| **byte == HOLE).count();
        let slots: Vec<_> = shapes.iter().map(|shape| holes(shape.as_ref())).collect();
        let numbers = rows.iter().map(|row| slots[*row as usize]).sum();
        Self { rows, slots, numbers }
    }

    fn slots_max(&self) -> usize {
        self.slots.iter().copied().max().unwrap_or(0)
    }

    /// The numbers that are the `slot`th of their line, in order of lines.
    fn cells(&self, slot: usize) -> impl Iterator<Item = Cell> {
        let mut begin = 0;
        self.rows.iter().filter_map(move |row| {
            let shape = *row as usize;
            let number = begin + slot;
            begin += self.slots[shape];
            (slot < self.slots[shape]).then_some(Cell { shape, number })
        })
    }
}

/// The number that the next one of a slot is held against.
struct Last {
    by_shape: bool,
    numbers: Vec<Number>,
}

impl Last {
    fn new(layout: &Layout<'_>, by_shape: bool) -> Self {
        Self { by_shape, numbers: vec![Number::default(); if by_shape { layout.slots.len() } else { 1 }] }
    }

    fn expect(&self, shape: usize, decimals: u8) -> i64 {
        let last = self.numbers[if self.by_shape { shape } else { 0 }];
        match decimals.checked_sub(last.decimals) {
            Some(more) => last.mantissa.wrapping_mul(power_of_ten(more)),
            None => last.mantissa / power_of_ten(last.decimals - decimals),
        }
    }

    /// Returns what was expected in the place of `number`.
    fn replace(&mut self, shape: usize, number: Number) -> i64 {
        let expected = self.expect(shape, number.decimals);
        self.numbers[if self.by_shape { shape } else { 0 }] = number;
        expected
    }
}

/// `decimals` is below [`DIGITS_MAX`].
fn power_of_ten(decimals: u8) -> i64 {
    10_i64.wrapping_pow(u32::from(decimals))
}

/// Appends `line` to `shape` with its numbers replaced by holes, and those to `numbers`.
fn take_apart(line: &[u8], shape: &mut Vec<u8>, numbers: &mut Vec<Number>) {
    let (mut copied, mut at, mut taken) = (0, 0, 0);
    while taken < SLOTS_MAX
        && let Some(found) = line[at..].iter().position(|byte| matches!(byte, b':' | b' ' | b',' | b'['))
    {
        at += found + 1;
        let Some((number, length)) = read_number(&line[at..]) else { continue };
        shape.extend_from_slice(&line[copied..at]);
        shape.push(HOLE);
        numbers.push(number);
        at += length;
        (copied, taken) = (at, taken + 1);
    }
    shape.extend_from_slice(&line[copied..]);
}

/// The number at the start of `text` and its length, when it is written as [`push_number`] does.
fn read_number(text: &[u8]) -> Option<(Number, usize)> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let (mut mantissa, mut decimals, mut digits, mut at, mut point) = (0_i64, 0_u8, 0, start, None);
    while let Some(byte) = text.get(at) {
        match byte {
            b'0'..=b'9' if digits == DIGITS_MAX => return None,
            b'0'..=b'9' => {
                mantissa = mantissa * 10 + i64::from(byte - b'0');
                digits += 1;
                decimals += u8::from(point.is_some());
            }
            b'.' if point.is_none() => point = Some(at),
            _ => break,
        }
        at += 1;
    }
    let whole = point.unwrap_or(at) - start;
    let is_plain = whole > 0
        && (whole == 1 || text[start] != b'0')
        && (point.is_some() == (decimals > 0))
        && usize::from(decimals) < DIGITS_MAX
        && !(negative && mantissa == 0);
    is_plain.then_some((Number { mantissa: if negative { -mantissa } else { mantissa }, decimals }, at))
}

fn push_number(out: &mut Vec<u8>, number: Number) {
    if number.mantissa < 0 {
        out.push(b'-');
    }
    let mut digits = [b'0'; 20];
    let mut rest = number.mantissa.unsigned_abs();
    let mut begin = digits.len();
    while rest > 0 {
        begin -= 1;
        digits[begin] += u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
    }
    let point = digits.len() - usize::from(number.decimals);
    out.extend_from_slice(&digits[begin.min(point - 1)..point]);
    if number.decimals > 0 {
        out.push(b'.');
        out.extend_from_slice(&digits[point..]);
    }
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// Seven bits a byte, the lowest first.
fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What is still to be read.
struct Input<'p>(&'p [u8]);

impl<'p> Input<'p> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self.0.split_first().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(TOO_LARGE)
    }

    fn count(&mut self, max: usize) -> Result<usize, &'static str> {
        usize::try_from(self.varint()?).ok().filter(|count| *count <= max).ok_or(TOO_LARGE)
    }

    fn line(&mut self) -> Result<&'p [u8], &'static str> {
        let end = self.0.iter().position(|byte| *byte == b'\n').ok_or(TOO_SHORT)?;
        let (line, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        if line.iter().filter(|byte| **byte == HOLE).count() > SLOTS_MAX {
            return Err(TOO_LARGE);
        }
        Ok(line)
    }
}

const TOO_SHORT: &str = "its columns end early";
const TOO_LARGE: &str = "a count in its columns is too large";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(lines: &[u8]) -> Option<usize> {
        let packed = pack(lines)?;
        assert_eq!(unpack(&packed, lines.len()).as_deref(), Ok(lines));
        Some(packed.len())
    }

    #[test]
    fn numbers_come_back_letter_by_letter() {
        let numbers = "0 0.0 -0.0 -0 00 007 1. .5 - 1 -1 -1.50 1e5 1E-7 1.2.3 12:30 0.000001 999999999999999999 \
                       9999999999999999999 0.12345678901234567 0.1234567890123456789 -0.5 1717156800.0 21.513";
        let line: String =
            numbers.split(' ').map(|number| format!("{{\"v\":{number},\"w\": {number}}}\n")).collect();
        assert!(round_trip(line.repeat(3).as_bytes()).is_some());
    }

    #[test]
    fn readings_of_many_sensors_become_short() {
        let mut random = fastrand::Rng::with_seed(7);
        let lines: String = (0..1000)
            .map(|n| {
                let (time, value) =
                    (1.79e9 + f64::from(n) * 0.013, 20.0 + f64::from(random.u32(0..200)) / 1000.0);
                format!(
                    "{{\"sensor_name\":\"hall/{}\",\"timestamp\":{time:.6},\"value\":{value}}}\n",
                    n % 100
                )
            })
            .collect();
        let packed = round_trip(lines.as_bytes()).unwrap();
        assert!(packed * 4 < lines.len(), "{packed} of {}", lines.len());
    }

    #[test]
    fn what_gains_nothing_is_left_as_it_is() {
        let unlike: String = (0..5000).map(|n| format!("{{\"id\":\"{n}\"}}\n")).collect();
        for lines in ["", "x", "{}\n", "a\0b\na\0b\n", unlike.as_str()] {
            assert_eq!(pack(lines.as_bytes()), None, "{lines:.20}");
        }
    }

    #[test]
    fn damage_is_an_error_or_other_lines_of_the_same_length() {
        let has_other_length =
            |unpacked: Result<Vec<u8>, _>, bytes| unpacked.is_ok_and(|lines| lines.len() != bytes);
        let lines: String =
            (0..40).map(|n| format!("{{\"v\":{}.5,\"t\":{n},\"name\":\"s\"}}\n", n * n)).collect();
        let packed = pack(lines.as_bytes()).unwrap();
        for at in 0..packed.len() {
            for flip in 1..=255 {
                let mut damaged = packed.clone();
                damaged[at] ^= flip;
                assert!(!has_other_length(unpack(&damaged, lines.len()), lines.len()), "{at}");
            }
            assert!(unpack(&packed[..at], lines.len()).is_err(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn any_lines_come_back(lines in proptest::collection::vec("[^\\n\\x00]{0,3}(: ?-?[0-9]{1,20}(\\.[0-9]{0,20})?[,e ]?){0,20}", 1..60)) {
            let lines: String = lines.iter().chain(&lines).map(|line| format!("{line}\n")).collect();
            round_trip(lines.as_bytes());
        }

        #[test]
        fn nothing_in_a_file_makes_it_panic(mut packed in proptest::collection::vec(any::<u8>(), 0..200), raw_bytes in 0..100_000_usize) {
            packed.insert(0, MARK);
            unpack(&packed, raw_bytes).ok();
        }
    }
}
