//! The nodes of a cluster of MySQL or MariaDB, in containers on the network of this machine.

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use testcontainers::{ContainerAsync, GenericImage};

use super::haproxy::HaProxy;
use super::{Servers, tell, until, until_refused};
use crate::server::{ADMIN_PASSWORD, wait_until_ready};
use crate::{Kind, container};

pub(super) struct Node {
    container: ContainerAsync<GenericImage>,
    pub(super) port: u16,
}

impl Node {
    /// Starts a server at `port`, and waits until it replies.
    pub(super) async fn start(kind: Kind, port: u16, arguments: &[String]) -> anyhow::Result<Self> {
        let own = [format!("--port={port}"), "--bind-address=127.0.0.1".to_owned()];
        let container = container::start_on_host(kind, &[&own, arguments].concat()).await?;
        wait_until_ready(&admin_url(port)).await?;
        Ok(Self { container, port })
    }

    pub(super) fn url(&self) -> String {
        admin_url(self.port)
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        Ok(self.container.rm().await?)
    }
}

/// The URL of the administrator of the server at `port`.
fn admin_url(port: u16) -> String {
    format!("mysql://root:{ADMIN_PASSWORD}@127.0.0.1:{port}/mysql")
}

/// What a product does in its own way.
pub(super) struct Rules {
    /// The configuration of HAProxy.
    pub(super) haproxy: &'static str,
    /// What to ask a node, and what one answers that can take the writes of a node that was killed.
    pub(super) takes_over: (&'static str, &'static str),
    /// What a node runs when it is back, and what to ask it, and what it answers when it has caught up.
    pub(super) rejoin: Option<String>,
    pub(super) is_back: (&'static str, &'static str),
}

pub(super) struct Nodes {
    pub(super) all: Vec<Node>,
    pub(super) rules: Rules,
    /// The place of the one that was killed.
    killed: usize,
}

impl Nodes {
    pub(super) fn new(nodes: Vec<Node>, rules: Rules) -> Self {
        Self { all: nodes, rules, killed: 0 }
    }

    /// Brings a node that runs into the cluster.
    pub(super) async fn join(node: &Node, rules: &Rules) -> anyhow::Result<()> {
        let started = std::time::Instant::now();
        while let Some(rejoin) = &rules.rejoin {
            match tell(&node.url(), &[rejoin]).await {
                Ok(()) => break,
                // The others may not have noticed yet that it was gone.
                Err(error) => ensure!(started.elapsed() < std::time::Duration::from_mins(2), "{error:#}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        let (query, answer) = rules.is_back;
        until(&[node.url()], query, answer).await
    }
}

#[async_trait]
impl Servers for Nodes {
    fn front(&self) -> anyhow::Result<HaProxy> {
        let documented = ["10.0.0.1:3306", "10.0.0.2:3306", "10.0.0.3:3306"];
        let ports: Vec<_> = documented.into_iter().zip(self.all.iter().map(|node| node.port)).collect();
        HaProxy::start(self.rules.haproxy, &ports)
    }

    fn admin_url(&self, port: u16) -> String {
        admin_url(port)
    }

    async fn kill(&mut self, port: u16) -> anyhow::Result<()> {
        self.killed = self.all.iter().position(|node| node.port == port).context("no such node")?;
        container::kill(&self.all[self.killed].container).await?;
        until_refused(port).await;
        let others: Vec<String> = self.all.iter().filter(|node| node.port != port).map(Node::url).collect();
        let (query, answer) = self.rules.takes_over;
        until(&others, query, answer).await
    }

    async fn heal(&mut self) -> anyhow::Result<()> {
        let node = &self.all[self.killed];
        container::restart(&node.container).await?;
        wait_until_ready(&node.url()).await?;
        Self::join(node, &self.rules).await
    }

    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        for node in self.all {
            node.stop().await?;
        }
        Ok(())
    }
}
