//! Building blocks of the file's shape that a derive cannot express: scalars of any kind, lists with holes, and places where
//! a short form or a list may stand instead of a mapping.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// A value as it is written, before it is known what it must be: so that `weight: many` is an error about a weight, and the errors
/// after it are found too.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
}

/// For messages: text in quotes, cut when it is long.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 60;
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(text) => match text.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "{:?}...", text.get(..end).unwrap_or_default()),
                None => write!(f, "{text:?}"),
            },
        }
    }
}

/// A list. An element is `None` where the file has none (`- `) or where it is known to be wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List<T>(pub(super) Vec<Option<T>>);

/// A short form, or a mapping.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry<T> {
    Short(Scalar),
    Long(T),
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum OneOrMany {
    One(Scalar),
    Many(List<Scalar>),
}

/// The visits of a scalar, for a visitor that makes `$wrap(Scalar)` of it.
macro_rules! visit_scalars {
    ($wrap:expr) => {
        fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Bool(value)))
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Integer(value.into())))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Integer(value.into())))
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Float(value)))
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
            Ok($wrap(Scalar::Text(value.to_owned())))
        }
    };
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value")
            }

            visit_scalars!(|scalar| scalar);
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// For everything that may hold a list, a mapping or a scalar: each instance overrides the visits that it takes.
struct ShapeVisitor<S>(PhantomData<S>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ShapeVisitor<List<T>> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(List(list))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor::<Self>(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ShapeVisitor<Entry<T>> {
    type Value = Entry<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value or a mapping")
    }

    visit_scalars!(Entry::Short);

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Entry::Long)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entry<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor::<Self>(PhantomData))
    }
}

impl<'de> Visitor<'de> for ShapeVisitor<OneOrMany> {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value or a list")
    }

    visit_scalars!(OneOrMany::One);

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Self::Value, A::Error> {
        ShapeVisitor::<List<Scalar>>(PhantomData)
            .visit_seq(elements)
            .map(OneOrMany::Many)
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor::<Self>(PhantomData))
    }
}
