//! What templates are tried with: every variable that a kind of notice has, and every way in
//! which those that may be missing can be.

use serde_json::{Value, json};

/// A kind of notice: what members are told of (C18), then what people are sent about their
/// login (A3, C12, C13, A8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    PointsReceived,
    Balance,
    Expiry,
    OrderReceived,
    VerificationCode,
    LoginInUse,
    PasswordReset,
    Unlock,
    LoginChange,
    LoginApproved,
    FamilyApproval,
    FamilyInvitation,
    StaffInvitation,
    PasswordChanged,
    LoginChanged,
    FamilyEnded,
}

/// What of a challenge a notice carries; never both, where one does.
enum Proof {
    Code,
    Link,
}

const NAME: &[&[&str]] = &[&["member", "name"]];
const MEMBER_NO: &[&[&str]] = &[&["member", "member_no"]];
const PREFERENCES: &[&[&str]] = &[&["preferences_url"]];

impl Kind {
    pub const ALL: [Kind; 16] = [
        Kind::PointsReceived,
        Kind::Balance,
        Kind::Expiry,
        Kind::OrderReceived,
        Kind::VerificationCode,
        Kind::LoginInUse,
        Kind::PasswordReset,
        Kind::Unlock,
        Kind::LoginChange,
        Kind::LoginApproved,
        Kind::FamilyApproval,
        Kind::FamilyInvitation,
        Kind::StaffInvitation,
        Kind::PasswordChanged,
        Kind::LoginChanged,
        Kind::FamilyEnded,
    ];

    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::PointsReceived => "points_received",
            Kind::Balance => "balance",
            Kind::Expiry => "expiry",
            Kind::OrderReceived => "order_received",
            Kind::VerificationCode => "verification_code",
            Kind::LoginInUse => "login_in_use",
            Kind::PasswordReset => "password_reset",
            Kind::Unlock => "unlock",
            Kind::LoginChange => "login_change",
            Kind::LoginApproved => "login_approved",
            Kind::FamilyApproval => "family_approval",
            Kind::FamilyInvitation => "family_invitation",
            Kind::StaffInvitation => "staff_invitation",
            Kind::PasswordChanged => "password_changed",
            Kind::LoginChanged => "login_changed",
            Kind::FamilyEnded => "family_ended",
        }
    }

    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is about a login, not about points: nobody chooses whether to get it.
    fn is_about_login(self) -> bool {
        !matches!(
            self,
            Kind::PointsReceived | Kind::Balance | Kind::Expiry | Kind::OrderReceived
        )
    }

    fn proof(self) -> Option<Proof> {
        match self {
            Kind::VerificationCode | Kind::LoginInUse => Some(Proof::Code),
            Kind::PasswordChanged | Kind::LoginChanged | Kind::FamilyEnded => None,
            kind if kind.is_about_login() => Some(Proof::Link),
            _ => None,
        }
    }

    /// Variables that may be missing, together where they go together.
    fn optional(self) -> &'static [&'static [&'static [&'static str]]] {
        match self {
            Kind::PointsReceived => &[NAME, PREFERENCES, &[&["expires_on"]], &[&["reason"]]],
            Kind::Balance => &[NAME, PREFERENCES, &[&["expires_on"], &["expiring_points"]]],
            Kind::Expiry | Kind::OrderReceived => &[NAME, PREFERENCES],
            // an administrator, who also forgets passwords, is no member
            _ => &[NAME, MEMBER_NO],
        }
    }
}

/// Nothing missing.
#[must_use]
pub fn full(kind: Kind, language: &str) -> Value {
    let english = language.split('-').next() != Some("ja");
    let (program, point, member, family, reason, item) = match english {
        true => (
            "Sample Club",
            "points",
            "Hanako Yamada",
            "Taro Yamada",
            "Anniversary",
            "Meal voucher",
        ),
        false => (
            "サンプルクラブ",
            "ポイント",
            "山田 花子",
            "山田 太郎",
            "周年記念",
            "お食事券",
        ),
    };
    let mut context = json!({
        "program": { "name": program, "point_name": point },
        "member": { "name": member, "member_no": "A-1001" },
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
        Kind::FamilyApproval | Kind::FamilyInvitation | Kind::FamilyEnded => json!({
            "name": family, "relation": "child",
        }),
        _ => json!({}),
    };
    let proof = match kind.proof() {
        Some(Proof::Code) => json!({ "code": "482913", "minutes": 15 }),
        Some(Proof::Link) => json!({
            "link": format!("https://example.com/{}#4f1d0c7e.Zm9yIGV4YW1wbGU", kind.name()),
            "minutes": 15,
        }),
        None => json!({}),
    };
    let preferences = match kind.is_about_login() {
        true => json!({}),
        false => json!({ "preferences_url": "https://example.com/preferences" }),
    };
    for more in [own, proof, preferences] {
        if let (Value::Object(all), Value::Object(more)) = (&mut context, more) {
            all.extend(more);
        }
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
