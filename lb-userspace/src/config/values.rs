//! Single values: durations, counts, words and the like. Each function takes a value as written and returns what it means, or what is
//! wrong with it and what is accepted.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use super::{error::Invalid, hint, shape::Scalar};

/// What a value is turned into, or why not.
pub(super) type Parsed<T> = Result<T, Invalid>;

/// Longest name of a service or zone, in bytes.
const MAX_NAME: usize = 63;

/// A whole number in `range`, digits possibly grouped by `_`.
pub(super) fn count<T>(range: RangeInclusive<T>) -> impl Fn(&Scalar) -> Parsed<T>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    move |value| {
        let expected = || format!("expected {}..={}", range.start(), range.end());
        let number = match value {
            Scalar::Integer(number) => u64::try_from(*number).ok(),
            Scalar::Text(text) if is_grouped_digits(text) => text.replace('_', "").parse().ok(),
            _ => {
                return Err(Invalid::new(format!("{value} is not a whole number"), expected()));
            }
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| Invalid::new(format!("{value} is out of range"), expected()))
    }
}

/// Digits, possibly grouped by `_`. A leading zero is refused: YAML 1.1 reads it as octal, YAML 1.2 as decimal.
fn is_grouped_digits(text: &str) -> bool {
    let octal = text.len() > 1 && text.starts_with('0');
    let bytes = text.as_bytes();
    !octal
        && bytes.first().is_some_and(u8::is_ascii_digit)
        && bytes.last().is_some_and(u8::is_ascii_digit)
        && bytes.iter().all(|byte| byte.is_ascii_digit() || *byte == b'_')
}

/// A duration in `range`: `300ms`, `2s`, `5m`, `2h`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Scalar) -> Parsed<Duration> {
    move |value| {
        const EXPECTED: &str = "expected a whole number with its unit, like 300ms, 2s, 5m or 2h";
        let duration = match value {
            Scalar::Integer(number) => {
                let remedy = format!("expected a unit, like {number}s");
                return Err(Invalid::new(format!("{value} has no unit"), remedy));
            }
            Scalar::Text(text) => parse_duration(text),
            Scalar::Bool(_) | Scalar::Float(_) => None,
        };
        let duration = duration.ok_or_else(|| Invalid::new(format!("{value} is not a duration"), EXPECTED))?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let remedy = format!(
            "expected {} to {}",
            show_duration(*range.start()),
            show_duration(*range.end())
        );
        Err(Invalid::new(format!("{value} is out of range"), remedy))
    }
}

/// `None` when it is no duration; one that is too long for the type is the longest.
fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at_checked(unit_at)?;
    if digits.is_empty() {
        return None;
    }
    let number = digits.parse::<u64>().unwrap_or(u64::MAX);
    let seconds = |unit: u64| Duration::from_secs(number.saturating_mul(unit));
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(seconds(1)),
        "m" => Some(seconds(60)),
        "h" => Some(seconds(3600)),
        _ => None,
    }
}

/// A duration as the file would have it.
pub(super) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_millis() > 0 {
        format!("{}ms", duration.as_millis())
    } else if seconds > 0 && seconds.is_multiple_of(3600) {
        format!("{}h", seconds / 3600)
    } else if seconds > 0 && seconds.is_multiple_of(60) {
        format!("{}m", seconds / 60)
    } else {
        format!("{seconds}s")
    }
}

/// A number of events per time: `100/s`.
pub(super) fn rate(value: &Scalar) -> Parsed<u32> {
    let number = match value {
        Scalar::Text(text) => text.strip_suffix("/s"),
        _ => None,
    };
    let number = number.ok_or_else(|| {
        Invalid::new(
            format!("{value} is not a rate"),
            "expected a number per second, like 100/s",
        )
    })?;
    count(1..=u32::MAX)(&Scalar::Text(number.to_owned()))
}

/// A share of a whole: `50%`.
pub(super) fn percentage(value: &Scalar) -> Parsed<u8> {
    let number = match value {
        Scalar::Text(text) => text.strip_suffix('%'),
        _ => None,
    };
    let number = number
        .filter(|number| is_grouped_digits(number))
        .ok_or_else(|| Invalid::new(format!("{value} is not a percentage"), "expected 0% to 100%"))?;
    let share = number.parse().ok().filter(|share| *share <= 100);
    share.ok_or_else(|| Invalid::new(format!("{value} is out of range"), "expected 0% to 100%"))
}

/// `true` or `false`.
pub(super) fn boolean(value: &Scalar) -> Parsed<bool> {
    match value {
        Scalar::Bool(value) => Ok(*value),
        _ => Err(Invalid::new(
            format!("{value} is neither true nor false"),
            "expected true or false",
        )),
    }
}

/// Text: a number or truth value must be in quotes.
pub(super) fn text(value: &Scalar) -> Parsed<&str> {
    match value {
        Scalar::Text(text) => Ok(text),
        _ => Err(Invalid::new(
            format!("{value} is not text"),
            format!("expected text; write it in quotes if it is meant: \"{value}\""),
        )),
    }
}

/// One of the words of `table`; those without a meaning are known, but not supported yet.
pub(super) fn word<T: Copy>(table: &[(&'static str, Option<T>)]) -> impl Fn(&Scalar) -> Parsed<T> {
    move |value| {
        let accepted: Vec<&str> = table
            .iter()
            .filter_map(|(word, meaning)| meaning.and(Some(*word)))
            .collect();
        let expected = match accepted.as_slice() {
            [only] => format!("expected {only}"),
            words => format!("expected one of {}", words.join(", ")),
        };
        let written = match value {
            Scalar::Text(text) => text.as_str(),
            _ => "",
        };
        match table.iter().find(|(word, _)| *word == written) {
            Some((_, Some(meaning))) => Ok(*meaning),
            Some((word, None)) => Err(Invalid::new(format!("{word} is not supported yet"), expected)),
            None => {
                let meant = hint::closest(written, accepted.iter().copied());
                let meant = meant.map_or(String::new(), |meant| format!("did you mean {meant}? "));
                Err(Invalid::new(
                    format!("{value} is not known here"),
                    format!("{meant}{expected}"),
                ))
            }
        }
    }
}

/// A name of a service or zone: it becomes part of URLs, metrics and commands.
pub(super) fn name(value: &Scalar) -> Parsed<&str> {
    let name = text(value)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed) && name.len() <= MAX_NAME {
        return Ok(name);
    }
    Err(Invalid::new(
        format!("{value} cannot be a name"),
        format!("expected at most {MAX_NAME} of a-z, A-Z, 0-9, `-`, `_` and `.`, beginning with a letter or digit"),
    ))
}

/// Name of a network interface, as the kernel allows it.
pub(super) fn interface_name(value: &Scalar) -> Parsed<&str> {
    /// `IFNAMSIZ` less the terminating zero.
    const MAX: usize = 15;
    let name = text(value)?;
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > MAX || name == "." || name == ".." || name.contains(forbidden) {
        return Err(Invalid::new(
            format!("{value} cannot be the name of an interface"),
            format!("expected a name as `ip link` prints it: 1 to {MAX} characters without `/`, `:` and spaces"),
        ));
    }
    Ok(name)
}

/// A range of numbers within `limits`, `200-399`, or a single one.
pub(super) fn range(limits: RangeInclusive<u16>) -> impl Fn(&Scalar) -> Parsed<RangeInclusive<u16>> {
    move |value| {
        let number = count(limits.clone());
        let Scalar::Text(text) = value else {
            return number(value).map(|single| single..=single);
        };
        let Some((first, last)) = text.split_once('-') else {
            return number(value).map(|single| single..=single);
        };
        let end = |text: &str| number(&Scalar::Text(text.trim().to_owned()));
        let (first, last) = (end(first)?, end(last)?);
        if first > last {
            return Err(Invalid::new(
                format!("{value} begins above its end"),
                format!("expected the lower number first, like {last}-{first}"),
            ));
        }
        Ok(first..=last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Scalar {
        serde_yaml::from_str(text).unwrap()
    }

    fn message<T: std::fmt::Debug>(result: Parsed<T>) -> String {
        let Invalid { message, remedy } = result.unwrap_err();
        format!("{message}; {remedy}")
    }

    #[test]
    fn counts_may_be_grouped() {
        let weight = count::<u16>(0..=65_535);
        assert_eq!(weight(&written("0")), Ok(0));
        assert_eq!(weight(&written("65_535")), Ok(65_535));
        assert_eq!(weight(&written("0x10")), Ok(16));
        assert_eq!(count::<u32>(1..=2_000_000)(&written("1_000_000")), Ok(1_000_000));
    }

    #[test]
    fn other_counts_are_refused() {
        let weight = |text: &str| message(count::<u16>(0..=65_535)(&written(text)));
        assert_eq!(weight("70000"), "70000 is out of range; expected 0..=65535");
        assert_eq!(weight("-1"), "-1 is out of range; expected 0..=65535");
        for text in ["many", "1.5", "true", "_1", "1_", "010", "''", "1 0"] {
            assert!(
                weight(text).contains("is not a whole number"),
                "{text}: {}",
                weight(text)
            );
        }
    }

    #[test]
    fn durations_have_units() {
        let any = duration(Duration::ZERO..=Duration::MAX);
        for (text, millis) in [
            ("300ms", 300),
            ("2s", 2_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("0s", 0),
        ] {
            assert_eq!(any(&written(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(
            message(any(&written("30"))),
            "30 has no unit; expected a unit, like 30s"
        );
        for text in ["s", "1.5s", "1d", "-1s", "1_0s", "1h30m", "1 s", "true", "''", "µs"] {
            assert!(message(any(&written(text))).contains("is not a duration"), "{text}");
        }
    }

    #[test]
    fn durations_have_bounds_and_no_overflow() {
        let interval = duration(Duration::from_millis(10)..=Duration::from_secs(3600));
        assert_eq!(
            message(interval(&written("0s"))),
            "\"0s\" is out of range; expected 10ms to 1h"
        );
        for text in ["61m", "99999999999999999h", "99999999999999999999999999s"] {
            assert!(message(interval(&written(text))).contains("out of range"), "{text}");
        }
    }

    #[test]
    fn shown_durations_read_the_same() {
        for text in ["300ms", "1500ms", "7s", "90s", "5m", "2h"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(show_duration(Duration::from_secs(7440)), "124m");
    }

    #[test]
    fn percentages_and_rates_carry_their_sign() {
        assert_eq!(percentage(&written("0%")), Ok(0));
        assert_eq!(percentage(&written("100%")), Ok(100));
        assert_eq!(
            message(percentage(&written("101%"))),
            "\"101%\" is out of range; expected 0% to 100%"
        );
        assert!(message(percentage(&written("50"))).contains("is not a percentage"));
        assert_eq!(rate(&written("100/s")), Ok(100));
        assert_eq!(rate(&written("1_000/s")), Ok(1_000));
        assert!(message(rate(&written("100"))).contains("is not a rate"));
        assert!(message(rate(&written("0/s"))).contains("out of range"));
    }

    #[test]
    fn words_are_known_unknown_or_not_yet() {
        let forwarding = word(&[("nat", Some(1)), ("full_nat", Some(2)), ("dsr", None)]);
        assert_eq!(forwarding(&written("full_nat")), Ok(2));
        assert_eq!(
            message(forwarding(&written("dsr"))),
            "dsr is not supported yet; expected one of nat, full_nat"
        );
        assert_eq!(
            message(forwarding(&written("fullnat"))),
            "\"fullnat\" is not known here; did you mean full_nat? expected one of nat, full_nat"
        );
        assert!(message(forwarding(&written("true"))).starts_with("true is not known here"));
    }

    #[test]
    fn ranges_go_up() {
        let statuses = range(100..=599);
        assert_eq!(statuses(&written("200-399")), Ok(200..=399));
        assert_eq!(statuses(&written("204")), Ok(204..=204));
        assert_eq!(
            message(statuses(&written("399-200"))),
            "\"399-200\" begins above its end; expected the lower number first, like 200-399"
        );
        for text in ["200-", "-200", "200-600", "ok", "200-300-400"] {
            assert!(statuses(&written(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn names_fit_urls_and_the_kernel() {
        for text in ["web", "a-1.b_C"] {
            assert_eq!(name(&written(text)), Ok(text));
        }
        for text in ["''", "-a", "a/b", "a b", "ä"] {
            assert!(name(&written(text)).is_err(), "{text}");
        }
        assert!(name(&Scalar::Text("a".repeat(64))).is_err());
        assert_eq!(
            message(name(&written("80"))),
            "80 is not text; expected text; write it in quotes if it is meant: \"80\""
        );

        assert_eq!(interface_name(&written("abcdefghijklmno")), Ok("abcdefghijklmno"));
        for text in ["abcdefghijklmnop", "a/b", "..", "''", "'a b'", "'eth0:1'"] {
            assert!(interface_name(&written(text)).is_err(), "{text}");
        }
    }
}
