//! The functions and methods that expressions may call: evaluated by the agent, never by the target.

/// Declares an enum whose variants are functions with a name and a count of arguments.
macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal, $least:literal..=$most:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name { $($variant,)* }

        impl $name {
            /// All of them, as an error lists them.
            pub(super) const NAMES: &'static [&'static str] = &[$($text,)*];

            /// The one of this name.
            pub(super) fn named(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// As it is written.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// How many arguments it takes.
            pub(super) fn arguments(self) -> std::ops::RangeInclusive<usize> {
                match self { $(Self::$variant => $least..=$most,)* }
            }
        }
    };
}

functions! {
    /// Functions.
    Function {
        Abs = "abs", 1..=1;
        All = "all", 1..=1;
        Any = "any", 1..=1;
        Bool = "bool", 1..=1;
        Float = "float", 1..=1;
        GetAttr = "getattr", 2..=3;
        HasAttr = "hasattr", 2..=2;
        Int = "int", 1..=1;
        IsInstance = "isinstance", 2..=2;
        Len = "len", 1..=1;
        Max = "max", 1..=20;
        Min = "min", 1..=20;
        Round = "round", 1..=2;
        Str = "str", 1..=1;
        Sum = "sum", 1..=2;
        Type = "type", 1..=1;
    }
}

functions! {
    /// Methods of strings, dicts, lists and tuples.
    Method {
        Count = "count", 1..=1;
        EndsWith = "endswith", 1..=1;
        Find = "find", 1..=1;
        Get = "get", 1..=2;
        IsDigit = "isdigit", 0..=0;
        Items = "items", 0..=0;
        Keys = "keys", 0..=0;
        Lower = "lower", 0..=0;
        LStrip = "lstrip", 0..=1;
        Replace = "replace", 2..=2;
        RStrip = "rstrip", 0..=1;
        Split = "split", 0..=2;
        StartsWith = "startswith", 1..=1;
        Strip = "strip", 0..=1;
        Upper = "upper", 0..=0;
        Values = "values", 0..=0;
    }
}

impl Function {
    /// It takes a generator expression.
    pub(super) fn takes_generator(self) -> bool {
        matches!(self, Self::All | Self::Any | Self::Max | Self::Min | Self::Sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_for_those_who_read_them() {
        assert!(Function::NAMES.is_sorted());
        assert!(Method::NAMES.is_sorted_by_key(|name| name.replace("lstrip", "lowerstrip")));
        for name in Function::NAMES {
            assert_eq!(Function::named(name).unwrap().name(), *name);
        }
    }
}
