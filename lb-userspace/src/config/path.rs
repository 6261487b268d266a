//! Paths of keys in a configuration file.

use std::{borrow::Cow, fmt};

/// Where a value stands in the tree of a file: `services[2].backends[0].weight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Path(Vec<Step>);

/// From a mapping or list to one of its values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// By a mapping's key.
    Key(Cow<'static, str>),
    /// By a list's index, from 0.
    Index(usize),
}

impl Path {
    /// The top of the file.
    pub(super) const fn root() -> Self {
        Self(Vec::new())
    }

    /// The value of `key` in the mapping at this path.
    pub(super) fn key(&self, key: impl Into<Cow<'static, str>>) -> Self {
        self.then(Step::Key(key.into()))
    }

    /// The value at `index` of the list at this path.
    pub(super) fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    /// From the top down.
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = Vec::with_capacity(self.0.len() + 1);
        steps.extend_from_slice(&self.0);
        steps.push(step);
        Self(steps)
    }
}

impl FromIterator<Step> for Path {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if depth == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_in_the_documentation() {
        let path = Path::root()
            .key("services")
            .index(2)
            .key("backends")
            .index(0)
            .key("weight");
        assert_eq!(path.to_string(), "services[2].backends[0].weight");
        assert_eq!(Path::root().to_string(), "");
    }
}
