//! Walks the tree. Operands are evaluated in Python's order, and only those Python would evaluate.

use std::rc::Rc;

use super::error::{ErrorClass, EvalError};
use super::tree::{Builtin, Constant, Field, Node, NodeId, Span, Tree};
use super::value::{Budget, Dict, Text, Value};
use super::{Context, arithmetic, builtin, compare, sequence};

/// # Errors
/// Python's exception with the column it arose at.
pub(super) fn evaluate<'v, 'c: 'v>(tree: &'v Tree, ctx: &Context<'c>) -> Result<Value<'v>, EvalError> {
    let mut evaluator = Evaluator { tree, ctx, budget: Budget::new(), failed_at: None };
    evaluator.node(tree.root).map_err(|error| {
        let failed_at = evaluator.failed_at.unwrap_or(tree.root);
        EvalError { column: tree.columns[usize::from(failed_at)], ..error }
    })
}

struct Evaluator<'v, 'x, 'c> {
    tree: &'v Tree,
    ctx: &'x Context<'c>,
    budget: Budget,
    /// The innermost node that failed.
    failed_at: Option<NodeId>,
}

type Evaluated<'v, T = Value<'v>> = Result<T, EvalError>;

impl<'v, 'c: 'v> Evaluator<'v, '_, 'c> {
    /// The recursion is bounded by the depth of the tree.
    fn node(&mut self, id: NodeId) -> Evaluated<'v> {
        let result = self.budget.charge(1).and_then(|()| self.inner(id));
        if result.is_err() && self.failed_at.is_none() {
            self.failed_at = Some(id);
        }
        result
    }

    fn inner(&mut self, id: NodeId) -> Evaluated<'v> {
        match self.tree.node(id) {
            Node::Constant(index) => Ok(constant(&self.tree.constants[usize::from(index)])),
            Node::Field(field) => self.field(field),
            Node::Compare(first, links) => self.comparison(first, links),
            Node::And(items) => self.until(items, false),
            Node::Or(items) => self.until(items, true),
            Node::Not(operand) => Ok(Value::Bool(!self.node(operand)?.is_true())),
            Node::Unary(operator, operand) => arithmetic::unary(operator, &self.node(operand)?),
            Node::Binary(operator, left, right) => {
                let left = self.node(left)?;
                let right = self.node(right)?;
                arithmetic::binary(operator, left, right, &mut self.budget)
            }
            Node::Conditional { condition, then, otherwise } => {
                let chosen = if self.node(condition)?.is_true() { then } else { otherwise };
                self.node(chosen)
            }
            Node::Tuple(items) => Ok(Value::Tuple(self.items(items)?)),
            Node::List(items) => Ok(Value::List(self.items(items)?)),
            Node::Set(items) => {
                let items = self.items(items)?;
                items.iter().try_for_each(Value::require_hashable)?;
                Ok(Value::Set(items))
            }
            Node::Dict(entries) => self.dict(entries),
            Node::Index(owner, key) => {
                let owner = self.node(owner)?;
                let key = self.node(key)?;
                sequence::index(&owner, &key, &mut self.budget)
            }
            Node::Slice(parts) => {
                let [owner, start, stop, step] = self.fixed(parts)?;
                sequence::slice(&owner, [&start, &stop, &step], &mut self.budget)
            }
            Node::Call(builtin, arguments) => self.call(builtin, arguments),
            Node::Get(arguments) => self.get(arguments),
        }
    }

    fn field(&self, field: Field) -> Evaluated<'v> {
        let reading = &self.ctx.reading;
        Ok(match field {
            Field::Value => Value::Float(reading.value),
            Field::Timestamp => Value::Float(reading.timestamp),
            Field::SensorName => Value::borrowed(reading.sensor_name),
            Field::Unit => Value::borrowed(reading.unit),
            Field::Metadata => Value::Dict(self.ctx.metadata()?),
        })
    }

    fn comparison(&mut self, first: NodeId, links: Span) -> Evaluated<'v> {
        let tree = self.tree;
        let mut left = self.node(first)?;
        for (operator, operand) in tree.links(links) {
            let right = self.node(*operand)?;
            if !compare::holds(*operator, &left, &right, &mut self.budget)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// The first operand whose truth is `truth`, or the last.
    fn until(&mut self, items: Span, truth: bool) -> Evaluated<'v> {
        let tree = self.tree;
        let mut last = Value::Bool(!truth);
        for item in tree.children(items) {
            last = self.node(*item)?;
            if last.is_true() == truth {
                break;
            }
        }
        Ok(last)
    }

    fn items(&mut self, items: Span) -> Evaluated<'v, Rc<[Value<'v>]>> {
        let tree = self.tree;
        tree.children(items).iter().map(|item| self.node(*item)).collect()
    }

    /// Exactly `N` operands, off the heap.
    fn fixed<const N: usize>(&mut self, items: Span) -> Evaluated<'v, [Value<'v>; N]> {
        let tree = self.tree;
        let mut values = [const { Value::None }; N];
        for (value, item) in values.iter_mut().zip(tree.children(items)) {
            *value = self.node(*item)?;
        }
        Ok(values)
    }

    fn dict(&mut self, entries: Span) -> Evaluated<'v> {
        let tree = self.tree;
        // All of them first: Python checks keys when it builds the dict.
        let mut values = Vec::with_capacity(usize::from(entries.len));
        for item in tree.children(entries) {
            values.push(self.node(*item)?);
        }
        let mut dict = Dict::default();
        let mut values = values.into_iter();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            key.require_hashable()?;
            sequence::insert(&mut dict, key, value, &mut self.budget)?;
        }
        Ok(Value::Dict(Rc::new(dict)))
    }

    fn call(&mut self, builtin: Builtin, arguments: Span) -> Evaluated<'v> {
        match arguments.len {
            1 => builtin::call(builtin, &self.fixed::<1>(arguments)?, &mut self.budget),
            2 => builtin::call(builtin, &self.fixed::<2>(arguments)?, &mut self.budget),
            _ => builtin::call(builtin, &self.items(arguments)?, &mut self.budget),
        }
    }

    fn get(&mut self, arguments: Span) -> Evaluated<'v> {
        let tree = self.tree;
        let [owner, rest @ ..] = tree.children(arguments) else {
            return Ok(Value::None);
        };
        let owner = self.node(*owner)?;
        // Python looks the method up before it evaluates the arguments.
        let Value::Dict(dict) = owner else {
            return Err(EvalError::new(ErrorClass::AttributeError, "only a dict has .get"));
        };
        let mut values = [Value::None, Value::None];
        for (value, item) in values.iter_mut().zip(rest) {
            *value = self.node(*item)?;
        }
        let [key, default] = values;
        key.require_hashable()?;
        Ok(compare::find(&dict, &key, &mut self.budget)?.cloned().unwrap_or(default))
    }
}

fn constant(constant: &Constant) -> Value<'_> {
    match constant {
        Constant::None => Value::None,
        Constant::Bool(truth) => Value::Bool(*truth),
        Constant::Int(integer) => Value::Int(*integer),
        Constant::Float(float) => Value::Float(*float),
        Constant::Str(text) => Value::Str(Text::Borrowed(text)),
    }
}
