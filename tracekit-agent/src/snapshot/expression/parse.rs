//! From tokens to a program: operator precedence as in Python's grammar, within bounds of length, depth and
//! nodes. What would run code of the target, and what names a secret, does not get through.

use super::function::{Function, Method};
use super::syntax::{
    Binary, Comparison, CompileError, Constant, MAX_DEPTH, MAX_HEIGHT, MAX_LENGTH, MAX_NODES, Node, NodeId,
    Program, Unary,
};
use super::token::{Token, tokens};
use crate::redact::{Redactor, is_naming};

/// Words that are no names (Python 3 `Lib/keyword.py`).
const KEYWORDS: &[&str] = &[
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def",
    "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is",
    "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

/// Binary operators, the weakest first.
const LEVELS: &[&[(&str, Binary)]] = &[
    &[("|", Binary::Or)],
    &[("^", Binary::Xor)],
    &[("&", Binary::And)],
    &[("<<", Binary::Left), (">>", Binary::Right)],
    &[("+", Binary::Add), ("-", Binary::Subtract)],
    &[("*", Binary::Multiply), ("/", Binary::Divide), ("//", Binary::FloorDivide), ("%", Binary::Remainder)],
];

struct Parser<'s> {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    nodes: Vec<Node>,
    /// How high the tree below each node is.
    heights: Vec<usize>,
    /// Variables of generator expressions so far.
    variables: usize,
    redactor: &'s Redactor,
    /// Names such as `key`, and where: secrets, unless they turn out to be variables of a generator.
    pending: Vec<(NodeId, usize)>,
}

type Parsed = Result<NodeId, CompileError>;

/// Compiles a text. The redactor says which names are those of secrets.
pub(super) fn parse(text: &str, redactor: &Redactor) -> Result<Program, CompileError> {
    if text.len() > MAX_LENGTH {
        let what = format!("the expression has {} bytes, more than {MAX_LENGTH}", text.len());
        return Err(CompileError::new(what, 1));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        nodes: Vec::new(),
        heights: Vec::new(),
        variables: 0,
        redactor,
        pending: Vec::new(),
    };
    if *parser.peek() == Token::End {
        return Err(CompileError::new("the expression is empty", 1));
    }
    let root = parser.expression()?;
    for (node, column) in &parser.pending {
        if let Some(Node::Name(name)) = parser.nodes.get(*node) {
            parser.check_name(name, *column)?;
        }
    }
    match parser.peek() {
        Token::End => Ok(Program { nodes: parser.nodes, root }),
        Token::Operator(",") => Err(parser.error("unexpected ','").hint("a tuple is written in parentheses")),
        _ => Err(parser.unexpected()),
    }
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn column(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, column)| *column)
    }

    fn error(&self, what: impl Into<String>) -> CompileError {
        CompileError::new(what, self.column())
    }

    fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Token::Operator(found) if *found == operator)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if found == word)
    }

    fn take_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        self.at += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, operator: &str) -> Result<(), CompileError> {
        if self.take_operator(operator) {
            return Ok(());
        }
        match self.peek() {
            Token::End => Err(self.error(format!("'{operator}' is missing"))),
            _ => Err(self.unexpected()),
        }
    }

    fn unexpected(&self) -> CompileError {
        match self.peek() {
            Token::End => self.error("the expression is not complete"),
            Token::Name(word) => {
                let error = self.error(format!("unexpected '{word}'"));
                match word.as_str() {
                    "for" | "async" => error.hint(
                        "a comprehension is only supported as the argument of all, any, max, min or sum: \
                         any(item.price > 9 for item in items)",
                    ),
                    "lambda" | "def" | "class" => error.hint("an expression cannot define functions"),
                    "await" | "yield" => error.hint("it would run code of the process"),
                    "import" | "del" | "raise" | "assert" | "global" | "return" | "pass" => {
                        error.hint("only expressions are supported, no statements")
                    }
                    _ => error,
                }
            }
            Token::Int(_) | Token::Float(_) => self.error("unexpected number"),
            Token::Str(_) | Token::Bytes(_) => self.error("unexpected string"),
            Token::Operator(operator) => {
                let error = self.error(format!("unexpected '{operator}'"));
                match *operator {
                    "=" => error.hint("to compare, write =="),
                    ":=" | "+=" | "-=" | "*=" | "/=" | "//=" | "%=" | "&=" | "|=" | "^=" | "@=" | "**="
                    | "<<=" | ">>=" => error.hint("an expression cannot assign"),
                    "&&" => error.hint("write 'and'"),
                    "||" => error.hint("write 'or'"),
                    "!" => error.hint("write 'not'"),
                    "->" | "?" => error.hint("write 'a if condition else b'"),
                    "(" => error.hint("only functions and methods by their name can be called"),
                    _ => error,
                }
            }
        }
    }

    fn push(&mut self, node: Node) -> Parsed {
        if self.nodes.len() >= MAX_NODES {
            return Err(self.error(format!("the expression has more than {MAX_NODES} parts")));
        }
        let below = node.children().into_iter().filter_map(|child| self.heights.get(child)).max();
        let height = below.copied().unwrap_or(0) + 1;
        if height > MAX_HEIGHT {
            return Err(self
                .error(format!("the expression has more than {MAX_HEIGHT} operations in a row"))
                .hint("put a part of them in parentheses"));
        }
        self.heights.push(height);
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// Fails for the name of a secret.
    fn check_name(&self, name: &str, column: usize) -> Result<(), CompileError> {
        if self.redactor.sensitive(name).is_some() {
            return Err(CompileError::new(format!("'{name}' is redacted"), column)
                .hint("values of this name are hidden, so expressions cannot use them"));
        }
        Ok(())
    }

    /// Fails if a node is the name of a secret as a string: a key.
    fn check_key(&self, node: NodeId, column: usize) -> Result<(), CompileError> {
        match self.nodes.get(node) {
            Some(Node::Constant(Constant::Str(name))) => self.check_name(name, column),
            _ => Ok(()),
        }
    }

    /// One level deeper.
    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth >= MAX_DEPTH {
            return Err(self.error(format!("the expression is nested more than {MAX_DEPTH} levels deep")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn expression(&mut self) -> Parsed {
        self.deeper(|parser| {
            let then = parser.or()?;
            if !parser.take_word("if") {
                return Ok(then);
            }
            let test = parser.or()?;
            if !parser.take_word("else") {
                return Err(parser.error("'else' is missing").hint("write 'a if condition else b'"));
            }
            let otherwise = parser.expression()?;
            parser.push(Node::Conditional { test, then, otherwise })
        })
    }

    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        while self.take_word("or") {
            let right = self.and()?;
            left = self.push(Node::Or(left, right))?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.not()?;
        while self.take_word("and") {
            let right = self.not()?;
            left = self.push(Node::And(left, right))?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed {
        if !self.take_word("not") {
            return self.comparison();
        }
        let operand = self.deeper(Self::not)?;
        self.push(Node::Unary(Unary::Not, operand))
    }

    fn comparison(&mut self) -> Parsed {
        let first = self.binary(0)?;
        let mut rest = Vec::new();
        let mut left = first;
        loop {
            let column = self.column();
            let Some(operator) = self.comparison_operator()? else { break };
            let right = self.binary(0)?;
            if matches!(operator, Comparison::Is | Comparison::IsNot)
                && [left, right].iter().any(|side| self.has_no_identity(*side))
            {
                return Err(CompileError::new("'is' with a literal", column)
                    .hint("only None, True and False have an identity; write =="));
            }
            rest.push((operator, right));
            left = right;
        }
        if rest.is_empty() { Ok(first) } else { self.push(Node::Compare(first, rest)) }
    }

    fn has_no_identity(&self, node: NodeId) -> bool {
        match self.nodes.get(node) {
            Some(Node::Constant(constant)) => !matches!(constant, Constant::None | Constant::Bool(_)),
            Some(Node::List(_) | Node::Tuple(_) | Node::Set(_) | Node::Dict(_)) => true,
            _ => false,
        }
    }

    fn comparison_operator(&mut self) -> Result<Option<Comparison>, CompileError> {
        let operator = match self.peek() {
            Token::Operator("==") => Comparison::Equal,
            Token::Operator("!=") => Comparison::NotEqual,
            Token::Operator("<") => Comparison::Less,
            Token::Operator("<=") => Comparison::LessOrEqual,
            Token::Operator(">") => Comparison::Greater,
            Token::Operator(">=") => Comparison::GreaterOrEqual,
            Token::Name(word) if word == "in" => Comparison::In,
            Token::Name(word) if word == "is" => {
                self.at += 1;
                let not = self.take_word("not");
                return Ok(Some(if not { Comparison::IsNot } else { Comparison::Is }));
            }
            Token::Name(word) if word == "not" => {
                self.at += 1;
                if !self.is_word("in") {
                    return Err(self.error("'in' is missing"));
                }
                Comparison::NotIn
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(operator))
    }

    fn binary(&mut self, level: usize) -> Parsed {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        loop {
            let found = operators.iter().find(|(symbol, _)| self.is_operator(symbol));
            let Some((_, operator)) = found else { return Ok(left) };
            self.at += 1;
            let right = self.binary(level + 1)?;
            left = self.push(Node::Binary(*operator, left, right))?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let operator = match self.peek() {
            Token::Operator("-") => Unary::Minus,
            Token::Operator("+") => Unary::Plus,
            Token::Operator("~") => Unary::Invert,
            _ => return self.power(),
        };
        self.at += 1;
        let operand = self.deeper(Self::unary)?;
        self.push(Node::Unary(operator, operand))
    }

    fn power(&mut self) -> Parsed {
        let base = self.postfix()?;
        if !self.take_operator("**") {
            return Ok(base);
        }
        let exponent = self.deeper(Self::unary)?;
        self.push(Node::Binary(Binary::Power, base, exponent))
    }

    fn postfix(&mut self) -> Parsed {
        let mut value = match (self.peek(), self.tokens.get(self.at + 1)) {
            (Token::Name(name), Some((Token::Operator("("), _))) if !KEYWORDS.contains(&name.as_str()) => {
                let name = name.clone();
                self.call(&name)?
            }
            _ => self.atom()?,
        };
        loop {
            if self.take_operator(".") {
                let column = self.column();
                let Token::Name(name) = self.peek().clone() else {
                    return Err(self.error("the name of an attribute is missing"));
                };
                if KEYWORDS.contains(&name.as_str()) {
                    return Err(self.unexpected());
                }
                self.at += 1;
                value = if self.is_operator("(") {
                    self.method(value, &name, column)?
                } else {
                    self.check_name(&name, column)?;
                    self.push(Node::Attribute(value, name))?
                };
            } else if self.take_operator("[") {
                value = self.subscript(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn subscript(&mut self, object: NodeId) -> Parsed {
        let column = self.column();
        let mut parts = [None; 3];
        let mut colons = 0;
        loop {
            if self.is_operator(":") {
                if colons == 2 {
                    return Err(self.error("a slice has three parts at most"));
                }
                colons += 1;
                self.at += 1;
            } else if self.take_operator("]") {
                break;
            } else {
                let part = self.expression()?;
                match parts.get_mut(colons) {
                    Some(empty @ None) => *empty = Some(part),
                    _ => return Err(self.unexpected()),
                }
                if !self.is_operator(":") && !self.is_operator("]") {
                    let error = self.unexpected();
                    return Err(if self.is_operator(",") {
                        error.hint("a key that is a tuple is written in parentheses")
                    } else {
                        error
                    });
                }
            }
        }
        match (colons, parts) {
            (0, [Some(key), ..]) => {
                self.check_key(key, column)?;
                self.push(Node::Subscript(object, key))
            }
            (0, _) => Err(CompileError::new("the key is missing", column)),
            _ => self.push(Node::Slice(object, parts)),
        }
    }

    fn call(&mut self, name: &str) -> Parsed {
        let column = self.column();
        let Some(function) = Function::named(name) else {
            return Err(CompileError::new(format!("unknown function '{name}'"), column).hint(format!(
                "functions of the process are not called, they could change it; these exist: {}",
                Function::NAMES.join(", ")
            )));
        };
        self.at += 1;
        let key_column = self.tokens.get(self.at + 3).map_or(column, |(_, column)| *column);
        let arguments = self.arguments(function.takes_generator())?;
        self.check_count(&function.arguments(), arguments.len(), name, column)?;
        if matches!(function, Function::GetAttr | Function::HasAttr) {
            let key = arguments.get(1).copied().unwrap_or_default();
            if !matches!(self.nodes.get(key), Some(Node::Constant(Constant::Str(_)))) {
                return Err(CompileError::new(format!("{name} needs the attribute as a string"), key_column)
                    .hint(format!("as in {name}(order, \"total\")")));
            }
            self.check_key(key, key_column)?;
        }
        if let [only] = arguments.as_slice()
            && matches!(function, Function::All | Function::Any | Function::Max | Function::Min)
            && matches!(self.nodes.get(*only), Some(Node::Constant(_)))
        {
            return Err(CompileError::new(format!("{name} needs a container or more arguments"), column));
        }
        self.push(Node::Call(function, arguments))
    }

    fn method(&mut self, object: NodeId, name: &str, column: usize) -> Parsed {
        let Some(method) = Method::named(name) else {
            return Err(CompileError::new(format!("method '{name}' cannot be called"), column).hint(format!(
                "methods of the process are not called, they could change it; of strings, dicts, lists and \
                 tuples these can be used: {}",
                Method::NAMES.join(", ")
            )));
        };
        let key_column = self.tokens.get(self.at + 1).map_or(column, |(_, column)| *column);
        let arguments = self.arguments(false)?;
        self.check_count(&method.arguments(), arguments.len(), name, column)?;
        if method == Method::Get {
            self.check_key(arguments.first().copied().unwrap_or_default(), key_column)?;
        }
        self.push(Node::Method(method, object, arguments))
    }

    fn check_count(
        &self,
        allowed: &std::ops::RangeInclusive<usize>,
        count: usize,
        name: &str,
        column: usize,
    ) -> Result<(), CompileError> {
        if allowed.contains(&count) {
            return Ok(());
        }
        let (least, most) = (allowed.start(), allowed.end());
        let wanted = match (least, most) {
            (0, 0) => "no arguments".to_owned(),
            (1, 1) => "1 argument".to_owned(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        Err(CompileError::new(format!("{name} takes {wanted}, not {count},"), column))
    }

    /// From the opening to the closing parenthesis.
    fn arguments(&mut self, generator: bool) -> Result<Vec<NodeId>, CompileError> {
        self.expect("(")?;
        let mut arguments = Vec::new();
        while !self.take_operator(")") {
            if self.is_operator("*") || self.is_operator("**") {
                return Err(self.error("arguments cannot be unpacked"));
            }
            if matches!(self.peek(), Token::Name(_))
                && matches!(self.tokens.get(self.at + 1), Some((Token::Operator("="), _)))
            {
                return Err(self
                    .error("arguments by keyword are not supported")
                    .hint("give them by position; to compare, write =="));
            }
            let start = self.nodes.len();
            let mut argument = self.expression()?;
            if generator && arguments.is_empty() && self.is_word("for") {
                argument = self.deeper(|parser| parser.generator(argument, start))?;
                self.expect(")")?;
                return Ok(vec![argument]);
            }
            arguments.push(argument);
            if !self.take_operator(",") && !self.is_operator(")") {
                return Err(match self.peek() {
                    Token::End => self.error("')' is missing"),
                    _ => self.unexpected(),
                });
            }
        }
        Ok(arguments)
    }

    /// From `for` on; the nodes from `start` on are those of the element.
    fn generator(&mut self, element: NodeId, start: usize) -> Parsed {
        self.at += 1;
        let parenthesised = self.take_operator("(");
        let mut names = Vec::new();
        loop {
            let column = self.column();
            match self.peek().clone() {
                Token::Name(name) if !KEYWORDS.contains(&name.as_str()) => {
                    if !is_naming(&name) {
                        self.check_name(&name, column)?;
                    }
                    names.push(name);
                }
                _ => return Err(self.error("the name of a variable is missing")),
            }
            self.at += 1;
            if !self.take_operator(",") {
                break;
            }
        }
        if parenthesised {
            self.expect(")")?;
        }
        if !self.take_word("in") {
            return Err(self.error("'in' is missing"));
        }
        let element_end = self.nodes.len();
        let iterable = self.or()?;
        let iterable_end = self.nodes.len();
        let mut condition = None;
        while self.take_word("if") {
            let next = self.or()?;
            condition = Some(match condition {
                Some(before) => self.push(Node::And(before, next))?,
                None => next,
            });
        }
        if self.is_word("for") {
            return Err(self.error("a second 'for' is not supported"));
        }
        let first = self.variables;
        self.variables += names.len();
        // The names were read before it was known that they are variables. In the container they are not.
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let inside = (start..element_end).contains(&at) || at >= iterable_end;
            if let Node::Name(name) = node
                && inside
                && let Some(variable) = names.iter().rposition(|variable| variable == name)
            {
                *node = Node::Bound(first + variable);
            }
        }
        self.push(Node::Generator { element, first, count: names.len(), iterable, condition })
    }

    fn atom(&mut self) -> Parsed {
        let column = self.column();
        let token = self.peek().clone();
        match token {
            Token::Int(value) => {
                self.at += 1;
                self.push(Node::Constant(Constant::Int(value)))
            }
            Token::Float(value) => {
                self.at += 1;
                self.push(Node::Constant(Constant::Float(value)))
            }
            Token::Str(mut text) => {
                self.at += 1;
                while let Token::Str(more) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                self.push(Node::Constant(Constant::Str(text)))
            }
            Token::Bytes(mut bytes) => {
                self.at += 1;
                while let Token::Bytes(more) = self.peek() {
                    bytes.extend(more);
                    self.at += 1;
                }
                self.push(Node::Constant(Constant::Bytes(bytes)))
            }
            Token::Name(name) => {
                let constant = match name.as_str() {
                    "None" => Some(Constant::None),
                    "True" => Some(Constant::Bool(true)),
                    "False" => Some(Constant::Bool(false)),
                    keyword if KEYWORDS.contains(&keyword) => return Err(self.unexpected()),
                    _ => None,
                };
                self.at += 1;
                if let Some(constant) = constant {
                    return self.push(Node::Constant(constant));
                }
                if is_naming(&name) {
                    self.pending.push((self.nodes.len(), column));
                } else {
                    self.check_name(&name, column)?;
                }
                self.push(Node::Name(name))
            }
            Token::Operator("(") => self.parenthesised(),
            Token::Operator("[") => {
                let items = self.items("]")?;
                self.push(Node::List(items))
            }
            Token::Operator("{") => self.braces(),
            _ => Err(self.unexpected()),
        }
    }

    fn parenthesised(&mut self) -> Parsed {
        self.at += 1;
        if self.take_operator(")") {
            return self.push(Node::Tuple(Vec::new()));
        }
        let first = self.expression()?;
        if self.take_operator(")") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_operator(",") {
            if self.is_operator(")") {
                break;
            }
            items.push(self.expression()?);
        }
        self.expect(")")?;
        self.push(Node::Tuple(items))
    }

    /// From the opening bracket to this closing one.
    fn items(&mut self, close: &str) -> Result<Vec<NodeId>, CompileError> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.take_operator(close) {
            items.push(self.expression()?);
            if !self.take_operator(",") && !self.is_operator(close) {
                self.expect(close)?;
            }
        }
        Ok(items)
    }

    fn braces(&mut self) -> Parsed {
        if matches!(self.tokens.get(self.at + 1), Some((Token::Operator("}"), _))) {
            self.at += 2;
            return self.push(Node::Dict(Vec::new()));
        }
        self.at += 1;
        let first = self.expression()?;
        if !self.take_operator(":") {
            let mut items = vec![first];
            while self.take_operator(",") && !self.is_operator("}") {
                items.push(self.expression()?);
            }
            self.expect("}")?;
            return self.push(Node::Set(items));
        }
        let mut pairs = vec![(first, self.expression()?)];
        while self.take_operator(",") && !self.is_operator("}") {
            let key = self.expression()?;
            self.expect(":")?;
            pairs.push((key, self.expression()?));
        }
        self.expect("}")?;
        self.push(Node::Dict(pairs))
    }
}
