//! Collects what is found in a file and puts its place to it.

use std::collections::HashSet;

use super::{
    error::{Diagnostic, Invalid},
    path::Path,
    position::{Index, Position, Problem},
    shape::{List, Scalar},
};

/// Errors that are kept. A file with more is no configuration, and no one reads them all.
const MAX_ERRORS: usize = 200;

/// What was found so far in one file.
pub(super) struct Report<'a> {
    index: &'a Index,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// Paths that have an error: one is enough, the others would be consequences.
    wrong: HashSet<Path>,
}

impl<'a> Report<'a> {
    /// Nothing found yet in the file of `index`.
    pub(super) fn new(index: &'a Index) -> Self {
        Self {
            index,
            errors: Vec::new(),
            warnings: Vec::new(),
            wrong: HashSet::new(),
        }
    }

    /// The value at `at` is wrong.
    pub(super) fn error(&mut self, at: &Path, invalid: Invalid) {
        self.push(at, |index| index.value_at(at), invalid);
    }

    /// The key at `at` should not be there, whatever its value.
    pub(super) fn error_at_key(&mut self, at: &Path, invalid: Invalid) {
        self.push(at, |index| index.key_at(at), invalid);
    }

    /// A problem whose place is known.
    pub(super) fn problem(&mut self, problem: Problem) {
        self.push(&problem.path, |_| problem.position, problem.invalid);
    }

    /// The key at `at` must be there and is not.
    pub(super) fn missing(&mut self, at: &Path, what: &str, example: &str) {
        self.error(
            at,
            Invalid::new(format!("{what} is missing"), format!("add `{example}`")),
        );
    }

    /// The value at `at` is accepted, but probably not what is wanted.
    pub(super) fn warn(&mut self, at: &Path, invalid: Invalid) {
        let position = self.index.value_at(at);
        self.warnings.push(diagnostic(at, position, invalid));
    }

    /// Turns a value into what it means. `None` when it is absent or wrong, and then it is reported.
    pub(super) fn read<T>(
        &mut self,
        at: &Path,
        value: Option<&Scalar>,
        parse: impl Fn(&Scalar) -> Result<T, Invalid>,
    ) -> Option<T> {
        match parse(value?) {
            Ok(value) => Some(value),
            Err(invalid) => {
                self.error(at, invalid);
                None
            }
        }
    }

    /// Refuses a key of the schema that is not built yet. A malformed value is the first thing to say about it.
    pub(super) fn refuse<T>(
        &mut self,
        at: &Path,
        value: Option<&Scalar>,
        parse: impl Fn(&Scalar) -> Result<T, Invalid>,
    ) {
        if self.read(at, value, parse).is_some() {
            self.not_supported(at, "remove the key");
        }
    }

    /// Calls `each` for the elements of a list that are there.
    pub(super) fn each<T>(&mut self, at: &Path, list: &List<T>, mut each: impl FnMut(&mut Self, &Path, &T)) {
        for (index, element) in list.0.iter().enumerate() {
            if let Some(element) = element {
                each(self, &at.index(index), element);
            }
        }
    }

    /// Says that the key at `at` is known, but not built yet.
    pub(super) fn not_supported(&mut self, at: &Path, remedy: &str) {
        self.error_at_key(at, Invalid::new("not supported yet", remedy));
    }

    /// Line of the value at `at`, to point to from elsewhere.
    pub(super) fn line(&self, at: &Path) -> usize {
        self.index.value_at(at).line
    }

    /// Whether anything is wrong.
    pub(super) const fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Errors and warnings, each in the order of the file.
    pub(super) fn finish(mut self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let place = |diagnostic: &Diagnostic| (diagnostic.line, diagnostic.column);
        for diagnostics in [&mut self.errors, &mut self.warnings] {
            diagnostics.sort_by_key(place);
            // A value that aliases repeat is wrong once.
            diagnostics.dedup_by(|next, one| place(next) == place(one) && next.message == one.message);
        }
        (self.errors, self.warnings)
    }

    fn push(&mut self, at: &Path, position: impl Fn(&Index) -> Position, invalid: Invalid) {
        if self.errors.len() < MAX_ERRORS && self.wrong.insert(at.clone()) {
            let position = self.index.clamp(position(self.index));
            self.errors.push(diagnostic(at, position, invalid));
        }
    }
}

/// `invalid` with its place.
pub(super) fn diagnostic(at: &Path, position: Position, mut invalid: Invalid) -> Diagnostic {
    /// A message is for reading: whatever a file holds, it is not repeated at length.
    const MAX_MESSAGE: usize = 300;
    if let Some((end, _)) = invalid.message.char_indices().nth(MAX_MESSAGE) {
        invalid.message.truncate(end);
        invalid.message.push_str("...");
    }
    Diagnostic {
        line: position.line,
        column: position.column,
        path: at.to_string(),
        message: invalid.message,
        remedy: invalid.remedy,
    }
}
