//! The compiled form: nodes in one vector, pointing at each other by index, with the limits that
//! keep evaluation off the end of the stack.

/// Nodes of one expression.
pub const NODES_MAX: usize = 1024;
/// Levels of nesting, in the text and in the tree.
pub const DEPTH_MAX: usize = 64;

pub(super) type NodeId = u16;

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) children: Vec<NodeId>,
    pub(super) links: Vec<(Comparison, NodeId)>,
    pub(super) constants: Vec<Constant>,
    /// Of each node, in characters from 1.
    pub(super) columns: Vec<u16>,
    pub(super) root: NodeId,
    depths: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    Constant(u16),
    Field(Field),
    Unary(UnaryOperator, NodeId),
    Binary(BinaryOperator, NodeId, NodeId),
    And(Span),
    Or(Span),
    Not(NodeId),
    /// A chain: the first operand, then operator and operand for each link.
    Compare(NodeId, Span),
    Conditional {
        condition: NodeId,
        then: NodeId,
        otherwise: NodeId,
    },
    Tuple(Span),
    List(Span),
    Set(Span),
    /// Keys and values in turn.
    Dict(Span),
    Index(NodeId, NodeId),
    /// The sequence, then start, stop and step, `None` constants where left out.
    Slice(Span),
    Call(Builtin, Span),
    /// `.get(key)` or `.get(key, default)`: the dict, then the arguments.
    Get(Span),
}

/// A run in `Tree::children` or `Tree::links`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u16,
    pub(super) len: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Constant {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Value,
    SensorName,
    Timestamp,
    Unit,
    Metadata,
    /// Of the reading or result before this one.
    PreviousValue,
    PreviousTimestamp,
    /// Of the window's result that is judged.
    Window(WindowField),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowField {
    Mean,
    Max,
    Min,
    Std,
    Sum,
    Count,
    Start,
    End,
    First,
    Last,
    Rate,
    Percentile,
    Ewma,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnaryOperator {
    Plus,
    Minus,
    Invert,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BinaryOperator {
    Or,
    Xor,
    And,
    ShiftLeft,
    ShiftRight,
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Equal,
    NotEqual,
    In,
    NotIn,
    Is,
    IsNot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builtin {
    Abs,
    Max,
    /// With `default=`, which is then the second argument.
    MaxDefault,
    Min,
    MinDefault,
    Sum,
    Len,
    Round,
    Float,
    Int,
    Bool,
}

/// What has fields, and which.
pub(super) const OWNERS: [(&str, &str); 3] = [
    ("ctx", "ctx has value, sensor_name, timestamp, unit and metadata"),
    ("prev", "prev has value and timestamp"),
    ("win", "win has mean, max, min, std, sum, count, first, last, rate, percentile, ewma, start and end"),
];

/// What a tree would have to exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TreeLimit {
    Nodes,
    Depth,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            children: Vec::new(),
            links: Vec::new(),
            constants: Vec::new(),
            columns: Vec::new(),
            root: 0,
            depths: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, node: Node, column: usize) -> Result<NodeId, TreeLimit> {
        if self.nodes.len() >= NODES_MAX {
            return Err(TreeLimit::Nodes);
        }
        let depth = 1 + usize::from(self.depth_below(&node));
        if depth > DEPTH_MAX {
            return Err(TreeLimit::Depth);
        }
        let id = self.nodes.len() as NodeId;
        self.nodes.push(node);
        self.depths.push(depth as u8);
        self.columns.push(u16::try_from(column).unwrap_or(u16::MAX));
        Ok(id)
    }

    pub(super) fn push_constant(&mut self, constant: Constant, column: usize) -> Result<NodeId, TreeLimit> {
        // Only a node makes a constant, so there are at most as many.
        let node = Node::Constant(self.constants.len() as u16);
        let id = self.push(node, column)?;
        self.constants.push(constant);
        Ok(id)
    }

    /// Keeps a run of children. The ids exist, so with at most `NODES_MAX` nodes, each the child of
    /// one parent, the run always fits.
    pub(super) fn keep(&mut self, ids: &[NodeId]) -> Span {
        let start = self.children.len() as u16;
        self.children.extend_from_slice(ids);
        Span { start, len: ids.len() as u16 }
    }

    pub(super) fn keep_links(&mut self, links: &[(Comparison, NodeId)]) -> Span {
        let start = self.links.len() as u16;
        self.links.extend_from_slice(links);
        Span { start, len: links.len() as u16 }
    }

    /// With all columns counted from further left.
    pub(super) fn shifted(mut self, columns: usize) -> Self {
        let columns = u16::try_from(columns).unwrap_or(u16::MAX);
        self.columns.iter_mut().for_each(|column| *column = column.saturating_add(columns));
        self
    }

    pub(super) fn children(&self, span: Span) -> &[NodeId] {
        &self.children[usize::from(span.start)..usize::from(span.start + span.len)]
    }

    pub(super) fn links(&self, span: Span) -> &[(Comparison, NodeId)] {
        &self.links[usize::from(span.start)..usize::from(span.start + span.len)]
    }

    pub(super) fn node(&self, id: NodeId) -> Node {
        self.nodes[usize::from(id)]
    }

    pub(super) fn constant(&self, id: NodeId) -> Option<&Constant> {
        match self.node(id) {
            Node::Constant(index) => self.constants.get(usize::from(index)),
            _ => None,
        }
    }

    pub(super) fn has_field(&self, wanted: impl Fn(Field) -> bool) -> bool {
        self.nodes.iter().any(|node| matches!(node, Node::Field(field) if wanted(*field)))
    }

    fn depth_below(&self, node: &Node) -> u8 {
        let of = |id: &NodeId| self.depths[usize::from(*id)];
        match node {
            Node::Constant(_) | Node::Field(_) => 0,
            Node::Unary(_, id) | Node::Not(id) => of(id),
            Node::Binary(_, left, right) | Node::Index(left, right) => of(left).max(of(right)),
            Node::Conditional { condition, then, otherwise } => {
                of(condition).max(of(then)).max(of(otherwise))
            }
            Node::Compare(first, span) => {
                self.links(*span).iter().map(|(_, id)| of(id)).fold(of(first), u8::max)
            }
            Node::And(span)
            | Node::Or(span)
            | Node::Tuple(span)
            | Node::List(span)
            | Node::Set(span)
            | Node::Dict(span)
            | Node::Slice(span)
            | Node::Call(_, span)
            | Node::Get(span) => self.children(*span).iter().map(of).max().unwrap_or(0),
        }
    }
}

impl BinaryOperator {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Or => "|",
            Self::Xor => "^",
            Self::And => "&",
            Self::ShiftLeft => "<<",
            Self::ShiftRight => ">>",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::FloorDivide => "//",
            Self::Modulo => "%",
            Self::Power => "**",
        }
    }
}

impl Comparison {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::In => "in",
            Self::NotIn => "not in",
            Self::Is => "is",
            Self::IsNot => "is not",
        }
    }
}

impl Field {
    /// The field `name` of `owner`, one of [`OWNERS`].
    pub(super) fn of(owner: &str, name: &str) -> Option<Self> {
        match owner {
            "prev" => Self::of_previous(name),
            "win" => WindowField::from_name(name).map(Self::Window),
            _ => Self::from_name(name),
        }
    }

    fn of_previous(name: &str) -> Option<Self> {
        match name {
            "value" => Some(Self::PreviousValue),
            "timestamp" => Some(Self::PreviousTimestamp),
            _ => None,
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "value" => Self::Value,
            "sensor_name" => Self::SensorName,
            "timestamp" => Self::Timestamp,
            "unit" => Self::Unit,
            "metadata" => Self::Metadata,
            _ => return None,
        })
    }
}

impl WindowField {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "mean" => Self::Mean,
            "max" => Self::Max,
            "min" => Self::Min,
            "std" => Self::Std,
            "sum" => Self::Sum,
            "count" => Self::Count,
            "start" => Self::Start,
            "end" => Self::End,
            "first" => Self::First,
            "last" => Self::Last,
            "rate" => Self::Rate,
            "percentile" => Self::Percentile,
            "ewma" => Self::Ewma,
            _ => return None,
        })
    }
}

impl Builtin {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "abs" => Self::Abs,
            "max" => Self::Max,
            "min" => Self::Min,
            "sum" => Self::Sum,
            "len" => Self::Len,
            "round" => Self::Round,
            "float" => Self::Float,
            "int" => Self::Int,
            "bool" => Self::Bool,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Abs => "abs",
            Self::Max | Self::MaxDefault => "max",
            Self::Min | Self::MinDefault => "min",
            Self::Sum => "sum",
            Self::Len => "len",
            Self::Round => "round",
            Self::Float => "float",
            Self::Int => "int",
            Self::Bool => "bool",
        }
    }
}
