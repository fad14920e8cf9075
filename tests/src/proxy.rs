//! A proxy between a service and its server that counts traffic, and cuts or stalls connections on request.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use url::Url;

use crate::Family;

/// Forwards connections on a loopback port to a server, and counts round trips. It ends when it is dropped, and so do
/// its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: Arc<Line>,
    accepting: AbortHandle,
}

/// Where in a round trip a connection is cut, or falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server never receives the request.
    BeforeRequest,
    /// The server has executed the request, but the client receives no reply.
    BeforeReply,
    /// The client receives part of the reply.
    WithinReply,
    /// The server never receives the request, nor anything after it, and the connection stays open.
    RequestSwallowed,
    /// The server has executed the request, but the client receives nothing from then on, and the connection stays
    /// open.
    ReplySwallowed,
    /// The client's connection ends at once, and the server receives the request that much later.
    RequestDelayed(Duration),
}

impl Cut {
    /// The cuts that end the connection.
    pub const ENDS: [Self; 3] = [Self::BeforeRequest, Self::BeforeReply, Self::WithinReply];
    /// The cuts that keep it open.
    pub const SILENCES: [Self; 2] = [Self::RequestSwallowed, Self::ReplySwallowed];
}

/// The state shared by all connections of a proxy.
#[derive(Debug)]
struct Line {
    family: Family,
    /// Whether to distinguish the pool's pings from requests.
    tells_pings: bool,
    traffic: Mutex<Traffic>,
    /// The next cuts, and how many requests pass before each.
    cuts: Mutex<VecDeque<(usize, Cut)>>,
    stalled: watch::Sender<bool>,
    /// How long the server is away: each reply comes so much later.
    distance: Mutex<Duration>,
    /// How many connections were opened.
    opened: AtomicUsize,
    /// Whether a cut also stalls everything else.
    stalls_at_cut: AtomicBool,
    ended: watch::Sender<bool>,
}

/// The traffic that has passed.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// How often a client sent something and then waited for the server, not counting the pool's pings.
    pub round_trips: usize,
    /// The pool's pings. It sends one after each use of a connection, and no call waits for it.
    pub pings: usize,
    /// The statements that were sent or prepared, in order.
    pub statements: Vec<String>,
}

impl Proxy {
    /// Starts a proxy to the server at `url`, and returns a URL that goes through it. Disables TLS, so that the proxy
    /// can distinguish messages.
    ///
    /// # Errors
    /// If `url` has no host, or no port is available.
    pub async fn start(family: Family, url: &str) -> anyhow::Result<(Self, String)> {
        let (proxy, url) = Self::listen(family, url, true, 0).await?;
        let mut url = Url::parse(&url)?;
        let (option, off) = match family {
            Family::Postgres => ("sslmode", "disable"),
            Family::MySql => ("ssl-mode", "DISABLED"),
        };
        url.query_pairs_mut().append_pair(option, off);
        Ok((proxy, url.into()))
    }

    /// Like [`start`](Self::start), but with TLS if the server supports it. The proxy cannot distinguish messages, but
    /// can cut and stall connections.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub async fn tunnel(family: Family, url: &str) -> anyhow::Result<(Self, String)> {
        Self::tunnel_at(family, url, 0).await
    }

    /// Like [`tunnel`](Self::tunnel), on a port of the caller's choice.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub async fn tunnel_at(family: Family, url: &str, port: u16) -> anyhow::Result<(Self, String)> {
        Self::listen(family, url, false, port).await
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    async fn listen(family: Family, url: &str, tells_pings: bool, port: u16) -> anyhow::Result<(Self, String)> {
        let mut url = Url::parse(url)?;
        let host = url.host_str().context("a URL without host")?;
        let server = lookup_host((host, url.port().unwrap_or(family.port()))).await?.next();
        let server = server.context("the server's host has no address")?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let line = Line {
            family,
            tells_pings,
            traffic: Mutex::default(),
            cuts: Mutex::default(),
            stalled: watch::Sender::new(false),
            distance: Mutex::default(),
            opened: AtomicUsize::new(0),
            stalls_at_cut: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        };
        let line = Arc::new(line);
        let accepting = tokio::spawn(accept(listener, server, line.clone())).abort_handle();
        let proxy = Self { address, line, accepting };
        url.set_ip_host(proxy.address.ip())
            .and_then(|()| url.set_port(Some(address.port())))
            .ok()
            .context("no such URL")?;
        Ok((proxy, url.into()))
    }

    /// Returns the traffic since the last call.
    pub fn take(&self) -> Traffic {
        std::mem::take(&mut *lock(&self.line.traffic))
    }

    /// Cuts the connections of requests, one after another, each after the given number of requests. Pings count as
    /// requests only in a [`tunnel`](Self::tunnel).
    pub fn cut(&self, cuts: impl IntoIterator<Item = (usize, Cut)>) {
        *lock(&self.line.cuts) = cuts.into_iter().collect();
    }

    /// Like [`cut`](Self::cut) for one cut, which stalls all other traffic from then on.
    pub fn cut_and_stall(&self, passed: usize, cut: Cut) {
        self.line.stalls_at_cut.store(true, Ordering::SeqCst);
        self.cut([(passed, cut)]);
    }

    /// Returns once traffic is stalled.
    pub async fn stalled(&self) {
        // The line, and so the sender, is there as long as the proxy.
        let _: Result<_, watch::error::RecvError> = self.line.stalled.subscribe().wait_for(|stalled| *stalled).await;
    }

    /// Cancels the cuts that have not happened, and returns their number.
    pub fn take_back_cuts(&self) -> usize {
        std::mem::take(&mut *lock(&self.line.cuts)).len()
    }

    /// Moves the server away: from now on a round trip takes so much longer.
    pub fn set_distance(&self, round_trip: Duration) {
        *lock(&self.line.distance) = round_trip;
    }

    /// Returns how many connections have been opened so far.
    pub fn opened(&self) -> usize {
        self.line.opened.load(Ordering::Relaxed)
    }

    /// While stalled, forwards nothing and closes no connection.
    pub fn stall(&self, stalled: bool) {
        self.line.stalled.send_replace(stalled);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.line.ended.send_replace(true);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, server: SocketAddr, line: Arc<Line>) {
    while let Ok((client, _)) = listener.accept().await {
        let line = line.clone();
        line.opened.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            // However one side of a connection ends, the other side sees it end.
            let _: anyhow::Result<()> = forward(client, server, &line).await;
        });
    }
}

/// How much of what was read is forwarded.
enum Passes {
    /// All of it, and the connection stays open.
    All,
    /// Only so many bytes, and the connection ends.
    Only(usize),
    /// Nothing of it, nor of what follows; the connection stays open.
    NoMore,
}

async fn forward(client: TcpStream, server: SocketAddr, line: &Line) -> anyhow::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // What the client has sent since the server's last reply, and how to cut the reply.
    let request = Mutex::new((Vec::new(), None));
    let requests = copy(
        line,
        &mut from_client,
        &mut to_server,
        || Duration::ZERO,
        |bytes| -> Passes {
            let (sent, cut) = &mut *lock(&request);
            if sent.is_empty() && !(line.tells_pings && bytes == line.ping()) {
                *cut = line.next_cut();
            }
            sent.extend_from_slice(bytes);
            if let Some(Cut::BeforeRequest) = cut {
                line.cut_is_due();
            }
            match cut {
                Some(Cut::BeforeRequest | Cut::RequestDelayed(_)) => Passes::Only(0),
                Some(Cut::RequestSwallowed) => Passes::NoMore,
                _ => Passes::All,
            }
        },
    );
    // Only the first part of a reply has been on its way for long.
    let delay = || if lock(&request).0.is_empty() { Duration::ZERO } else { *lock(&line.distance) };
    let answers = copy(line, &mut from_server, &mut to_client, delay, |bytes| -> Passes {
        let (sent, cut) = std::mem::take(&mut *lock(&request));
        if !sent.is_empty() {
            lock(&line.traffic).count(line.family, &sent);
        }
        if let Some(Cut::BeforeReply) = cut {
            line.cut_is_due();
        }
        match cut {
            Some(Cut::BeforeReply) => Passes::Only(0),
            Some(Cut::WithinReply) => Passes::Only(bytes.len() / 2),
            Some(Cut::ReplySwallowed) => Passes::NoMore,
            Some(Cut::BeforeRequest | Cut::RequestSwallowed | Cut::RequestDelayed(_)) | None => Passes::All,
        }
    });
    let mut ended = line.ended.subscribe();
    let proxy_ends = async { ended.wait_for(|ended| *ended).await.is_ok() };
    tokio::select! {
        _ = proxy_ends => return Ok(()),
        ended = requests => ended?,
        ended = answers => ended?,
    }
    if let (late, Some(Cut::RequestDelayed(delay))) = request.into_inner().unwrap_or_else(PoisonError::into_inner) {
        drop((from_client, to_client));
        tokio::time::sleep(delay).await;
        to_server.write_all(&late).await?;
        from_server.readable().await?;
    }
    Ok(())
}

async fn copy(
    line: &Line,
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    delay: impl Fn() -> Duration,
    mut passes: impl FnMut(&[u8]) -> Passes,
) -> anyhow::Result<()> {
    let mut stalled = line.stalled.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    let mut is_silent = false;
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stalled.wait_for(|stalled| !stalled).await?;
        if is_silent {
            continue;
        }
        let delay = delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match passes(&buffer[..length]) {
            Passes::All => to.write_all(&buffer[..length]).await?,
            Passes::Only(length) => return Ok(to.write_all(&buffer[..length]).await?),
            Passes::NoMore => is_silent = true,
        }
    }
}

impl Line {
    fn ping(&self) -> &'static [u8] {
        match self.family {
            Family::Postgres => SYNC,
            Family::MySql => COM_PING,
        }
    }

    /// A connection is about to be cut.
    fn cut_is_due(&self) {
        if self.stalls_at_cut.swap(false, Ordering::SeqCst) {
            self.stalled.send_replace(true);
        }
    }

    /// Returns how to cut the current request, if at all.
    fn next_cut(&self) -> Option<Cut> {
        let mut planned = lock(&self.cuts);
        let (passed, _) = planned.front_mut()?;
        if *passed == 0 {
            return planned.pop_front().map(|(_, cut)| cut);
        }
        *passed -= 1;
        None
    }
}

/// PostgreSQL's messages for a parsed statement, a simple query, and Sync alone (the driver's ping).
const PARSE: u8 = b'P';
const QUERY: u8 = b'Q';
const SYNC: &[u8] = &[b'S', 0, 0, 0, 4];
/// MySQL's commands, and the packet of a ping.
const COM_QUERY: u8 = 0x03;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_PING: &[u8] = &[1, 0, 0, 0, 0x0e];

impl Traffic {
    fn count(&mut self, family: Family, request: &[u8]) {
        let ping = match family {
            Family::Postgres => SYNC,
            Family::MySql => COM_PING,
        };
        if request == ping {
            self.pings += 1;
            return;
        }
        self.round_trips += 1;
        self.statements.extend(match family {
            Family::Postgres => postgres_statements(request),
            Family::MySql => mysql_statements(request),
        });
    }
}

/// Returns the statements in a series of messages, each a letter, a four-byte length that includes itself, and the
/// content.
fn postgres_statements(mut request: &[u8]) -> Vec<String> {
    let mut statements = Vec::new();
    while let [kind, a, b, c, d, rest @ ..] = request {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some((content, behind)) = length.checked_sub(4).and_then(|length| rest.split_at_checked(length)) else {
            break;
        };
        let mut texts = content.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        match *kind {
            // The name of the statement comes first.
            PARSE => statements.extend(texts.nth(1)),
            QUERY => statements.extend(texts.next()),
            _ => {}
        }
        request = behind;
    }
    statements
}

/// Returns the statement in a packet: a three-byte length, a number, a command, and the text.
fn mysql_statements(request: &[u8]) -> Vec<String> {
    match request {
        [_, _, _, 0, COM_QUERY | COM_STMT_PREPARE, text @ ..] => vec![String::from_utf8_lossy(text).into_owned()],
        _ => Vec::new(),
    }
}
