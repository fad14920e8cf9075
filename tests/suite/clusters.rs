//! Clusters in which every node takes writes: a service refuses their nodes by name, and uses one where that is
//! accepted.

use anyhow::{Context as _, ensure};
use seabed::sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use seabed::{DynSessionService, GetSession, SchemaRisk, ServiceOptions, TransactionalService as _};
use seabed_tests::{Kind, Server};
use url::Url;

use crate::durability::expect_risk;
use crate::fixture::{Fixture, query_text};
use crate::risks::{saying, session};

crate::database_cases! {
    MySql: [a_node_of_a_cluster_with_several_writers_is_refused],
}

async fn a_node_of_a_cluster_with_several_writers_is_refused(fixture: &Fixture) -> anyhow::Result<()> {
    session(&fixture.migrated().await?).await?;
    match fixture.kind.context("a server")? {
        Kind::MariaDb => galera().await,
        kind => group_replication(kind).await,
    }
}

async fn accepting(url: &str) -> anyhow::Result<DynSessionService> {
    let options = ServiceOptions::new().accept_risk(SchemaRisk::MultiPrimary);
    Ok(seabed::from_connection_with(seabed::open(url).await?, options).await?)
}

/// Two nodes. A third would only make them agree on which of them goes on without the other.
async fn galera() -> anyhow::Result<()> {
    let node = async |cluster: &str, more: Option<&str>| {
        let arguments = [
            "--wsrep-on=ON",
            "--wsrep-provider=/usr/lib/galera/libgalera_smm.so",
            "--wsrep-sst-method=rsync",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            &format!("--wsrep-cluster-address=gcomm://{cluster}"),
        ];
        let arguments: Vec<String> = arguments.into_iter().chain(more).map(str::to_owned).collect();
        Server::start_own_with(Kind::MariaDb, &arguments).await
    };
    let first = node("", Some("--wsrep-new-cluster")).await?;
    let second = node(&first.address_for_containers().await?, None).await?;
    let through = |node: &Server, url: &str| {
        let mut url = Url::parse(url)?;
        url.set_port(Url::parse(node.url())?.port()).map_err(|()| anyhow::anyhow!("a URL without port"))?;
        anyhow::Ok(url.to_string())
    };
    let (admin_url, url) = (first.database().admin_url()?, first.database().service_url()?);
    let pools = [seabed::open(&admin_url).await?, seabed::open(&through(&second, &admin_url)?).await?];
    let (one, other) = tokio::join!(seabed::migrate(&pools[0]), seabed::migrate(&pools[1]));
    one?;
    other?;
    for pool in &pools {
        expect_risk(pool, SchemaRisk::MultiPrimary, &["every node takes writes", "wsrep_cluster_size: 2"]).await?;
    }
    let services = [accepting(&url).await?, accepting(&through(&second, &url)?).await?];
    let key = session(&services[0]).await?;
    // A node lags behind the others by a moment.
    while services[1].get_session(GetSession::new(key.clone())).await?.is_none() {}
    // Another node holds the same database.
    let transaction = pools[1].begin().await?;
    services[0].append_event_in(&transaction, saying(key.clone(), "hello")).await?;
    transaction.rollback().await?;
    for pool in pools {
        pool.close().await?;
    }
    // Both write to the row of the session, and the cluster lets one of them commit.
    let writes = (0..20).map(|number| services[number % 2].append_event(saying(key.clone(), "hello")));
    for appended in futures_util::future::join_all(writes).await {
        appended?;
    }
    for service in services {
        let events = async || {
            anyhow::Ok(service.get_session(GetSession::new(key.clone())).await?.context("a session")?.events.len())
        };
        while events().await? < 20 {}
        ensure!(events().await? == 20);
        service.close().await?;
    }
    second.stop().await?;
    first.stop().await
}

/// One node: the mode counts.
async fn group_replication(kind: Kind) -> anyhow::Result<()> {
    let arguments = [
        "--gtid-mode=ON",
        "--enforce-gtid-consistency=ON",
        "--plugin-load-add=group_replication.so",
        "--loose-group-replication-start-on-boot=OFF",
        "--loose-group-replication-bootstrap-group=ON",
        "--loose-group-replication-single-primary-mode=OFF",
        "--loose-group-replication-group-name=00000000-0000-4000-8000-000000000000",
        "--loose-group-replication-local-address=127.0.0.1:33061",
    ];
    let server = Server::start_own_with(kind, &arguments.map(str::to_owned)).await?;
    let admin = server.database().admin().await?;
    admin.execute_unprepared("START GROUP_REPLICATION").await?;
    server.database().migrate().await?;
    let url = server.database().service_url()?;
    let pool = seabed::open(&url).await?;
    let words = ["every node takes writes", "group_replication_single_primary_mode: OFF"];
    expect_risk(&pool, SchemaRisk::MultiPrimary, &words).await?;
    let service = accepting(&url).await?;
    let key = session(&service).await?;
    service.append_event(saying(key, "hello")).await?;
    service.close().await?;
    let id = query_text(&admin, "SELECT CAST(@@server_uuid AS CHAR) AS text").await?;
    let switch = format!("SELECT group_replication_switch_to_single_primary_mode('{id}') AS text");
    query_text(&admin, &switch).await?;
    session(&seabed::from_connection(pool.clone()).await?).await?;
    pool.close().await?;
    admin.close().await?;
    server.stop().await
}
