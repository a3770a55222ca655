//! Tokens into a tree, by Python's grammar for expressions less what is not available. Every
//! recursion counts its depth, so a hostile text ends in a refusal.

use super::error::CompileError;
use super::lexer::{Token, TokenKind};
use super::tree::{
    BinaryOperator, Comparison, Constant, DEPTH_MAX, NODES_MAX, Node, NodeId, Tree, TreeLimit, UnaryOperator,
};

/// Builds the tree of a whole text.
///
/// # Errors
/// Names the first column that is not part of an available expression, and what is.
pub(super) fn parse(tokens: Vec<Token<'_>>) -> Result<Tree, CompileError> {
    let mut parser = Parser { tokens, at: 0, depth: 0, tree: Tree::new(), sets: Vec::new() };
    let root = parser.expressions()?;
    if *parser.peek() != TokenKind::End {
        return parser.refuse_token("the end of the expression");
    }
    if let Some(set) = parser.sets.first() {
        let column = usize::from(parser.tree.columns[usize::from(*set)]);
        return Err(CompileError { column, message: "a set can only stand to the right of 'in'".to_owned() });
    }
    parser.tree.root = root;
    Ok(parser.tree)
}

pub(super) struct Parser<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
    depth: usize,
    pub(super) tree: Tree,
    /// Sets that no `in` has taken yet.
    pub(super) sets: Vec<NodeId>,
}

type Parsed<T = NodeId> = Result<T, CompileError>;

impl<'t> Parser<'t> {
    pub(super) fn peek(&self) -> &TokenKind<'t> {
        &self.tokens[self.at].kind
    }

    /// The token after the next.
    pub(super) fn peek_second(&self) -> &TokenKind<'t> {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    /// Of the next token.
    pub(super) fn column(&self) -> usize {
        self.tokens[self.at].column
    }

    pub(super) fn take(&mut self) -> TokenKind<'t> {
        let kind = self.tokens[self.at].kind.clone();
        // The end stays, however often it is taken.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        kind
    }

    pub(super) fn accept(&mut self, operator: &str) -> bool {
        let found = matches!(self.peek(), TokenKind::Operator(found) if *found == operator);
        if found {
            self.take();
        }
        found
    }

    pub(super) fn expect(&mut self, operator: &str) -> Parsed<()> {
        if self.accept(operator) { Ok(()) } else { self.refuse_token(&format!("'{operator}'")) }
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = *self.peek() == TokenKind::Name(word);
        if found {
            self.take();
        }
        found
    }

    pub(super) fn refuse<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(CompileError { column: self.column(), message: message.into() })
    }

    /// Refuses the next token where `expected` should stand.
    pub(super) fn refuse_token<T>(&self, expected: &str) -> Parsed<T> {
        let found = match self.peek() {
            TokenKind::End => "the end".to_owned(),
            TokenKind::Name(name) | TokenKind::Operator(name) => {
                if let Some(reason) = unavailable(name) {
                    return self.refuse(reason);
                }
                format!("'{name}'")
            }
            TokenKind::Literal(Constant::Str(_)) => "a string".to_owned(),
            TokenKind::Literal(_) => "a number".to_owned(),
        };
        self.refuse(format!("expected {expected}, found {found}"))
    }

    pub(super) fn push(&mut self, node: Node, column: usize) -> Parsed {
        self.tree.push(node, column).map_err(|limit| too_large(limit, column))
    }

    pub(super) fn push_constant(&mut self, constant: Constant, column: usize) -> Parsed {
        self.tree.push_constant(constant, column).map_err(|limit| too_large(limit, column))
    }

    /// Runs one level of the grammar that may contain itself.
    pub(super) fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEPTH_MAX {
            return Err(too_large(TreeLimit::Depth, self.column()));
        }
        self.depth += 1;
        let parsed = inner(self);
        self.depth -= 1;
        parsed
    }

    /// `a` or the tuple `a, b`, as it may stand alone or between square brackets.
    pub(super) fn expressions(&mut self) -> Parsed {
        let column = self.column();
        let first = self.expression()?;
        self.tuple_of(first, column)
    }

    /// What `first` becomes with the commas behind it.
    pub(super) fn tuple_of(&mut self, first: NodeId, column: usize) -> Parsed {
        if !matches!(self.peek(), TokenKind::Operator(",")) {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.accept(",") {
            if matches!(self.peek(), TokenKind::End | TokenKind::Operator("]" | ")")) {
                break;
            }
            items.push(self.expression()?);
        }
        let items = self.tree.keep(&items);
        self.push(Node::Tuple(items), column)
    }

    /// `a if b else c` and all that binds tighter.
    pub(super) fn expression(&mut self) -> Parsed {
        self.nested(|parser| {
            let then = parser.disjunction()?;
            let column = parser.column();
            if !parser.accept_word("if") {
                return Ok(then);
            }
            let condition = parser.disjunction()?;
            if !parser.accept_word("else") {
                return parser.refuse_token("'else'");
            }
            let otherwise = parser.expression()?;
            parser.push(Node::Conditional { condition, then, otherwise }, column)
        })
    }

    fn disjunction(&mut self) -> Parsed {
        let column = self.column();
        let mut items = vec![self.conjunction()?];
        while self.accept_word("or") {
            items.push(self.conjunction()?);
        }
        if let [only] = items[..] {
            return Ok(only);
        }
        let items = self.tree.keep(&items);
        self.push(Node::Or(items), column)
    }

    fn conjunction(&mut self) -> Parsed {
        let column = self.column();
        let mut items = vec![self.inversion()?];
        while self.accept_word("and") {
            items.push(self.inversion()?);
        }
        if let [only] = items[..] {
            return Ok(only);
        }
        let items = self.tree.keep(&items);
        self.push(Node::And(items), column)
    }

    fn inversion(&mut self) -> Parsed {
        let column = self.column();
        if !self.accept_word("not") {
            return self.comparison();
        }
        let operand = self.nested(Self::inversion)?;
        self.push(Node::Not(operand), column)
    }

    fn comparison(&mut self) -> Parsed {
        let first = self.binary(0)?;
        let column = self.column();
        let mut links = Vec::new();
        let mut before = first;
        while let Some(operator) = self.comparison_operator()? {
            let operator_column = self.tokens[self.at - 1].column;
            let operand = self.binary(0)?;
            if matches!(operator, Comparison::Is | Comparison::IsNot)
                && !self.is_singleton(before)
                && !self.is_singleton(operand)
            {
                let message = "'is' is available with None, True and False only; use == to compare values";
                return Err(CompileError { column: operator_column, message: message.to_owned() });
            }
            links.push((operator, operand));
            before = operand;
        }
        match links.last() {
            None => return Ok(first),
            Some((Comparison::In | Comparison::NotIn, last)) => self.sets.retain(|set| set != last),
            Some(_) => {}
        }
        let links = self.tree.keep_links(&links);
        self.push(Node::Compare(first, links), column)
    }

    /// None, True or False, of which there is one each: identity with them is type and value.
    fn is_singleton(&self, id: NodeId) -> bool {
        matches!(self.tree.constant(id), Some(Constant::None | Constant::Bool(_)))
    }

    fn comparison_operator(&mut self) -> Parsed<Option<Comparison>> {
        let operator = match self.peek() {
            TokenKind::Operator("<") => Comparison::Less,
            TokenKind::Operator("<=") => Comparison::LessEqual,
            TokenKind::Operator(">") => Comparison::Greater,
            TokenKind::Operator(">=") => Comparison::GreaterEqual,
            TokenKind::Operator("==") => Comparison::Equal,
            TokenKind::Operator("!=") => Comparison::NotEqual,
            TokenKind::Name("in") => Comparison::In,
            TokenKind::Name("is") => {
                self.take();
                let negated = self.accept_word("not");
                return Ok(Some(if negated { Comparison::IsNot } else { Comparison::Is }));
            }
            TokenKind::Name("not") => {
                self.take();
                if !self.accept_word("in") {
                    return self.refuse_token("'in' after 'not'");
                }
                return Ok(Some(Comparison::NotIn));
            }
            _ => return Ok(None),
        };
        self.take();
        Ok(Some(operator))
    }

    /// Operators that bind at least as tightly as `level`, all of them from the left.
    fn binary(&mut self, level: u8) -> Parsed {
        let mut left = self.unary()?;
        while let TokenKind::Operator(symbol) = self.peek()
            && let Some((operator, its_level)) = binary_operator(symbol)
            && its_level >= level
        {
            let column = self.column();
            self.take();
            let right = self.binary(its_level + 1)?;
            left = self.push(Node::Binary(operator, left, right), column)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        let operator = match self.peek() {
            TokenKind::Operator("+") => UnaryOperator::Plus,
            TokenKind::Operator("-") => UnaryOperator::Minus,
            TokenKind::Operator("~") => UnaryOperator::Invert,
            _ => return self.power(),
        };
        let column = self.column();
        self.take();
        let operand = self.nested(Self::unary)?;
        self.push(Node::Unary(operator, operand), column)
    }

    fn power(&mut self) -> Parsed {
        let base = self.primary()?;
        let column = self.column();
        if !self.accept("**") {
            return Ok(base);
        }
        let exponent = self.nested(Self::unary)?;
        self.push(Node::Binary(BinaryOperator::Power, base, exponent), column)
    }
}

fn binary_operator(symbol: &str) -> Option<(BinaryOperator, u8)> {
    Some(match symbol {
        "|" => (BinaryOperator::Or, 0),
        "^" => (BinaryOperator::Xor, 1),
        "&" => (BinaryOperator::And, 2),
        "<<" => (BinaryOperator::ShiftLeft, 3),
        ">>" => (BinaryOperator::ShiftRight, 3),
        "+" => (BinaryOperator::Add, 4),
        "-" => (BinaryOperator::Subtract, 4),
        "*" => (BinaryOperator::Multiply, 5),
        "/" => (BinaryOperator::Divide, 5),
        "//" => (BinaryOperator::FloorDivide, 5),
        "%" => (BinaryOperator::Modulo, 5),
        _ => return None,
    })
}

fn too_large(limit: TreeLimit, column: usize) -> CompileError {
    let message = match limit {
        TreeLimit::Nodes => {
            format!("more than {NODES_MAX} operands and operators; split it into several rules")
        }
        TreeLimit::Depth => format!("nested deeper than {DEPTH_MAX} levels; split it into several rules"),
    };
    CompileError { column, message }
}

/// What Python has and a condition has not, and what to write instead.
pub(super) fn unavailable(token: &str) -> Option<String> {
    Some(match token {
        "lambda" => "'lambda' is not available: a condition calls the builtins only".to_owned(),
        "for" | "async" => "comprehensions are not available; use in, max, min, sum or len".to_owned(),
        "await" | "yield" => format!("'{token}' is not available: a condition is one plain expression"),
        ":=" | "=" => format!("'{token}' assigns, which is not available; use == to compare"),
        "@" => "'@' is not available: there are no matrices".to_owned(),
        "..." => "'...' is not available; give a value".to_owned(),
        "*" | "**" => format!("'{token}' cannot stand here: unpacking is not available"),
        ";" | "->" => format!("'{token}' is not available: a condition is one expression"),
        "and" | "or" | "not" | "in" | "is" | "if" | "else" => return None,
        _ if KEYWORDS.contains(&token) => {
            format!("'{token}' begins a statement; a condition is one expression")
        }
        _ if token.len() > 1 && token.ends_with('=') && !matches!(token, "==" | "!=" | "<=" | ">=") => {
            format!("'{token}' assigns, which is not available")
        }
        _ => return None,
    })
}

const KEYWORDS: [&str; 20] = [
    "as", "assert", "break", "class", "continue", "def", "del", "elif", "except", "finally", "from",
    "global", "import", "nonlocal", "pass", "raise", "return", "try", "while", "with",
];
