//! Functions and operators that others made in a schema on the search path of Seabed's connections.

use std::sync::Arc;

use anyhow::{anyhow, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use seabed::PostgresSessionService;
use seabed::migration::{
    ContentsOptions, Selection, StoredData, UpOptions, UpgradeOptions, copy, export, finish_upgrade, refresh, repair,
    status, up, upgrade_in_place, verify, verify_contents,
};
use seabed_conformance::{Opened, Services, Target, cases};

use crate::fixture::{Fixture, query_text};
use crate::transfer::Other;
use crate::upgrade::make_v0;

crate::database_cases! {
    Postgres: [
        functions_and_operators_of_others_are_not_called,
        the_migrator_calls_no_functions_and_operators_of_others,
    ],
}

/// Better matches than the built-in ones for what statements on google-adk's columns would call. Each counts its calls,
/// and ends in an error: a bulk statement that fails is followed by the portable algorithm, so errors alone tell
/// little. Up to PostgreSQL 14 anybody may make them in the schema `public`.
async fn plant(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute("CREATE SEQUENCE public.calls").await?;
    let body = "LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM nextval('public.calls'); \
                RAISE EXCEPTION 'a function of others was called'; END $$";
    for (left, right) in [("varchar", "text"), ("varchar", "varchar"), ("text", "varchar"), ("oid", "regclass")] {
        let create = format!("CREATE FUNCTION public.compared({left}, {right}) RETURNS boolean {body}");
        fixture.execute(&create).await?;
        for operator in ["=", "<>", "<", "<=", ">", ">="] {
            let operands = format!("leftarg = {left}, rightarg = {right}");
            fixture.execute(&format!("CREATE OPERATOR public.{operator} ({operands}, function = compared)")).await?;
        }
    }
    fixture.execute(&format!("CREATE FUNCTION public.unnest(int2vector) RETURNS SETOF smallint {body}")).await?;
    fixture.execute(&format!("CREATE FUNCTION public.counted(bigint, int) RETURNS bigint {body}")).await?;
    fixture.execute("CREATE AGGREGATE public.count(int) (sfunc = counted, stype = bigint, initcond = '0')").await?;
    for element in ["int", "text", "varchar", "timestamp"] {
        let signature = format!("public.unnest({element}[]) RETURNS SETOF {element}");
        fixture.execute(&format!("CREATE FUNCTION {signature} {body}")).await?;
    }
    for signature in [
        "to_jsonb(int) RETURNS jsonb",
        "format_type(oid, smallint) RETURNS text",
        "merged(jsonb, text, jsonb) RETURNS jsonb",
    ] {
        fixture.execute(&format!("CREATE FUNCTION public.{signature} {body}")).await?;
    }
    fixture.execute("CREATE AGGREGATE public.jsonb_object_agg(text, jsonb) (sfunc = merged, stype = jsonb)").await
}

async fn was_called(fixture: &Fixture) -> anyhow::Result<bool> {
    Ok(fixture.query_text("SELECT CAST(is_called AS text) AS text FROM public.calls").await? == "true")
}

/// Plants them, and checks that a statement which does not avoid them calls one.
async fn plant_and_check(fixture: &Fixture) -> anyhow::Result<()> {
    plant(fixture).await?;
    let unguarded = "SELECT CAST(CAST('a' AS varchar) = CAST('a' AS text) AS text) AS text";
    ensure!(fixture.query_text(unguarded).await.is_err() && was_called(fixture).await?, "none would be called");
    fixture.execute("ALTER SEQUENCE public.calls RESTART").await
}

#[allow(clippy::future_not_send, reason = "the cases of the conformance suite stay on their thread")]
async fn functions_and_operators_of_others_are_not_called(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.migrated().await?;
    plant_and_check(fixture).await?;
    for fast in [true, false] {
        let url = fixture.service_url.clone();
        let target = Target::new("beside strangers", move || {
            let url = url.clone();
            async move {
                let service = PostgresSessionService::connect(&url).await?.with_fast_paths(fast);
                Ok(Opened::Service(Services::with_state(Arc::new(service))))
            }
        });
        let outcomes = stream::iter(cases()).map(|case| (case, target.clone())).map(|(case, target)| async move {
            let outcome = case.run(&target).await;
            outcome.map_err(|failed| anyhow!("{}: {}", case.name, failed.message().unwrap_or_default()))
        });
        for outcome in outcomes.buffer_unordered(4).collect::<Vec<_>>().await {
            outcome?;
        }
    }
    ensure!(!was_called(fixture).await?, "one was called");
    Ok(())
}

/// Of all commands, on tables of schema v0 first: their upgrade creates those of v1.
async fn the_migrator_calls_no_functions_and_operators_of_others(fixture: &Fixture) -> anyhow::Result<()> {
    let other = Other::new().await?;
    make_v0(fixture).await?;
    plant_and_check(fixture).await?;
    let (admin, options) = (&fixture.admin, UpgradeOptions::default());
    let upgraded = upgrade_in_place(admin, options, &mut |_| {}).await?;
    ensure!(upgraded.is_complete() && upgraded.new_events > 0, "{upgraded:?}");
    finish_upgrade(admin, options, false, &mut |_| {}).await?;
    let mut with_index = UpOptions::default();
    with_index.update_time_index = true;
    up(admin, with_index).await?;
    status(admin).await?;
    let out = copy(admin, &other.pool, Selection::default(), &mut |_| {}).await?;
    ensure!(out.is_complete() && out.content == out.stored_content, "{out:?}");
    // What is missing, and a row that is repaired.
    fixture.execute("DELETE FROM events; DELETE FROM app_states").await?;
    ensure!(repair(admin).await?.is_empty());
    let mut selection = Selection::default();
    (selection.app_name, selection.user_id) = (first(&other, "app_name").await?, first(&other, "user_id").await?);
    copy(&other.pool, admin, selection.clone(), &mut |_| {}).await?;
    let back = copy(&other.pool, admin, Selection::default(), &mut |_| {}).await?;
    ensure!(back.is_complete() && back.content == out.content && back.new_events > 0, "{back:?}");
    export(admin, selection, std::io::sink(), &mut |_| {}).await?;
    ensure!(verify(admin).await?.is_empty() && verify_contents(admin, ContentsOptions::default()).await?.is_empty());
    refresh(admin, StoredData::Drop).await?;
    ensure!(!was_called(fixture).await?, "one was called");
    Ok(())
}

async fn first(other: &Other, column: &str) -> anyhow::Result<Option<String>> {
    query_text(&other.pool, &format!("SELECT MIN({column}) AS text FROM sessions")).await.map(Some)
}
