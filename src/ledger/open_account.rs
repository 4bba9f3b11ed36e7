//! Opening, suspending and closing accounts.

use crate::clock;
use crate::error::{Fault, Result};
use crate::ledger::account::{Account, no_such_account};
use crate::ledger::guard::Operating;
use crate::ledger::load::load_many_locked;
use crate::ledger::operation::Needs;
use crate::pg::call::{Call, sql_function};
use crate::pg::datum::text;
use crate::pg::spi::{Param, Plan, Spi};
use crate::program;
use loyalty_core::member;
use pgrx::pg_sys::{self, Datum};

static FIND: Plan = Plan::new(
    c"select p.program_id, a.account_id
        from loyalty.program p
        left join loyalty.account a on a.program_id = p.program_id and a.member_no = $2
       where p.code = $1",
);
static OPEN: Plan = Plan::new(
    c"with a as (
          insert into loyalty.account (program_id, member_no, opened_at)
          values ($1, $2, $3)
              on conflict (program_id, member_no) do nothing
       returning account_id, program_id)
      insert into loyalty.wallet (account_id, program_id)
      select account_id, program_id from a
      returning account_id",
);
static OPEN_MANY: Plan = Plan::new(
    c"with a as (
          insert into loyalty.account (program_id, member_no, opened_at)
          select $1, m.member_no, $3
            from (select distinct unnest($2) as member_no order by 1) m
              on conflict (program_id, member_no) do nothing
       returning account_id, program_id)
      insert into loyalty.wallet (account_id, program_id)
      select account_id, program_id from a",
);
static OPENED: Plan = Plan::new(
    // each by its key: a join may be planned for the few accounts that there were
    c"select m.member_no,
             (select a.account_id from loyalty.account a
               where a.program_id = $1 and a.member_no = m.member_no)
        from unnest($2) with ordinality m (member_no, place)
       order by m.place",
);
static SET_STATUS: Plan = Plan::new(
    c"update loyalty.wallet set status = $2::loyalty.account_status where account_id = $1",
);
static LABEL: Plan =
    Plan::new(c"select v.enumlabel::text from pg_catalog.pg_enum v where v.oid = $1");

sql_function!(open_account);
/// `loyalty.open_account(program, member_no)`
fn open_account(call: &Call) -> Result<i64> {
    let program = call.need("program", call.text(0))?;
    let member_no = call.need("member_no", call.text(1))?;
    check_member_no(&member_no)?;
    let spi = Spi::connect();
    loop {
        let found = FIND
            .execute(
                &spi,
                &[
                    Param::text(program.as_str()),
                    Param::text(member_no.as_str()),
                ],
            )
            .first()
            .ok_or_else(|| program::no_such(&program))?;
        if let Some(account_id) = found.i64(2) {
            return Ok(account_id);
        }
        let program_id = found.i32(1);
        let opened = {
            let _operating = Operating::begin();
            OPEN.execute(
                &spi,
                &[
                    Param::i32(program_id),
                    Param::text(member_no.as_str()),
                    Param::instant(clock::now()),
                ],
            )
            .first()
            .and_then(|row| row.i64(1))
        };
        // None: another session opened it a moment ago, and it will be found now.
        if let Some(account_id) = opened {
            return Ok(account_id);
        }
    }
}

sql_function!(open_accounts);
/// `loyalty.open_accounts(program, member_nos)`
fn open_accounts(call: &Call) -> Result<()> {
    let program = call.need("program", call.text(0))?;
    let member_nos = call.need("member_nos", call.datum(1))?;
    for member_no in call.texts(1).unwrap_or_default() {
        check_member_no(&member_no)?;
    }
    let opened: Vec<(String, i64)> = {
        let spi = Spi::connect();
        let program_id = FIND
            .execute(&spi, &[Param::text(program.as_str()), Param::text("")])
            .first()
            .ok_or_else(|| program::no_such(&program))?
            .i32(1);
        let member_nos = Param::of(pg_sys::TEXTARRAYOID, Some(member_nos));
        let operating = Operating::begin();
        OPEN_MANY.execute(
            &spi,
            &[
                Param::i32(program_id),
                member_nos,
                Param::instant(clock::now()),
            ],
        );
        drop(operating);
        OPENED
            .execute(&spi, &[Param::i32(program_id), member_nos])
            .iter()
            .filter_map(|row| Some((row.text(1)?, row.i64(2)?)))
            .collect()
    };
    let sink = call.rows();
    for (member_no, account_id) in opened {
        sink.put(&[Some(text(&member_no)), Some(Datum::from(account_id))]);
    }
    Ok(())
}

sql_function!(set_account_status);
/// `loyalty_private.set_account_status(account_id, status)`
fn set_account_status(call: &Call) -> Result<()> {
    let account_id = call.need("account_id", call.i64(0))?;
    let status = call.need("status", call.i32(1))?;
    let spi = Spi::connect();
    let status = LABEL
        .execute(&spi, &[Param::oid(status)])
        .first()
        .and_then(|row| row.text(1))
        .unwrap_or_default();
    let accounts = load_many_locked(&spi, &[account_id])?;
    let account = accounts
        .first()
        .ok_or_else(|| no_such_account(account_id))?;
    if account.is_closed && status != "closed" {
        account.check_status(Needs::NotClosed)?;
    }
    if status == "closed" {
        check_empty(account)?;
    }
    let _operating = Operating::begin();
    SET_STATUS.execute(
        &spi,
        &[Param::i64(account_id), Param::text(status.as_str())],
    );
    Ok(())
}

/// Also against formulas: exports show the number, and a spreadsheet would run it.
fn check_member_no(member_no: &str) -> Result<()> {
    if member_no.is_empty() || member_no.chars().count() > 100 {
        return Err(
            Fault::invalid("member_no_invalid", "a member_no has 1 to 100 characters")
                .field("member_no")
                .hint("The member's number in the program."),
        );
    }
    member::check_member_no(member_no).map_err(|flaw| {
        Fault::invalid("member_no_invalid", format!("member_no {flaw}"))
            .field("member_no")
            .hint("Begin it with a letter or digit.")
    })
}

/// Only an empty account can be closed.
fn check_empty(account: &Account) -> Result<()> {
    let held = account.wallet.held(account.now);
    if held > 0 {
        return Err(
            Fault::invalid("account_has_holds", "the account has open holds")
                .field("account_id")
                .detail(format!("{held} points are held."))
                .hint("Capture or release them first."),
        );
    }
    let balance = account.wallet.balance();
    if balance > 0 {
        return Err(Fault::invalid("account_not_empty", "the account still has points")
.field("account_id")
            .detail(format!("{balance} points are left."))
            .hint("Spend or transfer them, or close with forfeit => true to book them as breakage."));
    }
    Ok(())
}
