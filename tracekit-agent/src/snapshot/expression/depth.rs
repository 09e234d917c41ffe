//! How deep below local variables an expression looks.

use super::function::{Function, Method};
use super::syntax::{Comparison, Node, NodeId, Program};

/// Levels that the deepest look of a program needs.
pub(super) fn of(program: &Program) -> usize {
    let mut depths = Depths { program, bound: Vec::new(), deepest: 0 };
    depths.node(program.root);
    depths.deepest
}

struct Depths<'p> {
    program: &'p Program,
    /// Of the variables of generator expressions.
    bound: Vec<usize>,
    deepest: usize,
}

impl Depths<'_> {
    /// The level of a node's value, 0 for a local variable. Values that are computed are as deep as what they are made of.
    fn node(&mut self, id: NodeId) -> usize {
        let program = self.program;
        let Some(node) = program.nodes.get(id) else { return 0 };
        let level = match node {
            Node::Constant(_) | Node::Name(_) => 0,
            Node::Bound(variable) => self.bound.get(*variable).copied().unwrap_or(0),
            Node::Attribute(object, _) => self.node(*object) + 1,
            Node::Subscript(object, key) => {
                self.node(*key);
                self.node(*object) + 1
            }
            Node::Slice(object, parts) => {
                self.all(parts.iter().flatten());
                self.node(*object)
            }
            Node::Compare(first, rest) => {
                let constant = |id: NodeId| matches!(program.nodes.get(id), Some(Node::Constant(_)));
                let (mut level, mut left) = (self.node(*first), *first);
                for (operator, right) in rest {
                    let items = match operator {
                        Comparison::Is | Comparison::IsNot => 0,
                        Comparison::In | Comparison::NotIn => 1,
                        // Containers are compared by their items.
                        _ => usize::from(!constant(left) && !constant(*right)),
                    };
                    let both = level.max(self.node(*right));
                    self.reach(both + items);
                    (level, left) = (both, *right);
                }
                0
            }
            Node::Call(function, arguments) => {
                let iterates = matches!(
                    function,
                    Function::Any | Function::All | Function::Min | Function::Max | Function::Sum
                );
                let generator = |id: &NodeId| matches!(program.nodes.get(*id), Some(Node::Generator { .. }));
                let one = arguments.len() == 1 || *function == Function::Sum;
                let items = iterates && one && !arguments.iter().any(generator);
                let attribute = matches!(function, Function::GetAttr | Function::HasAttr);
                self.all(arguments.iter()) + usize::from(items || attribute)
            }
            Node::Method(method, object, arguments) => {
                self.all(arguments.iter());
                let looks = matches!(
                    method,
                    Method::Get | Method::Keys | Method::Values | Method::Items | Method::Count
                );
                self.node(*object) + usize::from(looks)
            }
            Node::Generator { element, first, count, iterable, condition } => {
                // The items of a view are the keys and values themselves.
                let view = |id: &NodeId| {
                    let view = [Method::Keys, Method::Values, Method::Items];
                    matches!(program.nodes.get(*id), Some(Node::Method(method, ..)) if view.contains(method))
                };
                let level = self.node(*iterable) + usize::from(!view(iterable));
                let end = first.saturating_add(*count).min(program.nodes.len() + 256);
                self.bound.resize(self.bound.len().max(end), 0);
                self.bound.iter_mut().take(end).skip(*first).for_each(|bound| *bound = level);
                if *count > 1 && !view(iterable) {
                    // Each item is unpacked.
                    self.bound.iter_mut().take(end).skip(*first).for_each(|bound| *bound += 1);
                }
                self.all(condition.iter());
                self.node(*element)
            }
            _ => self.all(node.children().iter()),
        };
        self.reach(level);
        level
    }

    fn all<'n>(&mut self, nodes: impl Iterator<Item = &'n NodeId>) -> usize {
        nodes.map(|id| self.node(*id)).max().unwrap_or(0)
    }

    fn reach(&mut self, level: usize) {
        self.deepest = self.deepest.max(level);
    }
}
