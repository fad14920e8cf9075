//! The faults injected during a torture run.

use std::time::Duration;

use fastrand::Rng;
use seabed::sea_orm::{
    ConnectionTrait, DatabaseConnection, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};

use super::Place;
use crate::{Cut, Family, Proxy};

pub(crate) const WORKER_KILLED: &str = "kills of a worker";
pub(crate) const SERVER_KILLED: &str = "kills of the server";
const TERMINATED: &str = "connections ended by the server";
const CUT: &str = "connections cut";
const STALLED: &str = "stalls";
const LOCKED: &str = "foreign locks";

/// Injects a random fault, and waits until it is over. Killing a worker is left to the caller.
pub(crate) async fn inject(place: &mut Place, random: &mut Rng) -> anyhow::Result<&'static str> {
    let Some(account) = place.account().map(str::to_owned) else {
        if random.bool() {
            return Ok(WORKER_KILLED);
        }
        let admin = place.admin().await?;
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let locked = admin.begin_with_options(options).await?;
        tokio::time::sleep(Duration::from_millis(random.u64(..400))).await;
        locked.rollback().await?;
        admin.close().await?;
        return Ok(LOCKED);
    };
    match random.usize(..20) {
        0..4 => Ok(WORKER_KILLED),
        4..6 if place.can_kill() => {
            place.kill_server().await?;
            Ok(SERVER_KILLED)
        }
        4..10 => {
            let admin = place.admin().await?;
            terminate(&admin, &account).await?;
            admin.close().await?;
            Ok(TERMINATED)
        }
        fault @ 10..18 if let Some(proxy) = &place.proxy => {
            if fault < 16 {
                cut(proxy, random);
                return Ok(CUT);
            }
            proxy.stall(true);
            tokio::time::sleep(Duration::from_millis(random.u64(100..1500))).await;
            proxy.stall(false);
            Ok(STALLED)
        }
        _ => {
            let admin = place.admin().await?;
            // Locks in the order that deadlocks with appends, so either an append or this transaction fails.
            let _: anyhow::Result<()> = lock_in_wrong_order(&admin, random).await;
            admin.close().await?;
            Ok(LOCKED)
        }
    }
}

fn cut(proxy: &Proxy, random: &mut Rng) {
    let cut = Cut::ENDS[random.usize(..Cut::ENDS.len())];
    proxy.cut([(random.usize(..20), cut)]);
}

async fn terminate(admin: &DatabaseConnection, account: &str) -> anyhow::Result<()> {
    let family = if admin.get_database_backend() == seabed::sea_orm::DbBackend::MySql {
        Family::MySql
    } else {
        Family::Postgres
    };
    match family {
        Family::Postgres => {
            let victims =
                format!("SELECT pid FROM pg_stat_activity WHERE usename = '{account}' ORDER BY random() LIMIT 4");
            let terminate = format!("SELECT pg_terminate_backend(pid) FROM ({victims}) AS victims");
            admin.execute_unprepared(&terminate).await?;
        }
        Family::MySql => {
            let victims = format!(
                "SELECT CAST(id AS SIGNED) AS id FROM information_schema.processlist WHERE user = '{account}' ORDER BY RAND() LIMIT 4"
            );
            let victims = Statement::from_string(admin.get_database_backend(), victims);
            for victim in admin.query_all_raw(victims).await? {
                let id: i64 = victim.try_get("", "id")?;
                // The connection may already be gone.
                let _ = admin.execute_unprepared(&format!("KILL {id}")).await;
            }
        }
    }
    Ok(())
}

async fn lock_in_wrong_order(admin: &DatabaseConnection, random: &mut Rng) -> anyhow::Result<()> {
    let app = format!("app{}", random.usize(..super::worker::APPS));
    let transaction = admin.begin().await?;
    for lock in ["SELECT state FROM app_states WHERE", "SELECT state FROM sessions WHERE id LIKE 'lasting%' AND"] {
        transaction.execute_unprepared(&format!("{lock} app_name = '{app}' FOR UPDATE")).await?;
        tokio::time::sleep(Duration::from_millis(random.u64(..150))).await;
    }
    transaction.rollback().await?;
    Ok(())
}
