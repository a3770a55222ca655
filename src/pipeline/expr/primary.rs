//! What binds tightest: literals, `ctx`, the builtins, displays, subscripts and `.get`.

use super::error::CompileError;
use super::lexer::TokenKind;
use super::parser::{Parser, unavailable};
use super::tree::{Builtin, Constant, Field, Node, NodeId, OWNERS};

type Parsed<T = NodeId> = Result<T, CompileError>;
/// Those by position, and the one by keyword.
type Arguments = (Vec<NodeId>, Option<(&'static str, NodeId)>);

impl Parser<'_> {
    /// An atom and the subscripts and `.get` calls behind it.
    pub(super) fn primary(&mut self) -> Parsed {
        let mut primary = self.atom()?;
        loop {
            let column = self.column();
            if self.accept("[") {
                primary = self.subscript(primary, column)?;
            } else if self.accept(".") {
                primary = self.get(primary)?;
            } else if matches!(self.peek(), TokenKind::Operator("(")) {
                return self.refuse(format!("only the builtins and .get can be called; {BUILTINS}"));
            } else {
                return Ok(primary);
            }
        }
    }

    fn atom(&mut self) -> Parsed {
        let column = self.column();
        match self.peek().clone() {
            TokenKind::Literal(Constant::Str(first)) => {
                let mut text = String::from(first);
                self.take();
                while let TokenKind::Literal(Constant::Str(next)) = self.peek() {
                    text.push_str(next);
                    self.take();
                }
                self.push_constant(Constant::Str(text.into()), column)
            }
            TokenKind::Literal(constant) => {
                self.take();
                self.push_constant(constant, column)
            }
            TokenKind::Name(name) => self.name(name, column),
            TokenKind::Operator("(") => {
                self.take();
                self.parenthesized(column)
            }
            TokenKind::Operator("[") => {
                self.take();
                let items = self.items("]")?;
                let items = self.tree.keep(&items);
                self.push(Node::List(items), column)
            }
            TokenKind::Operator("{") => {
                self.take();
                self.braces(column)
            }
            _ => self.refuse_token("a value"),
        }
    }

    fn name(&mut self, name: &str, column: usize) -> Parsed {
        let constant = match name {
            "None" => Some(Constant::None),
            "True" => Some(Constant::Bool(true)),
            "False" => Some(Constant::Bool(false)),
            _ => None,
        };
        if let Some(constant) = constant {
            self.take();
            return self.push_constant(constant, column);
        }
        if let Some((owner, fields)) = OWNERS.into_iter().find(|(owner, _)| *owner == name) {
            self.take();
            return self.field(owner, fields, column);
        }
        if let Some(builtin) = Builtin::from_name(name) {
            self.take();
            if !self.accept("(") {
                return self.refuse(format!("'{name}' is a function; write {name}(...)"));
            }
            return self.call(builtin, column);
        }
        if unavailable(name).is_some() {
            return self.refuse_token("a value");
        }
        match name {
            "not" => self.refuse("'not' needs brackets around it here"),
            "and" | "or" | "in" | "is" | "if" | "else" => self.refuse_token("a value"),
            "true" | "false" => self.refuse(format!(
                "'{name}' is not available; Python writes {}",
                if name == "true" { "True" } else { "False" }
            )),
            "null" | "nil" => self.refuse(format!("'{name}' is not available; Python writes None")),
            _ if Field::from_name(name).is_some() => {
                self.refuse(format!("'{name}' is not available; write ctx.{name}"))
            }
            // The name is not what is wrong.
            _ if matches!(self.peek_second(), TokenKind::Name("for") | TokenKind::Operator(":=" | "=")) => {
                self.take();
                self.refuse_token("a value")
            }
            _ => self.refuse(format!("'{name}' is not available; {BUILTINS}; {FIELDS}")),
        }
    }

    fn field(&mut self, owner: &str, fields: &str, column: usize) -> Parsed {
        if !self.accept(".") {
            return Err(CompileError { column, message: format!("'{owner}' cannot stand alone; {fields}") });
        }
        let TokenKind::Name(name) = *self.peek() else {
            return self.refuse_token(&format!("a field of {owner}"));
        };
        match Field::of(owner, name) {
            Some(field) => {
                self.take();
                self.push(Node::Field(field), column)
            }
            None => self.refuse(format!("'{owner}.{name}' is not available; {fields}")),
        }
    }

    fn get(&mut self, owner: NodeId) -> Parsed {
        let column = self.column();
        let TokenKind::Name(name) = *self.peek() else {
            return self.refuse_token("'get'");
        };
        if name != "get" {
            return self
                .refuse(format!("'.{name}' is not available; the only method is .get, of a dict; {FIELDS}"));
        }
        self.take();
        if !self.accept("(") {
            return self.refuse("'.get' is a method; write .get(key) or .get(key, default)");
        }
        let mut items = vec![owner];
        let (arguments, keyword) = self.arguments()?;
        if keyword.is_some() || !matches!(arguments.len(), 1 | 2) {
            let message = "'.get' takes a key, or a key and a default".to_owned();
            return Err(CompileError { column, message });
        }
        items.extend(arguments);
        let items = self.tree.keep(&items);
        self.push(Node::Get(items), column)
    }

    fn call(&mut self, builtin: Builtin, column: usize) -> Parsed {
        let (mut arguments, keyword) = self.arguments()?;
        let positional = arguments.len();
        let (builtin, usage) = match (builtin, keyword) {
            (Builtin::Max, Some(("default", _))) if positional == 1 => (Builtin::MaxDefault, None),
            (Builtin::Min, Some(("default", _))) if positional == 1 => (Builtin::MinDefault, None),
            (Builtin::Round, Some(("ndigits", _))) if positional == 1 => (builtin, None),
            (Builtin::Sum, Some(("start", _))) if positional == 1 => (builtin, None),
            (Builtin::Int, Some(("base", _))) if positional == 1 => (builtin, None),
            (_, Some((name, _))) => (builtin, Some(format!("{name}= is not available here"))),
            (Builtin::Abs | Builtin::Len, None) if positional == 1 => (builtin, None),
            (Builtin::Max | Builtin::Min, None) if positional >= 1 => (builtin, None),
            (Builtin::Sum | Builtin::Round, None) if matches!(positional, 1 | 2) => (builtin, None),
            (Builtin::Int, None) if positional <= 2 => (builtin, None),
            (Builtin::Float | Builtin::Bool, None) if positional <= 1 => (builtin, None),
            (_, None) => (builtin, Some(format!("{positional} arguments were given"))),
        };
        if let Some(problem) = usage {
            let message = format!("{problem}; '{}' takes {}", builtin.name(), usage_of(builtin));
            return Err(CompileError { column, message });
        }
        arguments.extend(keyword.map(|(_, value)| value));
        let arguments = self.tree.keep(&arguments);
        self.push(Node::Call(builtin, arguments), column)
    }

    /// Positional arguments, then at most one by keyword, up to the closing bracket.
    fn arguments(&mut self) -> Parsed<Arguments> {
        let mut arguments = Vec::new();
        let mut keyword = None;
        while !self.accept(")") {
            if let Some(name) = self.keyword() {
                if keyword.is_some() {
                    return self.refuse("one argument by keyword is the most any builtin takes");
                }
                self.take();
                self.take();
                keyword = Some((name, self.expression()?));
            } else if keyword.is_some() {
                return self.refuse_token("')'");
            } else {
                arguments.push(self.expression()?);
            }
            if !self.accept(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok((arguments, keyword))
    }

    fn keyword(&self) -> Option<&'static str> {
        let TokenKind::Name(name) = self.peek() else {
            return None;
        };
        let known = KEYWORD_ARGUMENTS.iter().find(|known| *known == name)?;
        (*self.peek_second() == TokenKind::Operator("=")).then_some(*known)
    }

    fn parenthesized(&mut self, column: usize) -> Parsed {
        if self.accept(")") {
            let items = self.tree.keep(&[]);
            return self.push(Node::Tuple(items), column);
        }
        let inner = self.expressions()?;
        self.expect(")")?;
        Ok(inner)
    }

    /// Expressions up to the closing bracket.
    fn items(&mut self, closing: &str) -> Parsed<Vec<NodeId>> {
        let mut items = Vec::new();
        while !self.accept(closing) {
            items.push(self.expression()?);
            if !self.accept(",") {
                self.expect(closing)?;
                break;
            }
        }
        Ok(items)
    }

    fn braces(&mut self, column: usize) -> Parsed {
        if self.accept("}") {
            let items = self.tree.keep(&[]);
            return self.push(Node::Dict(items), column);
        }
        let first = self.expression()?;
        if !self.accept(":") {
            let mut items = vec![first];
            if self.accept(",") {
                items.extend(self.items("}")?);
            } else {
                self.expect("}")?;
            }
            let items = self.tree.keep(&items);
            let set = self.push(Node::Set(items), column)?;
            self.sets.push(set);
            return Ok(set);
        }
        let mut entries = vec![first, self.expression()?];
        while self.accept(",") {
            if matches!(self.peek(), TokenKind::Operator("}")) {
                break;
            }
            entries.push(self.expression()?);
            self.expect(":")?;
            entries.push(self.expression()?);
        }
        self.expect("}")?;
        let entries = self.tree.keep(&entries);
        self.push(Node::Dict(entries), column)
    }

    fn subscript(&mut self, owner: NodeId, column: usize) -> Parsed {
        let first = match self.peek() {
            TokenKind::Operator(":") => None,
            _ => Some(self.expression()?),
        };
        if let Some(first) = first
            && !matches!(self.peek(), TokenKind::Operator(":"))
        {
            let key = self.tuple_of(first, column)?;
            self.expect("]")?;
            return self.push(Node::Index(owner, key), column);
        }
        self.expect(":")?;
        let mut parts = vec![owner, self.bound(first)?];
        for colon in [true, false] {
            let part = match self.peek() {
                TokenKind::Operator(":" | "]") => None,
                _ => Some(self.expression()?),
            };
            parts.push(self.bound(part)?);
            if !colon || !self.accept(":") {
                break;
            }
        }
        if parts.len() < 4 {
            parts.push(self.bound(None)?);
        }
        self.expect("]")?;
        let parts = self.tree.keep(&parts);
        self.push(Node::Slice(parts), column)
    }

    /// A bound of a slice, None when it is left out.
    fn bound(&mut self, given: Option<NodeId>) -> Parsed {
        match given {
            Some(given) => Ok(given),
            None => self.push_constant(Constant::None, self.column()),
        }
    }
}

fn usage_of(builtin: Builtin) -> &'static str {
    match builtin {
        Builtin::Abs => "one number",
        Builtin::Max | Builtin::MaxDefault | Builtin::Min | Builtin::MinDefault => {
            "values, or one sequence and perhaps default="
        }
        Builtin::Sum => "a sequence and perhaps a start",
        Builtin::Len => "one string, sequence or dict",
        Builtin::Round => "a number and perhaps a count of digits",
        Builtin::Float | Builtin::Bool => "at most one value",
        Builtin::Int => "at most a value and a base",
    }
}

/// For refusals of names.
const BUILTINS: &str = "the builtins are abs, max, min, sum, len, round, float, int and bool";
/// For refusals of attributes.
const FIELDS: &str = "ctx has value, sensor_name, timestamp, unit and metadata";
const KEYWORD_ARGUMENTS: [&str; 5] = ["default", "ndigits", "start", "base", "key"];
