//! Values of flags, each within limits that a refusal names.

use std::fmt::Display;
use std::num::{IntErrorKind, ParseIntError};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// The longest time, in seconds: a century, so that a deadline can always be computed.
const LONGEST: f64 = 3.2e9;
/// The shortest time of what must not be nothing, in seconds.
const SHORTEST: f64 = 0.001;

/// A whole number within `range`.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync
where
    T: FromStr<Err = ParseIntError> + PartialOrd + Display + Clone + Send + Sync,
{
    move |text| match text.parse::<T>() {
        Ok(n) if range.contains(&n) => Ok(n),
        Ok(n) if n < *range.start() => Err(format!("{n} is below the minimum of {}", range.start())),
        Ok(n) => Err(format!("{n} is above the maximum of {}", range.end())),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => {
            Err(format!("{text} is above the maximum of {}", range.end()))
        }
        Err(_) => Err(format!("`{text}` is not a whole number from {} to {}", range.start(), range.end())),
    }
}

/// Seconds, with decimals; 0 is allowed.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    seconds_from(0.0, text)
}

/// Seconds, with decimals; a millisecond at least.
pub(super) fn some_seconds(text: &str) -> Result<Duration, String> {
    seconds_from(SHORTEST, text)
}

fn seconds_from(least: f64, text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Err(_) => Err(format!("`{text}` is not a number of seconds")),
        Ok(seconds) if seconds.is_nan() => Err(format!("`{text}` is not a number of seconds")),
        Ok(seconds) if seconds < least => Err(format!("{text} is below the minimum of {least}")),
        Ok(seconds) if seconds > LONGEST => Err(format!("{text} is above the maximum of {LONGEST}")),
        Ok(seconds) => Ok(Duration::from_secs_f64(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_within_its_range_or_refused_with_the_limit() {
        let parse = whole(2..=usize::MAX - 1);
        assert_eq!(parse("2"), Ok(2));
        assert_eq!(parse("1").unwrap_err(), "1 is below the minimum of 2");
        for text in ["18446744073709551615", "18446744073709551616", "1000000000000000000000000000000"] {
            assert_eq!(parse(text).unwrap_err(), format!("{text} is above the maximum of 18446744073709551614"));
        }
        for text in ["-1", "1e3", "2.0", "", " 2", "0x2"] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, format!("`{text}` is not a whole number from 2 to 18446744073709551614"));
        }
    }

    #[test]
    fn seconds_are_within_a_century_and_zero_only_where_it_means_something() {
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(some_seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("3.2e9"), Ok(Duration::from_secs(3_200_000_000)));
        for text in ["0", "-0", "0.0009", "1e-320", "-1", "-inf"] {
            assert_eq!(some_seconds(text).unwrap_err(), format!("{text} is below the minimum of 0.001"));
        }
        assert_eq!(seconds("-1").unwrap_err(), "-1 is below the minimum of 0");
        for text in ["18446744073709551615", "inf", "1e400"] {
            assert_eq!(seconds(text).unwrap_err(), format!("{text} is above the maximum of 3200000000"));
        }
        for text in ["nan", "NaN", "soon", "", "1s"] {
            assert_eq!(seconds(text).unwrap_err(), format!("`{text}` is not a number of seconds"));
        }
    }
}
