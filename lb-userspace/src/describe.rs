//! Errors as one line for people.

#![forbid(unsafe_code)]

/// An error with its causes, each named once: many say their cause in their own text.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn causes_are_named_once() {
        let error = anyhow!("permission denied")
            .context("cannot open x: permission denied")
            .context("start failed");
        assert_eq!(describe(&error), "start failed: cannot open x: permission denied");
        assert_eq!(describe(&Err::<(), _>(anyhow!("b")).context("a").unwrap_err()), "a: b");
    }
}
