//! Walks the tree. Operands are evaluated in Python's order, and only those Python would evaluate.

use std::rc::Rc;

use super::error::{ErrorClass, EvalError};
use super::tree::{Builtin, Comparison, Constant, Field, Node, NodeId, Span, Tree, WindowField};
use super::value::{Budget, Dict, Text, Value};
use super::{Context, arithmetic, builtin, compare, sequence};

/// # Errors
/// Python's exception with the column it arose at.
pub(super) fn evaluate<'v, 'c: 'v>(tree: &'v Tree, ctx: &Context<'c>) -> Result<Value<'v>, EvalError> {
    let mut evaluator = Evaluator { tree, ctx, budget: Budget::new(), failed_at: None };
    let result = evaluator.node(tree.root);
    result.map_err(|error| evaluator.located(error))
}

/// The truth of what [`evaluate`] gives, without making the value where it need not be made.
///
/// # Errors
/// The same.
pub(super) fn is_true(tree: &Tree, ctx: &Context<'_>) -> Result<bool, EvalError> {
    let mut evaluator = Evaluator { tree, ctx, budget: Budget::new(), failed_at: None };
    let result = evaluator.truth(tree.root);
    result.map_err(|error| evaluator.located(error))
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
    fn located(&self, error: EvalError) -> EvalError {
        let failed_at = self.failed_at.unwrap_or(self.tree.root);
        EvalError { column: self.tree.columns[usize::from(failed_at)], ..error }
    }

    /// The truth of a node. What most conditions are made of never becomes a value.
    fn truth(&mut self, id: NodeId) -> Evaluated<'v, bool> {
        let tree = self.tree;
        match tree.node(id) {
            Node::And(items) => {
                for item in tree.children(items) {
                    if !self.truth(*item)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Node::Or(items) => {
                for item in tree.children(items) {
                    if self.truth(*item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::Not(operand) => Ok(!self.truth(operand)?),
            Node::Compare(first, links) => match tree.links(links) {
                [(operator, operand)] => match self.plain_comparison(*operator, first, *operand) {
                    Some(truth) => Ok(truth),
                    None => Ok(self.branch(id)?.is_true()),
                },
                _ => Ok(self.branch(id)?.is_true()),
            },
            _ => Ok(self.node(id)?.is_true()),
        }
    }

    /// Compares leaves that are both floats, or as good as, or both strings; `None` for all others.
    fn plain_comparison(&self, operator: Comparison, left: NodeId, right: NodeId) -> Option<bool> {
        if let Some(left) = self.plain_float(left) {
            let right = self.plain_float(right)?;
            return Some(match operator {
                Comparison::Less => left < right,
                Comparison::LessEqual => left <= right,
                Comparison::Greater => left > right,
                Comparison::GreaterEqual => left >= right,
                Comparison::Equal => left == right,
                Comparison::NotEqual => left != right,
                Comparison::In | Comparison::NotIn | Comparison::Is | Comparison::IsNot => return None,
            });
        }
        let (left, right) = (self.plain_text(left)?, self.plain_text(right)?);
        match operator {
            Comparison::Equal => Some(left == right),
            Comparison::NotEqual => Some(left != right),
            _ => None,
        }
    }

    fn plain_float(&self, id: NodeId) -> Option<f64> {
        match self.tree.node(id) {
            Node::Field(Field::Value) => Some(self.ctx.reading.value),
            Node::Field(Field::Timestamp) => Some(self.ctx.reading.timestamp),
            Node::Field(Field::PreviousValue) => self.ctx.previous.map(|previous| previous.value),
            Node::Constant(index) => match self.tree.constants[usize::from(index)] {
                Constant::Float(float) => Some(float),
                // So small an integer compares the same as a float.
                Constant::Int(integer) => i32::try_from(integer).ok().map(f64::from),
                _ => None,
            },
            _ => None,
        }
    }

    fn plain_text(&self, id: NodeId) -> Option<&str> {
        match self.tree.node(id) {
            Node::Field(Field::SensorName) => Some(self.ctx.reading.sensor_name),
            Node::Field(Field::Unit) => Some(self.ctx.reading.unit),
            Node::Constant(index) => match &self.tree.constants[usize::from(index)] {
                Constant::Str(text) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// Leaves are answered on the spot: most operands are, and nothing can go wrong with them.
    #[inline(always)]
    fn node(&mut self, id: NodeId) -> Evaluated<'v> {
        match self.tree.node(id) {
            Node::Constant(index) => Ok(constant(&self.tree.constants[usize::from(index)])),
            Node::Field(Field::Value) => Ok(Value::Float(self.ctx.reading.value)),
            Node::Field(Field::Unit) => Ok(Value::borrowed(self.ctx.reading.unit)),
            _ => self.branch(id),
        }
    }

    /// The recursion is bounded by the depth of the tree.
    #[inline(never)]
    fn branch(&mut self, id: NodeId) -> Evaluated<'v> {
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
            Field::PreviousValue => float(self.ctx.previous.map(|previous| previous.value)),
            Field::PreviousTimestamp => float(self.ctx.previous.map(|previous| previous.timestamp)),
            Field::Window(field) => self.window(field),
        })
    }

    /// None where no result is judged.
    fn window(&self, field: WindowField) -> Value<'v> {
        let Some(window) = self.ctx.window else { return Value::None };
        Value::Float(match field {
            WindowField::Mean => window.mean,
            WindowField::Max => window.max,
            WindowField::Min => window.min,
            WindowField::Std => window.std,
            WindowField::Sum => window.sum,
            WindowField::Start => window.start,
            WindowField::End => window.end,
            WindowField::Count => return Value::Int(window.count.into()),
            WindowField::First => window.first,
            WindowField::Last => window.last,
            WindowField::Rate => return float(window.rate),
            WindowField::Percentile => return float(window.percentile),
            WindowField::Ewma => return float(window.ewma),
        })
    }

    fn comparison(&mut self, first: NodeId, links: Span) -> Evaluated<'v> {
        let tree = self.tree;
        let mut left = self.node(first)?;
        let links = tree.links(links);
        for (at, (operator, operand)) in links.iter().enumerate() {
            // Nobody asks again for the right side of the last link.
            if at + 1 == links.len()
                && let Some(found) = self.among_constants(*operator, &left, *operand)?
            {
                return Ok(Value::Bool(found));
            }
            let right = self.node(*operand)?;
            if !compare::holds(*operator, &left, &right, &mut self.budget)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// `in` and `not in` a display of constants, without building it; `None` for anything else.
    #[inline]
    fn among_constants(
        &mut self,
        operator: Comparison,
        item: &Value<'v>,
        display: NodeId,
    ) -> Evaluated<'v, Option<bool>> {
        let tree = self.tree;
        if !matches!(operator, Comparison::In | Comparison::NotIn) {
            return Ok(None);
        }
        let (Node::Tuple(items) | Node::List(items) | Node::Set(items)) = tree.node(display) else {
            return Ok(None);
        };
        let items = tree.children(items);
        if items.iter().any(|item| tree.constant(*item).is_none()) {
            return Ok(None);
        }
        if let Node::Set(_) = tree.node(display) {
            item.require_hashable()?;
        }
        for candidate in items.iter().filter_map(|item| tree.constant(*item)) {
            if compare::equal(&constant(candidate), item, &mut self.budget)? {
                return Ok(Some(operator == Comparison::In));
            }
        }
        Ok(Some(operator == Comparison::NotIn))
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

fn float<'v>(float: Option<f64>) -> Value<'v> {
    float.map_or(Value::None, Value::Float)
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
