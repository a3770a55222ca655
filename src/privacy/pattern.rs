//! Patterns over names: `*` stands for any run of characters, `?` for exactly one.

/// Whether `pattern` matches the whole of `name`.
///
/// Upper and lower case differ, and a character is a Unicode scalar value. There is no escape: `?`
/// stands for a literal `*` as well. The time is at most the product of both lengths, whatever the
/// pattern, because only the last `*` is ever tried again: what an earlier one has matched stays
/// matched by the shortest run, and a longer one could not help.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern, name);
    // What follows the last `*`, and where in the name its next try begins.
    let mut retry: Option<(&str, &str)> = None;
    loop {
        let (mut in_pattern, mut in_name) = (pattern.chars(), name.chars());
        match (in_pattern.next(), in_name.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                pattern = in_pattern.as_str();
                retry = Some((pattern, name));
            }
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                pattern = in_pattern.as_str();
                name = in_name.as_str();
            }
            // A later try would have even less of the name left.
            (Some(_), None) => return false,
            (_, Some(_)) => {
                let Some((after_star, from)) = retry else { return false };
                let mut from = from.chars();
                from.next();
                pattern = after_star;
                name = from.as_str();
                retry = Some((pattern, name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, without any thought of time.
    fn oracle(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|skip| oracle(rest, &name[skip..])),
            Some((wanted, rest)) => name
                .split_first()
                .is_some_and(|(found, left)| (*wanted == '?' || wanted == found) && oracle(rest, left)),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_definition_says(pattern in "[abé*?]{0,9}", name in "[abé*]{0,12}") {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &name), oracle(&letters(&pattern), &letters(&name)));
        }
    }

    #[test]
    fn a_pattern_matches_whole_names_and_their_case() {
        for (pattern, name) in [
            ("gps", "gps"),
            ("*", ""),
            ("*", "x"),
            ("cam-?", "cam-é"),
            ("*_id", "a_id_id"),
            ("a*b*c", "axbxbc"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("gps", "gps2"), ("gps", "GPS"), ("?", ""), ("cam-?", "cam-12"), ("", "a")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(128) + "b";
        assert!(!matches(&pattern, &"a".repeat(100_000)));
    }
}
