//! Three members of MySQL Group Replication in single-primary mode.

use super::node::{Node, Nodes, Rules};
use super::tell;
use crate::Kind;
use crate::program::free_port;
use crate::server::ADMIN_PASSWORD;

fn rules() -> Rules {
    Rules {
        haproxy: include_str!("../../../docs/clusters/haproxy-group-replication.cfg"),
        takes_over: ("SELECT CAST(@@read_only AS CHAR) AS text", "0"),
        rejoin: Some(format!("START GROUP_REPLICATION USER = 'root', PASSWORD = '{ADMIN_PASSWORD}'")),
        is_back: (
            "SELECT CAST(member_state AS CHAR) AS text FROM performance_schema.replication_group_members \
             WHERE member_id = @@server_uuid",
            "ONLINE",
        ),
    }
}

async fn start_node(number: usize, addresses: &[String]) -> anyhow::Result<Node> {
    let arguments = [
        &format!("--server-id={}", number + 1),
        "--report-host=127.0.0.1",
        "--mysqlx=OFF",
        "--gtid-mode=ON",
        "--enforce-gtid-consistency=ON",
        "--plugin-load-add=group_replication.so",
        "--loose-group-replication-start-on-boot=OFF",
        "--loose-group-replication-group-name=00000000-0000-4000-8000-000000000000",
        &format!("--loose-group-replication-local-address={}", addresses[number]),
        &format!("--loose-group-replication-group-seeds={}", addresses.join(",")),
        "--loose-group-replication-recovery-get-public-key=ON",
    ];
    let node = Node::start(Kind::MySql9, free_port()?, &arguments.map(str::to_owned)).await?;
    // What each server has written for itself is not for the others.
    tell(&node.url(), &["RESET BINARY LOGS AND GTIDS"]).await?;
    Ok(node)
}

pub(super) async fn start() -> anyhow::Result<Nodes> {
    let addresses = [free_port()?, free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
    let rules = rules();
    let mut nodes = Vec::new();
    for number in 0..addresses.len() {
        let node = start_node(number, &addresses).await?;
        let makes_group = |yes: &str| format!("SET GLOBAL group_replication_bootstrap_group = {yes}");
        if number == 0 {
            tell(&node.url(), &[&makes_group("ON")]).await?;
        }
        Nodes::join(&node, &rules).await?;
        if number == 0 {
            tell(&node.url(), &[&makes_group("OFF"), "CREATE USER haproxy@'%' IDENTIFIED BY ''"]).await?;
        }
        nodes.push(node);
    }
    Ok(Nodes::new(nodes, rules))
}
