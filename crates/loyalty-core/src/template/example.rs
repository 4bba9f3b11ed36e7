//! What templates are tried with: every variable that a kind of notice has, and every way in
//! which those that may be missing can be.

use serde_json::{Value, json};

/// A kind of notice (C18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    PointsReceived,
    Balance,
    Expiry,
    OrderReceived,
}

impl Kind {
    pub const ALL: [Kind; 4] = [
        Kind::PointsReceived,
        Kind::Balance,
        Kind::Expiry,
        Kind::OrderReceived,
    ];

    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::PointsReceived => "points_received",
            Kind::Balance => "balance",
            Kind::Expiry => "expiry",
            Kind::OrderReceived => "order_received",
        }
    }

    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Variables that may be missing, together where they go together.
    fn optional(self) -> &'static [&'static [&'static [&'static str]]] {
        match self {
            Kind::PointsReceived => &[
                &[&["member", "name"]],
                &[&["preferences_url"]],
                &[&["expires_on"]],
                &[&["reason"]],
            ],
            Kind::Balance => &[
                &[&["member", "name"]],
                &[&["preferences_url"]],
                &[&["expires_on"], &["expiring_points"]],
            ],
            Kind::Expiry | Kind::OrderReceived => {
                &[&[&["member", "name"]], &[&["preferences_url"]]]
            }
        }
    }
}

/// Nothing missing.
#[must_use]
pub fn full(kind: Kind, language: &str) -> Value {
    let english = language.split('-').next() != Some("ja");
    let (program, point, member, reason, item) = match english {
        true => (
            "Sample Club",
            "points",
            "Hanako Yamada",
            "Anniversary",
            "Meal voucher",
        ),
        false => (
            "サンプルクラブ",
            "ポイント",
            "山田 花子",
            "周年記念",
            "お食事券",
        ),
    };
    let mut context = json!({
        "program": { "name": program, "point_name": point },
        "member": { "name": member, "member_no": "A-1001" },
        "preferences_url": "https://example.com/preferences",
        "today": "2028-06-23",
    });
    let own = match kind {
        Kind::PointsReceived => json!({
            "points": 2000, "reason": reason, "granted_on": "2028-06-15", "expires_on": "2031-06-30",
        }),
        Kind::Balance => json!({
            "points": 12_345, "expires_on": "2028-06-30", "expiring_points": 1500,
        }),
        Kind::Expiry => json!({
            "points": 2000, "expires_on": "2028-06-28", "expiring_points": 1500, "days_left": 5,
            "lots": [
                { "expires_on": "2028-06-28", "points": 1500 },
                { "expires_on": "2028-06-30", "points": 500 },
            ],
        }),
        Kind::OrderReceived => json!({
            "order": { "number": "20280623-0001", "item": item, "quantity": 2, "points": 3000 },
        }),
    };
    if let (Value::Object(all), Value::Object(own)) = (&mut context, own) {
        all.extend(own);
    }
    context
}

/// The full example first, then each combination of missing variables.
#[must_use]
pub fn examples(kind: Kind, language: &str) -> Vec<Value> {
    let optional = kind.optional();
    (0..1usize << optional.len())
        .map(|missing| {
            let mut example = full(kind, language);
            for (place, together) in optional.iter().enumerate() {
                if missing >> place & 1 == 1 {
                    for path in *together {
                        *at(&mut example, path) = Value::Null;
                    }
                }
            }
            example
        })
        .collect()
}

fn at<'v>(value: &'v mut Value, path: &[&str]) -> &'v mut Value {
    path.iter().fold(value, |value, name| &mut value[*name])
}
