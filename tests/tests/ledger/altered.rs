//! Tables whose columns a DBA has altered: what is read and written without a statement is of the
//! declared types, or it is refused.

use crate::Ledger;
use anyhow::Result;

/// A ledger with an account that has points, a hold, and a key; this session has read and
/// written all of its tables by then.
async fn used(name: &str) -> Result<(Ledger, i64)> {
    let ledger = Ledger::open(name, "").await?;
    let a = ledger.account("a").await?;
    ledger
        .run(&format!(
            "select loyalty.grant({a}, 100, idempotency_key => 'g');
             select loyalty.hold({a}, 10, '1 hour');
             select * from loyalty.balance({a});
             select * from loyalty.expire('p')"
        ))
        .await?;
    Ok((ledger, a))
}

impl Ledger {
    /// What each of these calls is refused with when the tables are altered so for a moment; then
    /// they work again.
    async fn refused_while(&self, altered: &str, calls: &[String]) -> Result<()> {
        for call in calls {
            self.run(&format!("begin; {altered}")).await?;
            let code = self
                .refused(&format!("select * from loyalty.{call}"))
                .await?;
            assert_eq!(code, "55000", "{altered}: {call}");
            self.run("rollback").await?;
        }
        for call in calls {
            self.run(&format!("select * from loyalty.{call}")).await?;
        }
        self.verify().await
    }
}

/// Reading and writing, one and many.
fn calls(a: i64) -> Vec<String> {
    vec![
        format!("hold({a}, 1, '1 hour')"),
        format!("grant({a}, 5)"),
        format!("spend_fifo({a}, 1)"),
        format!("grant_many('[{{\"account_id\": {a}, \"points\": 5}}]')"),
    ]
}

#[tokio::test]
async fn a_column_of_another_type_is_not_written() -> Result<()> {
    let (ledger, a) = used("altered_type").await?;
    for (column, of_type) in [
        ("hold_until", "text"),
        ("hold_until", "timestamptz(0)[]"),
        ("hold_until", "timestamp[]"),
        ("first_entry", "bigint"),
    ] {
        let altered = format!("alter table loyalty.wallet alter {column} type {of_type}");
        let mut calls = calls(a);
        calls.push(format!("balance({a})"));
        ledger.refused_while(&altered, &calls).await?;
    }
    Ok(())
}

/// Views keep a DBA from altering these, unless they are dropped before.
#[tokio::test]
async fn the_journal_is_not_written_in_another_type_either() -> Result<()> {
    let (ledger, a) = used("altered_journal").await?;
    for (column, change) in [
        ("hold_until", "atttypmod = 0"),
        ("request_hash", "atttypid = 'oid'::regtype"),
        ("idempotency_key", "attcollation = '\"C\"'::regcollation"),
    ] {
        let altered = format!(
            "update pg_attribute set {change} where attrelid = 'loyalty.entry'::regclass and attname = '{column}'"
        );
        ledger.refused_while(&altered, &calls(a)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_domain_in_the_place_of_a_type_is_not_passed_by() -> Result<()> {
    let (ledger, a) = used("altered_domain").await?;
    let altered = "create domain not_seven as integer check (value <> 7);
                   alter table loyalty.wallet alter first_entry type not_seven";
    ledger.refused_while(altered, &calls(a)).await
}

#[tokio::test]
async fn columns_keep_their_places_and_names() -> Result<()> {
    let (ledger, a) = used("altered_order").await?;
    for altered in [
        "alter table loyalty.wallet rename hold_until to held_until",
        "alter table loyalty.wallet rename lot_granted to x; alter table loyalty.wallet rename lot_remaining to lot_granted; alter table loyalty.wallet rename x to lot_remaining",
        "alter table loyalty.wallet drop hold_until",
        "alter table loyalty.wallet drop hold_until; alter table loyalty.wallet add hold_until timestamptz[]",
        "alter table loyalty.entry rename other_entry to entry_of_other",
        // written by a statement then, which has to refuse it too
        "alter table loyalty.entry add check (points < 1000); alter table loyalty.wallet rename hold_until to held_until",
    ] {
        ledger.refused_while(altered, &calls(a)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn keys_are_looked_up_as_their_index_has_them() -> Result<()> {
    let (ledger, a) = used("altered_index").await?;
    let call = [format!("grant({a}, 100, idempotency_key => 'g')")];
    for altered in [
        "drop index loyalty.entry_by_key; create unique index entry_by_key on loyalty.entry (account_id, entry)",
        "drop index loyalty.entry_by_key; create unique index entry_by_key on loyalty.entry (entry, account_id)",
        "drop index loyalty.entry_by_key; create index entry_by_key on loyalty.entry using hash (account_id)",
        "update pg_index set indisvalid = false where indexrelid = 'loyalty.entry_by_key'::regclass",
    ] {
        ledger.refused_while(altered, &call).await?;
    }
    assert_eq!(
        ledger
            .show("select count(*) from loyalty.entry where idempotency_key = 'g'")
            .await?,
        "1"
    );
    Ok(())
}

#[tokio::test]
async fn a_program_is_read_as_it_is_declared() -> Result<()> {
    let (ledger, a) = used("altered_program").await?;
    ledger
        .refused_while(
            "alter table loyalty.program alter refund_grace_days type bigint",
            &calls(a),
        )
        .await
}

#[tokio::test]
async fn what_a_statement_returns_is_read_as_the_type_that_it_is_of() -> Result<()> {
    let (ledger, _) = used("altered_statement").await?;
    ledger
        .refused_while(
            "alter table loyalty.calendar_day alter is_business_day type text;
             insert into loyalty.calendar_day values ('JP', '2025-06-16', 'false')",
            &["is_business_day('2025-06-16')".to_owned()],
        )
        .await
}

/// What another session alters is noticed by the next call.
#[tokio::test]
async fn a_session_that_goes_on_notices_what_is_altered_elsewhere() -> Result<()> {
    let (ledger, a) = used("altered_elsewhere").await?;
    let dba = ledger.db.connect().await?;
    dba.batch_execute("alter table loyalty.wallet alter hold_until type text")
        .await?;
    for call in calls(a) {
        assert_eq!(ledger.refused_call(&call).await?, "55000", "{call}");
    }
    dba.batch_execute(
        "alter table loyalty.wallet alter hold_until type timestamptz[] using hold_until::timestamptz[]",
    )
    .await?;
    for call in calls(a) {
        ledger.run(&format!("select * from loyalty.{call}")).await?;
    }
    ledger.verify().await
}

/// Sessions and service hours are read before each request.
#[tokio::test]
async fn a_request_is_looked_at_with_tables_as_declared() -> Result<()> {
    let (ledger, a) = used("altered_request").await?;
    let request = format!(
        "set local request.method = 'GET'; set local request.path = '/balance';
         set local request.jwt.claims = '{{\"role\": \"loyalty_member\", \"program\": \"p\", \"account_id\": {a}, \"sid\": \"00000000-0000-0000-0000-000000000001\"}}';
         set local role loyalty_member;
         select loyalty.pre_request()"
    );
    for altered in [
        "alter table loyalty_private.session rename role to x",
        "alter table loyalty.service_hours rename closed_from to x",
    ] {
        ledger.run(&format!("begin; {altered}")).await?;
        // as PostgREST is told: the code is in the message
        assert_eq!(ledger.refused(&request).await?, "PGRST", "{altered}");
        ledger.run("rollback").await?;
    }
    Ok(())
}
