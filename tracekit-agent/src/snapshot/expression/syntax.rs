//! What an expression consists of, and why a text is none.

use num_bigint::BigInt;

use super::function::{Function, Method};

/// Bytes of the text of an expression at most.
pub const MAX_LENGTH: usize = 1024;
/// Nodes of an expression at most.
pub const MAX_NODES: usize = 200;
/// Levels of brackets, calls and operators at most.
pub const MAX_DEPTH: usize = 40;

/// Levels of the tree of nodes at most: a path, or a sum, may be longer than brackets may be nested.
pub const MAX_HEIGHT: usize = 64;

/// Why a text is no expression that can be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at column {column}{}", hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default())]
pub struct CompileError {
    /// What is wrong.
    pub what: String,
    /// The character at which it is, counted from 1.
    pub column: usize,
    /// What to do instead.
    pub hint: Option<String>,
}

impl CompileError {
    pub(super) fn new(what: impl Into<String>, column: usize) -> Self {
        Self { what: what.into(), column, hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// The place of a node in its program.
pub(super) type NodeId = usize;

/// A literal.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Constant {
    None,
    Bool(bool),
    Int(BigInt),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
}

/// Operators of arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
    And,
    Or,
    Xor,
    Left,
    Right,
}

impl Binary {
    /// As it is written.
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::FloorDivide => "//",
            Self::Remainder => "%",
            Self::Power => "**",
            Self::And => "&",
            Self::Or => "|",
            Self::Xor => "^",
            Self::Left => "<<",
            Self::Right => ">>",
        }
    }
}

/// Operators before one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Not,
    Minus,
    Plus,
    Invert,
}

/// Comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
    Is,
    IsNot,
}

/// A node. It comes behind those that it names.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Constant(Constant),
    /// A variable of the frame.
    Name(String),
    /// The variable of a generator expression, counted from the outermost.
    Bound(usize),
    Attribute(NodeId, String),
    Subscript(NodeId, NodeId),
    Slice(NodeId, [Option<NodeId>; 3]),
    Unary(Unary, NodeId),
    Binary(Binary, NodeId, NodeId),
    Compare(NodeId, Vec<(Comparison, NodeId)>),
    And(NodeId, NodeId),
    Or(NodeId, NodeId),
    Conditional {
        test: NodeId,
        then: NodeId,
        otherwise: NodeId,
    },
    Call(Function, Vec<NodeId>),
    Method(Method, NodeId, Vec<NodeId>),
    List(Vec<NodeId>),
    Tuple(Vec<NodeId>),
    Set(Vec<NodeId>),
    Dict(Vec<(NodeId, NodeId)>),
    /// `element for … in iterable if condition`, the only argument of a function.
    Generator {
        element: NodeId,
        /// The first of its variables, and how many there are: more than one unpack each item.
        first: usize,
        count: usize,
        iterable: NodeId,
        condition: Option<NodeId>,
    },
}

impl Node {
    /// The nodes that it names.
    pub(super) fn children(&self) -> Vec<NodeId> {
        match self {
            Self::Constant(_) | Self::Name(_) | Self::Bound(_) => Vec::new(),
            Self::Attribute(object, _) | Self::Unary(_, object) => vec![*object],
            Self::Subscript(a, b) | Self::Binary(_, a, b) | Self::And(a, b) | Self::Or(a, b) => vec![*a, *b],
            Self::Slice(object, parts) => parts.iter().flatten().chain([object]).copied().collect(),
            Self::Compare(first, rest) => rest.iter().map(|(_, right)| *right).chain([*first]).collect(),
            Self::Conditional { test, then, otherwise } => vec![*test, *then, *otherwise],
            Self::Call(_, items) | Self::List(items) | Self::Tuple(items) | Self::Set(items) => items.clone(),
            Self::Method(_, object, arguments) => arguments.iter().chain([object]).copied().collect(),
            Self::Dict(pairs) => pairs.iter().flat_map(|(key, value)| [*key, *value]).collect(),
            Self::Generator { element, iterable, condition, .. } => {
                condition.iter().chain([element, iterable]).copied().collect()
            }
        }
    }
}

/// A text that compiled: the nodes in the order in which they are complete, the last is the whole.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Program {
    pub nodes: Vec<Node>,
    pub root: NodeId,
}
