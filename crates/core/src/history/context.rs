//! What an agent may see of a session.

use std::collections::HashSet;

use super::view::View;

/// Functions by which google-adk talks to the user or to itself; models see neither calls nor responses.
const INTERNAL_FUNCTIONS: [&str; 3] = ["adk_framework", "adk_request_credential", "adk_request_confirmation"];

/// The agent whose model reads the events, and where in a run it stands: google-adk's invocation context.
///
/// ```
/// use seabed_core::history::AgentContext;
///
/// let agent = AgentContext::new("researcher").with_branch("root.researcher");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentContext {
    name: String,
    branch: String,
    isolation_scope: Option<String>,
    node_path: String,
    is_single_turn: bool,
    includes_thoughts: bool,
}

impl AgentContext {
    /// The agent of this name, outside of any branch, scope and workflow.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Sets the branch. The agent sees events without a branch, of this branch, and of those that it comes from.
    pub fn with_branch(mut self, branch: impl Into<String>) -> Self {
        self.branch = branch.into();
        self
    }

    /// Sets the scope of a delegated task: the id of the function call that delegated it. The agent sees only events
    /// of this scope; without a scope, only events without one.
    pub fn with_isolation_scope(mut self, isolation_scope: impl Into<String>) -> Self {
        self.isolation_scope = Some(isolation_scope.into());
        self
    }

    /// Sets the path of the node of a workflow that the agent runs as, such as `flow@1/node@2`. The agent does not
    /// see what the user said to other nodes.
    pub fn with_node_path(mut self, node_path: impl Into<String>) -> Self {
        self.node_path = node_path.into();
        self
    }

    /// The agent completes a task in a single turn (google-adk's mode `single_turn`): it sees only events of its own
    /// node, of those above and of those below.
    pub fn in_single_turn(mut self) -> Self {
        self.is_single_turn = true;
        self
    }

    /// The agent sees the thoughts of other agents (google-adk's `include_thoughts_from_other_agents`).
    pub fn with_thoughts_of_others(mut self) -> Self {
        self.includes_thoughts = true;
        self
    }

    /// The author of a summary: the agent reads its own history.
    pub(super) fn author(&self) -> &str {
        if self.name.is_empty() { "model" } else { &self.name }
    }

    /// Returns the live events that the agent may see.
    pub(super) fn visible<'a>(&self, live: Vec<View<'a>>) -> Vec<View<'a>> {
        let in_reach: Vec<View<'a>> = live.into_iter().filter(|view| self.is_in_reach(view)).collect();
        let calls = in_reach.iter().flat_map(View::calls).filter(|call| !call.id.is_empty());
        let calls: HashSet<String> = calls.map(|call| call.id.clone()).collect();
        in_reach.into_iter().filter(|view| self.includes(view) && !self.is_of_own_tool(view, &calls)).collect()
    }

    /// A single turn is confined to its branch, and to the nodes on its path and below.
    fn is_in_reach(&self, view: &View<'_>) -> bool {
        let is_on_path = |path: &str| {
            path.is_empty() || starts_with(path, &self.node_path, '/') || starts_with(&self.node_path, path, '/')
        };
        !self.is_single_turn || self.is_on_branch(view) && (self.node_path.is_empty() || is_on_path(&view.node_path))
    }

    fn includes(&self, view: &View<'_>) -> bool {
        let is_said_elsewhere = view.event.author == "user"
            && view.responses().next().is_none()
            && !view.node_path.is_empty()
            && view.node_path != self.node_path;
        view.isolation_scope == self.isolation_scope
            && !is_said_elsewhere
            && self.has_content(view)
            && self.is_on_branch(view)
            && !INTERNAL_FUNCTIONS.into_iter().any(|name| view.is_about(name))
    }

    fn has_content(&self, view: &View<'_>) -> bool {
        let include_thoughts = self.includes_thoughts && self.is_by_another_agent(view);
        let has_visible_part = || view.parts.iter().any(|part| part.is_visible(include_thoughts));
        view.compaction.is_some() || view.has_transcript || (view.has_role && has_visible_part())
    }

    fn is_by_another_agent(&self, view: &View<'_>) -> bool {
        let is_own = self.name.is_empty() || view.event.author == self.name;
        view.event.author != "user" && (view.is_live || !is_own)
    }

    fn is_on_branch(&self, view: &View<'_>) -> bool {
        let branch = branch(view);
        self.branch.is_empty() || branch.is_empty() || starts_with(&self.branch, branch, '.')
    }

    /// Whether a tool of the agent published it for the user, on a branch `tool@call` below the agent's. The agent
    /// gets the function's response.
    fn is_of_own_tool(&self, view: &View<'_>, calls: &HashSet<String>) -> bool {
        let branch = branch(view);
        let is_below = !branch.is_empty()
            && branch != self.branch
            && (self.branch.is_empty() || starts_with(branch, &self.branch, '.'));
        let above = if self.branch.is_empty() { 0 } else { self.branch.split('.').count() };
        is_below
            && branch.split('.').skip(above).any(|segment| {
                segment.rsplit_once('@').is_some_and(|(tool, call)| tool != self.name && calls.contains(call))
            })
    }
}

fn branch<'a>(view: &View<'a>) -> &'a str {
    view.event.branch.as_deref().unwrap_or_default()
}

/// Whether a path is the other, or below it.
fn starts_with(path: &str, above: &str, separator: char) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
}
