//! What the outbox's statements ask of a wallet's arrays, millions of times in one of them.
//! Lots are in spend order, and so in order of their last day.

use crate::error::Result;
use crate::pg::call::{Answer, Call, sql_function};
use crate::pg::datum::{array_of_days, array_of_i64};
use loyalty_core::wallet::{Day, NEVER};

/// The days from `from` to `to` on which points lapse, with how many; the lots of one day are
/// counted together.
fn lapses(days: &[Day], remaining: &[i64], from: Day, to: Day) -> (Vec<Day>, Vec<i64>) {
    let first = days.partition_point(|day| *day < from);
    let mut on: Vec<Day> = Vec::new();
    let mut points: Vec<i64> = Vec::new();
    for (day, left) in days.iter().zip(remaining).skip(first) {
        if *day > to {
            break;
        }
        if *left == 0 || *day == NEVER {
            continue;
        }
        match points.last_mut() {
            Some(sum) if on.last() == Some(day) => *sum += left,
            _ => {
                on.push(*day);
                points.push(*left);
            }
        }
    }
    (on, points)
}

fn lapses_of(call: &Call) -> Option<(Vec<Day>, Vec<i64>)> {
    let (days, remaining) = (call.i32s(0)?, call.i64s(1)?);
    let (on, points) = lapses(&days, &remaining, call.i32(2)?, call.i32(3)?);
    (!on.is_empty()).then_some((on, points))
}

sql_function!(points_between);
/// `loyalty_private.points_between(lot_expires_on, lot_remaining, from_day, to_day)`
fn points_between(call: &Call) -> Result<Option<i64>> {
    let (Some(days), Some(remaining), Some(from), Some(to)) =
        (call.i32s(0), call.i64s(1), call.i32(2), call.i32(3))
    else {
        return Ok(None);
    };
    let first = days.partition_point(|day| *day < from);
    let sum = days
        .iter()
        .zip(&remaining)
        .skip(first)
        .take_while(|(day, _)| **day <= to)
        .map(|(_, left)| *left)
        .sum();
    Ok(Some(sum))
}

sql_function!(next_lapse);
/// `loyalty_private.next_lapse(lot_expires_on, lot_remaining, from_day)`
fn next_lapse(call: &Call) -> Result<Option<i32>> {
    let (Some(days), Some(remaining), Some(from)) = (call.i32s(0), call.i64s(1), call.i32(2))
    else {
        return Ok(None);
    };
    Ok(days
        .iter()
        .zip(&remaining)
        .find(|(day, left)| **day >= from && **left > 0)
        .map(|(day, _)| *day)
        .filter(|day| *day != NEVER))
}

sql_function!(days_between);
/// `loyalty_private.days_between(lot_expires_on, lot_remaining, from_day, to_day)`
fn days_between(call: &Call) -> Result<Answer> {
    Ok(lapses_of(call).map_or(Answer::Null, |(on, _)| Answer::Value(array_of_days(&on))))
}

sql_function!(points_of_days);
/// `loyalty_private.points_of_days(lot_expires_on, lot_remaining, from_day, to_day)`
fn points_of_days(call: &Call) -> Result<Answer> {
    Ok(lapses_of(call).map_or(Answer::Null, |(_, points)| {
        Answer::Value(array_of_i64(&points))
    }))
}
