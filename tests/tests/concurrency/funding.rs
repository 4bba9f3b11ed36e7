//! Lot classes that several calls need at once for the first time.

use crate::{account, client, number, program, together};
use anyhow::{Result, ensure};
use loyalty_testkit::TestDb;
use loyalty_tests::assert_sound;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_sponsors_named_at_once_in_any_order() -> Result<()> {
    let db = TestDb::create("funding_at_once").await?;
    let setup = client(&db).await?;
    program(&setup).await?;
    let mut accounts = Vec::new();
    for member in 0..6 {
        accounts.push(account(&setup, &format!("m{member}")).await?);
    }
    let all = accounts.clone();
    together(&db, 16, |place, client| {
        let accounts = all.clone();
        async move {
            let mut random = StdRng::seed_from_u64(place);
            for round in 0..6 {
                let mut sponsors: Vec<usize> = (0..6).collect();
                sponsors.shuffle(&mut random);
                let text: Vec<String> = sponsors
                    .iter()
                    .map(|&sponsor| {
                        let account = accounts[random.random_range(0..6)];
                        format!(r#"{{"account_id": {account}, "points": 1, "funding": "sponsor {round} {sponsor}"}}"#)
                    })
                    .collect();
                let sql = format!("select error_code from loyalty.grant_many('[{}]')", text.join(","));
                for row in client.query(&sql, &[]).await? {
                    let code: Option<String> = row.try_get(0)?;
                    ensure!(code.is_none(), "{code:?} reached a client");
                }
                let single = format!(
                    "select points from loyalty.grant(account_id => {}, points => 1, funding => 'single {round}')",
                    accounts[random.random_range(0..6)]
                );
                number(&client, &single).await?;
            }
            Ok(())
        }
    })
    .await?;
    assert_eq!(
        number(&setup, "select count(*) from loyalty.lot_class").await?,
        6 * 7
    );
    assert_eq!(
        number(&setup, "select sum(balance)::bigint from loyalty.wallet").await?,
        16 * 6 * 7
    );
    assert_sound(&setup).await
}

/// Some calls name a new sponsor for the first of their accounts, some for the last of very many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_sponsors_at_either_end_of_large_calls() -> Result<()> {
    let db = TestDb::create("funding_of_many").await?;
    let setup = client(&db).await?;
    program(&setup).await?;
    let opened = "select count(loyalty.open_account('p', n::text)) from generate_series(1, 1500) n";
    assert_eq!(number(&setup, opened).await?, 1_500);
    together(&db, 4, |place, client| async move {
        for round in 0..4 {
            let named = if place % 2 == 0 { "min" } else { "max" };
            let sql = format!(
                "select count(*) from loyalty.grant_many((
                     select jsonb_agg(jsonb_build_object(
                                'account_id', account_id, 'points', 1, 'funding',
                                case account_id when (select {named}(account_id) from loyalty.account)
                                     then 'sponsor {round} {place}' else 'program' end))
                       from loyalty.account))
                  where error_code is null"
            );
            ensure!(number(&client, &sql).await? == 1_500);
        }
        Ok(())
    })
    .await?;
    let classes = number(&setup, "select count(*) from loyalty.lot_class").await?;
    assert_eq!(classes, 16);
    assert_sound(&setup).await
}
