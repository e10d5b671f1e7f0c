//! Parts of timestamps and durations.

use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    value::Value,
};

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "getFullYear" => |args| part(args, |t| i64::from(t.year()), None),
        "getMonth" => |args| part(args, |t| i64::from(t.month()) - 1, None),
        "getDayOfYear" => |args| part(args, |t| i64::from(t.day_of_year()) - 1, None),
        "getDayOfMonth" => |args| part(args, |t| i64::from(t.day()) - 1, None),
        "getDate" => |args| part(args, |t| i64::from(t.day()), None),
        "getDayOfWeek" => |args| part(args, |t| i64::from(t.weekday().to_sunday_zero_offset()), None),
        "getHours" => |args| part(args, |t| i64::from(t.hour()), Some(3_600_000_000_000)),
        "getMinutes" => |args| part(args, |t| i64::from(t.minute()), Some(60_000_000_000)),
        "getSeconds" => |args| part(args, |t| i64::from(t.second()), Some(1_000_000_000)),
        "getMilliseconds" => |args| part(args, |t| i64::from(t.millisecond()), Some(1_000_000)),
        _ => return None,
    })
}

/// A part of a timestamp in a zone, or a duration in whole units.
fn part<'a>(args: &Args<'_, 'a>, of: fn(&jiff::Zoned) -> i64, unit: Option<i64>) -> Result<Value<'a>, Fault> {
    match (args.get(0)?, unit) {
        (Value::Timestamp(time), _) => {
            let zone = match args.values.get(1) {
                Some(Value::String(name)) => zone(name)?,
                Some(_) => return Err(Fault::no_such_overload()),
                None => jiff::tz::TimeZone::UTC,
            };
            Ok(Value::Int(of(&time.to_zoned(zone))))
        }
        (Value::Duration(nanos), Some(unit)) => Ok(Value::Int(nanos / unit)),
        _ => Err(Fault::no_such_overload()),
    }
}

/// `+02:00`, `-5:30` or a name of the time zone database.
fn zone(name: &str) -> Result<jiff::tz::TimeZone, Fault> {
    let unknown = || Fault::new(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        return if name == "UTC" {
            Ok(jiff::tz::TimeZone::UTC)
        } else {
            jiff::tz::TimeZone::get(name).map_err(|_| unknown())
        };
    };
    let (negative, hours) = match hours.strip_prefix('-') {
        Some(hours) => (true, hours),
        None => (false, hours.strip_prefix('+').unwrap_or(hours)),
    };
    let hours: i32 = hours.parse().ok().filter(|hours| (0..24).contains(hours)).ok_or_else(unknown)?;
    let minutes: i32 = minutes.parse().ok().filter(|minutes| (0..60).contains(minutes)).ok_or_else(unknown)?;
    let seconds = (hours * 60 + minutes) * 60;
    let offset = jiff::tz::Offset::from_seconds(if negative { -seconds } else { seconds }).map_err(|_| unknown())?;
    Ok(offset.to_time_zone())
}
