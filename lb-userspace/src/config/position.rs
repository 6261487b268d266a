//! Where every value and key of a file stands: an index from path to line and column.
//!
//! The decoder keeps no positions of what it accepts, and most errors are found in values that decode well. So the text is read a
//! second time as a stream of YAML events, and what matters of them is kept as a tree. Aliases are kept as references, never
//! expanded, so the index is no larger than the file.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::{
    error::Invalid,
    hint::not_yaml,
    path::{Path, Step},
};

/// Nesting beyond this is refused; the schema needs seven levels.
const MAX_DEPTH: usize = 32;

/// Values in a file, with every alias counted as what it stands for. The largest possible configuration has about a tenth of it;
/// a few lines of nested aliases would have billions.
const MAX_VALUES: usize = 4_000_000;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
}

impl Position {
    /// The first character of a file.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// Behind the last character of `text`. Parsers put what is wrong at the end into a line that is not there.
    pub(super) fn end_of(text: &str) -> Self {
        let text = text.replace("\r\n", "\n");
        let mut lines = text.split(['\n', '\r']);
        let last = lines.next_back().unwrap_or_default();
        Self {
            line: lines.count() + 1,
            column: last.chars().count() + 1,
        }
    }
}

/// Something that stands at a place.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) path: Path,
    pub(super) position: Position,
    pub(super) invalid: Invalid,
}

/// A value of the file.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) content: Content,
    /// Whether it has a tag (`!!str`).
    pub(super) tagged: bool,
    /// Values in it, itself included, aliases counted as what they stand for; 0 while it is being read.
    values: usize,
}

impl Node {
    /// Whether nothing is written here, or one of the words for it.
    pub(super) fn is_null(&self) -> bool {
        let nulls = ["", "~", "null", "Null", "NULL"];
        matches!(&self.content, Content::Scalar { text, plain: true } if nulls.contains(&text.as_str()))
    }
}

/// What a value consists of. Other values are given by their number in the index.
#[derive(Debug)]
pub(super) enum Content {
    /// A scalar; `plain` when it is written without quotes.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<usize>),
    /// A mapping, in the order of the file, duplicates included.
    Map(Vec<Entry>),
    /// The same value as another one.
    Alias(usize),
}

/// A key of a mapping with its value.
#[derive(Debug)]
pub(super) struct Entry {
    /// `None` when the key is not a scalar.
    pub(super) key: Option<String>,
    pub(super) position: Position,
    pub(super) value: usize,
}

/// The tree of one file.
#[derive(Debug)]
pub(super) struct Index {
    nodes: Vec<Node>,
    root: Option<usize>,
    end: Position,
}

impl Index {
    /// Reads a file.
    ///
    /// # Errors
    /// When the text is not YAML, has more than one document, is nested too deeply, or grows too large by its aliases.
    pub(super) fn build(text: &str) -> Result<Self, Problem> {
        let end = Position::end_of(text);
        let mut builder = Builder::default();
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let result = match event {
                Ok((Event::StreamEnd, _)) => break,
                Ok((event, span)) => builder.accept(event, span),
                Err(error) => Err(syntax_error(&error, text)),
            };
            result.map_err(|(position, invalid)| Problem {
                path: builder.path(),
                position: position.min(end),
                invalid,
            })?;
        }
        Ok(Self {
            end,
            nodes: builder.nodes,
            root: builder.root,
        })
    }

    /// The value at the top; `None` in an empty file.
    pub(super) fn root(&self) -> Option<&Node> {
        self.root.and_then(|root| self.nodes.get(root))
    }

    /// The value with this number.
    pub(super) fn node(&self, number: usize) -> Option<&Node> {
        self.nodes.get(number)
    }

    /// `position`, or the end of the file where it is beyond.
    pub(super) fn clamp(&self, position: Position) -> Position {
        position.min(self.end)
    }

    /// Where the value at `path` stands, or the nearest value around it.
    pub(super) fn value_at(&self, path: &Path) -> Position {
        self.locate(path).1
    }

    /// Where the key at the end of `path` stands, or the nearest value around it.
    pub(super) fn key_at(&self, path: &Path) -> Position {
        self.locate(path).0
    }

    /// Key and value position. The key of a list's element is the element.
    fn locate(&self, path: &Path) -> (Position, Position) {
        let mut node = self.root();
        let start = node.map_or(Position::START, |node| node.position);
        let mut found = (start, start);
        for step in path.steps() {
            while let Some(Node {
                content: Content::Alias(target),
                ..
            }) = node
            {
                node = self.node(*target);
            }
            let (key, value) = match (node.map(|node| &node.content), step) {
                (Some(Content::List(elements)), Step::Index(index)) => (None, elements.get(*index)),
                (Some(Content::Map(entries)), Step::Key(key)) => {
                    let entry = entries.iter().find(|entry| entry.key.as_deref() == Some(key));
                    (entry.map(|entry| entry.position), entry.map(|entry| &entry.value))
                }
                _ => (None, None),
            };
            let Some(next) = value.and_then(|value| self.node(*value)) else {
                break;
            };
            found = (key.unwrap_or(next.position), next.position);
            node = Some(next);
        }
        found
    }
}

/// The tree while it grows.
#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    root: Option<usize>,
    open: Vec<Open>,
    anchors: HashMap<usize, usize>,
    documents: usize,
}

/// A list or mapping whose end has not come yet.
struct Open {
    node: usize,
    /// The key whose value comes next.
    key: Option<(Option<String>, Position)>,
}

impl Builder {
    fn accept(&mut self, event: Event<'_>, span: Span) -> Result<(), (Position, Invalid)> {
        let position = position(span);
        let (content, anchor, tagged) = match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let invalid = Invalid::new(
                        "a second document begins here",
                        "write one document, without `---` in it",
                    );
                    return Err((position, invalid));
                }
                return Ok(());
            }
            Event::Scalar(text, style, anchor, tag) => {
                let content = Content::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                };
                (content, anchor, tag.is_some())
            }
            Event::SequenceStart(anchor, tag) => (Content::List(Vec::new()), anchor, tag.is_some()),
            Event::MappingStart(anchor, tag) => (Content::Map(Vec::new()), anchor, tag.is_some()),
            Event::SequenceEnd | Event::MappingEnd => {
                return match self.open.pop() {
                    Some(closed) => self.attach(closed.node, position),
                    None => Ok(()),
                };
            }
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor).copied();
                let finished = target.filter(|target| self.nodes.get(*target).is_some_and(|node| node.values > 0));
                let Some(target) = finished else {
                    let invalid = Invalid::new("this alias stands for a value around itself", "write the value out");
                    return Err((position, invalid));
                };
                (Content::Alias(target), 0, false)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => return Ok(()),
        };
        self.add(content, anchor, tagged, position)
    }

    fn add(
        &mut self,
        content: Content,
        anchor: usize,
        tagged: bool,
        position: Position,
    ) -> Result<(), (Position, Invalid)> {
        let node = self.nodes.len();
        let collection = matches!(content, Content::List(_) | Content::Map(_));
        self.nodes.push(Node {
            position,
            content,
            tagged,
            values: 0,
        });
        if anchor != 0 {
            self.anchors.insert(anchor, node);
        }
        if !collection {
            return self.attach(node, position);
        }
        if self.open.len() >= MAX_DEPTH {
            let invalid = Invalid::new("nested too deeply", format!("expected at most {MAX_DEPTH} levels"));
            return Err((position, invalid));
        }
        self.open.push(Open { node, key: None });
        Ok(())
    }

    /// Puts a finished value into the list or mapping around it.
    fn attach(&mut self, number: usize, end: Position) -> Result<(), (Position, Invalid)> {
        let values = self.count(number);
        let Some(node) = self.nodes.get_mut(number) else {
            return Ok(());
        };
        node.values = values;
        if values > MAX_VALUES {
            let invalid = Invalid::new(
                "the file's aliases stand for too many values",
                format!("expected at most {MAX_VALUES} in all"),
            );
            return Err((end, invalid));
        }
        let position = node.position;
        let scalar = match &node.content {
            Content::Scalar { text, .. } => Some(text.clone()),
            _ => None,
        };
        let Some(open) = self.open.last_mut() else {
            self.root = Some(number);
            return Ok(());
        };
        match self.nodes.get_mut(open.node).map(|node| &mut node.content) {
            Some(Content::List(elements)) => elements.push(number),
            Some(Content::Map(entries)) => match open.key.take() {
                Some((key, position)) => entries.push(Entry {
                    key,
                    position,
                    value: number,
                }),
                None => open.key = Some((scalar, position)),
            },
            _ => {}
        }
        Ok(())
    }

    fn count(&self, number: usize) -> usize {
        let values = |number: usize| self.nodes.get(number).map_or(0, |node| node.values);
        match self.nodes.get(number).map(|node| &node.content) {
            Some(Content::List(elements)) => elements
                .iter()
                .fold(1, |sum, element| usize::saturating_add(sum, values(*element))),
            Some(Content::Map(entries)) => entries
                .iter()
                .fold(1, |sum, entry| usize::saturating_add(sum, values(entry.value))),
            Some(Content::Alias(target)) => values(*target),
            _ => 1,
        }
    }

    /// Of what is being read now.
    fn path(&self) -> Path {
        self.open
            .iter()
            .filter_map(
                |open| match (self.nodes.get(open.node).map(|node| &node.content), &open.key) {
                    (Some(Content::List(elements)), _) => Some(Step::Index(elements.len())),
                    (Some(Content::Map(_)), Some((Some(key), _))) => Some(Step::Key(key.clone().into())),
                    _ => None,
                },
            )
            .collect()
    }
}

fn position(span: Span) -> Position {
    Position {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

fn syntax_error(error: &ScanError, text: &str) -> (Position, Invalid) {
    let position = Position {
        line: error.marker().line(),
        column: error.marker().col() + 1,
    };
    not_yaml(error.info(), text, position)
}
