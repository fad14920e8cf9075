//! Three nodes of MariaDB Galera.

use super::node::{Node, Nodes, Rules};
use super::{tell, until};
use crate::Kind;
use crate::program::free_port;

/// How many nodes a node sees, whether they are a majority, and whether it takes statements.
const STATUS: &str = "SELECT GROUP_CONCAT(variable_value ORDER BY variable_name) AS text \
                      FROM information_schema.global_status WHERE variable_name IN \
                      ('wsrep_cluster_size', 'wsrep_cluster_status', 'wsrep_local_state_comment', 'wsrep_ready')";

const RULES: Rules = Rules {
    haproxy: include_str!("../../../docs/clusters/haproxy-galera.cfg"),
    takes_over: (STATUS, "2,Primary,Synced,ON"),
    rejoin: None,
    is_back: (STATUS, "3,Primary,Synced,ON"),
};

/// The ports of a node: for clients, for the other nodes, and for the two ways to copy data to it.
struct Ports {
    clients: u16,
    group: u16,
    changes: u16,
    snapshot: u16,
}

impl Ports {
    fn choose() -> anyhow::Result<Self> {
        Ok(Self { clients: free_port()?, group: free_port()?, changes: free_port()?, snapshot: free_port()? })
    }

    async fn start(&self, cluster: &str, more: Option<&str>) -> anyhow::Result<Node> {
        let Self { clients, group, changes, snapshot } = self;
        let arguments = [
            "--wsrep-on=ON",
            "--wsrep-provider=/usr/lib/galera/libgalera_smm.so",
            "--wsrep-sst-method=rsync",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-node-address=127.0.0.1",
            &format!("--wsrep-sst-receive-address=127.0.0.1:{snapshot}"),
            &format!(
                "--wsrep-provider-options=base_host=127.0.0.1;base_port={group};\
                 gmcast.listen_addr=tcp://127.0.0.1:{group};ist.recv_addr=127.0.0.1:{changes}"
            ),
            &format!("--wsrep-cluster-address=gcomm://{cluster}"),
        ];
        let arguments: Vec<String> = arguments.into_iter().chain(more).map(str::to_owned).collect();
        Node::start(Kind::MariaDb, *clients, &arguments).await
    }
}

pub(super) async fn start() -> anyhow::Result<Nodes> {
    let ports = [Ports::choose()?, Ports::choose()?, Ports::choose()?];
    let addresses: Vec<String> = ports.iter().map(|ports| format!("127.0.0.1:{}", ports.group)).collect();
    let addresses = addresses.join(",");
    // A node with this argument would make another cluster when it restarts.
    let founder = ports[0].start("", Some("--wsrep-new-cluster")).await?;
    tell(&founder.url(), &["CREATE USER haproxy@'%'"]).await?;
    let mut nodes = vec![ports[1].start(&addresses, None).await?, ports[2].start(&addresses, None).await?];
    until(&[nodes[0].url()], STATUS, RULES.is_back.1).await?;
    founder.stop().await?;
    until(&[nodes[0].url()], STATUS, RULES.takes_over.1).await?;
    nodes.push(ports[0].start(&addresses, None).await?);
    for node in &nodes {
        until(&[node.url()], STATUS, RULES.is_back.1).await?;
    }
    Ok(Nodes::new(nodes, RULES))
}
