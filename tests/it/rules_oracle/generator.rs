//! Seeded expressions and readings. Types direct the choice, so that most expressions have a value,
//! and now and then the wrong type is chosen, so that many have an error.

use fastrand::Rng;

/// An expression and the reading it is to judge.
pub struct Sample {
    pub expression: String,
    pub value: f64,
    pub timestamp: f64,
    pub sensor_name: String,
    pub unit: String,
    pub metadata: String,
    /// Value and timestamp of the reading before.
    pub previous: Option<(f64, f64)>,
    /// Whether it is the result of a window, with this count.
    pub window: Option<u32>,
    /// Whether a refusal by our compiler is a fault unless Python refuses as well.
    pub must_compile: bool,
}

pub struct Generator {
    rng: Rng,
}

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Bool,
    Int,
    Float,
    Str,
    List,
    Tuple,
    Dict,
    Any,
}

impl Sample {
    pub fn of_text(text: &str) -> Self {
        Self {
            expression: text.to_owned(),
            value: 85.5,
            timestamp: 1_717_156_800.25,
            sensor_name: "kitchen/temperature".to_owned(),
            unit: "C".to_owned(),
            metadata: METADATA[0].to_owned(),
            previous: Some((80.25, 1_717_156_790.0)),
            window: Some(12),
            must_compile: true,
        }
    }
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }

    pub fn sample(&mut self) -> Sample {
        let depth = self.rng.usize(1..6);
        let expression = self.expression(Type::Any, depth);
        Sample { expression, ..self.reading() }
    }

    /// Tokens in random order: mostly nonsense, sometimes an expression nobody would write.
    pub fn token_soup(&mut self) -> Sample {
        let count = self.rng.usize(1..9);
        let mut expression = String::new();
        for _ in 0..count {
            expression.push_str(self.pick(SOUP));
            if self.rng.u8(..) < 160 {
                expression.push(' ');
            }
        }
        Sample { expression, must_compile: false, ..self.reading() }
    }

    /// Operators of every precedence without a bracket between them.
    pub fn unbracketed(&mut self) -> Sample {
        let mut expression = self.operand();
        for _ in 0..self.rng.usize(1..8) {
            let operator = self.pick(INFIX);
            let operand = self.operand();
            expression = match self.rng.u8(..16) {
                0 => format!("{expression} if {operand}"),
                1 => format!("{expression} if {operand} else {}", self.operand()),
                _ => format!("{expression} {operator} {operand}"),
            };
        }
        Sample { expression, ..self.reading() }
    }

    /// Numbers and strings out of the characters they are made of.
    pub fn literal(&mut self) -> Sample {
        let mut expression = String::new();
        let (quote, characters) = if self.rng.bool() {
            expression.push_str(self.pick(&["", "", "r", "u", "R"]));
            (self.pick(&["'", "\"", "'''"]), STRING_PARTS)
        } else {
            ("", NUMBER_PARTS)
        };
        expression.push_str(quote);
        for _ in 0..self.rng.usize(..8) {
            expression.push_str(self.pick(characters));
        }
        expression.push_str(quote);
        // Three points are Python's Ellipsis.
        let must_compile = !expression.contains("...");
        Sample { expression, must_compile, ..self.reading() }
    }

    fn operand(&mut self) -> String {
        let mut operand = match self.rng.u8(..8) {
            0 => self.pick(&["ctx.value", "prev.value", "win.max"]).to_owned(),
            1 => "ctx.unit".to_owned(),
            2 => self.leaf(Type::Any),
            3 => self.leaf(Type::Bool),
            4 => self.leaf(Type::Float),
            _ => self.rng.u8(..9).to_string(),
        };
        while self.rng.u8(..5) == 0 {
            operand.insert_str(0, self.pick(&["-", "~", "+", "not ", "- "]));
        }
        operand
    }

    fn reading(&mut self) -> Sample {
        let value = match self.rng.u8(..8) {
            0 => 0.0,
            1 => -0.0,
            2 => self.rng.i32(-100..100).into(),
            3 => f64::from(self.rng.i32(-1000..1000)) / 8.0,
            4 => f64::from_bits(self.rng.u64(..)),
            5 => 1e300 * self.rng.f64(),
            _ => self.rng.f64() * 200.0 - 100.0,
        };
        Sample {
            expression: String::new(),
            value: if value.is_finite() { value } else { 85.0 },
            timestamp: 1_717_156_800.0 + f64::from(self.rng.u32(..1_000_000)) / 16.0,
            sensor_name: self.pick(&["t", "kitchen/temperature", "größe", "", "a\"b"]).to_owned(),
            unit: self.pick(&["C", "", "%", "°F", "kWh"]).to_owned(),
            metadata: self.pick(METADATA).to_owned(),
            previous: (self.rng.u8(..4) > 0).then(|| (self.rng.f64() * 100.0, 1_717_156_000.0)),
            window: (self.rng.u8(..4) > 0).then(|| self.rng.u32(1..100)),
            must_compile: true,
        }
    }

    fn pick<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices[self.rng.usize(..choices.len())]
    }

    fn any_type(&mut self) -> Type {
        use Type::*;
        let types = [Bool, Int, Int, Float, Float, Str, Str, List, Tuple, Dict];
        types[self.rng.usize(..types.len())]
    }

    fn number_type(&mut self) -> Type {
        [Type::Bool, Type::Int, Type::Float][self.rng.usize(..3)]
    }

    /// Of the wanted type, but for one in forty.
    fn expression(&mut self, wanted: Type, depth: usize) -> String {
        let wanted = if wanted == Type::Any || self.rng.u8(..40) == 0 { self.any_type() } else { wanted };
        if depth == 0 {
            return self.leaf(wanted);
        }
        let depth = depth - 1;
        match self.rng.u8(..20) {
            0 => {
                let (then, condition, other) = (
                    self.expression(wanted, depth),
                    self.expression(Type::Any, depth),
                    self.expression(wanted, depth),
                );
                return format!("({then} if {condition} else {other})");
            }
            1 => {
                let operator = self.pick(&["and", "or"]);
                let (left, right) = (self.expression(wanted, depth), self.expression(wanted, depth));
                return format!("({left} {operator} {right})");
            }
            2 => {
                let item = self.expression(wanted, depth);
                let (other, at) = (self.expression(Type::Any, depth), self.pick(&["0", "-1", "1", "True"]));
                return format!("[{item}, {other}][{at}]");
            }
            3 => {
                let (items, name) = (self.expression(wanted, depth), self.pick(&["max", "min"]));
                let other = self.expression(wanted, depth);
                return match self.rng.u8(..4) {
                    0 => format!("{name}([{items}, {other}])"),
                    1 => format!("{name}((), default={items})"),
                    _ => format!("{name}({items}, {other})"),
                };
            }
            4 => {
                let (key, item) = (self.leaf(Type::Any), self.expression(wanted, depth));
                let at = self.leaf(Type::Any);
                return format!("{{{key}: {item}}}.get({at}, {item})");
            }
            5 => return self.leaf(wanted),
            _ => {}
        }
        match wanted {
            Type::Bool => self.bool(depth),
            Type::Int => self.int(depth),
            Type::Float => self.float(depth),
            Type::Str => self.str(depth),
            Type::List | Type::Tuple => self.sequence(wanted, depth),
            Type::Dict | Type::Any => self.dict(depth),
        }
    }

    fn bool(&mut self, depth: usize) -> String {
        match self.rng.u8(..8) {
            0 => format!("(not {})", self.expression(Type::Any, depth)),
            1 => format!("bool({})", self.expression(Type::Any, depth)),
            2 => {
                let operator = self.pick(&["in", "not in"]);
                let (item, container) = match self.rng.u8(..5) {
                    0 => (Type::Str, self.expression(Type::Str, depth)),
                    1 => (Type::Str, self.expression(Type::Dict, depth)),
                    2 => (Type::Any, format!("{{{}, {}}}", self.leaf(Type::Any), self.leaf(Type::Any))),
                    3 => (Type::Any, self.expression(Type::Tuple, depth)),
                    _ => (Type::Any, self.expression(Type::List, depth)),
                };
                format!("({} {operator} {container})", self.expression(item, depth))
            }
            3 => {
                let (item, singleton) =
                    (self.expression(Type::Any, depth), self.pick(&["None", "True", "False"]));
                format!("({item} {} {singleton})", self.pick(&["is", "is not"]))
            }
            4 => {
                let operator = self.pick(&["&", "|", "^"]);
                let (left, right) = (self.expression(Type::Bool, depth), self.expression(Type::Bool, depth));
                format!("({left} {operator} {right})")
            }
            _ => self.comparison(depth),
        }
    }

    fn comparison(&mut self, depth: usize) -> String {
        let same = self.any_type();
        let mut text = String::from("(");
        text.push_str(&self.expression(same, depth));
        for _ in 0..self.rng.usize(1..4) {
            let operator = self.pick(&["<", "<=", ">", ">=", "==", "!="]);
            let operand = match (same, self.rng.u8(..10)) {
                (Type::Bool | Type::Int | Type::Float, 0..6) => self.number_type(),
                (_, 9) => Type::Any,
                _ => same,
            };
            text.push_str(&format!(" {operator} {}", self.expression(operand, depth)));
        }
        text + ")"
    }

    fn int(&mut self, depth: usize) -> String {
        match self.rng.u8(..12) {
            0 => format!("len({})", self.one_of(&[Type::Str, Type::List, Type::Dict], depth)),
            1 => format!("int({})", self.number(depth)),
            2 => format!("round({})", self.number(depth)),
            3 => format!("round({}, {})", self.expression(Type::Int, depth), self.rng.i32(-5..3)),
            4 => format!("int({})", self.leaf(Type::Str)),
            5 => {
                let base = self.pick(&["0", "2", "10", "16", "36", "1", "None", "True"]);
                format!("int({}, {base})", self.pick(INTEGER_TEXTS))
            }
            6 => {
                let (operator, operand) = (self.pick(&["-", "+", "~"]), self.expression(Type::Int, depth));
                format!("({operator}{operand})")
            }
            7 => {
                let count = self.rng.i32(-1..70);
                format!("({} {} {count})", self.expression(Type::Int, depth), self.pick(&["<<", ">>", "**"]))
            }
            8 => format!("sum({})", self.numbers(Type::Int, depth)),
            _ => {
                let operator = self.pick(&["+", "-", "*", "//", "%", "&", "|", "^", "**"]);
                let left = self.expression(Type::Int, depth);
                let right = self.one_of(&[Type::Int, Type::Int, Type::Bool], depth);
                format!("({left} {operator} {right})")
            }
        }
    }

    fn float(&mut self, depth: usize) -> String {
        match self.rng.u8(..10) {
            0 => format!("float({})", self.number(depth)),
            1 => format!("float({})", self.pick(FLOAT_TEXTS)),
            2 => {
                let digits = self.rng.i32(-12..20);
                format!("round({}, {digits})", self.expression(Type::Float, depth))
            }
            3 => format!("abs({})", self.number(depth)),
            4 => format!("(-{})", self.expression(Type::Float, depth)),
            5 => format!("sum({}, {})", self.numbers(Type::Float, depth), self.leaf(Type::Float)),
            6 => {
                let (left, right) = (self.expression(Type::Int, depth), self.expression(Type::Int, depth));
                format!("({left} / {right})")
            }
            _ => {
                let operator = self.pick(&["+", "-", "*", "/", "//", "%", "**"]);
                let mut operands = [self.expression(Type::Float, depth), self.number(depth)];
                self.rng.shuffle(&mut operands);
                format!("({} {operator} {})", operands[0], operands[1])
            }
        }
    }

    fn one_of(&mut self, types: &[Type], depth: usize) -> String {
        let wanted = types[self.rng.usize(..types.len())];
        self.expression(wanted, depth)
    }

    fn number(&mut self, depth: usize) -> String {
        self.one_of(&[Type::Bool, Type::Int, Type::Float, Type::Float], depth)
    }

    fn numbers(&mut self, item: Type, depth: usize) -> String {
        let count = self.rng.usize(..4);
        let items: Vec<String> = (0..count).map(|_| self.expression(item, depth)).collect();
        format!("[{}]", items.join(", "))
    }

    fn str(&mut self, depth: usize) -> String {
        match self.rng.u8(..5) {
            0 => format!("({} + {})", self.expression(Type::Str, depth), self.expression(Type::Str, depth)),
            1 => format!("({} * {})", self.expression(Type::Str, depth), self.rng.i32(-1..4)),
            2 => format!("{}[{}]", self.expression(Type::Str, depth), self.expression(Type::Int, depth)),
            _ => format!("{}{}", self.expression(Type::Str, depth), self.slice(depth)),
        }
    }

    fn slice(&mut self, depth: usize) -> String {
        let mut bound = || match self.rng.u8(..6) {
            0 | 1 => String::new(),
            2 => self.leaf(Type::Int),
            3 => self.expression(Type::Int, depth.saturating_sub(1)),
            _ => self.rng.i32(-4..5).to_string(),
        };
        let (start, stop, step) = (bound(), bound(), bound());
        if self.rng.bool() { format!("[{start}:{stop}]") } else { format!("[{start}:{stop}:{step}]") }
    }

    fn sequence(&mut self, wanted: Type, depth: usize) -> String {
        match self.rng.u8(..6) {
            0 => format!("({} + {})", self.expression(wanted, depth), self.expression(wanted, depth)),
            1 => format!("({} * {})", self.expression(wanted, depth), self.rng.i32(-1..4)),
            2 => format!("{}{}", self.expression(wanted, depth), self.slice(depth)),
            3 if wanted == Type::List => {
                let (first, second) =
                    (self.expression(Type::List, depth), self.expression(Type::List, depth));
                format!("sum([{first}, {second}], [])")
            }
            _ => {
                let count = self.rng.usize(..4);
                let items: Vec<String> = (0..count).map(|_| self.expression(Type::Any, depth)).collect();
                match (wanted, &items[..]) {
                    (Type::Tuple, [only]) => format!("({only},)"),
                    (Type::Tuple, _) => format!("({})", items.join(", ")),
                    _ => format!("[{}]", items.join(", ")),
                }
            }
        }
    }

    fn dict(&mut self, depth: usize) -> String {
        if self.rng.u8(..4) == 0 {
            return format!(
                "({} | {})",
                self.expression(Type::Dict, depth),
                self.expression(Type::Dict, depth)
            );
        }
        let count = self.rng.usize(..4);
        let entries: Vec<String> = (0..count)
            .map(|_| format!("{}: {}", self.leaf(Type::Any), self.expression(Type::Any, depth)))
            .collect();
        format!("{{{}}}", entries.join(", "))
    }

    fn leaf(&mut self, wanted: Type) -> String {
        if wanted != Type::Any && self.rng.u8(..5) == 0 {
            return self.metadata(wanted);
        }
        match wanted {
            Type::Bool => self.pick(&["True", "False"]).to_owned(),
            Type::Int => match self.rng.u8(..6) {
                5 => "win.count".to_owned(),
                0 => self.pick(INTEGERS).to_owned(),
                _ => self.rng.i32(0..12).to_string(),
            },
            Type::Float => match self.rng.u8(..5) {
                0 => self.pick(FLOATS).to_owned(),
                4 => {
                    self.pick(&["prev.value", "prev.timestamp", "win.mean", "win.std", "win.end"]).to_owned()
                }
                1 => self.pick(&["ctx.value", "ctx.timestamp"]).to_owned(),
                2 => format!("{:?}", f64::from(self.rng.i32(0..400)) / 8.0),
                _ => format!("{:?}", self.rng.f64() * 100.0),
            },
            Type::Str => match self.rng.u8(..3) {
                0 => self.pick(&["ctx.unit", "ctx.sensor_name"]).to_owned(),
                _ => self.pick(STRINGS).to_owned(),
            },
            Type::List => self.pick(&["[]", "[1, 2.5]", "['a', 'b', 'c']", "[None, True, [1]]"]).to_owned(),
            Type::Tuple => self.pick(&["()", "(1, 2.5)", "('a', 'b')", "(0,)", "(1, (2, 'x'))"]).to_owned(),
            Type::Dict => {
                self.pick(&["ctx.metadata", "{}", "{'a': 1, 2: 'b'}", "{1: 0, 1.0: 2, True: 3}"]).to_owned()
            }
            Type::Any => match self.rng.u8(..8) {
                0 => "None".to_owned(),
                _ => {
                    let wanted = self.any_type();
                    self.leaf(wanted)
                }
            },
        }
    }

    /// Something out of the metadata, which in many samples has it.
    fn metadata(&mut self, wanted: Type) -> String {
        let key = match wanted {
            Type::Bool => "'ok'",
            Type::Int => self.pick(&["'n'", "'big'"]),
            Type::Float => self.pick(&["'f'", "'huge'"]),
            Type::Str => self.pick(&["'s'", "'text'", "'ün'"]),
            Type::List | Type::Tuple => "'list'",
            Type::Dict | Type::Any => "'inner'",
        };
        match self.rng.u8(..4) {
            0 => format!("ctx.metadata[{key}]"),
            1 => format!("ctx.metadata.get({key})"),
            _ => {
                let default = match wanted {
                    Type::Bool => "True",
                    Type::Int => "7",
                    Type::Float => "2.5",
                    Type::Str => "'default'",
                    Type::Tuple => "()",
                    Type::List => "[]",
                    Type::Dict | Type::Any => "{}",
                };
                format!("ctx.metadata.get({key}, {default})")
            }
        }
    }
}

#[rustfmt::skip] // a list reads better than a column
const INTEGERS: &[&str] = &[
    "1_000", "0x_ff", "0o17", "0b101", "00", "9007199254740993", "9223372036854775807",
    "18446744073709551616", "170141183460469231731687303715884105727",
    "(-170141183460469231731687303715884105727-1)", "123456789012345678",
    "99999999999999999999999999999999999999", "(-5)", "(-7)", "(-1)", "10**30", "2**100", "3**50",
];
#[rustfmt::skip] // a list reads better than a column
const FLOATS: &[&str] = &[
    "1e308", "1e-308", "5e-324", "1.", ".5", "1_0.5e-1_0", "2.5", "0.5", "1.5", "2.675", "1e16", "1e22",
    "9e15", "9007199254740992.0", "1.7014118346046923e38", "1e999", "(-1e999)", "(-0.0)", "0.0",
    "(1e999-1e999)", "0.1", "(-2.5)", "(-7.25)", "1e23", "8.5e22", "5e-5", "1152921504606846976.5",
];
#[rustfmt::skip] // a list reads better than a column
const STRINGS: &[&str] = &[
    "''", "'a'", "\"b\"", "'C'", "'abc'", "'größe'", "'\\x41\\u00e9\\n'", "'a' \"b\"", "r'\\n'",
    "'''x'y'''", "'\\U0001F600z'", "'\\101\\0'", "'12'", "' 3 '", "'1.5'", "'\\q'", "u'u'", "'-0x1F'",
    "'\\\\'", "'\\''",
];
#[rustfmt::skip] // a list reads better than a column
const INTEGER_TEXTS: &[&str] = &[
    "'0'", "'12'", "' -12 '", "'+7'", "'1_000'", "'0x1f'", "'-0b101'", "'0o17'", "'z'", "'0b1'", "'010'",
    "'_1'", "'1__0'", "'0x_f'", "''", "'- 1'", "'1.5'", "12", "2.5",
    "'99999999999999999999999999999999999999999999'", "'-170141183460469231731687303715884105728'", "'00'",
    "'0x'", "'\\t5\\n'", "'\\x1c5'", "True",
];
#[rustfmt::skip] // a list reads better than a column
const FLOAT_TEXTS: &[&str] = &[
    "'1.5'", "' -1e3 '", "'inf'", "'-Infinity'", "'nan'", "'1_0.0_1'", "'1_.0'", "'.5'", "'5.'", "'.'",
    "'1e'", "'0x10'", "''", "'1e400'", "'+nan'", "'infinit'", "None", "True", "10**30", "'1__0'", "'1e1_0'",
    "'\\x1f2'",
];
const METADATA: &[&str] = &[
    r#"{"ok":true,"n":3,"f":2.5,"s":"text","list":[1,2.5,"a",null],"inner":{"a":{"b":[1]},"k":"v"},"text":"\u00e9\n","big":12345678901234567890,"huge":1e300,"ün":"ü"}"#,
    r#"{"ok":false,"n":-1,"f":-0.0,"s":"","list":[],"inner":{},"n":4}"#,
    r#"{ "n" : 0 , "f" : 1E5, "s":"\ud83d\ude00\"\\\/", "list":[[1,[2]],{"x":1}], "ok":null }"#,
    "{}",
    r#"{"n":"three","f":[1],"s":5,"list":"abc","inner":null,"ok":1,"f":1e999}"#,
];
#[rustfmt::skip] // a list reads better than a column
const SOUP: &[&str] = &[
    "ctx.value", "ctx.unit", "1", "2.5", "'a'", "\"b\"", "(", ")", "[", "]", "{", "}", ",", ":", "+", "-",
    "*", "/", "//", "%", "**", "~", "not", "and", "or", "if", "else", "in", "is", "None", "True", "<", "==",
    ">=", "!=", "<<", "|", "&", "^", "max(", "len(", "abs(", "round(", ".get(", "default=", "ctx.metadata",
    "prev.value", "win.count", "prev", "win.", "1_0", "0x1", "07", "1.e3", "r''", "lambda", "for", "x", "=", ":=", ".", "...", ";", "@", "#", "\\",
    "\n", "1", "ctx.value", ")", ")",
];
#[rustfmt::skip] // a list reads better than a column
const INFIX: &[&str] = &[
    "+", "-", "*", "/", "//", "%", "**", "<<", ">>", "&", "|", "^", "<", "<=", ">", ">=", "==", "!=", "and",
    "or", "and", "or", "+", "-", "*", "in", "not in", "is None is", ",",
];
#[rustfmt::skip] // a list reads better than a column
const NUMBER_PARTS: &[&str] = &[
    "0", "1", "7", "9", "00", "12", "_", ".", "e", "E", "x", "X", "0x", "0b", "0o", "a", "f", "b", "o", "+",
    "-", " ", "1", "5", "e5",
];
#[rustfmt::skip] // a list reads better than a column
const STRING_PARTS: &[&str] = &[
    "\\", "x", "u", "U", "n", "0", "1", "7", "8", "\\a", "\\f", "4", "'", "\"", "é", "\n", "\r\n", "\r",
    "\t", " ", "\\x41", "q", "\\u00e9", "\\U0001F600", "\\\n", "\\'", "\\\"",
];
